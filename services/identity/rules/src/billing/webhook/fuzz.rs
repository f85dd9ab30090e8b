//! Fuzz target: bodies and signatures of billing webhooks.

#[path = "../../../../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses only a part of the module")]
mod input;

use bolero::check;
use chassis::key::hmac_sha256;
use data_encoding::HEXLOWER;
use time::OffsetDateTime;

use self::input::Input;
use super::{Rejected, parse, verify};
use crate::billing::stripe::{Invoice, Price, Subscription};

const EVENT: &str = r#"{"id":"evt_1","object":"event","type":"invoice.paid","livemode":false,
    "created":1700000000,"data":{"object":{"id":"in_1","object":"invoice","customer":"cus_1"}}}"#;
const SUBSCRIPTION: &str = r#"{"id":"sub_1","status":"active","current_period_start":1,"trial_end":null,
    "current_period_end":2,"items":{"data":[{"id":"si_1","quantity":3,"price":{"id":"price_1"}}]}}"#;

/// A signature is valid for one body only. An event has short ids without special characters.
#[test]
fn an_event_is_verified_and_parsed_or_rejected() {
    let samples = [EVENT, SUBSCRIPTION].map(|it| it.as_bytes().to_vec());
    let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    let mac = hmac_sha256(b"secret", format!("1700000000.{EVENT}").as_bytes());
    let header = format!("t=1700000000,v0=00,v1=ab,v1={}", HEXLOWER.encode(&mac));
    check!().with_type::<Input>().for_each(|input| {
        let body = input.bytes(&samples);
        let verified = verify(&header, &body, &[b"former", b"secret"], now);
        assert_eq!(verified.is_ok(), body == samples[0]);
        let _ = verify(&String::from_utf8_lossy(&body), &body, &[b"secret"], now);
        if let Ok(event) = parse(&body, false) {
            for id in [event.id, event.kind, event.object_id, event.customer_id] {
                assert!((1..=255).contains(&id.len()) && id.is_ascii());
            }
        }
        if let Ok(subscription) = serde_json::from_slice::<Subscription>(&body)
            && let Some(current) = subscription.current(|_| None)
        {
            assert!(current.period_end.year() <= 9999);
        }
        if let Ok(invoice) = serde_json::from_slice::<Invoice>(&body) {
            let message = api::identity::Invoice::from(&invoice);
            assert!(message.id.len() <= 255 && message.url.len() <= 2048);
        }
        if let Ok(price) = serde_json::from_slice::<Price>(&body) {
            price.yearly(i64::MAX);
        }
    });
}

#[test]
fn a_signature_is_valid_for_five_minutes() {
    let now = |seconds: i64| OffsetDateTime::from_unix_timestamp(1_700_000_000 + seconds).unwrap();
    let mac = hmac_sha256(b"secret", format!("1700000000.{EVENT}").as_bytes());
    let header = format!("t=1700000000,v1={}", HEXLOWER.encode(&mac));
    let verify = |seconds| verify(&header, EVENT.as_bytes(), &[b"secret"], now(seconds));
    assert_eq!(verify(-300), Ok(()));
    assert_eq!(verify(300), Ok(()));
    assert_eq!(verify(301), Err(Rejected::Time));
    assert_eq!(verify(-301), Err(Rejected::Time));
}

#[test]
fn events_of_other_accounts_are_rejected() {
    assert!(parse(EVENT.as_bytes(), false).is_ok());
    assert_eq!(parse(EVENT.as_bytes(), true), Err(Rejected::OtherAccount));
    let connected = EVENT.replacen("{\"id\"", "{\"account\":\"acct_1\",\"id\"", 1);
    assert_eq!(parse(connected.as_bytes(), false), Err(Rejected::OtherAccount));
}
