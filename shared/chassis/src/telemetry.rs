//! Logs, traces and metrics. Logs go to standard error; traces and metrics go to an OTLP collector if one
//! is configured.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue, global,
    metrics::Histogram,
    propagation::{Extractor, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use tonic::Code;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::Config,
    rule::{Audience, Rule},
};

static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// Sends what is left when the process ends.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// Starts the log of a program that has none of the settings of a service.
pub fn log(filter: &str) -> anyhow::Result<()> {
    let text = tracing_subscriber::fmt::layer().compact().with_writer(std::io::stderr);
    Ok(tracing_subscriber::registry().with(text).with(EnvFilter::try_new(filter)?).try_init()?)
}

impl Telemetry {
    /// Starts logs, traces and metrics of a process.
    pub fn start(service: &'static str, config: &Config) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(&config.log)?;
        let json = config
            .log_json
            .then(|| tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr));
        let text = (!config.log_json)
            .then(|| tracing_subscriber::fmt::layer().compact().with_writer(std::io::stderr));
        let logs = tracing_subscriber::registry().with(json).with(text);
        let Some(endpoint) = &config.otlp_endpoint else {
            logs.with(filter).try_init()?;
            return Ok(Self { traces: None, metrics: None });
        };
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.namespace", "tenantry"))
            .build();
        let spans =
            opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        let traces = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_batch_exporter(spans.build()?)
            .build();
        let numbers =
            opentelemetry_otlp::MetricExporter::builder().with_tonic().with_endpoint(endpoint);
        let metrics = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_periodic_exporter(numbers.build()?)
            .build();
        global::set_meter_provider(metrics.clone());
        // The filter keeps the inner spans of h2 and hyper away, which cost more than the calls.
        let spans = tracing_opentelemetry::layer()
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_tracer(traces.tracer("tenantry"))
            .with_filter(EnvFilter::new("off,chassis=info"));
        logs.with(spans).with(filter).try_init()?;
        TRACED.store(true, Ordering::Relaxed);
        Ok(Self { traces: Some(traces), metrics: Some(metrics) })
    }

    /// Blocks until the last batch is out; call it off the async workers.
    pub fn stop(self) {
        let traces = self.traces.map(|it| it.shutdown());
        let metrics = self.metrics.map(|it| it.shutdown());
        if let Some(Err(error)) = traces.or(metrics) {
            tracing::warn!(%error, "the last traces and metrics were not sent");
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Whether spans go to a collector. Without one they cost next to nothing.
static TRACED: AtomicBool = AtomicBool::new(false);

/// The span of one call; it continues the caller's trace.
pub(crate) fn span(method: &str, request_id: &str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "rpc",
        method,
        request_id,
        otel.name = Empty,
        otel.kind = Empty,
        otel.status_code = Empty,
        "rpc.system.name" = Empty,
        "rpc.method" = Empty,
        "rpc.response.status_code" = Empty,
    );
    if !TRACED.load(Ordering::Relaxed) {
        return span;
    }
    span.record("otel.name", method).record("otel.kind", "server");
    span.record("rpc.system.name", "grpc").record("rpc.method", method);
    if headers.contains_key("traceparent") {
        // Fails only where no traces are kept.
        let _ = span.set_parent(PROPAGATOR.extract(&Headers(headers)));
    }
    span
}

/// The trace context of a span, else the one that came with the request.
pub(crate) fn traceparent(span: &Span, headers: &HeaderMap) -> String {
    let context = if TRACED.load(Ordering::Relaxed) { span.context() } else { Context::new() };
    if context.span().span_context().is_valid() {
        let mut carrier = std::collections::HashMap::new();
        PROPAGATOR.inject_context(&context, &mut carrier);
        return carrier.remove("traceparent").unwrap_or_default();
    }
    let came = headers.get("traceparent").and_then(|it| it.to_str().ok()).unwrap_or_default();
    came.chars().take(55).filter(|it| it.is_ascii_hexdigit() || *it == '-').collect()
}

/// What is counted for every call.
pub(crate) struct Meter {
    duration: Histogram<f64>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let meter = global::meter("tenantry");
        let duration = meter.f64_histogram("rpc.server.call.duration").with_unit("s").build();
        Self { duration }
    }

    /// One log line and one measurement for one call.
    pub(crate) fn record(&self, rule: &Rule, span: &Span, code: Code, took: Duration) {
        let name = code_name(code);
        let ours = matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
        );
        if TRACED.load(Ordering::Relaxed) {
            span.record("rpc.response.status_code", name);
            if ours {
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
        // Reads and the suite's own talk would drown what people did.
        let quiet = rule.read || matches!(rule.audience, Audience::Services(_));
        match (ours, code == Code::Ok && quiet) {
            (true, _) => tracing::warn!(code = name, took_us, "call"),
            (_, true) => tracing::debug!(code = name, took_us, "call"),
            _ => tracing::info!(code = name, took_us, "call"),
        }
    }
}

/// The code as the gRPC specification spells it.
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
