//! Pages for browsers and endpoints for webhooks, on the same port as the gRPC calls. Their handlers call
//! gRPC methods, so the rules, limits and traces of calls apply.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tonic::{body::Body, metadata::MetadataValue};

use chassis::{
    budget::Exhausted,
    id,
    server::{
        identify::FirstCall,
        limits::Limits,
        receive::{ReceiveError, ReceivedBody},
    },
};

/// Largest form in bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// Largest body other than a form, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Content type of texts.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// A complete response of a page handler.
pub type Page = Response<Bytes>;

/// Time-out of receiving a body, and of each call of a handler.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Handler of pages.
#[tonic::async_trait]
pub trait PageHandler: Send + Sync + 'static {
    /// Handles a request.
    async fn handle(&self, request: PageRequest) -> Page;

    /// Returns the largest body in bytes, if the handler reads bodies of any content type itself. `None`:
    /// forms of at most 64 KiB, which are parsed, and other bodies of at most 1 MiB.
    fn raw_body_bytes_max(&self) -> Option<usize> {
        None
    }
}

/// A request of a browser or another HTTP client.
#[derive(Debug)]
pub struct PageRequest {
    /// Method. HEAD is handled as GET; hyper drops the body of its response.
    pub method: Method,
    /// Path, percent-encoded.
    pub path: String,
    /// Query, percent-encoded; empty if there is none.
    pub query: String,
    /// Fields of the form; empty for another content type.
    pub form: BTreeMap<String, String>,
    /// Body.
    pub body: Bytes,
    headers: HeaderMap,
    address: String,
    user_agent: String,
    request_id: String,
}

impl PageRequest {
    /// Returns a field of the form; empty if it is missing.
    pub fn field(&self, name: &str) -> &str {
        self.form.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Returns the credential of the client (`authorization: Bearer <token>`).
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization").split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    }

    /// Returns a header; empty if it is missing or not ASCII.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
    }

    /// Makes a gRPC request on behalf of the client, with its credential, if there is one.
    pub fn forward<M>(&self, message: M, bearer: Option<&str>) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(REQUEST_TIMEOUT);
        request.extensions_mut().insert(FirstCall);
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

/// Page handlers of a process, by path prefix.
#[derive(Clone, Default)]
pub(crate) struct Sites(pub(crate) Arc<[(&'static str, Arc<dyn PageHandler>)]>);

impl Sites {
    /// Returns the handler of a path.
    fn find(&self, path: &str) -> Option<&Arc<dyn PageHandler>> {
        self.0.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|it| &it.1)
    }

    /// True if a request is for a page and not a gRPC call.
    pub(crate) fn matches(&self, request: &Request<Body>) -> bool {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc")) {
            return false;
        }
        request.method() != Method::POST
            || content_type.is_some_and(is_form)
            || self.find(request.uri().path()).is_some()
    }

    /// Handles a request from a network address.
    pub(crate) async fn serve(
        self,
        request: Request<Body>,
        address: String,
        limits: Arc<Limits>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Some(handler) = self.find(parts.uri.path()) else {
            let text = "No page has this path. This port serves gRPC; use `grpcurl` with `list`.\n";
            return into_body(page(StatusCode::NOT_FOUND, TEXT, text.to_owned()));
        };
        let raw_max = handler.raw_body_bytes_max();
        let is_form = parts.headers.get(header::CONTENT_TYPE).is_some_and(is_form);
        let is_form = is_form && raw_max.is_none();
        let max = raw_max.unwrap_or(if is_form { FORM_BYTES_MAX } else { BODY_BYTES_MAX });
        let received = limits.receive(body, max, Instant::now() + REQUEST_TIMEOUT, &address).await;
        let ReceivedBody { bytes: body, reservation: _reservation, .. } = match received {
            Ok(body) => body,
            Err(error) => return into_body(body_error(error, max)),
        };
        let request = PageRequest {
            method: if parts.method == Method::HEAD { Method::GET } else { parts.method },
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            form: if is_form { form(&body) } else { BTreeMap::new() },
            user_agent: text(&parts.headers, header::USER_AGENT),
            headers: parts.headers,
            body,
            address,
            request_id: id::new().to_string(),
        };
        into_body(handler.handle(request).await)
    }
}

/// Returns a page that is not cached, framed or indexed, and sends no referrer (N-09). Its content security
/// policy forbids loading anything; a handler can replace it.
pub fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Page {
    let policy = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::REFERRER_POLICY, "no-referrer")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::X_FRAME_OPTIONS, "DENY")
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .header("x-robots-tag", "noindex")
        .body(body.into());
    response.expect("these headers are well-formed")
}

/// Returns the page for a body that was not received; `max` is its largest size.
fn body_error(error: ReceiveError, max: usize) -> Page {
    let (status, text) = match error {
        ReceiveError::Timeout => {
            (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time; send it again")
        }
        ReceiveError::TooLarge => {
            let text = format!("the body is larger than {max} bytes; send a smaller one\n");
            return page(StatusCode::PAYLOAD_TOO_LARGE, TEXT, text);
        }
        ReceiveError::Exhausted(Exhausted::Total) => {
            (StatusCode::SERVICE_UNAVAILABLE, "too many bodies are in transfer; retry later")
        }
        ReceiveError::Exhausted(Exhausted::Holder) => {
            let text = "too many bodies are in transfer from this address; retry later";
            (StatusCode::TOO_MANY_REQUESTS, text)
        }
        ReceiveError::Broken => (StatusCode::BAD_REQUEST, "the body is incomplete"),
    };
    page(status, TEXT, format!("{text}\n"))
}

/// Converts a page to a response with a complete body.
fn into_body(page: Page) -> Response<Body> {
    page.map(|body| Body::new(Full::new(body)))
}

fn is_form(content_type: &http::HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/x-www-form-urlencoded")
}

/// Parses the fields of a form.
fn form(body: &[u8]) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(body).into_owned().collect()
}

/// Returns the first 200 bytes of an ASCII header; empty if it is missing.
fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    let mut text = headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    text.truncate(200);
    text
}
