//! Output of programs: a directory for each start, `logs/<number>.<deployment id>`. `multilog` (daemontools)
//! writes the output of a program in a sandbox into it, limits its size, and goes on when the runner ends.
//! The engine keeps that of a container; it is copied when the container is removed.

mod archive;
mod filter;
mod follow;
mod line;
mod open;
mod query;
mod segment;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{PipeReader, PipeWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::directory::EnvironmentDir;
use crate::{
    secrets::Secrets,
    system_program::{PATH, program_path},
    text::OVERLAP_BYTES,
};
pub(super) use follow::LogReader;
pub(super) use open::OpenLogs;
pub(super) use query::LineSink;

/// Maximum number of logs of an environment.
const LOGS_MAX: usize = 50;

/// Maximum size of the logs of an environment, without that of the running program, in bytes.
const LOGS_BYTES_MAX: u64 = 32 << 20;

/// Size at which `multilog` begins another file, in bytes.
const FILE_BYTES_MAX: usize = 2 << 20;

/// Number of full files that `multilog` keeps: the oldest is deleted first.
const FILES_MAX: usize = 15;

/// File to which `multilog` appends. Full ones have the name `@<time>.s`, or `@<time>.u` after a crash.
const CURRENT: &str = "current";

/// Name of a full file for a moment, before it has its own.
const PREVIOUS: &str = "previous";

/// Longest wait for the rest of the output of a program that has ended. Its background processes may have
/// inherited its output.
const REST_TIMEOUT: Duration = Duration::from_secs(2);

/// Size of the end of a log that an error quotes from, in bytes.
const TAIL_BYTES: usize = 8 << 10;

/// Size of the end of a log that is read for that, in bytes.
const READ_BYTES: usize = TAIL_BYTES + OVERLAP_BYTES;

/// Number of lines at the end of a log that an error quotes.
const TAIL_LINES: usize = 40;

/// Log of one start of a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProgramLog {
    number: u64,
    release: String,
    path: PathBuf,
}

/// Facts about a start, beside its log. The environment's account cannot read them.
#[derive(Default, Serialize, Deserialize)]
struct StartRecord {
    /// Values that are replaced in the output, by name.
    secrets: BTreeMap<String, String>,
    /// Id of the container; `None` for a sandbox.
    container: Option<String>,
}

/// A start whose output is logged.
pub(super) struct StartOfProgram<'a> {
    pub(super) environment: &'a EnvironmentDir,
    /// Deployment of the start.
    pub(super) release: &'a str,
    /// Deployment that runs, whose log is kept.
    pub(super) running: &'a str,
    /// Secrets that the program can print, by name.
    pub(super) secrets: BTreeMap<String, String>,
}

/// The process that writes a log.
pub(super) struct LogWriter(Child);

impl ProgramLog {
    /// Creates the log of a program in a sandbox. Returns the process that writes it, as `account` if there
    /// is one, and the pipe for the output.
    pub(super) fn create(
        start: StartOfProgram<'_>,
        account: Option<u32>,
    ) -> Result<(Self, LogWriter, PipeWriter)> {
        let log = Self::add(start, None)?;
        DirBuilder::new().mode(0o700).create(&log.path).context("cannot create a log")?;
        if account.is_some() {
            chown(&log.path, account, account).context("cannot change the owner of a log")?;
        }
        let (reader, writer) = std::io::pipe()?;
        Ok((log.clone(), log.spawn_writer(reader, account)?, writer))
    }

    /// Creates the log of a container.
    pub(super) fn create_for_container(start: StartOfProgram<'_>, container: &str) -> Result<Self> {
        let log = Self::add(start, Some(container.to_owned()))?;
        DirBuilder::new().mode(0o700).create(&log.path).context("cannot create a log")?;
        Ok(log)
    }

    /// Chooses the number of another log, and writes its record. Removes old logs.
    fn add(start: StartOfProgram<'_>, container: Option<String>) -> Result<Self> {
        let StartOfProgram { environment, release, running, secrets } = start;
        let directory = environment.logs();
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        created.with_context(|| format!("cannot create {}", directory.display()))?;
        let logs = Self::list(environment);
        remove_old(&logs, running);
        let number = logs.last().map_or(1, |it| it.number + 1);
        let path = directory.join(format!("{number:010}.{release}"));
        let log = Self { number, release: release.to_owned(), path };
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(log.record_file())?;
        file.write_all(&serde_json::to_vec(&StartRecord { secrets, container })?)?;
        Ok(log)
    }

    fn spawn_writer(&self, input: PipeReader, account: Option<u32>) -> Result<LogWriter> {
        let mut command = match account {
            Some(account) => {
                let mut command = Command::new(program_path("setpriv"));
                command.arg(format!("--reuid={account}")).arg(format!("--regid={account}"));
                command.args(["--clear-groups", "--", "multilog"]);
                command
            }
            None => Command::new(program_path("multilog")),
        };
        command.args(["t", &format!("s{FILE_BYTES_MAX}"), &format!("n{FILES_MAX}"), "./"]);
        command.env_clear().env("PATH", PATH).current_dir(&self.path);
        // Of its own process group, so that it does not end with the runner at Ctrl-C.
        command.process_group(0);
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        Ok(LogWriter(child.context("multilog cannot be started; install the package daemontools")?))
    }

    /// Returns the log of the last start of a deployment.
    pub(super) fn last(environment: &EnvironmentDir, release: &str) -> Option<Self> {
        Self::list(environment).into_iter().rev().find(|it| it.release == release)
    }

    /// Returns the logs of an environment, the oldest first.
    fn list(environment: &EnvironmentDir) -> Vec<Self> {
        let entries = fs::read_dir(environment.logs()).into_iter().flatten().flatten();
        let logs = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (number, release) = name.split_once('.')?;
            let is_log = !release.contains('.');
            let log = Self {
                number: number.parse().ok()?,
                release: release.to_owned(),
                path: entry.path(),
            };
            is_log.then_some(log)
        });
        let mut logs: Vec<_> = logs.collect();
        logs.sort();
        logs
    }

    fn record_file(&self) -> PathBuf {
        self.path.with_extension(format!("{}.json", self.release))
    }

    fn record(&self) -> StartRecord {
        let bytes = fs::read(self.record_file()).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|it| Some(it.metadata().ok()?.len())).sum()
    }

    fn remove(&self) {
        let _ = fs::remove_file(self.record_file());
        // Runners before version 0.1 had one file for a start.
        if fs::remove_dir_all(&self.path).is_err() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Returns the last lines of the program's output, for error messages.
    pub(super) fn quote(&self, secrets: &Secrets) -> String {
        let mut bytes = vec![];
        for file in segment::files(&self.path).iter().rev().take(2).rev() {
            bytes.extend(tail(file, READ_BYTES).unwrap_or_default());
        }
        quote_output(&line::without_stamps(&bytes), secrets)
    }
}

impl LogWriter {
    /// Process id; `None` if it has ended.
    pub(super) fn pid(&self) -> Option<u32> {
        self.0.id()
    }

    /// Waits until the whole output is written. The program must have ended.
    pub(super) async fn finish(&mut self) {
        let _ = tokio::time::timeout(REST_TIMEOUT, self.0.wait()).await;
    }
}

/// Removes the oldest logs, but for the last one of the deployment that runs: its program may still write.
fn remove_old(logs: &[ProgramLog], running: &str) {
    let current = logs.iter().rposition(|it| it.release == running);
    let (mut count, mut bytes) = (0, 0);
    for (index, log) in logs.iter().enumerate().rev() {
        if Some(index) == current {
            continue;
        }
        (count, bytes) = (count + 1, bytes + log.bytes());
        if count >= LOGS_MAX || bytes > LOGS_BYTES_MAX {
            log.remove();
        }
    }
}

/// Returns the last lines of a program's output, for error messages.
pub(super) fn quote_output(bytes: &[u8], secrets: &Secrets) -> String {
    let text = String::from_utf8_lossy(bytes);
    let start = String::from_utf8_lossy(&bytes[..bytes.len().saturating_sub(TAIL_BYTES)]).len();
    let start = text.floor_char_boundary(start);
    let text = secrets.redact_part(&text, start..text.len());
    let lines: Vec<_> = text.lines().rev().take(TAIL_LINES).collect();
    if lines.is_empty() {
        return "the program wrote no output".to_owned();
    }
    let lines: Vec<_> = lines.into_iter().rev().collect();
    format!("its last output:\n{}", lines.join("\n"))
}

/// Returns the last `max` bytes of a file.
fn tail(path: &Path, max: usize) -> Result<Vec<u8>> {
    let mut file = segment::open(path)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(u64::try_from(max)?);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![];
    // The program may append to the file.
    file.take(length - start).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01920000-0000-7000-8000-000000000001";
    const OTHER: &str = "01920000-0000-7000-8000-000000000002";

    fn start<'a>(environment: &'a EnvironmentDir, release: &'a str) -> StartOfProgram<'a> {
        StartOfProgram { environment, release, running: ID, secrets: BTreeMap::new() }
    }

    #[tokio::test]
    async fn each_start_has_a_log_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
        assert_eq!(ProgramLog::last(&environment, ID), None);
        let running = ProgramLog::create_for_container(start(&environment, ID), "x").unwrap();
        for number in 0..LOGS_MAX + 5 {
            let failing = start(&environment, OTHER);
            let (failing, mut writer, mut output) = ProgramLog::create(failing, None).unwrap();
            let none = Secrets::default();
            assert_eq!(failing.quote(&none), "the program wrote no output");
            write!(output, "{number}").unwrap();
            drop(output);
            writer.finish().await;
            assert_eq!(failing.quote(&none), format!("its last output:\n{number}"));
            assert_eq!(ProgramLog::last(&environment, OTHER), Some(failing));
            assert_eq!(ProgramLog::last(&environment, ID).as_ref(), Some(&running));
        }
        assert_eq!(ProgramLog::list(&environment).len(), LOGS_MAX + 1);
    }

    #[tokio::test]
    async fn a_long_log_is_limited_and_quoted_without_parts_of_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
        let (log, mut writer, mut output) =
            ProgramLog::create(start(&environment, ID), None).unwrap();
        let secrets = Secrets::new([("TOKEN", "s3crets3crets3cret")]);
        let writing = std::thread::spawn(move || {
            for _ in 0..50 {
                output.write_all(&b"s3crets3crets3cret".repeat(50_000)).unwrap();
                output.write_all(b"\n").unwrap();
            }
        });
        writer.finish().await;
        writing.join().unwrap();
        assert!(log.bytes() < (32 << 20), "{}", log.bytes());
        // The end of the log begins inside of a secret.
        let quoted = log.quote(&secrets).replace("[secret TOKEN]", "");
        assert_eq!(quoted, "its last output:\n");
        assert_eq!(ProgramLog::list(&environment), [log]);
    }

    /// A log that is read while its files become full has each line once.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_is_followed_while_files_become_full() {
        const LINES: usize = 150_000;
        let folder = tempfile::tempdir().unwrap();
        let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
        let (log, mut writer, mut output) =
            ProgramLog::create(start(&environment, ID), None).unwrap();
        let writing = std::thread::spawn(move || {
            for number in 0..LINES {
                writeln!(output, "{number:0100}").unwrap();
            }
        });
        let (sender, mut batches) = tokio::sync::mpsc::channel(8);
        let selection = query::Selection { start: None, end: None, contains: String::new() };
        let start = query::StartLog::new(OpenLogs::default().open(log), selection);
        let sink = LineSink::new(sender);
        let reading = follow::follow_start(start.into(), None, follow::Place::Begin, sink);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(reading);
        let mut next = 0;
        while next < LINES {
            for line in batches.recv().await.unwrap() {
                assert_eq!(line.text, format!("{next:0100}"));
                next += 1;
            }
        }
        writing.join().unwrap();
        writer.finish().await;
    }
}
