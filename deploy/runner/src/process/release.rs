//! A version: its code is fetched, its program built; or another environment's is copied.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use api::project::{Lease, TaskKind};
use tokio::{
    fs,
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{
    Processes, STEPS, databases,
    group::{Process, Stray},
    home::{Home, Known, Wanted},
    launch::{self, Launch},
    manifest::Manifest,
    text,
};
use crate::driver::{Done, Reporter};

/// How long fetching may take.
const FETCH_MAX: Duration = Duration::from_secs(600);

/// How long building may take.
const BUILD_MAX: Duration = Duration::from_secs(1_800);

/// Lines of a build are handed on at least so often.
const SAY: Duration = Duration::from_millis(200);

impl Processes {
    /// Brings the code of a version here; answers its commit, and whether an earlier deployment left it here,
    /// built.
    pub(super) async fn fetch(
        &self,
        lease: &Lease,
        home: &Home,
        known: &Known,
        report: &Reporter,
    ) -> Result<(String, bool)> {
        let folder = home.release(&lease.release);
        let what = if lease.commit.is_empty() { &lease.branch } else { &lease.commit };
        let line = format!("fetching {what} of {}", lease.repository_url);
        report.step("checkout", 1, STEPS, line).await;
        if lease.kind() == TaskKind::Rollback
            && known.releases.contains(&lease.release)
            && let Ok(head) = self.head(home, &folder).await
        {
            report.say(vec![format!("{head} is still here, as it was built")]).await;
            return Ok((head, true));
        }
        home.remove_release(&lease.release).await?;
        fs::create_dir_all(&folder).await?;
        self.accounts.own(home, &folder)?;
        self.git(home, &folder, &["init", "--quiet", "."]).await?;
        let wanted = if lease.commit.is_empty() {
            format!("refs/heads/{}", lease.branch)
        } else {
            lease.commit.clone()
        };
        let url = &lease.repository_url;
        let shallow = ["fetch", "--quiet", "--depth=1", "--", url, &wanted];
        if let Err(error) = self.git(home, &folder, &shallow).await {
            ensure!(!lease.commit.is_empty(), error.context("git could not fetch the branch"));
            // Not every server gives a single commit away.
            let branch = format!("refs/heads/{}", lease.branch);
            self.git(home, &folder, &["fetch", "--quiet", "--", url, &branch])
                .await
                .context("git could not fetch the branch")?;
        }
        let at = if lease.commit.is_empty() { "FETCH_HEAD" } else { &lease.commit };
        self.git(home, &folder, &["checkout", "--quiet", "--detach", at])
            .await
            .context("the commit is not on the branch any more")?;
        let commit = self.head(home, &folder).await.context("git could not name the commit")?;
        report.say(vec![format!("commit {commit}")]).await;
        Ok((commit, false))
    }

    async fn head(&self, home: &Home, folder: &Path) -> Result<String> {
        Ok(self.git(home, folder, &["rev-parse", "HEAD"]).await?.trim().to_owned())
    }

    /// What a commit says of itself: the first line of its message, and who wrote it.
    pub(super) async fn about_commit(&self, home: &Home, release: &str) -> (String, String) {
        let format = ["log", "-1", "--format=%s%n%an"];
        let said = self.git(home, &home.release(release), &format).await.unwrap_or_default();
        let (subject, author) = said.trim().split_once('\n').unwrap_or((said.trim(), ""));
        (subject.to_owned(), author.to_owned())
    }

    async fn git(&self, home: &Home, folder: &Path, arguments: &[&str]) -> Result<String> {
        let mut git = self.plain(home, "git", folder);
        git.args(arguments);
        output(git).await
    }

    /// Runs the build command of a version; what it says goes to the task's log.
    pub(super) async fn build(
        &self,
        lease: &Lease,
        home: &Home,
        built: bool,
        report: &Reporter,
    ) -> Result<Manifest> {
        let folder = home.release(&lease.release);
        let manifest = Manifest::read(&folder).await?;
        let Some(command) = manifest.build.as_ref().filter(|_| !built) else {
            report.step("build", 2, STEPS, "there is nothing to build").await;
            return Ok(manifest);
        };
        report.step("build", 2, STEPS, format!("building: {command}")).await;
        let launch = Launch::of(lease, home, &lease.release, &manifest);
        let mut building =
            self.inside(home, &folder, &format!("exec 2>&1; {command}"), "ulimit -c 0; ");
        building.envs(&launch.variables).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = building.spawn().context("the build cannot be started")?;
        let process = child.id().and_then(Process::of).context("the build ended at once")?;
        home.note_starting(&process).await?;
        let stray = Stray::new(&process);
        launch::open(&mut child).await?;
        let said = child.stdout.take().context("the build says nothing")?;
        let last = tokio::time::timeout(BUILD_MAX, relay(said, report)).await;
        let last = last.context("the build takes longer than half an hour")?;
        let status = child.wait().await?;
        drop(stray);
        home.forget_starting().await?;
        ensure!(status.success(), "the build failed ({status}); the last that it said:\n{last}");
        Ok(manifest)
    }

    /// Copies another environment of this machine: its data, and the version that it serves.
    pub(super) async fn copy_environment(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let (from, to) =
            (self.home(&lease.source_environment_id), self.home(&lease.environment_id));
        let source = from.read().await;
        ensure!(source.release == lease.source_release, "the source is not what it was; try again");
        to.prepare(&self.accounts).await?;
        let lease = &self.provided(lease, report).await?;
        let mut known = to.read().await;
        report.step("copy", 1, 3, "copying the data").await;
        let before = known.rests(Wanted::Stopped);
        to.write(&known).await?;
        if let Some(process) = before {
            process.stop().await;
        }
        // What changes while it is copied would be torn.
        let still = source.process.clone().filter(Process::lives);
        let still = still.filter(|_| source.wanted == Wanted::Running);
        let thaw = Thaw(still);
        thaw.0.iter().for_each(Process::freeze);
        let copied = async {
            self.replace(&from.data(), &to.data(), &to).await?;
            self.replace(&from.release(&source.release), &to.release(&lease.release), &to).await?;
            for it in lease.provisions.iter().filter(|it| !it.remove) {
                let source = databases::name(&lease.source_environment_id);
                self.databases.copy(&source, &it.name).await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let copied = copied.await;
        drop(thaw);
        copied?;
        (known.release, known.commit) = (lease.release.clone(), source.commit.clone());
        known.releases.push(lease.release.clone());
        known.port = 0;
        to.write(&known).await?;
        if source.wanted == Wanted::Stopped {
            return Ok(Done { commit: known.commit, ..Done::default() });
        }
        report.step("start", 2, 3, "starting the copy").await;
        self.start_release(lease, &to, &mut known).await?;
        let (commit, url) = (known.commit.clone(), self.url(&known));
        report.step("done", 3, 3, format!("serving on {url}")).await;
        Ok(Done { commit, url, ..Done::default() })
    }

    /// Puts a copy of a folder in place of another, for the environment's account.
    async fn replace(&self, from: &Path, to: &Path, home: &Home) -> Result<()> {
        if fs::try_exists(to).await? {
            fs::remove_dir_all(to).await?;
        }
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto", "--", &text(from), &text(to)]);
        output(copy).await.context("the files cannot be copied")?;
        if let Some(account) = self.accounts.get(home) {
            let mut chown = Command::new("chown");
            chown.args(["-R", "-h", &format!("{account}:{account}"), "--", &text(to)]);
            output(chown).await.context("the copy cannot be given away")?;
        }
        Ok(())
    }
}

/// Lets go on, at its end, what was frozen.
struct Thaw(Option<Process>);

impl Drop for Thaw {
    fn drop(&mut self) {
        self.0.iter().for_each(Process::thaw);
    }
}

/// Hands on what a build says; answers the last lines.
async fn relay(said: tokio::process::ChildStdout, report: &Reporter) -> String {
    let mut lines = BufReader::new(said).split(b'\n');
    let (mut batch, mut last) = (vec![], std::collections::VecDeque::new());
    let mut told = Instant::now();
    loop {
        let line = tokio::time::timeout(SAY, lines.next_segment()).await;
        let ended = matches!(line, Ok(Ok(None) | Err(_)));
        if let Ok(Ok(Some(line))) = line {
            let line = String::from_utf8_lossy(&line).into_owned();
            last.push_back(line.clone());
            if last.len() > 20 {
                last.pop_front();
            }
            batch.push(line);
        }
        let due = ended || batch.len() >= 1_000 || told.elapsed() > SAY;
        if due && !batch.is_empty() {
            report.say(std::mem::take(&mut batch)).await;
            told = Instant::now();
        }
        if ended {
            break;
        }
    }
    last.into_iter().collect::<Vec<_>>().join("\n")
}

/// Runs a command to its end; fails with what it complained of.
pub(super) async fn output(mut command: Command) -> Result<String> {
    let output = tokio::time::timeout(FETCH_MAX, command.kill_on_drop(true).output()).await;
    let output = output.context("it took too long")??;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}", errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
