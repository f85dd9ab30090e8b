//! Checks of the TLS files: format, validity, and that key, certificate and authority belong together.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use chassis::tls_connector::{self, Identity};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use webpki::{EndEntityCert, Error, KeyUsage};

use super::{Files, Pem};

/// Period before the end of a certificate in which it is reported.
pub(super) const WARNING_PERIOD: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longest remaining validity that is found.
const SEARCH_MAX: Duration = Duration::from_secs(1_000 * 365 * 24 * 3600);

/// Contents of the TLS files.
pub(super) struct Parsed {
    /// The certificate of the service first, then those of intermediate authorities.
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Parsed {
    pub(super) fn new(pem: &Pem, files: &Files) -> anyhow::Result<Self> {
        let chain = certificates(&pem.certificate, "--tls-cert", &files.certificate)?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&pem.authority, "--tls-ca", &files.authority)? {
            let added = roots.add(authority);
            added.with_context(|| describe("--tls-ca", &files.authority, "cannot be used"))?;
        }
        Ok(Self { chain, key: private_key(&pem.key, &files.key)?, roots: Arc::new(roots) })
    }

    /// Fails if other services would refuse the certificate at a time.
    pub(super) fn require_valid_at(&self, time: UnixTime, files: &Files) -> anyhow::Result<()> {
        let name = |problem: &str| describe("--tls-cert", &files.certificate, problem);
        match self.verify(time) {
            Ok(()) => Ok(()),
            Err(Error::CertExpired { .. }) => {
                bail!(name("or its authority has expired; create a new one"))
            }
            Err(Error::CertNotValidYet { .. }) => {
                bail!(name("is not valid yet; check the clock of this machine"))
            }
            // The second one: an authority of the same name with another key.
            Err(Error::UnknownIssuer | Error::InvalidSignatureForPublicKey) => {
                let authority = files.authority.display();
                bail!(name(&format!("was not signed by the authority in --tls-ca ({authority})")))
            }
            Err(error) => Err(error).context(name("cannot be used")),
        }
    }

    /// Returns the last second at which the certificate, with its authorities, is valid: by binary search,
    /// because the first certificate of the chain that expires ends the validity of all.
    pub(super) fn valid_until(&self, now: UnixTime) -> UnixTime {
        let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (mut valid, mut invalid) = (now.as_secs(), now.as_secs() + SEARCH_MAX.as_secs());
        while valid + 1 < invalid {
            let middle = valid.midpoint(invalid);
            if self.verify(at(middle)).is_ok() { valid = middle } else { invalid = middle }
        }
        at(valid)
    }

    fn verify(&self, time: UnixTime) -> Result<(), Error> {
        let [certificate, intermediates @ ..] = &self.chain[..] else { return Ok(()) };
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let (roots, usage) = (&self.roots.roots, KeyUsage::server_auth());
        let certificate = EndEntityCert::try_from(certificate)?;
        certificate
            .verify_for_usage(algorithms, roots, intermediates, time, usage, None, None)
            .map(|_| ())
    }

    /// Returns the configuration of connections without a certificate.
    pub(super) fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        tls_connector::config(self.roots.clone(), None)
    }

    /// Returns the configuration of connections that present the certificate.
    pub(super) fn service(&self, files: &Files) -> anyhow::Result<Arc<ClientConfig>> {
        let identity = Identity { chain: self.chain.clone(), key: self.key.clone_key() };
        let config = tls_connector::config(self.roots.clone(), Some(identity));
        config.with_context(|| describe_mismatch(files))
    }

    /// Returns the configuration of the server. A client certificate is optional: services have one, other
    /// clients do not.
    pub(super) fn server(self, files: &Files) -> anyhow::Result<Arc<ServerConfig>> {
        let verifier = WebPkiClientVerifier::builder(self.roots).allow_unauthenticated();
        let verifier = verifier.build().context("--tls-ca cannot be used")?;
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        let config = config.with_single_cert(self.chain, self.key);
        let mut config = config.with_context(|| describe_mismatch(files))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Returns the certificates of a PEM file; fails if there are none.
fn certificates(
    pem: &[u8],
    flag: &str,
    path: &Path,
) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.with_context(|| describe(flag, path, "is not a PEM file"))?;
    ensure!(!found.is_empty(), describe(flag, path, "contains no certificate (PEM)"));
    Ok(found)
}

/// Returns the private key of a PEM file.
fn private_key(pem: &[u8], path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let is_encrypted = ["ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|it| pem.windows(it.len()).any(|window| window == it.as_bytes()));
    if is_encrypted {
        let remedy = "is encrypted; decrypt it with `openssl pkey -in … -out …`";
        bail!(describe("--tls-key", path, remedy));
    }
    PrivateKeyDer::from_pem_slice(pem)
        .with_context(|| describe("--tls-key", path, "contains no private key (PEM)"))
}

/// Returns the error message for a certificate and the key of another one.
fn describe_mismatch(files: &Files) -> String {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    format!("--tls-cert ({certificate}) and --tls-key ({key}) do not belong together")
}

/// Returns an error message about a file.
fn describe(flag: &str, path: &Path, problem: &str) -> String {
    format!("{flag} ({}) {problem}", path.display())
}
