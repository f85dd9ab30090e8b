//! Tests of time ranges and of points.

use api::project as pb;
use chassis::{Error, id, timestamp};
use uuid::Uuid;

use super::*;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-28 12:34:56 UTC);

fn range(start: Duration, end: Duration, step: Option<Duration>) -> RequestedRange {
    RequestedRange { start: Some(NOW + start), end: Some(NOW + end), step }
}

/// Fields of the violations of a range that ends now.
fn invalid_fields(start: Duration, step: Duration) -> Vec<&'static str> {
    match MetricRange::new(range(start, Duration::ZERO, Some(step)), NOW) {
        Ok(_) => vec![],
        Err(violations) => violations.iter().map(|it| it.field).collect(),
    }
}

fn metric(minute: i64, cpu_cores: f64, sample_count: i32) -> Metric {
    let count = f64::from(sample_count);
    Metric {
        environment_id: EnvironmentId(Uuid::nil()),
        id: id::lower_bound(floor(NOW, Duration::HOUR) + Duration::minutes(minute)),
        sample_count,
        cpu_cores_sum: cpu_cores * count,
        cpu_cores_max: cpu_cores * 2.0,
        memory_bytes_sum: 100.0 * count,
        memory_bytes_max: 200 + minute,
        disk_bytes: minute,
        request_count: 10.0 * count,
        error_count: count,
        duration_s_sum: 2.0 * count,
        received_bytes: 5.0 * count,
        sent_bytes: 7.0 * count,
    }
}

#[test]
fn a_range_has_defaults() {
    let nothing = || RequestedRange { start: None, end: None, step: None };
    let day = MetricRange::new(nothing(), NOW).unwrap();
    assert_eq!(day.start, floor(NOW, Duration::MINUTE) - Duration::DAY);
    assert_eq!((day.end, day.step, day.resolution), (NOW, Duration::MINUTE, Resolution::Minute));
    for (days, step) in
        [(1, Duration::MINUTE), (2, Duration::HOUR), (62, Duration::HOUR), (63, Duration::DAY)]
    {
        let range =
            MetricRange::new(range(Duration::days(-days), Duration::ZERO, None), NOW).unwrap();
        assert_eq!(range.step, step, "{days} days");
    }
}

#[test]
fn a_step_fits_to_what_is_stored() {
    let (hour, day) = (Duration::HOUR, Duration::DAY);
    for step in [Duration::MINUTE, Duration::minutes(7), Duration::minutes(59), hour, hour * 5, day]
    {
        assert_eq!(invalid_fields(-hour, step), [""; 0], "{step}");
    }
    let bad = [
        Duration::ZERO,
        -Duration::MINUTE,
        Duration::seconds(59),
        Duration::seconds(90),
        Duration::minutes(61),
        Duration::MINUTE + Duration::NANOSECOND,
        day + hour,
        Duration::MAX,
        Duration::MIN,
    ];
    for step in bad {
        assert_eq!(invalid_fields(-hour, step), ["step"], "{step}");
    }
    assert_eq!(invalid_fields(-day * 2, Duration::minutes(59)), ["step"]);
    assert_eq!(invalid_fields(-day * 90, hour * 2), [""; 0]);
    assert_eq!(invalid_fields(-day * 92, day), ["start_time"]);
}

#[test]
fn the_number_of_points_is_limited() {
    let minutes =
        |count: i64| range(-Duration::minutes(count), Duration::ZERO, Some(Duration::MINUTE));
    // The range touches one minute more, because it begins and ends in the middle of one.
    assert!(MetricRange::new(minutes(1_499), NOW).is_ok());
    let refused = MetricRange::new(minutes(1_500), NOW).unwrap_err();
    assert!(refused[0].description.contains("1501 points"), "{refused:?}");
    // A range that ends with a minute does not touch the next one.
    let whole = floor(NOW, Duration::MINUTE);
    assert_eq!(point_count(whole - Duration::minutes(3), whole, Duration::MINUTE), 3);
    let far = RequestedRange {
        start: Some(NOW),
        end: Some(time::macros::datetime!(9999-12-31 23:59:59 UTC)),
        step: Some(Duration::DAY),
    };
    assert_eq!(MetricRange::new(far, NOW).unwrap_err()[0].field, "step");
}

#[test]
fn every_violation_of_a_request_is_reported() {
    let request = pb::GetMetricsRequest {
        start_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
        end_time: Some(timestamp(NOW - Duration::days(200))),
        step: Some(prost_types::Duration { seconds: i64::MIN, nanos: -1 }),
        ..Default::default()
    };
    let Err(Error::Invalid(violations)) = MetricRange::from_request(&request, NOW) else {
        panic!("the request is invalid");
    };
    let fields: Vec<_> = violations.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["start_time", "start_time", "step"], "{violations:?}");
}

#[test]
fn points_are_weighted_averages_and_have_gaps() {
    let step = Duration::minutes(10);
    let range = MetricRange::new(range(-Duration::HOUR, Duration::ZERO, Some(step)), NOW).unwrap();
    let metrics = [metric(0, 1.0, 1), metric(9, 4.0, 2), metric(31, 0.0, 12)];
    let points: Vec<_> = range.points(&metrics).iter().map(pb::MetricPoint::from).collect();
    let start = floor(NOW, Duration::HOUR);
    let expected = [
        pb::MetricPoint {
            time: Some(timestamp(start)),
            cpu_cores_average: 3.0,
            cpu_cores_max: 8.0,
            memory_bytes_average: 100,
            memory_bytes_max: 209,
            disk_bytes: 9,
            request_count: 30,
            error_count: 3,
            latency_average_ms: 200.0,
            received_bytes: 15,
            sent_bytes: 21,
        },
        pb::MetricPoint {
            time: Some(timestamp(start + Duration::minutes(30))),
            cpu_cores_average: 0.0,
            cpu_cores_max: 0.0,
            memory_bytes_average: 100,
            memory_bytes_max: 231,
            disk_bytes: 31,
            request_count: 120,
            error_count: 12,
            latency_average_ms: 200.0,
            received_bytes: 60,
            sent_bytes: 84,
        },
    ];
    assert_eq!(points, expected);
    assert!(range.points(&[]).is_empty());
}

#[test]
fn the_curve_of_an_overview_has_24_hours() {
    assert_eq!(day_start(NOW), time::macros::datetime!(2026-11-27 13:00 UTC));
}
