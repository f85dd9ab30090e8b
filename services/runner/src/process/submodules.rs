//! Parts of a repository that git does not check out by itself: submodules, and files in Git LFS. A part that
//! cannot be fetched does not fail the deployment: the task's log names it.

use std::path::{Component, Path};

use anyhow::{Context, Result};
use api::project::Lease;
use primitives::credential_mask::mask_credentials;

use super::{
    Processes,
    bubblewrap::{Access, Mount},
    directory::EnvironmentDir,
    release::{GitCommand, network_access},
    sandbox::{NetworkAccess, PATH, program_path},
};
use crate::driver::ProgressReporter;

/// Maximum number of submodules of a repository, at any depth.
const SUBMODULES_MAX: usize = 64;

/// Maximum size of `.gitmodules`, in bytes.
const GITMODULES_BYTES_MAX: u64 = 64 << 10;

/// The repository, or one of its submodules.
struct Part {
    /// Directory, relative to the code.
    directory: String,
    /// URL or path, the base of relative URLs of its submodules.
    url: String,
}

/// A submodule in `.gitmodules`.
#[derive(Debug, PartialEq, Eq)]
struct Submodule {
    /// Path, relative to the directory of its part.
    path: String,
    /// URL or path.
    url: String,
    /// True if the URL in `.gitmodules` is relative.
    is_relative: bool,
}

impl Submodule {
    /// Returns the mount of a repository on this machine: one that a relative URL names, if the repository of
    /// the project is a path. The operator has allowed local paths for projects only.
    fn mount(&self, repository_url: &str) -> Vec<Mount> {
        let is_local = repository_url.trim_start_matches("file://").starts_with('/');
        let path = Path::new(self.url.trim_start_matches("file://"));
        let is_plain =
            path.components().all(|it| matches!(it, Component::RootDir | Component::Normal(_)));
        let is_mounted =
            is_local && self.is_relative && is_plain && path.is_absolute() && path.is_dir();
        let mount = is_mounted.then(|| path.to_str()).flatten();
        mount.map(|it| Mount::new(it, it, Access::ReadOnly)).into_iter().collect()
    }
}

/// Parses the output of `git config -z --get-regexp` for paths and URLs of submodules.
fn parse_submodules(list: &str, base: &str) -> Vec<Submodule> {
    // `submodule.<name>.<key> LF value NUL`
    let entries = list.split_terminator('\0').filter_map(|it| it.split_once('\n'));
    let entries: Vec<_> =
        entries.filter_map(|(name, value)| Some((name.rsplit_once('.')?, value))).collect();
    let url_of = |submodule: &str| {
        let url = entries.iter().rfind(|((name, key), _)| *name == submodule && *key == "url");
        url.map_or("", |it| it.1)
    };
    let paths = entries.iter().filter(|((_, key), _)| *key == "path");
    let submodules = paths.map(|((name, _), path)| {
        let url = url_of(name);
        Submodule {
            path: (*path).to_owned(),
            url: resolve_url(base, url),
            is_relative: is_relative(url),
        }
    });
    submodules.collect()
}

fn is_relative(url: &str) -> bool {
    url.starts_with("./") || url.starts_with("../")
}

/// Resolves the URL of a submodule like git (git-submodule(1)): `./` and `../` are relative to the URL of the
/// repository that contains it.
fn resolve_url(base: &str, url: &str) -> String {
    if !is_relative(url) {
        return url.to_owned();
    }
    let mut base = base.trim_end_matches('/');
    let mut rest = url;
    loop {
        if let Some(after) = rest.strip_prefix("../") {
            base = base.rsplit_once('/').map_or("", |it| it.0);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else {
            return format!("{base}/{rest}");
        }
    }
}

/// Returns scheme, host and port of a URL; `None` for other addresses.
fn origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    Some((scheme, rest.split('/').next()?))
}

/// Returns the first error of git: it tries a clone twice, and prints errors about the same cause each time.
fn first_error(errors: &str) -> &str {
    let cause = errors.lines().find_map(|it| it.strip_prefix("fatal: "));
    cause.or_else(|| errors.lines().next()).unwrap_or_default()
}

/// Returns a number of files with its noun.
fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Number of files in Git LFS that the log names.
const NAMED_FILES_MAX: usize = 3;

impl Processes {
    /// Fetches the submodules and the files in Git LFS of a checked-out commit.
    pub(super) async fn fetch_parts(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        report: &ProgressReporter,
    ) -> Result<()> {
        let list = ["ls-files", "-z", "--", ":(attr:filter=lfs)"];
        let files = self.git(lease, environment, &list).await?;
        let lfs_files: Vec<_> = files.split_terminator('\0').collect();
        let gitmodules =
            environment.read_release_file(&lease.release, ".gitmodules", GITMODULES_BYTES_MAX);
        if lfs_files.is_empty() && matches!(gitmodules, Ok(None)) {
            return Ok(());
        }
        // Base of relative URLs of submodules, and address of the LFS server. Without credentials: the
        // environment's code can read this configuration during a build.
        let url = url_without_credentials(&lease.repository_url);
        self.git(lease, environment, &["config", "remote.origin.url", &url]).await?;
        self.fetch_submodules(lease, environment, report).await;
        if !lfs_files.is_empty() {
            let line = self.fetch_lfs(lease, environment, &lfs_files).await;
            report.log(vec![line]).await;
        }
        Ok(())
    }

    async fn fetch_submodules(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        report: &ProgressReporter,
    ) {
        let root =
            Part { directory: ".".to_owned(), url: url_without_credentials(&lease.repository_url) };
        // Parts whose submodules have not been fetched yet.
        let mut parts = vec![root];
        let mut count = 0;
        while let Some(part) = parts.pop() {
            let submodules = match self.submodules(lease, environment, &part).await {
                Ok(submodules) => submodules,
                Err(error) => {
                    let directory = &part.directory;
                    let line = format!("the submodules in {directory} cannot be read: {error:#}");
                    report.log(vec![line]).await;
                    continue;
                }
            };
            for submodule in submodules {
                count += 1;
                if count > SUBMODULES_MAX {
                    let line =
                        format!("more than {SUBMODULES_MAX} submodules; the rest is not fetched");
                    report.log(vec![line]).await;
                    return;
                }
                let directory = format!("{}/{}", part.directory, submodule.path);
                let line = match self.fetch_submodule(lease, environment, &part, &submodule).await {
                    Ok(()) => format!("submodule {directory}"),
                    Err(error) => {
                        let errors = format!("{error:#}");
                        let cause = first_error(&errors);
                        format!("submodule {directory} is empty, it cannot be fetched: {cause}")
                    }
                };
                report.log(vec![line]).await;
                parts.push(Part { directory, url: submodule.url });
            }
        }
    }

    /// Returns the submodules of a part.
    async fn submodules(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        part: &Part,
    ) -> Result<Vec<Submodule>> {
        let directory = part.directory.as_str();
        let file = format!("{directory}/.gitmodules");
        if environment.read_release_file(&lease.release, &file, GITMODULES_BYTES_MAX)?.is_none() {
            return Ok(vec![]);
        }
        let list = [
            "config",
            "--file",
            ".gitmodules",
            "-z",
            "--get-regexp",
            r"^submodule\..*\.(path|url)$",
        ];
        let list = self.git(lease, environment, &[&["-C", directory][..], &list].concat()).await?;
        Ok(parse_submodules(&list, &part.url))
    }

    async fn fetch_submodule(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        part: &Part,
        submodule: &Submodule,
    ) -> Result<()> {
        let update = ["-C", &part.directory, "submodule", "update", "--quiet", "--init"];
        let shallow = [&update[..], &["--depth=1", "--", &submodule.path]].concat();
        let url = &submodule.url;
        // The network of this machine only for the host of the repository: the operator has allowed no other.
        let network = if origin(url) == origin(&lease.repository_url) {
            network_access(url)
        } else {
            NetworkAccess::Environment
        };
        let mounts = submodule.mount(&lease.repository_url);
        let fetch = |arguments| GitCommand {
            mounts: mounts.clone(),
            network,
            ..GitCommand::new(arguments)
        };
        if self.git_fetch(lease, environment, fetch(&shallow)).await.is_ok() {
            return Ok(());
        }
        // Not every git server allows fetching a single commit.
        let full = [&update[..], &["--", &submodule.path]].concat();
        self.git_fetch(lease, environment, fetch(&full)).await.map(|_| ())
    }

    /// Fetches files in Git LFS; returns the result for the log.
    async fn fetch_lfs(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        paths: &[&str],
    ) -> String {
        let count = paths.len();
        let pointers = format!(
            "{} {}",
            files(count),
            if count == 1 { "is a Git LFS pointer" } else { "are Git LFS pointers" }
        );
        if program_path("git-lfs").is_absolute() {
            return match self.pull_lfs(lease, environment).await {
                Ok(fetched) if fetched < count => format!(
                    "{fetched} of {} fetched from Git LFS; the others are no valid pointers",
                    files(count)
                ),
                Ok(_) => format!("{} fetched from Git LFS", files(count)),
                Err(error) => format!("{pointers} and cannot be fetched: {error:#}"),
            };
        }
        let named = paths[..count.min(NAMED_FILES_MAX)].join(", ");
        format!(
            "{pointers}, not the content ({named}); install git-lfs on the server (searched in {PATH})"
        )
    }

    /// Fetches files in Git LFS; returns the number of those that have their contents.
    async fn pull_lfs(&self, lease: &Lease, environment: &EnvironmentDir) -> Result<usize> {
        let install = ["lfs", "install", "--local", "--skip-repo"];
        self.git(lease, environment, &install).await.context("git lfs install")?;
        self.git(lease, environment, &["lfs", "pull"]).await.context("git lfs pull")?;
        // `<object id> * <path>` for a file with its contents, `-` for a pointer.
        let list = self.git(lease, environment, &["lfs", "ls-files"]).await?;
        Ok(list.lines().filter(|it| it.split(' ').nth(1) == Some("*")).count())
    }
}

/// Returns a URL without its user name and password; an SSH URL keeps its user name.
fn url_without_credentials(url: &str) -> String {
    mask_credentials(url).replace("://***@", "://")
}

/// Configuration of git, as names and values: no hooks, and the credentials of the repository's URL for other
/// repositories on the same host only.
pub(super) fn git_configuration(url: &str) -> Vec<(String, String)> {
    let mut configuration = vec![("core.hooksPath".to_owned(), "/dev/null".to_owned())];
    let without = url_without_credentials(url);
    if without != url {
        let origin = |url: &str| {
            let (scheme, rest) = url.split_once("://")?;
            Some(format!("{scheme}://{}/", rest.split('/').next()?))
        };
        if let (Some(with), Some(without)) = (origin(url), origin(&without)) {
            configuration.push((format!("url.{with}.insteadOf"), without));
        }
    }
    configuration
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_used_for_the_same_host_only() {
        let none = git_configuration("https://git.example.com/a/b.git");
        assert_eq!(none, [("core.hooksPath".to_owned(), "/dev/null".to_owned())]);
        let configuration = git_configuration("https://ann:s3cret@git.example.com/a/b.git");
        let (name, value) =
            ("url.https://ann:s3cret@git.example.com/.insteadOf", "https://git.example.com/");
        assert_eq!(configuration[1], (name.to_owned(), value.to_owned()));
        let url = url_without_credentials("https://ann:s3cret@git.example.com/a/b.git");
        assert_eq!(url, "https://git.example.com/a/b.git");
        assert_eq!(url_without_credentials("ssh://git@x/a"), "ssh://git@x/a");
    }

    #[test]
    fn urls_of_submodules_are_relative_to_their_repository() {
        for (base, url, expected) in [
            ("/srv/shop", "../lib", "/srv/lib"),
            ("/srv/shop/", "./lib", "/srv/shop/lib"),
            ("/srv/a/shop.git", "../../b/lib.git", "/srv/b/lib.git"),
            ("https://git.example.com/a/shop", "../lib", "https://git.example.com/a/lib"),
            ("/srv/shop", "https://other.example/lib", "https://other.example/lib"),
            ("/srv", "../../../etc", "/etc"),
        ] {
            assert_eq!(resolve_url(base, url), expected);
        }
        let list = "submodule.a.b.path\nvendor/b\0submodule.a.b.url\n../b\0submodule.c.path\nc\0";
        let submodule = |path: &str, url: &str, is_relative| Submodule {
            path: path.to_owned(),
            url: url.to_owned(),
            is_relative,
        };
        let expected = [submodule("vendor/b", "/srv/b", true), submodule("c", "", false)];
        assert_eq!(parse_submodules(list, "/srv/shop"), expected);
    }

    #[test]
    fn the_cause_of_an_error_is_quoted_once() {
        let errors =
            "Cloning\nfatal: no route\nfatal: clone failed\nfatal: no route\nFailed a second time";
        assert_eq!(first_error(errors), "no route");
        assert_eq!(first_error("denied\nmore"), "denied");
    }

    /// Only relative URLs of a repository on this machine are read from this machine.
    #[test]
    fn a_submodule_names_no_other_path_of_this_machine() {
        let submodule = |url: &str| {
            parse_submodules(&format!("submodule.a.path\na\0submodule.a.url\n{url}\0"), "/usr/lib")
                .remove(0)
        };
        assert_eq!(submodule("../bin").mount("/usr/lib").len(), 1);
        assert!(submodule("../none").mount("/usr/lib").is_empty());
        assert!(submodule("../bin/..").mount("/usr/lib").is_empty());
        assert!(submodule("/usr/bin").mount("/usr/lib").is_empty());
        assert!(submodule("../bin").mount("https://git.example.com/a").is_empty());
    }
}
