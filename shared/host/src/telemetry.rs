//! Logs to standard error; traces and metrics to an OTLP collector, if one is configured.

use std::io::IsTerminal;

use chassis::{Config, server::observe};
use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use settings::Exporter;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Exporters of traces and metrics.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Sets up logs, traces and metrics of a process.
    pub fn start(service: &'static str, config: &Config) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(&config.log)?;
        let json = config
            .log_json
            .then(|| tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr));
        // Without terminal escapes in files.
        let text = tracing_subscriber::fmt::layer()
            .compact()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let text = (!config.log_json).then_some(text);
        let logs = tracing_subscriber::registry().with(json).with(text);
        let endpoint = config.otlp_endpoint.as_ref().filter(|_| !config.otel_sdk_disabled);
        let Some(endpoint) = endpoint else {
            logs.with(filter).try_init()?;
            return Ok(Self { traces: None, metrics: None });
        };
        let resource = Resource::builder()
            .with_service_name(
                config.otel_service_name.clone().unwrap_or_else(|| service.to_owned()),
            )
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.namespace", "tenantry"))
            .build();
        let traces = match config.traces_exporter {
            Exporter::Otlp => Some(traces(endpoint, resource.clone())?),
            Exporter::None => None,
        };
        let metrics = match config.metrics_exporter {
            Exporter::Otlp => Some(metrics(endpoint, resource)?),
            Exporter::None => None,
        };
        if let Some(metrics) = &metrics {
            global::set_meter_provider(metrics.clone());
        }
        // Without the inner spans of h2 and hyper, which cost more than the calls themselves.
        let spans = traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer()
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false)
                .with_tracer(traces.tracer("tenantry"))
                .with_filter(EnvFilter::new("off,chassis=info"))
        });
        logs.with(spans).with(filter).try_init()?;
        if traces.is_some() {
            observe::enable_tracing();
        }
        Ok(Self { traces, metrics })
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

/// Returns the exporter of metrics.
fn metrics(endpoint: &str, resource: Resource) -> anyhow::Result<SdkMeterProvider> {
    let exporter =
        opentelemetry_otlp::MetricExporter::builder().with_tonic().with_endpoint(endpoint);
    let provider = SdkMeterProvider::builder().with_resource(resource);
    Ok(provider.with_periodic_exporter(exporter.build()?).build())
}
