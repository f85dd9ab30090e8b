//! Parts of a repository that git does not check out by itself: submodules, and files in Git LFS. A part that
//! cannot be fetched does not fail the deployment: the task's log names it.

use anyhow::{Context, Result};
use api::project::Lease;
use primitives::credential_mask::mask_credentials;

use super::{
    Processes,
    directory::EnvironmentDir,
    sandbox::{PATH, program_path},
};
use crate::driver::ProgressReporter;

/// Maximum number of submodules of a repository, at any depth.
const SUBMODULES_MAX: usize = 64;

/// Maximum size of `.gitmodules`, in bytes.
const GITMODULES_BYTES_MAX: u64 = 64 << 10;

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
        // Directories, relative to the code, whose submodules have not been fetched yet.
        let mut directories = vec![".".to_owned()];
        let mut count = 0;
        while let Some(directory) = directories.pop() {
            let paths = match self.submodule_paths(lease, environment, &directory).await {
                Ok(paths) => paths,
                Err(error) => {
                    let line = format!("the submodules in {directory} cannot be read: {error:#}");
                    report.log(vec![line]).await;
                    continue;
                }
            };
            for path in paths {
                count += 1;
                if count > SUBMODULES_MAX {
                    let line =
                        format!("more than {SUBMODULES_MAX} submodules; the rest is not fetched");
                    report.log(vec![line]).await;
                    return;
                }
                let line = match self.fetch_submodule(lease, environment, &directory, &path).await {
                    Ok(()) => format!("submodule {directory}/{path}"),
                    Err(error) => {
                        format!(
                            "submodule {directory}/{path} is empty, it cannot be fetched: {error:#}"
                        )
                    }
                };
                report.log(vec![line]).await;
                directories.push(format!("{directory}/{path}"));
            }
        }
    }

    /// Returns the paths of the submodules of a repository, relative to its `directory`.
    async fn submodule_paths(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        directory: &str,
    ) -> Result<Vec<String>> {
        let file = format!("{directory}/.gitmodules");
        if environment.read_release_file(&lease.release, &file, GITMODULES_BYTES_MAX)?.is_none() {
            return Ok(vec![]);
        }
        let list =
            ["config", "--file", ".gitmodules", "-z", "--get-regexp", r"^submodule\..*\.path$"];
        let list = self.git(lease, environment, &[&["-C", directory][..], &list].concat()).await?;
        // `name LF path NUL`
        let entries = list.split_terminator('\0').filter_map(|it| it.split_once('\n'));
        Ok(entries.map(|it| it.1.to_owned()).collect())
    }

    async fn fetch_submodule(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        directory: &str,
        path: &str,
    ) -> Result<()> {
        let update = ["-C", directory, "submodule", "update", "--quiet", "--init"];
        let shallow = [&update[..], &["--depth=1", "--", path]].concat();
        if self.git_fetch(lease, environment, &shallow).await.is_ok() {
            return Ok(());
        }
        // Not every git server allows fetching a single commit.
        let full = [&update[..], &["--", path]].concat();
        self.git_fetch(lease, environment, &full).await.map(|_| ())
    }

    /// Fetches files in Git LFS; returns the result for the log.
    async fn fetch_lfs(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        files: &[&str],
    ) -> String {
        let count = files.len();
        if program_path("git-lfs").is_absolute() {
            return match self.pull_lfs(lease, environment).await {
                Ok(fetched) if fetched < count => format!(
                    "{fetched} of {count} files fetched from Git LFS; the others are no valid pointers"
                ),
                Ok(_) => format!("{count} files fetched from Git LFS"),
                Err(error) => {
                    format!("{count} files are Git LFS pointers, they cannot be fetched: {error:#}")
                }
            };
        }
        let named = files[..count.min(NAMED_FILES_MAX)].join(", ");
        format!(
            "{count} files are Git LFS pointers instead of their contents ({named}); install git-lfs on the \
             server (searched in {PATH})"
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
}
