//! Versions of an environment, each with the code of one deployment (`release` in leases and paths): fetching
//! and building the code.

use std::{
    collections::{BTreeMap, VecDeque},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::project::{Lease, TaskKind};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::{
    DEPLOY_STEPS, Processes,
    bubblewrap::{Access, Mount},
    directory::EnvironmentDir,
    launch::Launch,
    limits::ResourceLimits,
    manifest::Manifest,
    record::EnvironmentRecord,
    sandbox::{Input, Output, PATH, SandboxCommand},
    usage,
};
use crate::{
    driver::{CommitInfo, ProgressReporter},
    text::BoundedLines,
};

/// Timeout of one git command.
const GIT_TIMEOUT: Duration = Duration::from_secs(600);

/// Timeout of a build.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Interval at which the output of a build is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Time in which the rest of a build's output is read after its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Number of output lines of a build that are reported at once, even before [`REPORT_INTERVAL`] ends.
const BATCH_LINES_MAX: usize = 1_000;

/// Interval at which disk usage is measured during fetch and build.
const DISK_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of variables that the log of a rollback names.
const LISTED_VARIABLES_MAX: usize = 20;

/// Number of the last output lines that the error of a failed build contains.
const ERROR_LINES: usize = 20;

/// Code of a deployment, fetched from the repository.
pub(super) struct Checkout {
    pub(super) commit: String,
    /// True if the code of a previous deployment is reused, which is already built.
    pub(super) is_built: bool,
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
            && let Ok(commit) = self.head(lease, environment).await
        {
            report.log(vec![format!("commit {commit} (reusing the previous build)")]).await;
            return Ok(Checkout { commit, is_built: true });
        }
        let directory = environment.release_dir(&lease.release)?;
        environment.create_account_directory(&self.sandbox.accounts, &directory).await?;
        self.git(lease, environment, &["init", "--quiet", "."]).await?;
        tokio::select! {
            fetched = self.fetch_commit(lease, environment) => fetched?,
            error = disk_limit_exceeded(environment, ResourceLimits::of(lease.resources)) => {
                return Err(error);
            }
        }
        let commit =
            self.head(lease, environment).await.context("cannot determine the fetched commit")?;
        report.log(vec![format!("commit {commit}")]).await;
        Ok(Checkout { commit, is_built: false })
    }

    async fn fetch_commit(&self, lease: &Lease, environment: &EnvironmentDir) -> Result<()> {
        let url = &lease.repository_url;
        let branch = format!("refs/heads/{}", lease.branch);
        let is_hex = lease.commit.bytes().all(|it| it.is_ascii_hexdigit());
        ensure!(is_hex, "{:?} is not a commit hash", lease.commit);
        let revision = if lease.commit.is_empty() { &branch } else { &lease.commit };
        let shallow = ["fetch", "--quiet", "--depth=1", "--", url, revision];
        if let Err(error) = self.git(lease, environment, &shallow).await {
            if lease.commit.is_empty() {
                return Err(error.context("git could not fetch the branch"));
            }
            // Not every git server allows fetching a single commit: fetch the complete branch instead.
            let full = ["fetch", "--quiet", "--", url, &branch];
            let fetched = self.git(lease, environment, &full).await;
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

    async fn head(&self, lease: &Lease, environment: &EnvironmentDir) -> Result<String> {
        let commit = self.git(lease, environment, &["rev-parse", "HEAD"]).await?;
        Ok(commit.trim().to_owned())
    }

    /// Returns subject and author of the checked-out commit; empty if git fails.
    pub(super) async fn commit_info(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
    ) -> CommitInfo {
        let log = ["log", "-1", "--format=%s%n%an"];
        let text = self.git(lease, environment, &log).await.unwrap_or_default();
        let (subject, author) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        CommitInfo { subject: subject.to_owned(), author: author.to_owned() }
    }

    /// Runs git in the sandbox, because a build may have changed the repository's configuration and hooks,
    /// which can execute commands.
    async fn git(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        arguments: &[&str],
    ) -> Result<String> {
        let variables = [
            ("PATH", PATH),
            ("HOME", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/etc/gitconfig"),
        ];
        let variables: BTreeMap<_, _> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let code = environment.release_dir(&lease.release)?;
        let mut mounts = vec![
            Mount::new(code, "/app", Access::ReadWrite),
            Mount::new(self.gitconfig(), "/etc/gitconfig", Access::ReadOnly),
        ];
        // The project service accepts local paths only if the operator has allowed them.
        let local_path = lease.repository_url.trim_start_matches("file://");
        if local_path.starts_with('/') {
            mounts.push(Mount::new(local_path, local_path, Access::ReadOnly));
        }
        let arguments = ["git"].iter().chain(arguments).map(|it| (*it).to_owned()).collect();
        let command = SandboxCommand {
            environment,
            mounts,
            working_dir: "/app",
            variables,
            arguments,
            limits: ResourceLimits::of(lease.resources),
            input: Input::Empty,
        };
        self.sandbox.run("git", command, GIT_TIMEOUT).await
    }

    /// Runs the build command of a version; its output goes to the task's log. Returns the manifest as it is
    /// after the build, which may generate it.
    pub(super) async fn build(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        checkout: &Checkout,
        report: &ProgressReporter,
    ) -> Result<Manifest> {
        let manifest = Manifest::read(environment, &lease.release)?;
        let Some(command) = manifest.build.as_ref().filter(|_| !checkout.is_built) else {
            report.step("build", 2, DEPLOY_STEPS, "no build required").await;
            return Ok(manifest);
        };
        report.step("build", 2, DEPLOY_STEPS, format!("building: {command}")).await;
        let launch = Launch::new(lease, &lease.release, &manifest);
        let command = Self::shell(environment, &launch, command)?;
        let (reader, writer) = std::io::pipe()?;
        let output =
            Output { stdout: Stdio::from(writer.try_clone()?), stderr: Stdio::from(writer) };
        let mut sandboxed = self.sandbox.spawn("build", command, output).await?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let has_ended = CancellationToken::new();
        let wait = async {
            let status = sandboxed.wait().await;
            has_ended.cancel();
            status
        };
        let build = async { tokio::join!(report_output(reader, report, &has_ended), wait) };
        let build_within_disk_limit = async {
            tokio::select! {
                (last_lines, status) = build => Ok((last_lines, status?)),
                error = disk_limit_exceeded(environment, launch.limits) => Err(error),
            }
        };
        let result = tokio::time::timeout(BUILD_TIMEOUT, build_within_disk_limit).await;
        let (last_lines, status) = result.context("the build did not end within 30 minutes")??;
        environment.clear_starting_process().await;
        environment.remove_sandbox("build").await?;
        ensure!(status.success(), "the build failed ({status}); its last output:\n{last_lines}");
        Manifest::read(environment, &lease.release)
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

/// Reports the output of a build line by line, in batches, until the pipe is closed, or until two seconds
/// after the build has ended. Returns the last [`ERROR_LINES`] lines.
async fn report_output(
    reader: pipe::Receiver,
    report: &ProgressReporter,
    has_ended: &CancellationToken,
) -> String {
    let drain_end = async {
        has_ended.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::pin!(drain_end);
    let mut lines = BoundedLines::new(reader);
    let mut batch = vec![];
    let mut last_lines = VecDeque::new();
    let mut reported_at = Instant::now();
    loop {
        let line = tokio::select! {
            line = tokio::time::timeout(REPORT_INTERVAL, lines.next()) => line,
            () = &mut drain_end => Ok(Ok(None)),
        };
        let has_ended = matches!(line, Ok(Ok(None) | Err(_)));
        if let Ok(Ok(Some(line))) = line {
            last_lines.push_back(line.clone());
            if last_lines.len() > ERROR_LINES {
                last_lines.pop_front();
            }
            batch.push(line);
        }
        let is_due =
            has_ended || batch.len() >= BATCH_LINES_MAX || reported_at.elapsed() > REPORT_INTERVAL;
        if is_due && !batch.is_empty() {
            report.log(std::mem::take(&mut batch)).await;
            reported_at = Instant::now();
        }
        if has_ended {
            break;
        }
    }
    last_lines.into_iter().collect::<Vec<_>>().join("\n")
}

/// Waits until the files of an environment exceed its disk limit; returns the error of the task.
async fn disk_limit_exceeded(
    environment: &EnvironmentDir,
    limits: ResourceLimits,
) -> anyhow::Error {
    loop {
        tokio::time::sleep(DISK_INTERVAL).await;
        let usage = usage::measure_disk(environment.path().to_owned()).await;
        if usage.exceeds(limits) {
            return anyhow::anyhow!(
                "the files of the environment exceed its disk limit of {} GiB, or are too many to count; \
                 remove files or raise the limit",
                limits.disk_gb
            );
        }
    }
}
