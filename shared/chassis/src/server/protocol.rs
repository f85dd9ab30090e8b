//! Protocol of a request: gRPC over HTTP/2 with uncompressed protobuf messages. Other protocols are refused
//! before anything is done, because their clients could not read the response of a call that was executed.
//! gRPC-Web is translated before.

use api::error::Reason;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use tonic::{Code, body::Body};

use crate::error::status;

/// Content types of gRPC with protobuf messages.
const GRPC: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// Header of every unary request of the Connect protocol.
const CONNECT: &str = "connect-protocol-version";

/// Body of the refusal of another protocol.
const UNSUPPORTED: &str = "this server speaks gRPC (content-type application/grpc) and gRPC-Web \
                           (application/grpc-web) with protobuf messages; for JSON use a gRPC client, for \
                           example `grpcurl`, or `buf curl --protocol grpc`\n";

/// Returns the response that refuses a request in another protocol or with compressed messages; `None` if the
/// request is accepted.
pub(super) fn refusal(headers: &HeaderMap) -> Option<Response<Body>> {
    let content_type =
        headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !GRPC.iter().any(|it| media_type.eq_ignore_ascii_case(it)) {
        // Unary clients of the Connect protocol show an error of this form, and no other.
        let (body, media_type) = if headers.contains_key(CONNECT) {
            let message = UNSUPPORTED.trim_end();
            let error = format!(r#"{{"code":"unimplemented","message":"{message}"}}"#);
            (Bytes::from(error), "application/json")
        } else {
            (Bytes::from_static(UNSUPPORTED.as_bytes()), "text/plain; charset=utf-8")
        };
        let mut response = Response::new(Body::new(Full::new(body)));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        return Some(response);
    }
    let encoding =
        headers.get("grpc-encoding").and_then(|it| it.to_str().ok()).unwrap_or("identity");
    if encoding.eq_ignore_ascii_case("identity") {
        return None;
    }
    let message = "compressed messages are not supported; turn compression off in the client";
    let refused = status(Code::Unimplemented, Reason::UnsupportedEncoding, message, vec![]);
    let mut response = refused.into_http();
    // gRPC over HTTP/2: the encodings that the server accepts.
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    Some(response)
}
