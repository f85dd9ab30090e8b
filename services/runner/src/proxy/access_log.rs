//! Access log of Caddy, from which requests are counted. Its lines contain nothing that a client or a program
//! chooses but the status: each environment has a logger of its own, and everything else of the request is
//! left out. Metrics of Caddy are not used: they keep memory for each status and method.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// Logger of Caddy for requests; those of environments are below it.
pub(super) const LOGGER: &str = "http.log.access";

/// Fields that are left out.
const OMITTED_FIELDS: [&str; 5] = ["request", "resp_headers", "user_id", "err_id", "err_trace"];

/// Size at which Caddy begins another file, in MiB. Requests are not counted if more than this is written
/// between two readings: some 60,000 requests.
const FILE_SIZE_MB: u64 = 10;

/// Maximum length of a line, in bytes. Longer ones are not counted.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Maximum number of bytes that are read at a time.
const READ_BYTES_MAX: u64 = 3 * (FILE_SIZE_MB << 20);

/// Status of a connection that became a web socket.
const SWITCHING_PROTOCOLS: u16 = 101;

/// Numbers of requests, without web sockets, which last as long as a person looks at a page.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Requests {
    pub(crate) count: i64,
    /// Of those with a status of 500 or more.
    pub(crate) error_count: i64,
    /// Sum of their durations, in seconds.
    pub(crate) duration_s: f64,
}

/// Returns the configuration of the log that has the requests of all environments.
pub(super) fn configuration(file: &Path) -> Value {
    let delete = |it: &str| (it.to_owned(), json!({ "filter": "delete" }));
    let fields: serde_json::Map<_, _> = OMITTED_FIELDS.into_iter().map(delete).collect();
    json!({
        "include": [LOGGER],
        "writer": {
            "output": "file",
            "filename": file,
            "roll_size_mb": FILE_SIZE_MB,
            "roll_keep": 1,
            "roll_gzip": false,
        },
        "encoder": { "format": "filter", "wrap": { "format": "json" }, "fields": fields },
    })
}

/// Returns the name of an environment's logger, below [`LOGGER`].
pub(super) fn logger_name(environment_id: Uuid) -> String {
    environment_id.simple().to_string()
}

/// Line of the log.
#[derive(Deserialize)]
struct Line {
    logger: String,
    /// In seconds.
    duration: f64,
    status: u16,
}

/// Reader of the log. Requests before its creation are not counted.
pub(crate) struct AccessLog {
    path: PathBuf,
    file: Option<File>,
    /// Begin of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl AccessLog {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut log = Self { path, file: None, rest: vec![] };
        log.file = log.open();
        if let Some(file) = &mut log.file {
            // Fails for a pipe only.
            let _ = file.seek(SeekFrom::End(0));
        }
        log
    }

    /// Returns the requests of each environment since the last call.
    pub(crate) fn read(&mut self) -> HashMap<Uuid, Requests> {
        let mut requests = HashMap::new();
        self.read_file(&mut requests);
        // Caddy renames a full file and creates another.
        let current = self.open();
        if current.as_ref().map(identity) != self.file.as_ref().map(identity) {
            // Lines that were written since the first reading.
            self.read_file(&mut requests);
            self.file = current;
            self.rest.clear();
            self.read_file(&mut requests);
        }
        requests
    }

    /// Opens the file as Caddy's account can have replaced it: only a regular file, without following a link.
    fn open(&self) -> Option<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(&self.path);
        file.ok().filter(|it| it.metadata().is_ok_and(|it| it.is_file()))
    }

    fn read_file(&mut self, requests: &mut HashMap<Uuid, Requests>) {
        let Some(file) = &mut self.file else { return };
        let mut bytes = std::mem::take(&mut self.rest);
        if file.take(READ_BYTES_MAX).read_to_end(&mut bytes).is_err() {
            return;
        }
        let complete = bytes.iter().rposition(|it| *it == b'\n').map_or(0, |it| it + 1);
        for line in bytes[..complete].split(|it| *it == b'\n') {
            if let Ok(line) =
                serde_json::from_slice::<Line>(&line[..line.len().min(LINE_BYTES_MAX)])
            {
                count(&line, requests);
            }
        }
        bytes.drain(..complete);
        bytes.truncate(LINE_BYTES_MAX);
        self.rest = bytes;
    }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|it| (it.dev(), it.ino()))
}

fn count(line: &Line, requests: &mut HashMap<Uuid, Requests>) {
    let name = line.logger.strip_prefix(LOGGER).and_then(|it| it.strip_prefix('.'));
    let Some(id) = name.and_then(|it| Uuid::try_parse(it).ok()) else { return };
    if line.status == SWITCHING_PROTOCOLS {
        return;
    }
    let of_environment: &mut Requests = requests.entry(id).or_default();
    of_environment.count += 1;
    of_environment.error_count += i64::from(line.status >= 500);
    of_environment.duration_s += line.duration;
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(id: Uuid, status: u16) -> String {
        let logger = format!("{LOGGER}.{}", logger_name(id));
        json!({ "ts": 1.5, "logger": logger, "duration": 0.25, "size": 3, "status": status })
            .to_string()
    }

    #[test]
    fn requests_are_counted_once_while_files_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let mut file = File::create(&path).unwrap();
        writeln!(file, "{}", line(one, 200)).unwrap();
        let mut log = AccessLog::new(path.clone());
        assert_eq!(log.read(), HashMap::new(), "requests before the start");
        // Web sockets, other loggers and foreign texts are not counted; the last line is incomplete.
        let ignored = [line(one, 101), line(one, 200).replace(LOGGER, "http.log"), "{".to_owned()];
        let lines =
            [line(one, 200), line(other, 503), ignored.join("\n"), "x".repeat(9_999)].join("\n");
        write!(file, "{lines}\n{}", &line(one, 404)[..20]).unwrap();
        let counted = |count, error_count, duration_s| Requests { count, error_count, duration_s };
        let expected = HashMap::from([(one, counted(1, 0, 0.25)), (other, counted(1, 1, 0.25))]);
        assert_eq!(log.read(), expected);
        writeln!(file, "{}", &line(one, 404)[20..]).unwrap();
        std::fs::rename(&path, folder.path().join("access-1.log")).unwrap();
        let mut file = File::create(&path).unwrap();
        writeln!(file, "{}", line(one, 500)).unwrap();
        assert_eq!(log.read(), HashMap::from([(one, counted(2, 1, 0.5))]));
        assert_eq!(log.read(), HashMap::new());
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, format!("{}\n", line(Uuid::nil(), 200))).unwrap();
        let path = folder.path().join("access.log");
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        let mut log = AccessLog::new(path);
        assert!(log.file.is_none());
        assert_eq!(log.read(), HashMap::new());
    }
}
