//! How services prove themselves: a certificate with exactly one name, `spiffe://tenantry/svc/<name>`.

use std::path::PathBuf;

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};
use webpki::EndEntityCert;

/// What stands before a service's name in its certificate.
pub const SPIFFE: &str = "spiffe://tenantry/svc/";

/// The certificate, key and authority of one service.
#[derive(Clone)]
pub struct Tls {
    identity: Identity,
    authority: Certificate,
}

impl Tls {
    /// Reads PEM files.
    pub fn read(certificate: &PathBuf, key: &PathBuf, authority: &PathBuf) -> anyhow::Result<Self> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .with_context(|| format!("cannot read the TLS file {}", path.display()))
        };
        Ok(Self {
            identity: Identity::from_pem(read(certificate)?, read(key)?),
            authority: Certificate::from_pem(read(authority)?),
        })
    }

    /// People connect without a certificate, services with theirs.
    pub(crate) fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity.clone())
            .client_ca_root(self.authority.clone())
            .client_auth_optional(true)
    }

    pub(crate) fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity.clone())
            .ca_certificate(self.authority.clone())
    }
}

/// The service that a verified certificate names.
pub(crate) fn service_name(certificate: &CertificateDer<'static>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_uri_names();
    let name = names.next()?.strip_prefix(SPIFFE)?.to_owned();
    (names.next().is_none() && !name.is_empty() && name.bytes().all(|it| it.is_ascii_lowercase()))
        .then_some(name)
}
