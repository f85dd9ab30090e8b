//! The few pages that browsers ask for, on the same port as the calls. What a page does it does by calls,
//! with the rules, limits and traces that every call has.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tonic::{body::Body, metadata::MetadataValue};

use crate::{
    budget::Exhausted,
    id,
    server::{limits::Limits, receive::NotReceived},
};

/// A form may be so large.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// What a program sends may be so large.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long the calls of one visit may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers browsers.
#[tonic::async_trait]
pub trait Site: Send + Sync + 'static {
    /// Answers one request.
    async fn visit(&self, visit: Visit) -> Response<String>;
}

/// What a browser asks for.
#[derive(Debug)]
pub struct Visit {
    /// The method; HEAD looks like GET, and its answer loses its body on the way.
    pub method: Method,
    /// The path, as it came.
    pub path: String,
    /// The fields of the form, if it is one.
    pub form: BTreeMap<String, String>,
    /// What was sent, as it came.
    pub body: Bytes,
    headers: HeaderMap,
    address: String,
    user_agent: String,
    request_id: String,
}

impl Visit {
    /// A field of the form; empty if it has none of this name.
    pub fn field(&self, name: &str) -> &str {
        self.form.get(name).map(String::as_str).unwrap_or_default()
    }

    /// A header; empty if it is missing, or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
    }

    /// A call on behalf of the visitor, with their credential, if they have one.
    pub fn ask<M>(&self, message: M, bearer: Option<&str>) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(PATIENCE);
        let metadata = request.metadata_mut();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = MetadataValue::try_from(value) {
                metadata.insert(name, value);
            }
        };
        if let Some(bearer) = bearer {
            put("authorization", &format!("Bearer {bearer}"));
        }
        put("x-request-id", &self.request_id);
        put("tenantry-origin-address", &self.address);
        put("tenantry-origin-agent", &self.user_agent);
        request
    }
}

/// The sites of a process, by their paths.
#[derive(Clone, Default)]
pub(crate) struct Sites(pub(crate) Arc<[(&'static str, Arc<dyn Site>)]>);

impl Sites {
    /// Whose page a path is.
    fn find(&self, path: &str) -> Option<&Arc<dyn Site>> {
        self.0.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|it| &it.1)
    }

    /// Whether a request is for a site, not a call.
    pub(crate) fn take(&self, request: &Request<Body>) -> bool {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let grpc = kind.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"));
        let ours = || self.find(request.uri().path()).is_some();
        !grpc && (request.method() != Method::POST || kind.is_some_and(is_form) || ours())
    }

    /// Answers a browser. `address` is where it is.
    pub(crate) async fn serve(
        self,
        request: Request<Body>,
        address: String,
        limits: Arc<Limits>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Some(site) = self.find(parts.uri.path()) else {
            let text = "Nothing to see here: this port is for gRPC. Try `grpcurl` with `list`.\n";
            return whole(page(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                text.to_owned(),
            ));
        };
        let is_form = parts.headers.get(header::CONTENT_TYPE).is_some_and(is_form);
        let max = if is_form { FORM_BYTES_MAX } else { BODY_BYTES_MAX };
        let received = limits.receive(body, max, Instant::now() + PATIENCE, &address).await;
        let (body, _share) = match received {
            Ok(it) => (it.bytes, it.share),
            Err(why) => return whole(page(not_received(why), "text/plain", String::new())),
        };
        let visit = Visit {
            method: if parts.method == Method::HEAD { Method::GET } else { parts.method },
            path: parts.uri.path().to_owned(),
            form: form(&parts.headers, &body),
            user_agent: text(&parts.headers, header::USER_AGENT),
            headers: parts.headers,
            body,
            address,
            request_id: id::new().to_string(),
        };
        whole(site.visit(visit).await)
    }
}

/// An answer that no one keeps, shows elsewhere, or learns the address of (N-09). What it may load says its
/// site, by a content security policy of its own; without one it may load nothing.
pub fn page(status: StatusCode, kind: &'static str, text: String) -> Response<String> {
    let policy = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::REFERRER_POLICY, "no-referrer")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::X_FRAME_OPTIONS, "DENY")
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .header("x-robots-tag", "noindex")
        .body(text);
    answer.expect("these headers are well-formed")
}

/// The answer to a body that did not arrive.
fn not_received(why: NotReceived) -> StatusCode {
    match why {
        NotReceived::Late => StatusCode::REQUEST_TIMEOUT,
        NotReceived::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        NotReceived::Exhausted(Exhausted::Total) => StatusCode::SERVICE_UNAVAILABLE,
        NotReceived::Exhausted(Exhausted::Holder) => StatusCode::TOO_MANY_REQUESTS,
        NotReceived::Broken => StatusCode::BAD_REQUEST,
    }
}

fn whole(answer: Response<String>) -> Response<Body> {
    answer.map(|text| Body::new(Full::new(Bytes::from(text))))
}

fn is_form(kind: &http::HeaderValue) -> bool {
    kind.as_bytes().starts_with(b"application/x-www-form-urlencoded")
}

fn form(headers: &HeaderMap, body: &[u8]) -> BTreeMap<String, String> {
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_form) {
        return BTreeMap::new();
    }
    url::form_urlencoded::parse(body).into_owned().collect()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    let mut text = headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    text.truncate(200);
    text
}
