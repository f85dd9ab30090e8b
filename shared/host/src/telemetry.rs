//! Logs to standard error; traces and metrics to an OTLP collector, if one is configured.

use chassis::{Config, server::observe};
use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
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
        let points =
            opentelemetry_otlp::MetricExporter::builder().with_tonic().with_endpoint(endpoint);
        let metrics = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_periodic_exporter(points.build()?)
            .build();
        global::set_meter_provider(metrics.clone());
        // Without the inner spans of h2 and hyper, which cost more than the calls themselves.
        let spans = tracing_opentelemetry::layer()
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_tracer(traces.tracer("tenantry"))
            .with_filter(EnvFilter::new("off,chassis=info"));
        logs.with(spans).with(filter).try_init()?;
        observe::enable_tracing();
        Ok(Self { traces: Some(traces), metrics: Some(metrics) })
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
