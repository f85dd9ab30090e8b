//! Mutual TLS between services. The certificate of a service has exactly one URI name,
//! `spiffe://tenantry/svc/<name>`. Changed files apply to new connections.

mod certificate;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{Stream, StreamExt, stream};
use opentelemetry::global;
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, UnixTime},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;

/// Prefix of a service's name in its certificate.
pub const SPIFFE: &str = "spiffe://tenantry/svc/";

/// Interval at which the files are compared with those in use.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Time-out of a TLS handshake.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Concurrent handshakes of [`incoming`].
const HANDSHAKES_MAX: usize = 64;

/// Interval of the warnings about a certificate that expires soon.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Certificate and private key of a service, and the certificate of the authority. Clones share their state.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
    /// True if connections to other services present the certificate.
    is_service: bool,
}

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
    /// Last second at which the certificate and its authorities are valid.
    valid_until: UnixTime,
    server: Arc<ServerConfig>,
    /// For connections that present the certificate.
    service: Arc<ClientConfig>,
    /// For connections that present none.
    client: Arc<ClientConfig>,
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
        let current = RwLock::new(Arc::new(Configurations::new(files.read()?, &files)?));
        Ok(Self { shared: Arc::new(Shared { files, current }), is_service: true })
    }

    fn current(&self) -> Arc<Configurations> {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the configuration of the server for a new connection.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    /// The same for a program that is no service, whose certificate may be for servers only: its connections
    /// present none.
    #[must_use]
    pub fn without_client_certificate(self) -> Self {
        Self { is_service: false, ..self }
    }

    /// Returns the configuration for a new connection to a service.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let current = self.current();
        if self.is_service { current.service.clone() } else { current.client.clone() }
    }

    /// Reads changed files, until `stop`. Files that cannot be used, for example a certificate whose key is
    /// not replaced yet, are logged and read again later; the previous ones stay in use.
    pub async fn reload_changes(self, stop: CancellationToken) {
        let meter = global::meter("tenantry");
        let remaining =
            meter.f64_gauge("tenantry.tls.certificate_remaining").with_unit("s").build();
        remaining.record(self.remaining().as_secs_f64(), &[]);
        self.warn_before_expiry();
        let mut warned = Instant::now();
        while stop.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
            remaining.record(self.remaining().as_secs_f64(), &[]);
            if warned.elapsed() > WARNING_INTERVAL {
                self.warn_before_expiry();
                warned = Instant::now();
            }
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

    /// Returns the time until the end of the certificate or of one of its authorities.
    fn remaining(&self) -> Duration {
        let end = self.current().valid_until.as_secs();
        Duration::from_secs(end.saturating_sub(UnixTime::now().as_secs()))
    }

    /// Returns the number of days until the end of the certificate or of one of its authorities.
    pub(crate) fn remaining_days(&self) -> u64 {
        self.remaining().as_secs() / (24 * 3600)
    }

    /// Logs a warning if the certificate expires soon, and an error if it has expired.
    fn warn_before_expiry(&self) {
        let remaining = self.remaining();
        let file = self.shared.files.certificate.display();
        let days = self.remaining_days();
        if remaining.is_zero() {
            tracing::error!(
                %file,
                "the TLS certificate or its authority has expired: new connections fail; replace the file"
            );
        } else if remaining < certificate::WARNING_PERIOD {
            tracing::warn!(%file, days, "the TLS certificate expires in less than 30 days; replace the file");
        }
    }

    /// Reads the files. Returns true if they have changed.
    fn reload(&self) -> anyhow::Result<bool> {
        let pem = self.shared.files.read()?;
        if pem == self.current().pem {
            return Ok(false);
        }
        let configurations = Arc::new(Configurations::new(pem, &self.shared.files)?);
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = configurations;
        Ok(true)
    }
}

impl Configurations {
    fn new(pem: Pem, files: &Files) -> anyhow::Result<Self> {
        let parsed = certificate::Parsed::new(&pem, files)?;
        let now = UnixTime::now();
        parsed.require_valid_at(now, files)?;
        Ok(Self {
            pem,
            valid_until: parsed.valid_until(now),
            service: parsed.service(files)?,
            client: parsed.client()?,
            server: parsed.server(files)?,
        })
    }
}

/// Returns the connections that a listener accepts, after their handshakes. One that fails, or takes longer
/// than ten seconds, is left out.
pub fn incoming(
    listener: TcpListener,
    tls: Tls,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let accepted = stream::unfold(listener, async |listener| {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let handshake = move |stream: io::Result<TcpStream>| {
        let tls = tls.clone();
        async move {
            let handshake = TlsAcceptor::from(tls.server()).accept(stream.ok()?);
            timeout(HANDSHAKE_MAX, handshake).await.ok()?.ok()
        }
    };
    accepted.map(handshake).buffer_unordered(HANDSHAKES_MAX).filter_map(async |it| it.map(Ok))
}

/// Returns the service that a verified certificate names; `None` if it has not exactly one valid name.
pub(crate) fn service_name(certificate: &CertificateDer<'static>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_uri_names();
    let name = names.next()?.strip_prefix(SPIFFE)?.to_owned();
    (names.next().is_none() && !name.is_empty() && name.bytes().all(|it| it.is_ascii_lowercase()))
        .then_some(name)
}
