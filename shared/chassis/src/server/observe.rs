//! Observability of calls: a span with the trace context (W3C `traceparent`), a log line and a metric for
//! each.

use std::time::Duration;

use http::HeaderMap;
use opentelemetry::{KeyValue, global, metrics::Histogram, propagation::Extractor};
use tonic::Code;
use tracing::{Span, field::Empty};

use crate::{
    rule::{Audience, Rule},
    trace,
};

/// Adapter that lets the propagator read request headers.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Creates the span of a call. It continues the caller's trace.
pub fn span(method: &str, request_id: &str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "rpc",
        method,
        request_id,
        trace_id = Empty,
        otel.name = Empty,
        otel.kind = Empty,
        otel.status_code = Empty,
        "rpc.system.name" = Empty,
        "rpc.method" = Empty,
        "rpc.response.status_code" = Empty,
    );
    if !trace::is_enabled() {
        return span;
    }
    span.record("otel.name", method).record("otel.kind", "server");
    span.record("rpc.system.name", "grpc").record("rpc.method", method);
    trace::set_parent(&span, &Headers(headers));
    if let Some(trace_id) = trace::trace_id(&span) {
        span.record("trace_id", trace_id);
    }
    span
}

/// Returns the trace context of a span; if spans are not exported, that of the request.
pub fn traceparent(span: &Span, headers: &HeaderMap) -> String {
    let own = trace::traceparent(span);
    if !own.is_empty() {
        return own;
    }
    trace::cleaned(Headers(headers).get("traceparent").unwrap_or_default())
}

/// Metrics of calls.
pub struct Meter {
    duration: Histogram<f64>,
}

impl Meter {
    /// Registers the instruments.
    #[expect(clippy::new_without_default, reason = "it registers instruments")]
    pub fn new() -> Self {
        let meter = global::meter("tenantry");
        let duration = meter.f64_histogram("rpc.server.call.duration").with_unit("s").build();
        Self { duration }
    }

    /// Writes the log line and the metric of a call. Failures of the server are logged as warnings,
    /// successful reads and calls between services at debug level, all others at info level.
    pub fn record(&self, rule: &Rule, span: &Span, code: Code, took: Duration) {
        let name = code_name(code);
        let is_server_error = matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
        );
        if trace::is_enabled() {
            span.record("rpc.response.status_code", name);
            if is_server_error {
                span.record("otel.status_code", "ERROR");
            }
        }
        let labels = [
            KeyValue::new("rpc.method", rule.method.clone()),
            KeyValue::new("rpc.response.status_code", name),
        ];
        self.duration.record(took.as_secs_f64(), &labels);
        let _entered = span.enter();
        let took_us = took.as_micros();
        let is_frequent = rule.read || matches!(rule.audience, Audience::Services(_));
        if is_server_error {
            tracing::warn!(code = name, took_us, "call");
        } else if code == Code::Ok && is_frequent {
            tracing::debug!(code = name, took_us, "call");
        } else {
            tracing::info!(code = name, took_us, "call");
        }
    }
}

/// Returns the name of a code in the gRPC specification.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
