//! Fuzz targets: bundles, receipts, checkpoints and proofs from a malicious log.

#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses a part of it")]
pub(crate) mod input;

use bolero::check;
use data_encoding::BASE64;
use serde_json::json;

use self::input::Input;
use super::{
    suite::SuiteProof,
    tests::{bundle_lines, inclusion_proof, leaves, pins, receipt, root, signed_checkpoint},
    *,
};
use crate::{note::VerifierKey, receipt::Receipt, sealed::Keys};

/// A modified bundle is refused, or proves the same as the original.
#[test]
fn a_changed_bundle_proves_nothing_else() {
    let leaves = leaves(5);
    let original_file: String = bundle_lines(&leaves).iter().map(|it| format!("{it}\n")).collect();
    let no_prior_size = |_: &str| None;
    let original =
        bundle::verify(original_file.as_bytes(), &pins(), no_prior_size, |_| ()).unwrap();
    check!().with_type::<Input>().for_each(|input| {
        let file = input.bytes(&[original_file.clone().into_bytes()]);
        // As if a checkpoint of 3 entries was verified before: also computes the root at that size.
        let prior_size = |_: &str| Some(3);
        let mut entries = 0;
        let report = bundle::verify(&*file, &pins(), prior_size, |_| entries += 1);
        if let Ok(report) = report {
            assert_eq!(report.checkpoint, original.checkpoint);
            let count = entries + report.hash_only;
            assert!(count <= report.checkpoint.size, "more entries than the checkpoint covers");
            // After an entry without content, the first sequence number of a service can be unknown.
            if report.complete && report.hash_only == 0 {
                assert_eq!(report.sources, original.sources);
            }
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
        "leaf": BASE64.encode(&good.leaf),
        "hashes": good.hashes.iter().map(|it| BASE64.encode(it)).collect::<Vec<_>>(),
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

/// A modified checkpoint is refused, or equals the signed one.
#[test]
fn a_changed_checkpoint_proves_nothing_else() {
    let leaves = leaves(5);
    let note = signed_checkpoint("log.example/acme", 5, &root(&leaves));
    let signed = note::open(&note, &pins()).unwrap();
    check!().with_type::<Input>().for_each(|input| {
        if let Ok(checkpoint) = note::open(&input.text(&[&note]), &pins()) {
            assert_eq!(checkpoint, signed);
        }
    });
}

/// A modified proof in the textual form (C2SP tlog-proof) is refused, or proves the same checkpoint.
#[test]
fn a_changed_suite_proof_proves_nothing_else() {
    let note = signed_checkpoint("log.example/acme", 5, &root(&leaves(5)));
    let heads = [b"first".to_vec(), note.clone().into_bytes(), b"third".to_vec()];
    let suite = signed_checkpoint("log.example/suite", 3, &root(&heads));
    let hashes = inclusion_proof(1, &heads).iter().map(|it| BASE64.encode(it)).collect::<Vec<_>>();
    let extra = BASE64.encode(note.as_bytes());
    let hashes = hashes.join("\n");
    let text = format!("c2sp.org/tlog-proof@v1\nextra {extra}\nindex 1\n{hashes}\n\n{suite}");
    let verified = |text: &str| {
        let (note, proof) = SuiteProof::parse(text).ok()?;
        suite::verify(Some(&proof), &note, &pins()).ok().map(|suite| (note, suite))
    };
    let original = verified(&text).unwrap();
    check!().with_type::<Input>().for_each(|input| {
        if let Some(proven) = verified(&input.text(&[&text])) {
            assert_eq!(proven, original);
        }
    });
}

/// The parsers of keys, sealed fields and leaves accept or refuse every text; none panics.
#[test]
fn no_text_makes_a_parser_panic() {
    let verifier_key = "log.example+4419620e+AfYwYSymMpBlHYFGcNoxlTWpWArGBc3BEc6qqVqTDgCw";
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&[verifier_key]);
        let _ = VerifierKey::parse(&text);
        let _ = sealed::open(&format!("sealed:{text}"), &Keys::new());
        let _ = receipt::decode_leaf(0, text.as_bytes(), &Keys::new());
    });
}
