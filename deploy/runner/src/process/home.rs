//! Where an environment's files lie, and what is known of it there.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use api::project::Observed;
use serde::{Deserialize, Serialize};
use tokio::fs;

use super::{account::Accounts, group::Process, id_of, launch::Launch};

/// So many versions are kept to go back to, the serving one among them.
const RELEASES_MAX: usize = 4;

/// A log that is longer is put aside.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// What should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Wanted {
    #[default]
    Nothing,
    Running,
    Stopped,
    Paused,
}

/// What is known of an environment. Kept in one file, which is replaced as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Known {
    pub(super) wanted: Wanted,
    /// The version that serves, or did last.
    pub(super) release: String,
    pub(super) commit: String,
    pub(super) port: u16,
    pub(super) process: Option<Process>,
    /// What it took the place of, until that has ended.
    pub(super) previous: Option<Process>,
    /// How often it was started again in a row.
    pub(super) restarts: u32,
    /// Why nobody tries any more.
    pub(super) failure: String,
    /// The versions that served, the newest last.
    pub(super) releases: Vec<String>,
}

impl Known {
    /// Whether it runs as it should.
    pub(super) fn runs(&self) -> bool {
        self.wanted == Wanted::Running && self.process.as_ref().is_some_and(Process::lives)
    }

    /// What a look finds.
    pub(super) fn observed(&self) -> Observed {
        let lives = self.process.as_ref().is_some_and(Process::lives);
        match self.wanted {
            Wanted::Running if lives => Observed::Running,
            Wanted::Paused if lives => Observed::Paused,
            Wanted::Running => Observed::Failed,
            Wanted::Nothing | Wanted::Stopped | Wanted::Paused => Observed::Stopped,
        }
    }

    /// It runs from now on.
    pub(super) fn serves(&mut self, process: Process, port: u16) {
        (self.wanted, self.process, self.port) = (Wanted::Running, Some(process), port);
        self.failure = String::new();
    }

    /// Another version runs from now on. Answers the process of the one before, which is to end.
    pub(super) fn takes_over(
        &mut self,
        process: Process,
        port: u16,
        release: &str,
        commit: &str,
    ) -> Option<Process> {
        self.previous = self.process.take();
        self.serves(process, port);
        self.restarts = 0;
        release.clone_into(&mut self.release);
        commit.clone_into(&mut self.commit);
        self.releases.retain(|it| it != release);
        self.releases.push(release.to_owned());
        self.previous.clone()
    }

    /// It runs no longer. Answers the process, which is to end.
    pub(super) fn rests(&mut self, wanted: Wanted) -> Option<Process> {
        self.wanted = wanted;
        self.process.take()
    }
}

/// The folder of an environment.
#[derive(Clone, Debug)]
pub(super) struct Home(PathBuf);

impl Home {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The environment's id.
    pub(super) fn id(&self) -> String {
        id_of(&self.0)
    }

    /// What a program keeps: it stays when versions go.
    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(super) fn release(&self, id: &str) -> PathBuf {
        self.0.join("releases").join(id)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What is known of it; nothing yet, if it has no folder.
    pub(super) async fn read(&self) -> Known {
        let text = fs::read(self.file("state.json")).await.unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) async fn write(&self, known: &Known) -> Result<()> {
        self.replace("state.json", &serde_json::to_vec_pretty(known)?).await
    }

    /// How to start it again. It holds secrets.
    pub(super) async fn keep_launch(&self, launch: &Launch) -> Result<()> {
        self.replace("launch.json", &serde_json::to_vec(launch)?).await
    }

    pub(super) async fn read_launch(&self) -> Option<Launch> {
        serde_json::from_slice(&fs::read(self.file("launch.json")).await.ok()?).ok()
    }

    async fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let new = self.file(&format!("{name}.new"));
        let mut private = fs::OpenOptions::new();
        private.write(true).create(true).truncate(true).mode(0o600);
        let mut file = private.open(&new).await.context("the state cannot be written")?;
        tokio::io::AsyncWriteExt::write_all(&mut file, bytes).await?;
        file.sync_all().await?;
        Ok(fs::rename(&new, self.file(name)).await?)
    }

    /// Makes the folders of an environment, if they are not there, and ends what an earlier runner left half
    /// done.
    pub(super) async fn prepare(&self, accounts: &Accounts) -> Result<()> {
        self.end_strays().await;
        for folder in [self.0.clone(), self.data(), self.0.join("releases")] {
            fs::create_dir_all(&folder).await?;
            accounts.own(self, &folder)?;
            fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).await?;
        }
        Ok(())
    }

    /// Notes what is being built or started, so that whoever comes next can end it.
    pub(super) async fn note_starting(&self, process: &Process) -> Result<()> {
        Ok(fs::write(self.file("starting"), process.to_string()).await?)
    }

    pub(super) async fn forget_starting(&self) -> Result<()> {
        let _ = fs::remove_file(self.file("starting")).await;
        Ok(())
    }

    /// Ends what was being built or started, and what should have ended.
    pub(super) async fn end_strays(&self) {
        let starting = fs::read_to_string(self.file("starting")).await;
        let mut known = self.read().await;
        let starting = starting.ok().and_then(|it| it.parse::<Process>().ok());
        // Between the switch and the end of the note it is no stray.
        let stray = starting.filter(|it| known.process.as_ref() != Some(it));
        let previous = known.previous.take();
        if let Some(process) = &previous {
            process.stop().await;
            let _ = self.write(&known).await;
        }
        if let Some(process) = stray {
            process.stop().await;
        }
        let _ = self.forget_starting().await;
    }

    pub(super) async fn remove_release(&self, id: &str) -> Result<()> {
        if id.is_empty() {
            return Ok(());
        }
        match fs::remove_dir_all(self.release(id)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes versions that nobody goes back to.
    pub(super) async fn sweep(&self, known: &Known) -> Result<()> {
        let from = known.releases.len().saturating_sub(RELEASES_MAX);
        let kept = &known.releases[from..];
        let mut entries = fs::read_dir(self.0.join("releases")).await?;
        while let Some(entry) = entries.next_entry().await? {
            let id = entry.file_name().to_string_lossy().into_owned();
            if !kept.contains(&id) {
                fs::remove_dir_all(entry.path()).await?;
            }
        }
        Ok(())
    }

    /// The last lines that the program said.
    pub(super) async fn last_lines(&self) -> String {
        let text = fs::read(self.log()).await.unwrap_or_default();
        let tail = &text[text.len().saturating_sub(8 * 1024)..];
        let text = String::from_utf8_lossy(tail);
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        if lines.is_empty() {
            "the program said nothing".to_owned()
        } else {
            format!("the last that it said:\n{}", lines.join("\n"))
        }
    }

    /// Puts a long log aside. The program writes at the end of its file, wherever that is.
    pub(super) async fn rotate_log(&self) {
        let long = fs::metadata(self.log()).await.is_ok_and(|it| it.len() > LOG_BYTES_MAX);
        if long && fs::copy(self.log(), self.file("log.1")).await.is_ok() {
            let log = fs::OpenOptions::new().write(true).truncate(true).open(self.log()).await;
            drop(log);
        }
    }
}
