//! Fuzz targets: bundles, receipts and checkpoints from a malicious log.

#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses a part of it")]
mod input;

use bolero::check;
use serde_json::json;

use self::input::Input;
use super::{
    tests::{bundle_lines, leaves, pins, receipt, root, signed_checkpoint},
    *,
};
use crate::{note::VerifierKey, receipt::Receipt, sealed::Keys};

/// A modified bundle is refused, or proves the same as the original.
#[test]
fn a_changed_bundle_proves_nothing_else() {
    let leaves = leaves(5);
    let original_file: String = bundle_lines(&leaves).iter().map(|it| format!("{it}\n")).collect();
    let original = bundle::verify(original_file.as_bytes(), &pins(), |_| None, |_| ()).unwrap();
    check!().with_type::<Input>().for_each(|input| {
        let file = input.bytes(&[original_file.clone().into_bytes()]);
        let mut entries = 0;
        let report = bundle::verify(&*file, &pins(), |_| Some(3), |_| entries += 1);
        if let Ok(report) = report {
            assert_eq!(report.checkpoint, original.checkpoint);
            assert!(entries + report.hash_only <= report.checkpoint.size);
            assert!(!report.complete || report.sources == original.sources || report.hash_only > 0);
        }
    });
}

/// A modified receipt is refused, or proves the same entry.
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
    let (_, original) = good.verify(&pins()).unwrap();
    check!().with_type::<Input>().for_each(|input| {
        let Ok(json) = serde_json::from_slice::<Value>(&input.bytes(&[json.clone().into_bytes()]))
        else {
            return;
        };
        let Ok(receipt) = Receipt::from_json(&json) else { return };
        if let Ok((_, entry)) = receipt.verify(&pins()) {
            assert_eq!(entry, original);
        }
    });
}

/// A modified checkpoint is refused, or equals the signed one; no text makes a parser panic.
#[test]
fn a_changed_checkpoint_is_refused() {
    let leaves = leaves(5);
    let note = signed_checkpoint("log.example/acme", 5, &root(&leaves));
    let signed = note::open(&note, &pins()).unwrap();
    let key = "log.example+4419620e+AfYwYSymMpBlHYFGcNoxlTWpWArGBc3BEc6qqVqTDgCw";
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&[&note, key]);
        if let Ok(checkpoint) = note::open(&text, &pins()) {
            assert_eq!(checkpoint, signed);
        }
        let _ = VerifierKey::parse(&text);
        let _ = sealed::open(&format!("sealed:{text}"), &Keys::new());
        let _ = receipt::decode_leaf(0, text.as_bytes(), &Keys::new());
    });
}
