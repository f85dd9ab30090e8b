//! Connections of gRPC clients over TLS. Tonic's own configuration is that of the start: a channel that
//! connects again would go on to trust an authority that was replaced since.

use std::{io, sync::Arc};

use anyhow::Context;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Uri;
use tower::{Service, service_fn};

/// A TLS connection, as tonic uses it.
type Stream = TokioIo<TlsStream<TcpStream>>;

/// Certificate of a client.
pub struct Identity {
    /// The certificate, then those of intermediate authorities.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key of the certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Returns a connector to the host and port of the URI that it is called with. Each connection has the
/// configuration that `config` returns at its begin; the server's certificate must have the name `server`.
///
/// The URI of the endpoint is `http://…`, because tonic would add TLS of its own to `https://…`; the
/// endpoint's `origin` has the URI that servers see.
pub fn connector<C>(
    server: ServerName<'static>,
    config: C,
) -> impl Service<Uri, Response = Stream, Error = io::Error, Future: Send> + Send + 'static
where
    C: Fn() -> anyhow::Result<Arc<ClientConfig>> + Clone + Send + Sync + 'static,
{
    service_fn(move |uri: Uri| {
        let (server, config) = (server.clone(), config.clone());
        async move {
            let tls = TlsConnector::from(config().map_err(io::Error::other)?);
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            // Small requests are sent without waiting for acknowledgements (Nagle's algorithm).
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(server, stream).await?))
        }
    })
}

/// Returns a configuration that trusts these authorities, for HTTP/2.
pub fn config(
    roots: Arc<RootCertStore>,
    identity: Option<Identity>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match identity {
        Some(it) => config.with_client_auth_cert(it.chain, it.key)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the authorities in a PEM text; fails without any.
pub fn authorities(pem: &[u8]) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.context("not a PEM file")?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "no certificate (PEM) found");
    Ok(Arc::new(roots))
}
