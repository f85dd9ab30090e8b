//! Conversion between messages of the contract and metrics.

use api::{check::Violation, project as pb};
use chassis::{Error, Result, datetime, timestamp};
use time::{Duration, OffsetDateTime};

use super::{Metric, MetricRange, RequestedRange};

impl MetricRange {
    /// Reads the time range of a request. Every invalid field is in the error.
    pub fn from_request(message: &pb::GetMetricsRequest, now: OffsetDateTime) -> Result<Self> {
        let mut violations = vec![];
        let mut read_time = |field: &str, value: Option<prost_types::Timestamp>| {
            let time = value.and_then(datetime);
            if value.is_some() && time.is_none() {
                violations.push(violation(field, "must be a valid timestamp"));
            }
            time
        };
        let start = read_time("start_time", message.start_time);
        let end = read_time("end_time", message.end_time);
        let step = message.step.map(|it| {
            Duration::seconds(it.seconds).saturating_add(Duration::nanoseconds(it.nanos.into()))
        });
        match Self::new(RequestedRange { start, end, step }, now) {
            Ok(range) if violations.is_empty() => Ok(range),
            Ok(_) => Err(Error::Invalid(violations)),
            Err(invalid) => {
                violations.extend(invalid.iter().map(|it| violation(it.field, &it.description)));
                Err(Error::Invalid(violations))
            }
        }
    }

    /// Makes the response of the metrics in the range.
    pub fn response(&self, metrics: &[Metric]) -> pb::GetMetricsResponse {
        pb::GetMetricsResponse {
            points: self.points(metrics).iter().map(Into::into).collect(),
            step: Some(prost_types::Duration { seconds: self.step.whole_seconds(), nanos: 0 }),
        }
    }
}

fn violation(field: &str, description: &str) -> Violation {
    Violation { field: field.to_owned(), description: description.to_owned() }
}

impl From<&Metric> for pb::MetricPoint {
    fn from(it: &Metric) -> Self {
        let sample_count = f64::from(it.sample_count.max(1));
        Self {
            time: Some(timestamp(it.start())),
            cpu_cores_average: it.cpu_cores_sum / sample_count,
            cpu_cores_max: it.cpu_cores_max,
            memory_bytes_average: whole(it.memory_bytes_sum / sample_count),
            memory_bytes_max: it.memory_bytes_max,
            disk_bytes: it.disk_bytes,
            request_count: whole(it.request_count),
            error_count: whole(it.error_count),
            latency_average_ms: it.duration_s_sum * 1_000.0 / it.request_count.max(1.0),
            received_bytes: whole(it.received_bytes),
            sent_bytes: whole(it.sent_bytes),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a number that is too large becomes the largest one"
)]
fn whole(number: f64) -> i64 {
    number.round() as i64
}

/// Groups metrics by environment. They are sorted by environment.
pub fn environment_metrics(metrics: &[Metric]) -> Vec<pb::EnvironmentMetrics> {
    let groups = metrics.chunk_by(|a, b| a.environment_id == b.environment_id);
    let environment = |group: &[Metric]| pb::EnvironmentMetrics {
        environment_id: group[0].environment_id.into(),
        points: group.iter().map(Into::into).collect(),
    };
    groups.map(environment).collect()
}
