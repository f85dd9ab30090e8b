//! Versions of an environment, each with the code of one deployment (`release` in leases and paths): fetching
//! and building the code.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::project::{Lease, TaskKind};
use primitives::git_credential::GitCredential;

use super::{
    DEPLOY_STEPS, Processes,
    bubblewrap::{Access, Mount},
    directory::EnvironmentDir,
    launch::Launch,
    record::EnvironmentRecord,
    sandbox::{Input, NetworkAccess, PATH, SandboxCommand},
    submodules::git_configuration,
    usage::disk_limit_exceeded,
};
use crate::driver::{CommitInfo, ProgressReporter};

/// Timeout of one git command.
const GIT_TIMEOUT: Duration = Duration::from_secs(600);

/// Interval at which a pushed commit is fetched again that the git server does not have yet.
const COMMIT_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of variables that the log of a rollback names.
const LISTED_VARIABLES_MAX: usize = 20;

/// Code of a deployment, fetched from the repository.
pub(super) struct Checkout {
    pub(super) commit: String,
    pub(super) commit_info: CommitInfo,
    /// True if the code of a previous deployment is reused, which is already built.
    pub(super) is_built: bool,
}

/// A git command.
pub(super) struct GitCommand<'a> {
    pub(super) arguments: Vec<&'a str>,
    /// Environment variables, in addition to those of every command.
    pub(super) variables: Vec<(&'static str, &'a str)>,
    /// Mounts, in addition to the code and its repository.
    pub(super) mounts: Vec<Mount>,
    pub(super) network: NetworkAccess,
}

impl<'a> GitCommand<'a> {
    /// A command in the network of its environment.
    pub(super) fn new(arguments: &[&'a str]) -> Self {
        Self {
            arguments: arguments.to_vec(),
            variables: vec![],
            mounts: vec![],
            network: NetworkAccess::Environment,
        }
    }
}

/// Returns the network from which git reaches a URL. A loopback address is one of this machine; the project
/// service accepts it only if the operator has allowed local repositories.
pub(super) fn network_access(url: &str) -> NetworkAccess {
    let authority = url.strip_prefix("http://").and_then(|it| it.split('/').next());
    let Some(authority) = authority else { return NetworkAccess::Environment };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    if host == "localhost" || address.is_ok_and(|it| it.is_loopback()) {
        NetworkAccess::Machine
    } else {
        NetworkAccess::Environment
    }
}

impl Processes {
    /// Fetches the code of a version. A rollback reuses the code of the previous deployment if it is still
    /// there.
    pub(super) async fn fetch(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
        report: &ProgressReporter,
    ) -> Result<Checkout> {
        let revision = if lease.commit.is_empty() { &lease.branch } else { &lease.commit };
        let line = format!("fetching {revision} of {}", lease.repository_url);
        report.step("checkout", 1, DEPLOY_STEPS, line).await;
        if lease.kind() == TaskKind::Rollback
            && record.releases.contains(&lease.release)
            && let Ok((commit, commit_info)) = self.head(lease, environment).await
        {
            report.log(vec![format!("commit {commit} (reusing the previous build)")]).await;
            return Ok(Checkout { commit, commit_info, is_built: true });
        }
        for directory in
            [environment.release_dir(&lease.release)?, environment.git_dir(&lease.release)?]
        {
            environment.create_account_directory(&self.sandbox.accounts, &directory).await?;
        }
        self.git(lease, environment, &["init", "--quiet", "."]).await?;
        tokio::select! {
            fetched = self.fetch_code(lease, environment, report) => fetched?,
            error = disk_limit_exceeded(environment, self.build_limits(lease)) => {
                return Err(error);
            }
        }
        let head = self.head(lease, environment).await;
        let (commit, commit_info) = head.context("cannot determine the fetched commit")?;
        report.log(vec![format!("commit {commit}")]).await;
        Ok(Checkout { commit, commit_info, is_built: false })
    }

    /// Fetches the commit, again while the git server does not have it and the lease allows that, and its
    /// submodules.
    async fn fetch_code(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        report: &ProgressReporter,
    ) -> Result<()> {
        let wait = lease.commit_wait.and_then(|it| Duration::try_from(it).ok()).unwrap_or_default();
        let started = Instant::now();
        let mut is_first = true;
        while let Err(error) = self.fetch_commit(lease, environment).await {
            if wait.is_zero() {
                return Err(error);
            }
            let Lease { branch, commit, .. } = lease;
            if started.elapsed() >= wait {
                let seconds = wait.as_secs();
                let text = "does not have the pushed commit";
                return Err(
                    error.context(format!("the branch {branch} {text} {commit} after {seconds} s"))
                );
            }
            if std::mem::take(&mut is_first) {
                let line =
                    format!("the git server does not have the commit {commit} yet; fetching again");
                report.log(vec![line]).await;
            }
            tokio::time::sleep(COMMIT_POLL_INTERVAL).await;
        }
        self.fetch_parts(lease, environment, report).await
    }

    async fn fetch_commit(&self, lease: &Lease, environment: &EnvironmentDir) -> Result<()> {
        let url = &lease.repository_url;
        let branch = format!("refs/heads/{}", lease.branch);
        let is_hex = lease.commit.bytes().all(|it| it.is_ascii_hexdigit());
        ensure!(is_hex, "{:?} is not a commit hash", lease.commit);
        let revision = if lease.commit.is_empty() { &branch } else { &lease.commit };
        let fetch = async |arguments: &[&str]| {
            let network = network_access(url);
            let command = GitCommand { network, ..GitCommand::new(arguments) };
            self.git_fetch(lease, environment, command).await
        };
        if let Err(error) = fetch(&["fetch", "--quiet", "--depth=1", "--", url, revision]).await {
            if lease.commit.is_empty() {
                return Err(error.context("git could not fetch the branch"));
            }
            // Not every git server allows fetching a single commit: fetch the complete branch instead.
            let fetched = fetch(&["fetch", "--quiet", "--", url, &branch]).await;
            fetched.context("git could not fetch the branch")?;
        }
        let target = if lease.commit.is_empty() { "FETCH_HEAD" } else { &lease.commit };
        let checkout = ["checkout", "--quiet", "--detach", target];
        let checked_out = self.git(lease, environment, &checkout).await;
        checked_out.context(
            "cannot check out the commit, possibly because it is no longer on the branch",
        )?;
        Ok(())
    }

    /// Returns the id of the checked-out commit, and its subject and author.
    async fn head(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
    ) -> Result<(String, CommitInfo)> {
        let log = ["log", "-1", "--format=%H%n%s%n%an"];
        let text = self.git(lease, environment, &log).await?;
        let mut lines = text.lines().map(str::to_owned);
        let commit = lines.next().context("git names no commit")?;
        let (subject, author) =
            (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        Ok((commit, CommitInfo { subject, author }))
    }

    /// Runs a git command that connects to the repository, with its credential.
    pub(super) async fn git_fetch(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        command: GitCommand<'_>,
    ) -> Result<String> {
        let Some(credential) = credential(lease) else {
            return self.git_with(lease, environment, command).await;
        };
        let definition = credential.arguments();
        let definition: Vec<_> = definition.iter().map(String::as_str).collect();
        let arguments = [&definition, &*command.arguments].concat();
        let variables = credential.variables();
        let command = GitCommand { arguments, variables, ..command };
        let fetched = self.git_with(lease, environment, command).await;
        fetched.map_err(|error| anyhow::anyhow!(credential.mask(&format!("{error:#}"))))
    }

    /// Runs a git command without a credential.
    pub(super) async fn git(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        arguments: &[&str],
    ) -> Result<String> {
        self.git_with(lease, environment, GitCommand::new(arguments)).await
    }

    /// Runs git in the sandbox, because a build may have changed the repository's configuration and hooks,
    /// which can execute commands.
    async fn git_with(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        git: GitCommand<'_>,
    ) -> Result<String> {
        let variables = [
            ("PATH", PATH),
            ("HOME", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/etc/gitconfig"),
        ];
        let mut variables: BTreeMap<_, _> = variables
            .iter()
            .chain(&git.variables)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let configuration = git_configuration(&lease.repository_url);
        variables.insert("GIT_CONFIG_COUNT".to_owned(), configuration.len().to_string());
        for (index, (name, value)) in configuration.into_iter().enumerate() {
            variables.insert(format!("GIT_CONFIG_KEY_{index}"), name);
            variables.insert(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        let code = environment.release_dir(&lease.release)?;
        let mut mounts = vec![
            Mount::new(code, "/app", Access::ReadWrite),
            Mount::new(environment.git_dir(&lease.release)?, "/app/.git", Access::ReadWrite),
            Mount::new(self.gitconfig(), "/etc/gitconfig", Access::ReadOnly),
        ];
        // The project service accepts local paths only if the operator has allowed them.
        let local_path = lease.repository_url.trim_start_matches("file://");
        let is_local = local_path.starts_with('/');
        let protocols = match lease.repository_url.split_once("://") {
            _ if is_local => "file:https:ssh",
            // The project service accepts it only for a loopback address that the operator has allowed.
            Some(("http", _)) => "http:https:ssh",
            _ => "https:ssh",
        };
        variables.insert("GIT_ALLOW_PROTOCOL".to_owned(), protocols.to_owned());
        if is_local {
            mounts.push(Mount::new(local_path, local_path, Access::ReadOnly));
        }
        mounts.extend(git.mounts);
        let arguments = ["git"].iter().chain(&git.arguments).map(|it| (*it).to_owned()).collect();
        let command = SandboxCommand {
            environment,
            mounts,
            working_dir: "/app",
            variables,
            arguments,
            limits: self.build_limits(lease),
            input: Input::Empty,
            network: git.network,
        };
        self.sandbox.run("git", command, GIT_TIMEOUT).await
    }

    /// Replaces the variables of a rollback by those that its version was deployed with, and reports which
    /// ones are used.
    pub(super) async fn restore_configuration(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        launch: &mut Launch,
        report: &ProgressReporter,
    ) {
        let Some(earlier) = environment.release_launch(&lease.release).await else {
            let line = "the variables of that deployment are not stored; using the current ones";
            report.log(vec![line.to_owned()]).await;
            return;
        };
        let changed = launch.restore_variables(&earlier, lease);
        let used = "using the variables of that deployment";
        let line = if changed.is_empty() {
            used.to_owned()
        } else {
            let listed = changed.iter().take(LISTED_VARIABLES_MAX).map(String::as_str);
            let names = listed.collect::<Vec<_>>().join(", ");
            let rest = changed.len().saturating_sub(LISTED_VARIABLES_MAX);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            format!("{used}; these differ from the current ones: {names}{more}")
        };
        report.log(vec![line]).await;
    }
}

/// Returns the credential of the lease's repository; `None` if it has none.
fn credential(lease: &Lease) -> Option<GitCredential> {
    let password = lease.repository_credential.clone().map(GitCredential::Password);
    password.or_else(|| lease.ssh_credential.clone().map(GitCredential::Ssh))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_reached_in_the_network_of_the_machine() {
        for (url, is_machine) in [
            ("http://127.0.0.1:3000/a.git", true),
            ("http://localhost/a.git", true),
            ("http://[::1]:80/a.git", true),
            ("http://127.0.0.1.example.com/a.git", false),
            ("https://127.0.0.1/a.git", false),
            ("http://10.0.0.1/a.git", false),
            ("/srv/127.0.0.1", false),
        ] {
            assert_eq!(network_access(url) == NetworkAccess::Machine, is_machine, "{url}");
        }
    }
}
