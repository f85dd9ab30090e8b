//! Fuzz targets: what a log that lies hands to the verifier.

#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each target needs a part of it")]
mod input;

use bolero::check;
use serde_json::json;

use self::input::Input;
use super::{
    tests::{bundle as lines, head, leaves, pins, receipt, root},
    *,
};
use crate::{note::VerifierKey, receipt::Receipt, sealed::Keys};

/// A changed bundle is refused, or proves what the original proves.
#[test]
fn a_changed_bundle_proves_nothing_else() {
    let leaves = leaves(5);
    let whole: String = lines(&leaves).iter().map(|it| format!("{it}\n")).collect();
    let original = bundle::verify(whole.as_bytes(), &pins(), |_| None, |_| ()).unwrap();
    check!().with_type::<Input>().for_each(|input| {
        let file = input.bytes(&[whole.clone().into_bytes()]);
        let mut entries = 0;
        let report = bundle::verify(&*file, &pins(), |_| Some(3), |_| entries += 1);
        if let Ok(report) = report {
            assert_eq!(report.head, original.head);
            assert!(entries + report.hidden <= report.head.size);
            assert!(!report.whole || report.sources == original.sources || report.hidden > 0);
        }
    });
}

/// A changed receipt is refused, or proves the same entry.
#[test]
fn a_changed_receipt_proves_nothing_else() {
    let leaves = leaves(5);
    let good = receipt(3, &leaves);
    let json = json!({
        "index": "3",
        "leaf": data_encoding::BASE64.encode(&good.leaf),
        "hashes": good.hashes.iter().map(|it| data_encoding::BASE64.encode(it)).collect::<Vec<_>>(),
        "checkpoint": good.checkpoint,
        "keys": [{ "subjectId": "0193", "key": "AAAA" }],
    });
    let json = json.to_string();
    let (_, proven) = good.verify(&pins()).unwrap();
    check!().with_type::<Input>().for_each(|input| {
        let Ok(json) = serde_json::from_slice::<Value>(&input.bytes(&[json.clone().into_bytes()]))
        else {
            return;
        };
        if let Ok(Ok((_, it))) = Receipt::from_json(&json).map(|it| it.verify(&pins())) {
            assert_eq!(it, proven);
        }
    });
}

/// A changed head is refused, or is the head that was signed; a key is read or refused.
#[test]
fn a_changed_head_is_not_believed() {
    let leaves = leaves(5);
    let note = head("log.example/acme", 5, &root(&leaves));
    let signed = note::open(&note, &pins()).unwrap();
    let key = "log.example+4419620e+AfYwYSymMpBlHYFGcNoxlTWpWArGBc3BEc6qqVqTDgCw";
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&[&note, key]);
        if let Ok(head) = note::open(&text, &pins()) {
            assert_eq!(head, signed);
        }
        let _ = VerifierKey::parse(&text);
        let _ = sealed::open(&format!("sealed:{text}"), &Keys::new());
        let _ = receipt::read(0, text.as_bytes(), &Keys::new());
    });
}
