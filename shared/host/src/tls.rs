//! Mutual TLS between services. The certificate of a service has exactly one URI name,
//! `spiffe://tenantry/svc/<name>`.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use webpki::EndEntityCert;

/// Prefix of a service's name in its certificate.
pub const SPIFFE: &str = "spiffe://tenantry/svc/";

/// Certificate and private key of a service, and the certificate of the authority, in PEM.
#[derive(Clone)]
pub struct Tls {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

impl Tls {
    /// Reads PEM files.
    pub fn read(certificate: &PathBuf, key: &PathBuf, authority: &PathBuf) -> anyhow::Result<Self> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .with_context(|| format!("cannot read the TLS file {}", path.display()))
        };
        Ok(Self { certificate: read(certificate)?, key: read(key)?, authority: read(authority)? })
    }

    /// Returns the configuration of the server. A client certificate is optional: services have one, other
    /// clients do not.
    pub(crate) fn server(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let mut roots = RootCertStore::empty();
        for it in CertificateDer::pem_slice_iter(&self.authority) {
            roots.add(it.context("--tls-ca is not a PEM file")?)?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated();
        let verifier = verifier.build().context("--tls-ca contains no certificate")?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).context("--tls-key is not a PEM file")?;
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        let chain = chain.context("--tls-cert is not a PEM file")?;
        let mut config = config
            .with_single_cert(chain, key)
            .context("--tls-cert and --tls-key cannot be used together")?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Returns the configuration of clients of other services.
    pub(crate) fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .ca_certificate(Certificate::from_pem(&self.authority))
    }
}

/// Returns the service that a verified certificate names; `None` if it has not exactly one valid name.
pub(crate) fn service_name(certificate: &CertificateDer<'static>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_uri_names();
    let name = names.next()?.strip_prefix(SPIFFE)?.to_owned();
    (names.next().is_none() && !name.is_empty() && name.bytes().all(|it| it.is_ascii_lowercase()))
        .then_some(name)
}
