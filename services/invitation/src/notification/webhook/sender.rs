//! HTTP requests of webhooks: resolves the host, checks every address, connects to a checked address, and
//! reads the beginning of the response. No redirects, no proxy, no cookies (N-12).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use chassis::public_address::Exceptions;
use host::resolver::Resolver;
use reqwest::{StatusCode, header::RETRY_AFTER};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};
use url::Host;
use uuid::Uuid;

use super::{
    signature::Signer,
    target::{Forbidden, Target},
};

/// Time limit of a request, from the resolution of the host to the end of the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Time limit of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for reading the body of a response.
const BODY_TIMEOUT: Duration = Duration::from_secs(3);

/// Number of bytes of a response after which no more are read.
const BODY_READ_MAX: usize = 64 * 1024;

/// Largest number of characters of a response that are stored.
const BODY_STORED_MAX: usize = 1_000;

/// Sender of requests to receivers.
pub(crate) struct Sender {
    resolver: Resolver,
    tls: rustls::ClientConfig,
    exceptions: Exceptions,
}

/// Response to a request, or the reason that there is none.
#[derive(Debug)]
pub(crate) struct Response {
    /// HTTP status; 0 without a response.
    pub(crate) status: i32,
    pub(crate) duration_ms: i32,
    /// Beginning of the body, without control characters.
    pub(crate) body: String,
    /// Failure, unless the status is 2xx.
    pub(crate) failure: Option<Failure>,
    /// Pause that the receiver requests by the header `Retry-After`.
    pub(crate) retry_after: Option<RetryAfter>,
}

/// Value of the header `Retry-After` (RFC 9110, 10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    /// Seconds after the response.
    Seconds(u32),
    /// A time.
    At(OffsetDateTime),
}

impl RetryAfter {
    fn parse(value: &str) -> Option<Self> {
        if let Ok(seconds) = value.trim().parse() {
            return Some(Self::Seconds(seconds));
        }
        let format = format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        );
        let at = PrimitiveDateTime::parse(value.trim(), format).ok()?;
        Some(Self::At(at.assume_utc()))
    }

    /// The requested time of the next attempt.
    pub(crate) fn time(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::Seconds(seconds) => now + Duration::from_secs(seconds.into()),
            Self::At(at) => at,
        }
    }
}

/// Failure of a request.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

/// Kind of a failure, by its effect on the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// A failure that may end: the delivery is attempted again.
    Transient,
    /// The receiver answered 410 Gone: the webhook is disabled.
    Gone,
}

/// Request to a receiver.
pub(crate) struct WebhookRequest<'a> {
    /// Id in the header `webhook-id`, the same at every attempt.
    pub(crate) id: Uuid,
    pub(crate) body: &'a str,
    /// Seconds since 1970 at the time of the attempt: receivers refuse old requests.
    pub(crate) timestamp: i64,
}

/// A kept-alive connection to a receiver, valid while its host is the same and resolves to the same
/// addresses.
#[derive(Default)]
pub(crate) struct Connection(Option<ResolvedClient>);

struct ResolvedClient {
    host: String,
    addresses: Vec<SocketAddr>,
    client: reqwest::Client,
}

impl Response {
    /// Error message; empty for a success.
    pub(crate) fn error(&self) -> &str {
        self.failure.as_ref().map(|it| it.message.as_str()).unwrap_or_default()
    }
}

impl Sender {
    /// A sender that uses the given name server, or else those of the system.
    pub(crate) fn new(
        name_server: Option<SocketAddr>,
        exceptions: Exceptions,
    ) -> anyhow::Result<Self> {
        use rustls_platform_verifier::ConfigVerifierExt;
        let resolver = Resolver::new(name_server)?;
        let tls = rustls::ClientConfig::with_platform_verifier()
            .context("the certificate authorities of the system cannot be read")?;
        Ok(Self { resolver, tls, exceptions })
    }

    /// Resolves the host of a target. Fails unless requests to every one of its addresses are allowed.
    pub(crate) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Forbidden> {
        let addresses = self.resolver.addresses(&target.host()).await;
        target.check(&addresses, &self.exceptions)
    }

    /// Sends a request. Every failure is part of the response.
    pub(crate) async fn send(
        &self,
        url: &str,
        connection: &mut Connection,
        signer: &Signer,
        request: &WebhookRequest<'_>,
    ) -> Response {
        let started = Instant::now();
        let attempt = self.try_send(url, connection, signer, request);
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, attempt).await;
        let duration_ms = i32::try_from(started.elapsed().as_millis()).unwrap_or(i32::MAX);
        let failed = |message: String| Response {
            status: 0,
            duration_ms,
            body: String::new(),
            failure: Some(Failure { kind: FailureKind::Transient, message }),
            retry_after: None,
        };
        match sent {
            Ok(Ok(answer)) => Response {
                status: i32::from(answer.status.as_u16()),
                duration_ms,
                body: answer.body,
                failure: failure_of_status(answer.status),
                retry_after: answer.retry_after,
            },
            Ok(Err(message)) => failed(message),
            Err(_) => failed("no response within 15 seconds".to_owned()),
        }
    }

    async fn try_send(
        &self,
        url: &str,
        connection: &mut Connection,
        signer: &Signer,
        request: &WebhookRequest<'_>,
    ) -> Result<Answer, String> {
        let target = Target::parse(url).map_err(|it| it.to_string())?;
        let addresses = self.resolve(&target).await.map_err(|it| it.to_string())?;
        let client = self.client(connection, &target, addresses).map_err(|it| format!("{it:#}"))?;
        let signature = signer.sign(request.id, request.timestamp, request.body);
        let request = client
            .post(target.url.clone())
            .header("content-type", "application/json")
            .header("user-agent", concat!("Tenantry-Webhooks/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", request.id.to_string())
            .header("webhook-timestamp", request.timestamp.to_string())
            .header("webhook-signature", signature)
            .body(request.body.to_owned());
        let mut response = request.send().await.map_err(|it| error_message(&it))?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok());
        let retry_after = retry_after.and_then(RetryAfter::parse);
        let mut body = vec![];
        // A 2xx status alone is success, also if the body ends early or does not end.
        let read = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk);
                if body.len() > BODY_READ_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(BODY_TIMEOUT, read).await;
        Ok(Answer { status, body: printable(&body), retry_after })
    }

    /// The HTTP client of a connection. It connects only to the given addresses, which were checked; other
    /// addresses than before need a new client.
    fn client<'a>(
        &self,
        connection: &'a mut Connection,
        target: &Target,
        mut addresses: Vec<SocketAddr>,
    ) -> anyhow::Result<&'a reqwest::Client> {
        addresses.sort_unstable();
        let host = target.host().to_string();
        let is_same = |it: &ResolvedClient| it.host == host && it.addresses == addresses;
        let current = connection.0.take().filter(is_same);
        let resolved = match current {
            Some(resolved) => resolved,
            None => self.resolved_client(target, addresses)?,
        };
        Ok(&connection.0.insert(resolved).client)
    }

    fn resolved_client(
        &self,
        target: &Target,
        addresses: Vec<SocketAddr>,
    ) -> anyhow::Result<ResolvedClient> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(2);
        if let Host::Domain(name) = target.host() {
            builder = builder.resolve_to_addrs(name, &addresses);
        }
        let host = target.host().to_string();
        Ok(ResolvedClient { host, addresses, client: builder.build()? })
    }
}

/// An HTTP response.
struct Answer {
    status: StatusCode,
    body: String,
    retry_after: Option<RetryAfter>,
}

/// The failure of a response with a status; `None` for 2xx.
fn failure_of_status(status: StatusCode) -> Option<Failure> {
    if status.is_success() {
        return None;
    }
    let is_gone = status == StatusCode::GONE;
    let kind = if is_gone { FailureKind::Gone } else { FailureKind::Transient };
    let message = if status.is_redirection() {
        format!("the receiver answered {status}; redirects are not followed")
    } else {
        format!("the receiver answered {status}")
    };
    Some(Failure { kind, message })
}

/// Message of the innermost cause: the outer ones contain the URL, which can be secret.
fn error_message(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no response in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Beginning of a body, without control characters that a terminal would interpret (N-16).
fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let plain = |it: char| if it.is_control() && it != '\n' { ' ' } else { it };
    text.chars().take(BODY_STORED_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn retry_after_has_seconds_or_a_date() {
        assert_eq!(RetryAfter::parse("120"), Some(RetryAfter::Seconds(120)));
        let date = RetryAfter::parse("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(date, Some(RetryAfter::At(datetime!(2015-10-21 07:28 UTC))));
        assert_eq!(RetryAfter::parse("soon"), None);
        assert_eq!(RetryAfter::parse("-1"), None);
    }
}
