//! Mutual TLS between services. The certificate of a service has exactly one URI name,
//! `spiffe://tenantry/svc/<name>`. Changed files apply to new connections.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use webpki::EndEntityCert;

/// Prefix of a service's name in its certificate.
pub const SPIFFE: &str = "spiffe://tenantry/svc/";

/// Interval at which the files are compared with those in use.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Certificate and private key of a service, and the certificate of the authority. Clones share their state.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: Files,
    current: RwLock<Arc<Configurations>>,
}

/// Paths of PEM files.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

/// Contents of the files.
#[derive(PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

/// Configurations made from the files.
struct Configurations {
    pem: Pem,
    server: Arc<ServerConfig>,
}

impl Files {
    fn read(&self) -> anyhow::Result<Pem> {
        let read = |path: &Path| {
            std::fs::read(path)
                .with_context(|| format!("cannot read the TLS file {}", path.display()))
        };
        Ok(Pem {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            authority: read(&self.authority)?,
        })
    }
}

impl Tls {
    /// Reads PEM files.
    pub fn read(certificate: &Path, key: &Path, authority: &Path) -> anyhow::Result<Self> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            authority: authority.to_owned(),
        };
        let current = RwLock::new(Arc::new(Configurations::new(files.read()?)?));
        Ok(Self(Arc::new(Shared { files, current })))
    }

    fn current(&self) -> Arc<Configurations> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the configuration of the server for a new connection.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    /// Returns the configuration for a new connection to another service.
    pub(crate) fn client(&self) -> ClientTlsConfig {
        let Pem { certificate, key, authority } = &self.current().pem;
        ClientTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .ca_certificate(Certificate::from_pem(authority))
    }

    /// Reads changed files, until `stop`. Files that cannot be used, for example a certificate whose key is
    /// not replaced yet, are logged and read again later; the previous ones stay in use.
    pub async fn reload_changes(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
            match self.reload() {
                Ok(false) => {}
                Ok(true) => tracing::info!("new TLS files are used for new connections"),
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "the changed TLS files cannot be used; the previous ones stay in use"
                ),
            }
        }
    }

    /// Reads the files. Returns true if they have changed.
    fn reload(&self) -> anyhow::Result<bool> {
        let pem = self.0.files.read()?;
        if pem == self.current().pem {
            return Ok(false);
        }
        let configurations = Arc::new(Configurations::new(pem)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = configurations;
        Ok(true)
    }
}

impl Configurations {
    fn new(pem: Pem) -> anyhow::Result<Self> {
        let server = server(&pem)?;
        Ok(Self { pem, server })
    }
}

/// Returns the configuration of the server. A client certificate is optional: services have one, other
/// clients do not.
fn server(pem: &Pem) -> anyhow::Result<Arc<ServerConfig>> {
    let mut roots = RootCertStore::empty();
    for it in CertificateDer::pem_slice_iter(&pem.authority) {
        roots.add(it.context("--tls-ca is not a PEM file")?)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated();
    let verifier = verifier.build().context("--tls-ca contains no certificate")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(&pem.key).context("--tls-key is not a PEM file")?;
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let chain = chain.context("--tls-cert is not a PEM file")?;
    let mut config = config
        .with_single_cert(chain, key)
        .context("--tls-cert and --tls-key cannot be used together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the service that a verified certificate names; `None` if it has not exactly one valid name.
pub(crate) fn service_name(certificate: &CertificateDer<'static>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_uri_names();
    let name = names.next()?.strip_prefix(SPIFFE)?.to_owned();
    (names.next().is_none() && !name.is_empty() && name.bytes().all(|it| it.is_ascii_lowercase()))
        .then_some(name)
}
