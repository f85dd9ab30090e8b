//! Output of programs: a file for each start, `logs/<number>.<deployment id>`, so that the error of a failed
//! start quotes that start only.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::directory::EnvironmentDir;
use crate::{secrets::Secrets, text::OVERLAP_BYTES};

/// Number of logs that are kept, in addition to that of the running program.
const LOGS_MAX: usize = 4;

/// Size at which a log is rotated, in bytes. A log and its rotated part have twice this size together.
const LOG_BYTES_MAX: usize = 5 << 20;

/// Suffix of the rotated part of a log.
const ROTATED_SUFFIX: &str = "old";

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

impl ProgramLog {
    /// Creates the log of a start of a deployment, and removes old logs except the one of the deployment
    /// `running`, to which a program may still write.
    pub(super) fn create(
        environment: &EnvironmentDir,
        release: &str,
        running: &str,
    ) -> Result<(Self, File)> {
        let directory = environment.logs();
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        created.with_context(|| format!("cannot create {}", directory.display()))?;
        let logs = Self::list(environment);
        let number = logs.last().map_or(1, |it| it.number + 1);
        let current = logs.iter().rposition(|it| it.release == running);
        let removed =
            (0..(logs.len() + 1).saturating_sub(LOGS_MAX)).filter(|it| Some(*it) != current);
        for log in removed.filter_map(|it| logs.get(it)) {
            let _ = fs::remove_file(&log.path);
            let _ = fs::remove_file(log.rotated());
        }
        let path = directory.join(format!("{number:010}.{release}"));
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path);
        let file = file.context("cannot create the log of the program")?;
        Ok((Self { number, release: release.to_owned(), path }, file))
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

    fn rotated(&self) -> PathBuf {
        self.path.with_extension(format!("{}.{ROTATED_SUFFIX}", self.release))
    }

    /// Returns the last lines of the program's output, for error messages.
    pub(super) fn quote(&self, secrets: &Secrets) -> String {
        // The log may have been rotated since.
        let mut bytes = tail(&self.rotated(), READ_BYTES).unwrap_or_default();
        bytes.extend(tail(&self.path, READ_BYTES).unwrap_or_default());
        let text = String::from_utf8_lossy(&bytes);
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

    /// Rotates the long logs of an environment: copies the end of each to another file and truncates it. The
    /// program has opened it in append mode, so its next line is written at the new end.
    pub(super) fn rotate(environment: &EnvironmentDir) -> Result<()> {
        for log in Self::list(environment) {
            let length = fs::metadata(&log.path).map_or(0, |it| it.len());
            if length <= u64::try_from(LOG_BYTES_MAX)? {
                continue;
            }
            fs::write(log.rotated(), tail(&log.path, LOG_BYTES_MAX)?)?;
            OpenOptions::new().write(true).open(&log.path)?.set_len(0)?;
        }
        Ok(())
    }
}

/// Returns the last `max` bytes of a file.
fn tail(path: &Path, max: usize) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
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
    use std::io::Write;

    use super::*;

    const ID: &str = "01920000-0000-7000-8000-000000000001";
    const OTHER: &str = "01920000-0000-7000-8000-000000000002";

    #[test]
    fn each_start_has_a_log_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
        assert_eq!(ProgramLog::last(&environment, ID), None);
        let (running, mut file) = ProgramLog::create(&environment, ID, ID).unwrap();
        file.write_all(b"one\n").unwrap();
        for number in 0..10 {
            let (failing, mut file) = ProgramLog::create(&environment, OTHER, ID).unwrap();
            let none = Secrets::default();
            assert_eq!(failing.quote(&none), "the program wrote no output");
            writeln!(file, "{number}").unwrap();
            assert_eq!(failing.quote(&none), format!("its last output:\n{number}"));
            assert_eq!(ProgramLog::last(&environment, OTHER), Some(failing));
            assert_eq!(ProgramLog::last(&environment, ID).as_ref(), Some(&running));
        }
        assert_eq!(ProgramLog::list(&environment).len(), LOGS_MAX + 1);
    }

    #[test]
    fn a_long_log_is_rotated_and_quoted_without_parts_of_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
        let (log, mut file) = ProgramLog::create(&environment, ID, ID).unwrap();
        let secrets = Secrets::new([("TOKEN", "s3crets3crets3cret")]);
        // The end of the log begins inside of a secret.
        file.write_all(&b"s3crets3crets3cret".repeat(400_000)).unwrap();
        let quoted = log.quote(&secrets).replace("[secret TOKEN]", "");
        assert_eq!(quoted, "its last output:\n");
        ProgramLog::rotate(&environment).unwrap();
        assert_eq!(fs::metadata(&log.path).unwrap().len(), 0);
        assert_eq!(fs::read(log.rotated()).unwrap().len(), LOG_BYTES_MAX);
        file.write_all(b" last").unwrap();
        let quoted = log.quote(&secrets).replace("[secret TOKEN]", "");
        assert_eq!(quoted, "its last output:\n last", "the rotated part is quoted too");
        assert_eq!(ProgramLog::list(&environment), [log]);
    }
}
