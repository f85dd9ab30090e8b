//! Sends one delivery: resolves the name, looks at each address, calls one of them, and reads a little of the
//! answer. No redirects, no proxy, no cookies (N-12).

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use reqwest::StatusCode;

use super::{
    Failure, MessageId, Signer,
    target::{Exceptions, Forbidden, Target},
};

/// How long a receiver may take in all.
const PATIENCE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);

/// How long the body of an answer is read.
const READ_PATIENCE: Duration = Duration::from_secs(3);

/// So much of an answer is read, and so much of it is kept.
const READ_MAX: usize = 64 * 1024;
const KEPT_MAX: usize = 1_000;

/// Sends deliveries.
pub(crate) struct Sender {
    resolver: TokioResolver,
    tls: rustls::ClientConfig,
    exceptions: Exceptions,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status, 0 without an answer.
    pub(crate) status: i32,
    pub(crate) duration_ms: i32,
    /// The beginning of the body, printable.
    pub(crate) body: String,
    /// Why it failed, if it did.
    pub(crate) failure: Option<(Failure, String)>,
}

/// What is sent.
pub(crate) struct Parcel<'a> {
    pub(crate) id: MessageId,
    pub(crate) body: &'a str,
    /// Seconds since 1970, now: a receiver refuses what is old.
    pub(crate) timestamp: i64,
}

/// A connection to a receiver, as long as its name leads to the same addresses.
#[derive(Default)]
pub(crate) struct Line(Option<(Vec<SocketAddr>, reqwest::Client)>);

impl Sender {
    pub(crate) fn new(
        name_server: Option<SocketAddr>,
        exceptions: Exceptions,
    ) -> anyhow::Result<Self> {
        use rustls_platform_verifier::ConfigVerifierExt;
        let mut resolver = match name_server {
            Some(at) => {
                let mut server = NameServerConfig::udp_and_tcp(at.ip());
                for connection in &mut server.connections {
                    connection.port = at.port();
                }
                let config = ResolverConfig::from_parts(None, vec![], vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio().context("the system names no name servers")?,
        };
        // A name is looked up for each delivery: what was true a minute ago is not (DNS rebinding).
        resolver.options_mut().cache_size = 0;
        resolver.options_mut().timeout = CONNECT;
        let tls = rustls::ClientConfig::with_platform_verifier()
            .context("the certificates of the system cannot be read")?;
        Ok(Self { resolver: resolver.build()?, tls, exceptions })
    }

    /// The addresses at which a target may be called now.
    pub(crate) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Forbidden> {
        let addresses: Vec<IpAddr> = match target.host() {
            Err(ip) => vec![ip],
            Ok(name) => {
                let found = self.resolver.lookup_ip(name).await;
                found.map(|it| it.iter().collect()).unwrap_or_default()
            }
        };
        target.check(&addresses, &self.exceptions)
    }

    /// Sends a parcel. Whatever goes wrong is in the answer.
    pub(crate) async fn send(
        &self,
        url: &str,
        line: &mut Line,
        signer: &Signer,
        parcel: &Parcel<'_>,
    ) -> Answer {
        let started = Instant::now();
        let sent = tokio::time::timeout(PATIENCE, self.try_send(url, line, signer, parcel)).await;
        let duration_ms = i32::try_from(started.elapsed().as_millis()).unwrap_or(i32::MAX);
        let failed = |why: String| Answer {
            status: 0,
            duration_ms,
            body: String::new(),
            failure: Some((Failure::Passing, why)),
        };
        match sent {
            Ok(Ok((status, body))) => {
                let failure = failure(status);
                Answer { status: i32::from(status.as_u16()), duration_ms, body, failure }
            }
            Ok(Err(why)) => failed(why),
            Err(_) => failed("no answer within 15 seconds".to_owned()),
        }
    }

    async fn try_send(
        &self,
        url: &str,
        line: &mut Line,
        signer: &Signer,
        parcel: &Parcel<'_>,
    ) -> Result<(StatusCode, String), String> {
        let target = Target::parse(url).map_err(|it| it.to_string())?;
        let at = self.resolve(&target).await.map_err(|it| it.to_string())?;
        let client = self.client(line, &target, at).map_err(|it| format!("{it:#}"))?;
        let request = client
            .post(target.url.clone())
            .header("content-type", "application/json")
            .header("user-agent", concat!("Tenantry-Webhooks/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", parcel.id.to_string())
            .header("webhook-timestamp", parcel.timestamp.to_string())
            .header("webhook-signature", signer.sign(parcel.id, parcel.timestamp, parcel.body))
            .body(parcel.body.to_owned());
        let mut response = request.send().await.map_err(|it| cause(&it))?;
        let (status, mut body) = (response.status(), vec![]);
        // The status is the answer. What comes after it is only shown, so one that breaks off is no failure.
        let read = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk);
                if body.len() > READ_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(READ_PATIENCE, read).await;
        Ok((status, printable(&body)))
    }

    /// The client of a line: the same one, unless the name leads elsewhere now.
    fn client<'a>(
        &self,
        line: &'a mut Line,
        target: &Target,
        mut at: Vec<SocketAddr>,
    ) -> anyhow::Result<&'a reqwest::Client> {
        at.sort_unstable();
        if line.0.as_ref().is_none_or(|it| it.0 != at) {
            let mut builder = reqwest::Client::builder()
                .tls_backend_preconfigured(self.tls.clone())
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT)
                .pool_max_idle_per_host(2);
            if let Ok(name) = target.host() {
                builder = builder.resolve_to_addrs(name, &at);
            }
            line.0 = Some((at, builder.build()?));
        }
        Ok(line.0.as_ref().map(|it| &it.1).expect("it was just made"))
    }
}

/// What a status means.
fn failure(status: StatusCode) -> Option<(Failure, String)> {
    if status.is_success() {
        return None;
    }
    let kind = if status == StatusCode::GONE { Failure::Gone } else { Failure::Passing };
    let why = if status.is_redirection() {
        format!("the receiver answered {status}; redirects are not followed")
    } else {
        format!("the receiver answered {status}")
    };
    Some((kind, why))
}

/// The innermost cause, without the address.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() }
}

/// The beginning of an answer, without what a terminal or a page would act on (N-16).
fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let plain = |it: char| if it.is_control() && it != '\n' { ' ' } else { it };
    text.chars().take(KEPT_MAX).map(plain).collect()
}
