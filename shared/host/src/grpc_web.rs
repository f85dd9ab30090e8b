//! gRPC-Web for browsers, in front of the gRPC services: the same server stack, over HTTP/1.1 or HTTP/2.
//! Scripts of pages from other origins need `--web-origins` (CORS).

use std::time::Duration;

use anyhow::Context;
use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE},
};
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::Layer;
use tower_http::cors::{AllowOrigin, Cors, CorsLayer};

use crate::listener::GrpcService;

/// The gRPC services for browsers.
pub(crate) type GrpcWeb = Cors<GrpcWebService<GrpcService>>;

/// Content types of gRPC-Web with protobuf messages; the text types are encoded in base64.
const CONTENT_TYPES: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// Request headers that scripts may set, besides those that every script may set.
const REQUEST_HEADERS: [&str; 5] =
    ["grpc-timeout", "x-grpc-web", "x-request-id", "x-user-agent", "tenantry-consistency-token"];

/// Response headers that scripts may read. A refused call has its status in the headers.
const RESPONSE_HEADERS: [&str; 6] = [
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "tenantry-consistency-token",
    "tenantry-event-ids",
    "x-request-id",
];

/// Time for which a browser remembers which headers it may send.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

/// True if a request is a gRPC-Web call, or asks whether a script may make one (CORS preflight).
pub(crate) fn matches(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let content_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    content_type.is_some_and(|it| CONTENT_TYPES.contains(&it))
        || (request.method() == Method::OPTIONS
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD))
}

/// Returns the gRPC services for browsers. Scripts of these origins may call them.
pub(crate) fn layer(service: GrpcService, origins: &[String]) -> anyhow::Result<GrpcWeb> {
    let origins = origins.iter().map(|it| HeaderValue::from_str(it));
    let origins = origins.collect::<Result<Vec<_>, _>>().context("--web-origins is not valid")?;
    let request_headers = REQUEST_HEADERS.map(HeaderName::from_static);
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::POST])
        .allow_headers([&request_headers[..], &[AUTHORIZATION, CONTENT_TYPE]].concat())
        .expose_headers(RESPONSE_HEADERS.map(HeaderName::from_static))
        .max_age(PREFLIGHT_MAX_AGE);
    Ok(cors.layer(GrpcWebLayer::new().layer(service)))
}
