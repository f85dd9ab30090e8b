//! A version of an environment: its code is fetched and built.

use std::{
    collections::{BTreeMap, VecDeque},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::project::{Lease, TaskKind};
use tokio::net::unix::pipe;

use super::{
    Processes, STEPS,
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

/// Time for fetching code.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Time for a build.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Interval at which lines of a build are reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Interval at which the files of a build are measured.
const DISK_INTERVAL: Duration = Duration::from_secs(5);

/// Lines of a failed build that its error repeats.
const ERROR_LINES: usize = 20;

/// The code of a deployment.
pub(super) struct Checkout {
    pub(super) commit: String,
    /// True if an earlier deployment has built it.
    pub(super) is_built: bool,
}

impl Processes {
    /// Fetches the code of a version. A rollback finds it where an earlier deployment left it.
    pub(super) async fn fetch(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
        report: &ProgressReporter,
    ) -> Result<Checkout> {
        let wanted = if lease.commit.is_empty() { &lease.branch } else { &lease.commit };
        let line = format!("fetching {wanted} of {}", lease.repository_url);
        report.step("checkout", 1, STEPS, line).await;
        if lease.kind() == TaskKind::Rollback
            && record.releases.contains(&lease.release)
            && let Ok(commit) = self.head(lease, environment).await
        {
            report.log(vec![format!("{commit} is still here, as it was built")]).await;
            return Ok(Checkout { commit, is_built: true });
        }
        let folder = environment.release(&lease.release)?;
        environment.make_account_folder(&self.sandbox.accounts, &folder).await?;
        self.git(lease, environment, &["init", "--quiet", "."]).await?;
        tokio::select! {
            fetched = self.fetch_commit(lease, environment) => fetched?,
            error = within_disk_limit(environment, ResourceLimits::of(lease.resources)) => {
                return Err(error);
            }
        }
        let commit = self.head(lease, environment).await.context("git cannot name the commit")?;
        report.log(vec![format!("commit {commit}")]).await;
        Ok(Checkout { commit, is_built: false })
    }

    async fn fetch_commit(&self, lease: &Lease, environment: &EnvironmentDir) -> Result<()> {
        let (url, branch) = (&lease.repository_url, format!("refs/heads/{}", lease.branch));
        let is_commit = |it: &str| it.bytes().all(|it| it.is_ascii_hexdigit());
        ensure!(is_commit(&lease.commit), "{:?} is not the name of a commit", lease.commit);
        let wanted = if lease.commit.is_empty() { &branch } else { &lease.commit };
        let shallow = ["fetch", "--quiet", "--depth=1", "--", url, wanted];
        if let Err(error) = self.git(lease, environment, &shallow).await {
            ensure!(!lease.commit.is_empty(), error.context("git could not fetch the branch"));
            // Not every server hands out a single commit.
            let whole = ["fetch", "--quiet", "--", url, &branch];
            let fetched = self.git(lease, environment, &whole).await;
            fetched.context("git could not fetch the branch")?;
        }
        let at = if lease.commit.is_empty() { "FETCH_HEAD" } else { &lease.commit };
        let checkout = ["checkout", "--quiet", "--detach", at];
        let done = self.git(lease, environment, &checkout).await;
        done.context("the commit is not on the branch any more").map(|_| ())
    }

    async fn head(&self, lease: &Lease, environment: &EnvironmentDir) -> Result<String> {
        let commit = self.git(lease, environment, &["rev-parse", "HEAD"]).await?;
        Ok(commit.trim().to_owned())
    }

    /// The first line of a commit's message and its author; empty if git does not say.
    pub(super) async fn commit_info(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
    ) -> CommitInfo {
        let format = ["log", "-1", "--format=%s%n%an"];
        let text = self.git(lease, environment, &format).await.unwrap_or_default();
        let (subject, author) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        CommitInfo { subject: subject.to_owned(), author: author.to_owned() }
    }

    /// Runs git inside, because a build may have changed the repository's configuration and hooks.
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
        let code = environment.release(&lease.release)?;
        let mut mounts = vec![
            Mount::new(code, "/app", Access::ReadWrite),
            Mount::new(self.gitconfig(), "/etc/gitconfig", Access::ReadOnly),
        ];
        // The project service lets a path of this machine through only where it is allowed.
        let local = lease.repository_url.trim_start_matches("file://");
        if local.starts_with('/') {
            mounts.push(Mount::new(local, local, Access::ReadOnly));
        }
        let arguments = ["git"].iter().chain(arguments).map(|it| (*it).to_owned()).collect();
        let (limits, input) = (ResourceLimits::of(lease.resources), Input::Empty);
        let command = SandboxCommand {
            environment,
            mounts,
            working_dir: "/app",
            variables,
            arguments,
            limits,
            input,
        };
        self.sandbox.run("git", command, FETCH_TIMEOUT).await
    }

    /// Runs the build command of a version; its output goes to the task's log.
    pub(super) async fn build(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        checkout: &Checkout,
        report: &ProgressReporter,
    ) -> Result<Manifest> {
        let manifest = Manifest::read(environment, &lease.release)?;
        let Some(command) = manifest.build.as_ref().filter(|_| !checkout.is_built) else {
            report.step("build", 2, STEPS, "there is nothing to build").await;
            return Ok(manifest);
        };
        report.step("build", 2, STEPS, format!("building: {command}")).await;
        let launch = Launch::new(lease, &lease.release, &manifest);
        let command = Self::shell(environment, &launch, command)?;
        let (reader, writer) = std::io::pipe()?;
        let output =
            Output { stdout: Stdio::from(writer.try_clone()?), stderr: Stdio::from(writer) };
        let mut sandboxed = self.sandbox.spawn("build", command, output).await?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let finished = async { tokio::join!(relay(reader, report), sandboxed.wait()) };
        let building = async {
            tokio::select! {
                finished = finished => Ok(finished),
                error = within_disk_limit(environment, launch.limits) => Err(error),
            }
        };
        let finished = tokio::time::timeout(BUILD_TIMEOUT, building).await;
        let (last, status) = finished.context("the build did not end within 30 minutes")??;
        let status = status?;
        environment.clear_starting().await;
        ensure!(status.success(), "the build failed ({status}); its last output:\n{last}");
        // A build can write the manifest.
        Manifest::read(environment, &lease.release)
    }
}

/// Reports the lines of a build; returns the last ones.
async fn relay(reader: pipe::Receiver, report: &ProgressReporter) -> String {
    let mut lines = BoundedLines::new(reader);
    let (mut batch, mut last) = (vec![], VecDeque::new());
    let mut reported_at = Instant::now();
    loop {
        let line = tokio::time::timeout(REPORT_INTERVAL, lines.next()).await;
        let has_ended = matches!(line, Ok(Ok(None) | Err(_)));
        if let Ok(Ok(Some(line))) = line {
            last.push_back(line.clone());
            if last.len() > ERROR_LINES {
                last.pop_front();
            }
            batch.push(line);
        }
        let is_due = has_ended || batch.len() >= 1_000 || reported_at.elapsed() > REPORT_INTERVAL;
        if is_due && !batch.is_empty() {
            report.log(std::mem::take(&mut batch)).await;
            reported_at = Instant::now();
        }
        if has_ended {
            break;
        }
    }
    last.into_iter().collect::<Vec<_>>().join("\n")
}

/// Returns as soon as the files of an environment take more than its limit.
async fn within_disk_limit(environment: &EnvironmentDir, limits: ResourceLimits) -> anyhow::Error {
    loop {
        tokio::time::sleep(DISK_INTERVAL).await;
        let usage = usage::measure_disk(environment.path().to_owned()).await;
        if usage.exceeds(limits) {
            return anyhow::anyhow!(
                "the files of the environment take more than its {} GiB, or are too many to count",
                limits.disk_gb
            );
        }
    }
}
