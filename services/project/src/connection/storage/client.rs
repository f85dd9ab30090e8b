//! Clients of storage, and the test of a connection. Addresses are checked before; clients connect to the
//! checked addresses only, and follow no redirects.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use chassis::{Result, foreign_text::clean_block};
use project_rules::connection::{
    StorageFailed, TestFailure,
    storage::{ObjectPath, StorageAccess},
};
use tokio::sync::Semaphore;

use super::{folder::Folder, s3::Bucket, sftp::Sftp};
use crate::connection::address::AddressChecker;

/// Maximum size of an object, in bytes.
pub(crate) const OBJECT_BYTES_MAX: usize = 8 << 20;

/// Time limit of a test or of a write, without the time in which it waits for others.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of tests at the same time.
const CONCURRENT_TESTS_MAX: usize = 8;

/// Maximum length of a text of a server in a message, in bytes.
const ERROR_BYTES_MAX: usize = 500;

/// Opens storage.
pub(crate) struct StorageClient {
    addresses: Arc<AddressChecker>,
    /// Directory for temporary files.
    temporary: PathBuf,
    /// Directory of the directories of organizations; `None` if the operator allows no folders.
    folder: Option<PathBuf>,
    slots: Semaphore,
}

/// Failure of an operation: a message of the server or of the system, cleaned and without secrets.
pub(super) type Failure = String;

/// Open storage of a connection.
pub(crate) enum Storage {
    S3(Box<Bucket>),
    Sftp(Box<Sftp>),
    Folder(Folder),
}

impl StorageClient {
    pub(crate) fn new(
        addresses: Arc<AddressChecker>,
        temporary: PathBuf,
        folder: Option<PathBuf>,
    ) -> Self {
        // The provider of TLS for HTTP clients; fails if it is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self { addresses, temporary, folder, slots: Semaphore::new(CONCURRENT_TESTS_MAX) }
    }

    /// Opens storage.
    pub(crate) async fn open(&self, access: &StorageAccess) -> Result<Storage, TestFailure> {
        Ok(match access {
            StorageAccess::S3 { location, secret_access_key } => {
                let bucket = Bucket::open(location, secret_access_key, &self.addresses).await?;
                Storage::S3(Box::new(bucket))
            }
            StorageAccess::Sftp { location, credential, has_host_key } => {
                let addresses = self.addresses.addresses(&location.endpoint).await?;
                let address = addresses[0];
                let sftp =
                    Sftp::open(location, credential, *has_host_key, address, &self.temporary);
                Storage::Sftp(Box::new(sftp.await?))
            }
            StorageAccess::Folder { location, org_id } => {
                let root = self.folder.clone().ok_or(TestFailure::NoFolders)?;
                Storage::Folder(Folder { root, org_id: *org_id, path: location.path.clone() })
            }
        })
    }

    /// Writes an object, reads it back and compares it.
    pub(crate) async fn put(
        &self,
        access: &StorageAccess,
        key: &ObjectPath,
        data: Vec<u8>,
    ) -> Result<()> {
        let failed = |text: &str| StorageFailed(clean_block(text, ERROR_BYTES_MAX));
        let write = async {
            let mut storage = match self.open(access).await {
                Err(TestFailure::Server(text)) => return Err(failed(&text).into()),
                opened => opened?,
            };
            storage.put(key, data.clone()).await.map_err(|it| failed(&it))?;
            let read = storage.get(key).await.map_err(|it| failed(&it))?;
            let is_same = read.is_some_and(|it| it == data);
            let differs = "it does not return an object as it was written";
            if is_same { Ok(()) } else { Err(failed(differs).into()) }
        };
        let written = tokio::time::timeout(TEST_TIMEOUT, write).await;
        let timeout = format!("not complete within {} s", TEST_TIMEOUT.as_secs());
        written.unwrap_or_else(|_| Err(failed(&timeout).into()))
    }

    /// Tests a connection. Returns the host key of the server; empty unless SFTP.
    pub(crate) async fn test(&self, access: &StorageAccess) -> Result<Result<String, TestFailure>> {
        let _slot = self.slots.acquire().await.context("the tests of connections have ended")?;
        let test = async {
            let mut storage = self.open(access).await?;
            let name = format!("tenantry-test-{}", chassis::id::new());
            let key = ObjectPath::parse(&name).unwrap_or_default();
            let tested = storage.test(&key).await;
            if tested.is_err() {
                // The object may be there; a failure of its deletion would hide the cause.
                let _ = storage.delete(&key).await;
            }
            tested.map(|()| storage.host_key()).map_err(|it| server_failure(&it))
        };
        let timeout =
            || TestFailure::Server(format!("not complete within {} s", TEST_TIMEOUT.as_secs()));
        let tested = tokio::time::timeout(TEST_TIMEOUT, test).await;
        Ok(tested.unwrap_or_else(|_| Err(timeout())))
    }
}

fn server_failure(text: &str) -> TestFailure {
    TestFailure::Server(clean_block(text, ERROR_BYTES_MAX))
}

impl Storage {
    /// Writes an object with random content, reads and lists it, deletes it, and requires that it is gone.
    async fn test(&mut self, key: &ObjectPath) -> Result<(), Failure> {
        let step =
            |step: &'static str| move |failure| format!("cannot {step} an object: {failure}");
        let content = format!("{} {}\n", chassis::id::new(), chassis::id::new()).into_bytes();
        self.put(key, content.clone()).await.map_err(step("write"))?;
        let read = self.get(key).await.map_err(step("read"))?;
        let read =
            read.ok_or("the storage confirmed the write of an object, but does not have it")?;
        if read != content {
            return Err("the storage returned other content than was written".to_owned());
        }
        let listed = self.list(key).await.map_err(step("list"))?;
        if !listed.iter().any(|it| it == key.as_str()) {
            return Err("the storage does not list an object that was written".to_owned());
        }
        self.delete(key).await.map_err(step("delete"))?;
        match self.get(key).await.map_err(step("read"))? {
            None => Ok(()),
            Some(_) => {
                Err("the storage confirmed the deletion of an object, but still has it".to_owned())
            }
        }
    }

    /// Writes an object, in place of one with this name.
    pub(crate) async fn put(&mut self, key: &ObjectPath, data: Vec<u8>) -> Result<(), Failure> {
        match self {
            Self::S3(it) => it.put(key, data).await,
            Self::Sftp(it) => it.put(key, &data).await,
            Self::Folder(it) => it.put(key, data).await,
        }
    }

    /// Reads an object of at most [`OBJECT_BYTES_MAX`]; `None` if it does not exist.
    pub(crate) async fn get(&mut self, key: &ObjectPath) -> Result<Option<Vec<u8>>, Failure> {
        let object = match self {
            Self::S3(it) => it.get(key).await,
            Self::Sftp(it) => it.get(key).await,
            Self::Folder(it) => it.get(key).await,
        }?;
        match object {
            Some(data) if data.len() > OBJECT_BYTES_MAX => {
                Err(format!("the object is larger than {OBJECT_BYTES_MAX} bytes"))
            }
            object => Ok(object),
        }
    }

    /// Names of at most 1,000 objects that begin with `prefix` and are in the same directory.
    async fn list(&mut self, prefix: &ObjectPath) -> Result<Vec<String>, Failure> {
        match self {
            Self::S3(it) => it.list(prefix).await,
            Self::Sftp(it) => it.list(prefix).await,
            Self::Folder(it) => it.list(prefix).await,
        }
    }

    async fn delete(&mut self, key: &ObjectPath) -> Result<(), Failure> {
        match self {
            Self::S3(it) => it.delete(key).await,
            Self::Sftp(it) => it.delete(key).await,
            Self::Folder(it) => it.delete(key).await,
        }
    }

    /// Host key of the server, as `<type> <base64>`; empty unless SFTP.
    fn host_key(&self) -> String {
        match self {
            Self::Sftp(it) => it.host_key(),
            Self::S3(_) | Self::Folder(_) => String::new(),
        }
    }
}
