//! Files of certificates and their keys, readable by the runner only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, Result};
use primitives::hostname;
use x509_cert::Certificate as X509;

/// Suffix of the files of certificates; a host name is before it.
const SUFFIX: &str = ".pem";

/// Begin of the first certificate in a file. The key is before it.
const CERTIFICATE_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Certificate {
    /// Certificate and its issuers, as PEM.
    pub(crate) chain: String,
    key: String,
    /// Time after two thirds of the lifetime.
    pub(crate) renewal_time: SystemTime,
}

impl Certificate {
    /// Parses a certificate with its issuers. The key is not checked.
    fn parse(chain: &str, key: &str) -> Result<Self> {
        let chained = X509::load_pem_chain(chain.as_bytes()).context("invalid certificate")?;
        let validity = chained.first().context("no certificate")?.tbs_certificate.validity;
        let begin = validity.not_before.to_system_time();
        let lifetime =
            validity.not_after.to_system_time().duration_since(begin).unwrap_or_default();
        let renewal_time = begin + lifetime / 3 * 2;
        Ok(Self { chain: chain.to_owned(), key: key.to_owned(), renewal_time })
    }

    /// Private key, as PEM.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

/// Certificates by host name, in memory and in files `<host name>.pem`.
pub struct CertificateStore {
    folder: PathBuf,
    certificates: Mutex<BTreeMap<String, Certificate>>,
}

impl CertificateStore {
    /// Reads the certificates of a directory, which is created if it does not exist. Files without a valid
    /// certificate are ignored: the certificate is requested again.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        created.with_context(|| format!("cannot create {}", folder.display()))?;
        let mut certificates = BTreeMap::new();
        for file in fs::read_dir(&folder)?.flatten() {
            let name = file.file_name();
            let name = name.to_str().and_then(|it| it.strip_suffix(SUFFIX));
            let Some(name) = name.filter(|it| hostname::is_valid(it)) else { continue };
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let Some(begin) = text.find(CERTIFICATE_BEGIN) else { continue };
            let (key, chain) = text.split_at(begin);
            if let Ok(certificate) = Certificate::parse(chain, key) {
                certificates.insert(name.to_owned(), certificate);
            }
        }
        Ok(Self { folder, certificates: Mutex::new(certificates) })
    }

    /// File of the account at the authority. No certificate has this name.
    pub(crate) fn account_file(&self) -> PathBuf {
        self.folder.join("account.json")
    }

    /// Returns the certificate of a host name.
    pub(crate) fn get(&self, hostname: &str) -> Option<Certificate> {
        self.lock().get(hostname).cloned()
    }

    /// Returns all certificates, ordered by host name.
    pub(crate) fn all(&self) -> Vec<Certificate> {
        self.lock().values().cloned().collect()
    }

    /// Stores a certificate in place of an earlier one.
    pub(crate) fn put(&self, hostname: &str, chain: &str, key: &str) -> Result<()> {
        let certificate = Certificate::parse(chain, key)?;
        write_private(&self.file(hostname), format!("{key}{chain}").as_bytes())?;
        self.lock().insert(hostname.to_owned(), certificate);
        Ok(())
    }

    /// Removes the certificates of all other host names.
    pub(crate) fn retain(&self, hostnames: &BTreeSet<&str>) {
        self.lock().retain(|it, _| {
            let is_kept = hostnames.contains(it.as_str());
            if !is_kept && let Err(error) = fs::remove_file(self.file(it)) {
                tracing::warn!(hostname = it, %error, "certificate not removed");
            }
            is_kept
        });
    }

    fn file(&self, hostname: &str) -> PathBuf {
        self.folder.join(format!("{hostname}{SUFFIX}"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Certificate>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file, or creates it, readable by its owner only.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_added_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
