//! Spans of calls, transactions and background work, for export to a collector. Work that continues a call
//! later, for example the reaction to an event, belongs to the trace of the call: its trace context (W3C
//! `traceparent`) is stored with the work.

use std::{
    collections::HashMap,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// True if spans are exported to a collector. Otherwise none are created.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Length of a `traceparent` in characters (W3C Trace Context, version 00).
const TRACEPARENT_LEN: usize = 55;

/// Relation of a span to the spans of other processes (OpenTelemetry `SpanKind`).
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Request to another service, to the database or to a mail server.
    Client,
    /// Publication of events.
    Producer,
    /// Handling of an event.
    Consumer,
}

/// Enables the creation of spans.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// True if spans are exported.
pub fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Creates a span in the current one. Without a current span none is created, so that idle background jobs
/// make no traces.
pub fn span(kind: Kind, name: &str) -> Span {
    if !is_enabled() || !Span::current().context().span().span_context().is_valid() {
        return Span::none();
    }
    new(kind, name)
}

/// Creates a span that continues the trace of stored work. Without a stored trace context it begins a trace.
pub fn continued(kind: Kind, name: &str, traceparent: &str) -> Span {
    if !is_enabled() {
        return Span::none();
    }
    let span = new(kind, name);
    set_parent(&span, &HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]));
    span
}

fn new(kind: Kind, name: &str) -> Span {
    let kind = match kind {
        Kind::Client => "client",
        Kind::Producer => "producer",
        Kind::Consumer => "consumer",
    };
    tracing::debug_span!(
        "work",
        otel.name = name,
        otel.kind = kind,
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

/// Sets an attribute of a span.
pub fn set(span: &Span, attribute: &'static str, value: impl Into<opentelemetry::Value>) {
    if !span.is_disabled() {
        span.set_attribute(attribute, value);
    }
}

/// Sets the status of a span to an error with a message.
pub fn set_error(span: &Span, message: &str) {
    span.record("otel.status_code", "ERROR").record("otel.status_description", message);
}

/// Sets the parent of a span to the trace context of a carrier, if it has a valid one.
pub(crate) fn set_parent(span: &Span, carrier: &dyn Extractor) {
    let parent = PROPAGATOR.extract(carrier);
    if parent.span().span_context().is_valid() {
        // Fails only without an OpenTelemetry layer.
        let _ = span.set_parent(parent);
    }
}

/// Links a span to the trace of stored work, for work on several objects at a time.
pub fn link(span: &Span, traceparent: &str) {
    if span.is_disabled() || traceparent.is_empty() {
        return;
    }
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let linked = PROPAGATOR.extract(&carrier);
    let linked = linked.span().span_context().clone();
    if linked.is_valid() {
        span.add_link(linked);
    }
}

/// Returns the trace context of a span as `traceparent`; empty if spans are not exported.
pub fn traceparent(span: &Span) -> String {
    let context = if is_enabled() { span.context() } else { Context::new() };
    if !context.span().span_context().is_valid() {
        return String::new();
    }
    let mut carrier = HashMap::new();
    PROPAGATOR.inject_context(&context, &mut carrier);
    carrier.remove("traceparent").unwrap_or_default()
}

/// Returns the trace id of a span in hexadecimal; `None` if spans are not exported.
pub(crate) fn trace_id(span: &Span) -> Option<String> {
    let context = is_enabled().then(|| span.context())?;
    let span_context = context.span().span_context().clone();
    span_context.is_valid().then(|| span_context.trace_id().to_string())
}

/// Returns the allowed characters of a received `traceparent`, at most 55.
pub(crate) fn cleaned(received: &str) -> String {
    let is_allowed = |it: &char| it.is_ascii_hexdigit() || *it == '-';
    received.chars().take(TRACEPARENT_LEN).filter(is_allowed).collect()
}
