//! Logs to standard error; metrics for Prometheus at the health port; traces and metrics to an OTLP
//! collector, if one is configured.

use std::{io::IsTerminal, sync::OnceLock};

use anyhow::Context;
use chassis::{Config, trace};
use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    metrics::{Aggregation, Instrument, InstrumentKind, SdkMeterProvider, Stream},
    trace::SdkTracerProvider,
};
use prometheus::{Registry, TextEncoder};
use settings::Exporter;
use tracing_subscriber::{
    EnvFilter, Layer, layer::SubscriberExt, registry, reload, util::SubscriberInitExt,
};

/// Exporters of traces and metrics.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    /// Metrics for Prometheus, which reads them at the health port.
    registry: Registry,
}

/// Filter of the log of this process. Traces have a filter of their own.
static LOG_FILTER: OnceLock<reload::Handle<EnvFilter, registry::Registry>> = OnceLock::new();

/// Replaces the filter of the log, in the syntax of `--log`, until the process ends.
pub(crate) fn set_log_filter(directives: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives)?;
    let handle = LOG_FILTER.get().context("this process has no log")?;
    Ok(handle.reload(filter)?)
}

/// Returns the filter of the log.
pub(crate) fn log_filter() -> Option<String> {
    LOG_FILTER.get()?.with_current(ToString::to_string).ok()
}

impl Telemetry {
    /// Sets up logs, traces and metrics of a process.
    pub fn start(service: &'static str, config: &Config) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&config.log)?);
        let json = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
        // Without terminal escapes in files.
        let text = tracing_subscriber::fmt::layer()
            .compact()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let logs = if config.log_json { json.boxed() } else { text.boxed() };
        let logs = registry().with(logs.with_filter(filter));

        let resource = Resource::builder()
            .with_service_name(
                config.otel_service_name.clone().unwrap_or_else(|| service.to_owned()),
            )
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.namespace", "tenantry"))
            .build();
        let endpoint = config.otlp_endpoint.as_deref().filter(|_| !config.otel_sdk_disabled);
        let traces = match (endpoint, config.traces_exporter) {
            (Some(endpoint), Exporter::Otlp) => Some(traces(endpoint, resource.clone())?),
            _ => None,
        };
        let endpoint = endpoint.filter(|_| config.metrics_exporter == Exporter::Otlp);
        let registry = Registry::new();
        let metrics = if config.otel_sdk_disabled {
            None
        } else {
            Some(metrics(endpoint, resource, &registry)?)
        };
        // Only the spans of the suite: the inner spans of h2 and hyper cost more than the calls themselves.
        let spans = traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer()
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false)
                .with_level(false)
                .with_tracer(traces.tracer("tenantry"))
                .with_filter(EnvFilter::new("off,chassis=debug"))
        });
        logs.with(spans).try_init()?;
        let _ = LOG_FILTER.set(handle);
        if let Some(metrics) = &metrics {
            global::set_meter_provider(metrics.clone());
        }
        if traces.is_some() {
            trace::enable();
        }
        Ok(Self { traces, metrics, registry })
    }

    /// Returns the metrics of the process in the text format of Prometheus.
    pub fn prometheus(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let registry = self.registry.clone();
        move || {
            let text = TextEncoder::new().encode_to_string(&registry.gather());
            text.unwrap_or_else(|error| {
                tracing::warn!(%error, "the metrics cannot be written as text");
                String::new()
            })
        }
    }

    /// Exports the last batches. Blocks, so it must not run on an async worker thread.
    pub fn stop(self) {
        let traces = self.traces.map(|it| it.shutdown());
        let metrics = self.metrics.map(|it| it.shutdown());
        if let Some(Err(error)) = traces.or(metrics) {
            tracing::warn!(%error, "the last traces and metrics were not exported");
        }
    }
}

/// Returns the exporter of traces.
fn traces(endpoint: &str, resource: Resource) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    let provider = SdkTracerProvider::builder().with_resource(resource);
    Ok(provider.with_batch_exporter(exporter.build()?).build())
}

/// Returns the provider of metrics: for Prometheus, and for a collector if there is one.
fn metrics(
    endpoint: Option<&str>,
    resource: Resource,
    registry: &Registry,
) -> anyhow::Result<SdkMeterProvider> {
    let prometheus =
        opentelemetry_prometheus::exporter().with_registry(registry.clone()).build()?;
    let mut provider = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_reader(prometheus)
        .with_view(durations);
    if let Some(endpoint) = endpoint {
        let exporter = opentelemetry_otlp::MetricExporter::builder().with_tonic();
        provider = provider.with_periodic_exporter(exporter.with_endpoint(endpoint).build()?);
    }
    Ok(provider.build())
}

/// Upper bounds of the buckets of durations, in seconds. The default ones are for milliseconds.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Sets the buckets of histograms in seconds.
fn durations(instrument: &Instrument) -> Option<Stream> {
    let is_duration = instrument.kind() == InstrumentKind::Histogram && instrument.unit() == "s";
    let boundaries = DURATION_BUCKETS.to_vec();
    let buckets = Aggregation::ExplicitBucketHistogram { boundaries, record_min_max: true };
    let stream = is_duration.then(|| Stream::builder().with_aggregation(buckets).build());
    stream?.ok()
}
