//! Client of a directory of this machine. Every directory below that of the operator is opened relative to
//! its parent and without following symbolic links, so no path leaves the directory of the organization.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::PathBuf,
};

use chassis::OrgId;
use project_rules::connection::storage::ObjectPath;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::client::{Failure, OBJECT_BYTES_MAX};

/// Mode of directories and files, before the umask.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// Directory of a connection. It is created by the first write.
#[derive(Clone)]
pub(crate) struct Folder {
    /// Directory of the operator.
    pub(super) root: PathBuf,
    pub(super) org_id: OrgId,
    pub(super) path: ObjectPath,
}

impl Folder {
    pub(super) async fn put(&self, key: &ObjectPath, data: Vec<u8>) -> Result<(), Failure> {
        self.run(key, move |folder, key| folder.write(&key, &data)).await
    }

    pub(super) async fn get(&self, key: &ObjectPath) -> Result<Option<Vec<u8>>, Failure> {
        self.run(key, |folder, key| match folder.read(&key) {
            Err(Errno::NOENT) => Ok(None),
            read => read.map(Some),
        })
        .await
    }

    pub(super) async fn list(&self, prefix: &ObjectPath) -> Result<Vec<String>, Failure> {
        self.run(prefix, |folder, prefix| folder.names(&prefix)).await
    }

    pub(super) async fn delete(&self, key: &ObjectPath) -> Result<(), Failure> {
        self.run(key, |folder, key| {
            let (directory, name) = folder.directory_of(&key, false)?;
            rustix::fs::unlinkat(&directory, &name, AtFlags::empty())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        key: &ObjectPath,
        work: impl FnOnce(Self, ObjectPath) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T, Failure> {
        let (folder, key) = (self.clone(), key.clone());
        let done = tokio::task::spawn_blocking(move || work(folder, key)).await;
        done.map_err(|error| error.to_string())?.map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR => {
                "a part of the path is a symbolic link, or not a directory".to_owned()
            }
            error => io::Error::from(error).to_string(),
        })
    }

    /// Opens the directory of an object; returns the name of the object in that directory, too.
    fn directory_of(&self, key: &ObjectPath, create: bool) -> Result<(OwnedFd, String), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = rustix::fs::open(&self.root, flags, Mode::empty())?;
        let org_id = self.org_id.to_string();
        let path = self.path.join(key);
        let mut parts: Vec<&str> = path.parts().collect();
        let name = parts.pop().ok_or(Errno::INVAL)?;
        for part in std::iter::once(org_id.as_str()).chain(parts) {
            if create {
                match rustix::fs::mkdirat(&directory, part, DIRECTORY_MODE) {
                    Ok(()) => rustix::fs::fsync(&directory)?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            }
            let flags = flags | OFlags::NOFOLLOW;
            directory = rustix::fs::openat(&directory, part, flags, Mode::empty())?;
        }
        Ok((directory, name.to_owned()))
    }

    /// Writes a temporary file, and renames it to the object after its content is on the disk.
    fn write(&self, key: &ObjectPath, data: &[u8]) -> Result<(), Errno> {
        let (directory, name) = self.directory_of(key, true)?;
        let temporary = format!(".{name}.tmp");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &temporary, flags, FILE_MODE)?;
        let mut file = File::from(file);
        let written = file.write_all(data).and_then(|()| file.sync_all());
        let written = written.map_err(|it| Errno::from_io_error(&it).unwrap_or(Errno::IO));
        let renamed = written
            .and_then(|()| rustix::fs::renameat(&directory, &temporary, &directory, &name))
            .and_then(|()| rustix::fs::fsync(&directory));
        if renamed.is_err() {
            // The cause is returned; a temporary file that is left is replaced by the next attempt.
            let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        }
        renamed
    }

    fn read(&self, key: &ObjectPath) -> Result<Vec<u8>, Errno> {
        let (directory, name) = self.directory_of(key, false)?;
        // NONBLOCK: a named pipe is not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&directory, &name, flags, Mode::empty())?);
        let bytes_max = u64::try_from(OBJECT_BYTES_MAX + 1).unwrap_or(u64::MAX);
        let mut data = vec![];
        let read = file.take(bytes_max).read_to_end(&mut data);
        read.map_err(|it| Errno::from_io_error(&it).unwrap_or(Errno::IO))?;
        Ok(data)
    }

    fn names(&self, prefix: &ObjectPath) -> Result<Vec<String>, Errno> {
        let (directory, _) = self.directory_of(prefix, false)?;
        let parent = prefix.as_str().rsplit_once('/').map(|it| it.0);
        let mut names = vec![];
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let name = parent.map_or(name.clone(), |parent| format!("{parent}/{name}"));
            if name.starts_with(prefix.as_str()) && names.len() < 1_000 {
                names.push(name);
            }
        }
        Ok(names)
    }
}
