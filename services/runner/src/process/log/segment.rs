//! Files of a log, each with a part of it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use memchr::memrchr;
use rustix::fs::OFlags;

use super::{CURRENT, FILE_BYTES_MAX, PREVIOUS};
use crate::text::{LINE_BYTES_MAX, OVERLAP_BYTES};

/// Largest part of a line that is read from the file after the one in which it begins, in bytes.
const REST_BYTES_MAX: usize = LINE_BYTES_MAX + OVERLAP_BYTES;

/// Number of listings in which the file of a position is searched, and the pause between two of them.
const LISTINGS_MAX: u32 = 20;
const LISTING_PAUSE: Duration = Duration::from_millis(1);

/// Position in a log: a file, and the number of its bytes that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) inode: u64,
    pub(super) offset: u64,
}

/// A file of a log, with the part of it that was not read yet.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// File after this one, which may have the rest of its last line.
    next: Option<PathBuf>,
    inode: u64,
    offset: u64,
}

/// Lines of a segment.
pub(super) struct ReadPart {
    pub(super) bytes: Vec<u8>,
    /// Position after them.
    pub(super) end: Position,
}

/// Returns the files of a log, the oldest first.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let full = entries.filter(|it| it.file_name().as_encoded_bytes().starts_with(b"@"));
    let mut files: Vec<_> = full.map(|it| it.path()).collect();
    files.sort();
    files
        .extend([PREVIOUS, CURRENT].map(|it| folder.join(it)).into_iter().filter(|it| it.exists()));
    files
}

/// Opens a file. Its directory belongs to the account of the logs, so symbolic links are not followed.
pub(super) fn open(path: &Path) -> Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits())?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    ensure!(file.metadata()?.is_file(), "{} is no file", path.display());
    Ok(file)
}

/// Returns true if the file to which lines are appended has none after a position. The usual case while a log
/// is followed; its entry in the file system is in memory.
pub(super) fn is_at_end(folder: &Path, position: Position) -> bool {
    let metadata = std::fs::symlink_metadata(folder.join(CURRENT));
    metadata.is_ok_and(|it| it.ino() == position.inode && it.len() <= position.offset)
}

/// Returns the parts of a log after a position; all if it is `None`, or if its file was deleted.
pub(super) fn after(folder: &Path, position: Option<Position>) -> Vec<Segment> {
    let mut all = numbered(folder);
    if let Some(position) = position {
        // A file that becomes full has no name that was listed, for a moment.
        for _ in 0..LISTINGS_MAX {
            if all.iter().any(|it| it.inode == position.inode) {
                break;
            }
            std::thread::sleep(LISTING_PAUSE);
            all = numbered(folder);
        }
    }
    let known = position.and_then(|it| all.iter().position(|file| file.inode == it.inode));
    let segments = all.iter().enumerate().skip(known.unwrap_or(0)).map(|(index, file)| Segment {
        path: file.path.clone(),
        next: all.get(index + 1).map(|it| it.path.clone()),
        inode: file.inode,
        offset: position.filter(|_| known == Some(index)).map_or(0, |it| it.offset),
    });
    segments.collect()
}

/// A file of a log with its number in the file system.
struct NumberedFile {
    path: PathBuf,
    inode: u64,
}

/// Returns the files of a log, the oldest first. While a file gets its name, it has two.
fn numbered(folder: &Path) -> Vec<NumberedFile> {
    let mut all: Vec<NumberedFile> = vec![];
    for path in files(folder) {
        let Ok(inode) = std::fs::symlink_metadata(&path).map(|it| it.ino()) else { continue };
        if all.iter().all(|it| it.inode != inode) {
            all.push(NumberedFile { path, inode });
        }
    }
    all
}

impl Segment {
    /// Number of bytes from its begin to a position in the same file; `None` if it is in another one.
    pub(super) fn bytes_to(&self, end: Position) -> Option<u64> {
        (end.inode == self.inode).then(|| end.offset.saturating_sub(self.offset))
    }

    /// Reads the complete lines. Returns them with the position after them; `None` if the file has another
    /// name now, because it was full, or was deleted.
    pub(super) fn read(&self) -> Result<Option<ReadPart>> {
        self.read_at_most(FILE_BYTES_MAX * 2)
    }

    /// [`Self::read`] up to a number of bytes, but at least one line.
    pub(super) fn read_at_most(&self, bytes_max: usize) -> Result<Option<ReadPart>> {
        let Ok(mut file) = open(&self.path) else { return Ok(None) };
        if file.metadata()?.ino() != self.inode {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = vec![];
        (&mut file).take(u64::try_from(bytes_max)?).read_to_end(&mut bytes)?;
        let mut has_more = bytes.len() == bytes_max;
        if has_more && memrchr(b'\n', &bytes).is_none() {
            file.take(u64::try_from(FILE_BYTES_MAX)? * 2).read_to_end(&mut bytes)?;
            has_more = false;
        }
        let complete = memrchr(b'\n', &bytes).map_or(0, |it| it + 1);
        match &self.next {
            Some(next) if !has_more => {
                let end = self.position(bytes.len());
                if complete < bytes.len() {
                    bytes.extend(rest_of_line(next));
                }
                Ok(Some(ReadPart { bytes, end }))
            }
            _ => {
                bytes.truncate(complete);
                Ok(Some(ReadPart { bytes, end: self.position(complete) }))
            }
        }
    }

    fn position(&self, read: usize) -> Position {
        Position { inode: self.inode, offset: self.offset + u64::try_from(read).unwrap_or(0) }
    }
}

/// Returns the begin of a file up to its first line feed.
fn rest_of_line(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; REST_BYTES_MAX];
    let read = open(path).ok().and_then(|mut it| it.read(&mut bytes).ok()).unwrap_or(0);
    bytes.truncate(read);
    let end = bytes.iter().position(|it| *it == b'\n').unwrap_or(read);
    bytes.truncate(end);
    bytes
}
