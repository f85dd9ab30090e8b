//! The certificate that Caddy presents for a host name, wherever it comes from.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use x509_cert::{Certificate as X509, der::Decode};

/// Time limit of a handshake.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
}

/// Keeps the certificate of a server, and trusts none.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    certificate: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let mut kept = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(certificate.clone().into_owned());
        Err(TlsError::General("the certificate is only read".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("the certificate is only read".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("the certificate is only read".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns the validity of the certificate that the proxy at a port of this machine presents for a host name.
pub(crate) async fn validity(port: u16, hostname: &str) -> Result<Validity> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder { provider: provider.clone(), certificate: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(hostname.to_owned())?;
    let handshake = async {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop)
    };
    // Always fails: the recorder refuses the certificate.
    let failed = timeout(TIMEOUT, handshake).await.context("no response")?.err();
    let certificate = recorder.certificate.lock().unwrap_or_else(PoisonError::into_inner).take();
    let certificate = certificate.with_context(|| format!("no certificate: {failed:?}"))?;
    let validity = X509::from_der(&certificate)?.tbs_certificate.validity;
    Ok(Validity {
        start: validity.not_before.to_system_time(),
        end: validity.not_after.to_system_time(),
    })
}
