//! Logs that are read at the moment. The readers of a log share its secrets; those who follow it share the
//! lines that one of them has read.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex as SyncMutex, PoisonError, Weak},
    time::Duration,
};

use anyhow::Result;
use prost_types::Timestamp;
use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

use super::{
    CURRENT, ProgramLog, StartRecord,
    line::time_of_name,
    query::order,
    segment::{self, Position},
};
use crate::secrets::Secrets;

/// Interval at which a log is searched for new lines, for all who follow it.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Time after which the shared lines are out of date: nobody follows the log at its end any more.
const CHAIN_AGE_MAX: Duration = Duration::from_secs(1);

/// Number of shared parts. Who is further behind reads the file.
const PARTS_MAX: usize = 8;

/// Size of a part of a log that is read at once, in bytes; that of a longer line if there is one.
const PART_BYTES: usize = 512 << 10;

/// Number of attempts to read a log whose files become full meanwhile.
pub(super) const ATTEMPTS_MAX: usize = 100;

/// Logs with readers, by their paths.
#[derive(Default)]
pub(crate) struct OpenLogs(SyncMutex<HashMap<PathBuf, Weak<OpenLog>>>);

/// A log with readers.
pub(super) struct OpenLog {
    pub(super) log: ProgramLog,
    /// Id of the container; `None` for a sandbox.
    pub(super) container: Option<String>,
    pub(super) secrets: Secrets,
    chain: Mutex<Chain>,
}

/// Newest parts of a log, each after the one before it.
#[derive(Default)]
struct Chain {
    parts: VecDeque<Arc<NewPart>>,
    /// Time at which the file was read last.
    checked_at: Option<Instant>,
}

/// Part of a log that was read.
pub(super) struct NewPart {
    after: Option<Position>,
    pub(super) bytes: Vec<u8>,
    /// Position after it.
    pub(super) end: Position,
}

impl OpenLogs {
    pub(super) fn open(&self, log: ProgramLog) -> Arc<OpenLog> {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = logs.get(&log.path).and_then(Weak::upgrade) {
            return open;
        }
        logs.retain(|_, it| it.strong_count() > 0);
        let open = Arc::new(OpenLog::new(log));
        logs.insert(open.log.path.clone(), Arc::downgrade(&open));
        open
    }
}

impl OpenLog {
    fn new(log: ProgramLog) -> Self {
        let StartRecord { secrets, container } = log.record();
        let secrets = Secrets::new(secrets.iter().map(|(name, value)| (&**name, &**value)));
        Self { log, container, secrets, chain: Mutex::default() }
    }

    /// Returns the next part after a position; `None` if there is none. Full files whose last line is before
    /// `start` are left out.
    pub(super) async fn read(
        &self,
        after: Option<Position>,
        start: Option<Timestamp>,
    ) -> Result<Option<Arc<NewPart>>> {
        let folder = self.log.path.clone();
        let reading = spawn_blocking(move || read_next(&folder, after, start, None));
        Ok(reading.await??.map(Arc::new))
    }

    /// [`Self::read`] for a log that is followed. The parts that one has read are those of all who follow it:
    /// their positions are the ends of the same parts.
    pub(super) async fn read_shared(
        &self,
        after: Option<Position>,
    ) -> Result<Option<Arc<NewPart>>> {
        if after.is_some_and(|it| segment::is_at_end(&self.log.path, it)) {
            return Ok(None);
        }
        let mut chain = self.chain.lock().await;
        if let Some(part) = chain.parts.iter().find(|it| it.after == after) {
            return Ok(Some(part.clone()));
        }
        let age = chain.checked_at.map_or(Duration::MAX, |it| it.elapsed());
        let newest = chain.parts.back().map(|it| it.end).filter(|_| age < CHAIN_AGE_MAX);
        let folder = self.log.path.clone();
        match (newest, after) {
            (Some(newest), _) if Some(newest) != after => {
                // Of a reader that is behind, or that began a moment ago, so that it is in front.
                drop(chain);
                let is_in_front =
                    after.is_some_and(|it| it.inode == newest.inode && it.offset > newest.offset);
                if is_in_front {
                    return Ok(None);
                }
                let read = spawn_blocking(move || read_next(&folder, after, None, Some(newest)));
                Ok(read.await??.map(Arc::new))
            }
            _ => {
                if newest.is_some() && age < POLL_INTERVAL {
                    return Ok(None);
                }
                if newest.is_none() {
                    chain.parts.clear();
                }
                chain.checked_at = Some(Instant::now());
                let read = spawn_blocking(move || read_next(&folder, after, None, None));
                let Some(part) = read.await??.map(Arc::new) else { return Ok(None) };
                chain.parts.push_back(part.clone());
                if chain.parts.len() > PARTS_MAX {
                    chain.parts.pop_front();
                }
                Ok(Some(part))
            }
        }
    }

    /// Returns true if the output of the container was copied, as it is when the container is removed.
    pub(super) fn is_archived(&self) -> bool {
        self.log.path.join(CURRENT).exists()
    }
}

/// Reads the next part after a position, and before `end` in the file of that position.
fn read_next(
    folder: &Path,
    after: Option<Position>,
    start: Option<Timestamp>,
    end: Option<Position>,
) -> Result<Option<NewPart>> {
    'attempts: for _ in 0..ATTEMPTS_MAX {
        for segment in segment::after(folder, after) {
            let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
            if is_before(&name, start) {
                continue;
            }
            let bytes_to_end = end.and_then(|it| segment.bytes_to(it));
            if bytes_to_end == Some(0) {
                return Ok(None);
            }
            let to_end = bytes_to_end.and_then(|it| usize::try_from(it).ok());
            let bytes_max = to_end.unwrap_or(PART_BYTES).min(PART_BYTES);
            // The file became full meanwhile, so that its rest has another name.
            let Some(read) = segment.read_at_most(bytes_max)? else { continue 'attempts };
            if !read.bytes.is_empty() {
                return Ok(Some(NewPart { after, bytes: read.bytes, end: read.end }));
            }
        }
        return Ok(None);
    }
    Ok(None)
}

/// Returns true if all lines of a full file are before a time.
fn is_before(name: &str, start: Option<Timestamp>) -> bool {
    start.zip(time_of_name(name)).is_some_and(|(start, last)| order(last) < order(start))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs::OpenOptions, io::Write};

    use tokio::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::process::{
        directory::EnvironmentDir,
        log::{
            LogReader, StartOfProgram,
            follow::{Place, follow_start},
            query::{LineSink, Selection, StartLog},
        },
    };

    const ID: &str = "01920000-0000-7000-8000-000000000001";

    struct Scene {
        folder: tempfile::TempDir,
        logs: OpenLogs,
        log: ProgramLog,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
            let secrets = BTreeMap::from([("TOKEN".to_owned(), "s3crets3cret".to_owned())]);
            let start =
                StartOfProgram { environment: &environment, release: ID, running: ID, secrets };
            let log = ProgramLog::create_for_container(start, "x").unwrap();
            Self { folder, logs: OpenLogs::default(), log }
        }

        fn print(&self, text: &str) {
            let mut options = OpenOptions::new();
            let mut file =
                options.create(true).append(true).open(self.log.path.join(CURRENT)).unwrap();
            writeln!(file, "@400000006b0a76d210ed1394 {text}").unwrap();
        }

        /// A reader who follows the log from its begin.
        fn follow(
            &self,
        ) -> (impl Future<Output = ()> + use<>, Receiver<Vec<api::project::LogLine>>) {
            let (sender, lines) = channel(1);
            let selection = Selection { start: None, end: None, contains: String::new() };
            let start = Arc::new(StartLog::new(self.logs.open(self.log.clone()), selection));
            (follow_start(start, None, Place::Begin, LineSink::new(sender)), lines)
        }
    }

    /// Receives lines until there is this one.
    async fn receive(lines: &mut Receiver<Vec<api::project::LogLine>>, last: &str) -> Vec<String> {
        let mut received = vec![];
        while received.last().is_none_or(|it| it != last) {
            received.extend(lines.recv().await.unwrap().into_iter().map(|it| it.text));
        }
        received
    }

    /// Readers who follow a log get each line once, also one who begins later, and while another one does not
    /// read or has ended.
    #[tokio::test(flavor = "multi_thread")]
    async fn readers_share_what_one_has_read() {
        let scene = Scene::new();
        let mut tasks = tokio::task::JoinSet::new();
        scene.print("first s3crets3cret");
        let (slow, mut slow_lines) = scene.follow();
        let (ending, mut ending_lines) = scene.follow();
        let (first, mut first_lines) = scene.follow();
        tasks.spawn(slow);
        tasks.spawn(ending);
        tasks.spawn(first);
        let redacted = "first [secret TOKEN]";
        assert_eq!(receive(&mut first_lines, redacted).await, [redacted]);
        assert_eq!(receive(&mut ending_lines, redacted).await, [redacted]);
        drop(ending_lines);
        let mut expected = vec![redacted.to_owned()];
        for number in 0..2 * PARTS_MAX {
            let line = format!("line {number}");
            scene.print(&line);
            assert_eq!(receive(&mut first_lines, &line).await, [&*line]);
            expected.push(line);
        }
        let (late, mut late_lines) = scene.follow();
        tasks.spawn(late);
        let last = expected.last().unwrap().clone();
        assert_eq!(receive(&mut late_lines, &last).await, expected);
        assert_eq!(receive(&mut slow_lines, &last).await, expected);
        scene.print("end");
        for lines in [&mut first_lines, &mut late_lines, &mut slow_lines] {
            assert_eq!(receive(lines, "end").await, ["end"]);
        }
        assert_eq!(tasks.len(), 4);
        assert!(tasks.join_next().await.is_some(), "the reader who has ended is not followed");
        drop(tasks);
        drop(scene.folder);
    }

    /// A part is read once for all who wait for it.
    #[tokio::test]
    async fn a_part_is_read_once() {
        let scene = Scene::new();
        let (one, other) = (scene.logs.open(scene.log.clone()), scene.logs.open(scene.log.clone()));
        assert!(Arc::ptr_eq(&one, &other), "the secrets are shared");
        scene.print("one");
        let first = one.read_shared(None).await.unwrap().unwrap();
        let same = other.read_shared(None).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(one.read_shared(Some(first.end)).await.unwrap().is_none());
        // Read alone by one who is behind, up to the place of the others.
        scene.print("two");
        let behind = Position { offset: 0, ..first.end };
        let part = one.read_shared(Some(behind)).await.unwrap().unwrap();
        assert_eq!((part.end, &part.bytes), (first.end, &first.bytes));
    }

    /// The rests of lines that continue in the next file, which are read twice, do not shorten what is read.
    #[tokio::test]
    async fn a_log_is_read_to_its_end() {
        let scene = Scene::new();
        let rest = "x".repeat(90 << 10);
        for number in 0..10 {
            let name = format!("@400000006b0a76d{number}10ed1394.s");
            let text = format!("{rest}\n@400000006b0a76d210ed1394 begin of {number}");
            std::fs::write(scene.log.path.join(name), text).unwrap();
        }
        std::fs::write(scene.log.path.join(CURRENT), format!("{rest}\n")).unwrap();
        scene.print("last");
        let (sender, mut batches) = channel(100);
        let reader = LogReader {
            environment: &EnvironmentDir::new(scene.folder.path(), ID).unwrap(),
            engine: None,
            open_logs: &scene.logs,
            query: &api::project::LogQuery::default(),
            sink: LineSink::new(sender),
        };
        reader.run().await.unwrap();
        let lines = receive(&mut batches, "last").await;
        assert_eq!(lines.len(), 11);
    }

    /// A line that is longer than a part is read as a whole.
    #[tokio::test]
    async fn a_part_has_at_least_one_line() {
        let scene = Scene::new();
        let long = "x".repeat(PART_BYTES);
        scene.print(&long);
        scene.print("next");
        let open = scene.logs.open(scene.log.clone());
        let first = open.read(None, None).await.unwrap().unwrap();
        assert_eq!(first.bytes.split(|it| *it == b'\n').count(), 3);
        assert!(open.read(Some(first.end), None).await.unwrap().is_none());
    }
}
