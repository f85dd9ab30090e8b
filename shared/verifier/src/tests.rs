//! Tests with forged checkpoints, receipts and bundles (A-08, G-10): each forgery is refused with its reason.

use api::event::{Actor, Envelope};
use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{Ed25519KeyPair, KeyPair},
};
use data_encoding::{BASE64, HEXLOWER};
use prost::Message;
use serde_json::json;

use super::*;
use crate::{
    bundle::SequenceRange,
    note::VerifierKey,
    receipt::Receipt,
    seen::{ConsistencyProof, SeenCheckpoints},
    tree::{Hash, RootBuilder, leaf_hash},
};

const LOG_NAME: &str = "log.example";

fn key_pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

/// Verifier key and key id of a log.
fn verifier_key(key_pair: &Ed25519KeyPair, name: &str) -> (String, [u8; 4]) {
    let public = [&[1], key_pair.public_key().as_ref()].concat();
    let hash = digest(&SHA256, &[name.as_bytes(), b"\n", &public].concat());
    let id: [u8; 4] = hash.as_ref()[..4].try_into().unwrap();
    (format!("{name}+{}+{}", HEXLOWER.encode(&id), BASE64.encode(&public)), id)
}

/// Signature line of a note.
fn signature_line(seed: u8, name: &str, text: &str) -> String {
    let key_pair = key_pair(seed);
    let (_, id) = verifier_key(&key_pair, name);
    let bytes = [&id[..], key_pair.sign(text.as_bytes()).as_ref()].concat();
    format!("\u{2014} {name} {}\n", BASE64.encode(&bytes))
}

/// A checkpoint, signed by the pinned key.
pub(super) fn signed_checkpoint(origin: &str, size: u64, root: &Hash) -> String {
    let text = format!("{origin}\n{size}\n{}\n", BASE64.encode(root));
    format!("{text}\n{}", signature_line(1, LOG_NAME, &text))
}

pub(super) fn pins() -> Pins {
    let keys = vec![VerifierKey::parse(&verifier_key(&key_pair(1), LOG_NAME).0).unwrap()];
    Pins { keys, org_id: Some("acme".to_owned()), ..Pins::default() }
}

/// An encoded event of a service.
fn leaf(source: &str, sequence: i64) -> Vec<u8> {
    let actor = Actor { id: "ann".to_owned(), ..Default::default() };
    let event = Envelope {
        id: format!("{source}-{sequence}"),
        source: source.to_owned(),
        actor: Some(actor),
        sequence,
        ..Default::default()
    };
    event.encode_to_vec()
}

pub(super) fn leaves(count: i64) -> Vec<Vec<u8>> {
    (1..=count).map(|it| leaf("identity", it)).collect()
}

pub(super) fn root(leaves: &[Vec<u8>]) -> Hash {
    let mut tree = RootBuilder::default();
    for leaf in leaves {
        tree.push(leaf_hash(leaf));
    }
    tree.root()
}

/// Inclusion proof, exactly as RFC 6962, 2.1.1 defines it.
pub(super) fn inclusion_proof(index: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    if index < k {
        [inclusion_proof(index, left), vec![root(right)]].concat()
    } else {
        [inclusion_proof(index - k, right), vec![root(left)]].concat()
    }
}

pub(super) fn receipt(index: usize, leaves: &[Vec<u8>]) -> Receipt {
    Receipt {
        index: index as u64,
        leaf: leaves[index].clone(),
        hashes: inclusion_proof(index, leaves),
        checkpoint: signed_checkpoint(
            &format!("{LOG_NAME}/acme"),
            leaves.len() as u64,
            &root(leaves),
        ),
        keys: sealed::Keys::new(),
        suite: None,
    }
}

/// Lines of a complete bundle.
pub(super) fn bundle_lines(leaves: &[Vec<u8>]) -> Vec<Value> {
    let checkpoint =
        signed_checkpoint(&format!("{LOG_NAME}/acme"), leaves.len() as u64, &root(leaves));
    let mut lines =
        vec![json!({ "tenantry_audit_bundle": 1, "checkpoint": checkpoint, "whole": true })];
    for (index, leaf) in leaves.iter().enumerate() {
        lines.push(json!({
            "index": index,
            "leaf_hash": BASE64.encode(&leaf_hash(leaf)),
            "leaf": BASE64.encode(leaf),
        }));
    }
    lines.push(json!({ "end": true, "count": leaves.len() }));
    lines
}

fn verify_lines(lines: &[Value]) -> Result<bundle::Report, VerifyError> {
    let text: String = lines.iter().map(|it| format!("{it}\n")).collect();
    bundle::verify(text.as_bytes(), &pins(), |_| None, |_| ())
}

/// the example of C2SP signed-note.
#[test]
fn the_example_of_the_signed_note_specification_is_verified() {
    let key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let note = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n\n\
                \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZS\
                NXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let pins = Pins { keys: vec![VerifierKey::parse(key).unwrap()], ..Pins::default() };
    // The signature is valid, but the text is not a checkpoint.
    let refused = note::open(note, &pins).unwrap_err();
    assert_eq!(refused, VerifyError::Malformed("a checkpoint must have three lines".to_owned()));
    let forged = note.replace("cryptography", "Cryptography");
    assert_eq!(note::open(&forged, &pins), Err(VerifyError::BadSignature));
}

/// a changed bit, another index and an incomplete proof are refused.
#[test]
fn a_receipt_verifies_only_unchanged() {
    let leaves = leaves(7);
    let good = receipt(3, &leaves);
    assert_eq!(good.verify(&pins()).unwrap().1.sequence, 4);
    let refuse = |change: &dyn Fn(&mut Receipt)| {
        let mut forged = good.clone();
        change(&mut forged);
        forged.verify(&pins()).unwrap_err()
    };
    let not_in_log = VerifyError::NotInLog { index: 3 };
    for byte in 0..good.leaf.len() {
        assert_eq!(refuse(&|it| it.leaf[byte] ^= 1), not_in_log, "one bit of byte {byte}");
    }
    for (i, _) in good.hashes.iter().enumerate() {
        assert_eq!(refuse(&|it| it.hashes[i][31] ^= 0x80), not_in_log);
    }
    assert_eq!(refuse(&|it| it.index = 2), VerifyError::NotInLog { index: 2 });
    assert_eq!(refuse(&|it| it.index = 7), VerifyError::BeyondHead { index: 7, size: 7 });
    // Incomplete proofs (CVE-2022-36111): shorter, longer, empty.
    assert_eq!(refuse(&|it| it.hashes.truncate(1)), not_in_log);
    assert_eq!(refuse(&|it| it.hashes.push([0; 32])), not_in_log);
    assert_eq!(refuse(&|it| it.hashes.clear()), not_in_log);
    // A leaf that is read as a node.
    assert_eq!(refuse(&|it| it.leaf = [it.leaf.as_slice(), &[1]].concat()), not_in_log);
}

/// another key, log, organization or text is refused.
#[test]
fn a_checkpoint_verifies_only_with_the_pinned_log_and_key() {
    let leaves = leaves(3);
    let verify = |checkpoint: String| Receipt { checkpoint, ..receipt(1, &leaves) }.verify(&pins());
    let root = root(&leaves);
    let text = format!("{LOG_NAME}/acme\n3\n{}\n", BASE64.encode(&root));
    assert!(verify(format!("{text}\n{}", signature_line(1, LOG_NAME, &text))).is_ok());
    // Another key, under its own name and under the name of the pinned key.
    assert_eq!(
        verify(format!("{text}\n{}", signature_line(2, "b.example", &text))),
        Err(VerifyError::UnknownKey)
    );
    assert_eq!(
        verify(format!("{text}\n{}", signature_line(2, LOG_NAME, &text))),
        Err(VerifyError::UnknownKey)
    );
    // The pinned key, over another text.
    let other = text.replace("\n3\n", "\n2\n");
    assert_eq!(
        verify(format!("{text}\n{}", signature_line(1, LOG_NAME, &other))),
        Err(VerifyError::BadSignature)
    );
    // Another organization, another log, and an origin without a tree.
    for origin in
        [format!("{LOG_NAME}/globex"), "other.example/acme".to_owned(), LOG_NAME.to_owned()]
    {
        let refused = verify(signed_checkpoint(&origin, 3, &root)).unwrap_err();
        assert!(matches!(refused, VerifyError::WrongOrigin { .. }), "{origin}: {refused}");
    }
    // Signatures of unknown keys are ignored, even if there are many.
    let others: String = (3..40).map(|it| signature_line(it, "w.example", &text)).collect();
    assert!(verify(format!("{text}\n{others}{}", signature_line(1, LOG_NAME, &text))).is_ok());
    // Sizes and lines in a form that is not canonical.
    for (from, to) in
        [("\n3\n", "\n03\n"), ("\n3\n", "\n+3\n"), ("\n3\n", "\r\n3\n"), ("\n3\n", "\n3\nx\n")]
    {
        let text = text.replacen(from, to, 1);
        let refused =
            verify(format!("{text}\n{}", signature_line(1, LOG_NAME, &text))).unwrap_err();
        assert!(matches!(refused, VerifyError::Malformed(_)), "{refused}");
    }
    let good = format!("{text}\n{}", signature_line(1, LOG_NAME, &text));
    assert!(
        matches!(verify(good.trim_end().to_owned()), Err(VerifyError::Malformed(_))),
        "the last line feed is missing"
    );
}

/// G-10: fork, truncation, rollback and replay are refused once an older checkpoint was seen.
#[test]
fn a_rolled_back_or_forked_log_is_refused() {
    let leaves = leaves(8);
    let checkpoints: Vec<Checkpoint> = (1..=8)
        .map(|size| Checkpoint {
            origin: "o".to_owned(),
            size: size as u64,
            root: root(&leaves[..size]),
        })
        .collect();
    let mut seen = SeenCheckpoints::default();
    seen.record(&checkpoints[3]);
    // From the complete tree of 4 leaves to 8: the proof is the right half.
    let proof = ConsistencyProof { from: 4, to: 8, hashes: vec![root(&leaves[4..])] };
    assert_eq!(seen.check(&checkpoints[7], None, Some(&proof)), Ok(()));
    assert_eq!(seen.check(&checkpoints[7], Some(checkpoints[3].root), None), Ok(()));
    assert_eq!(
        seen.check(&checkpoints[7], None, None),
        Err(VerifyError::NoConsistency { seen: 4, size: 8 })
    );
    assert_eq!(
        seen.check(&checkpoints[1], None, None),
        Err(VerifyError::RolledBack { size: 2, seen: 4 })
    );
    let forked = Checkpoint { root: [0; 32], ..checkpoints[3].clone() };
    assert_eq!(seen.check(&forked, None, None), Err(VerifyError::Forked { seen: 4 }));
    let forked = Checkpoint { root: [0; 32], ..checkpoints[7].clone() };
    assert_eq!(seen.check(&forked, None, Some(&proof)), Err(VerifyError::Forked { seen: 4 }));
    assert_eq!(
        seen.check(&checkpoints[7], Some([0; 32]), None),
        Err(VerifyError::Forked { seen: 4 })
    );
    let wrong = ConsistencyProof { from: 3, ..proof.clone() };
    assert_eq!(
        seen.check(&checkpoints[7], None, Some(&wrong)),
        Err(VerifyError::Forked { seen: 4 })
    );
    // An older checkpoint of the same log is accepted with a proof.
    let back = ConsistencyProof { from: 2, to: 4, hashes: vec![root(&leaves[2..4])] };
    assert_eq!(seen.check(&checkpoints[1], None, Some(&back)), Ok(()));
    seen.record(&checkpoints[7]);
    seen.record(&checkpoints[1]);
    assert_eq!(seen.get("o").unwrap().size, 8);
}

#[test]
fn a_complete_bundle_proves_that_no_entry_is_missing() {
    let mut all = leaves(5);
    all.insert(2, leaf("project", 1));
    let report = verify_lines(&bundle_lines(&all)).unwrap();
    assert_eq!((report.entries, report.hash_only, report.complete), (6, 0, true));
    assert_eq!(report.sources["identity"], SequenceRange { first: 1, last: 5 });
    assert_eq!(report.sources["project"], SequenceRange { first: 1, last: 1 });
}

#[test]
fn a_changed_bundle_is_refused_with_the_index_of_the_entry() {
    let good = bundle_lines(&leaves(6));
    let refuse = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut forged = good.clone();
        change(&mut forged);
        verify_lines(&forged).unwrap_err()
    };
    // One byte of an entry.
    let mut other = leaves(6)[2].clone();
    other[5] ^= 1;
    let changed = refuse(&|it| it[3]["leaf"] = BASE64.encode(&other).into());
    assert_eq!(changed, VerifyError::Changed { index: 2 });
    // An entry together with its hash.
    let both = refuse(&|it| {
        it[3]["leaf"] = BASE64.encode(&leaf("identity", 3)).into();
        it[3]["leaf_hash"] = BASE64.encode(&leaf_hash(b"x")).into();
    });
    assert_eq!(both, VerifyError::Changed { index: 2 });
    let consistent = refuse(&|it| {
        let mut forged = leaves(6)[2].clone();
        forged.push(0x62);
        forged.push(0);
        it[3]["leaf_hash"] = BASE64.encode(&leaf_hash(&forged)).into();
        it[3]["leaf"] = BASE64.encode(&forged).into();
    });
    assert_eq!(consistent, VerifyError::RootMismatch);
    // Deleted, inserted, swapped and truncated.
    assert_eq!(refuse(&|it| drop(it.remove(3))), VerifyError::Missing { index: 2 });
    assert_eq!(refuse(&|it| it.insert(3, good[3].clone())), VerifyError::Missing { index: 3 });
    assert_eq!(refuse(&|it| it.swap(3, 4)), VerifyError::Missing { index: 2 });
    let renumbered = refuse(&|it| {
        it.swap(3, 4);
        it[3]["index"] = 2.into();
        it[4]["index"] = 3.into();
    });
    let gap = VerifyError::Gap { source_name: "identity".to_owned(), sequence: 3, index: 2 };
    assert_eq!(renumbered, gap);
    assert_eq!(
        refuse(&|it| it.truncate(4)),
        malformed("the bundle is truncated: its last line is missing")
    );
    let shorter = refuse(&|it| {
        it.remove(6);
        it[6]["count"] = 5.into();
    });
    assert_eq!(shorter, VerifyError::Missing { index: 5 });
    // A hash instead of an entry hides its content, but not its existence.
    let mut hash_only = good.clone();
    hash_only[1] = json!({ "index": 0, "leaf_hash": good[1]["leaf_hash"] });
    let report = verify_lines(&hash_only).unwrap();
    assert_eq!((report.entries, report.hash_only), (5, 1));
}

/// A lost event of a service is detected by its sequence number.
#[test]
fn a_gap_in_the_sequence_numbers_of_a_service_is_refused() {
    let mut all = leaves(5);
    all.remove(2);
    let gap = VerifyError::Gap { source_name: "identity".to_owned(), sequence: 3, index: 2 };
    assert_eq!(verify_lines(&bundle_lines(&all)).unwrap_err(), gap);
}

/// A project whose name looks like a sealed text is shown with that name.
#[test]
fn a_name_of_an_object_that_looks_sealed_is_shown() {
    let name = format!("sealed:{}", data_encoding::BASE64URL_NOPAD.encode(&[1; 40]));
    let shown = |kind: &str| {
        let resource =
            api::event::Resource { kind: kind.to_owned(), name: name.clone(), id: "7".to_owned() };
        let leaf = Envelope { resource: Some(resource), ..Default::default() }.encode_to_vec();
        receipt::decode_leaf(0, &leaf, &sealed::Keys::new()).unwrap().resource
    };
    assert_eq!(shown("project"), format!("project \u{201c}{name}\u{201d}"));
    assert_eq!(shown("member"), "member \u{201c}erased\u{201d}");
}

/// The highest sequence number does not overflow or bypass the check for gaps.
#[test]
fn the_highest_sequence_number_does_not_bypass_the_gap_check() {
    let leaves = vec![leaf("identity", i64::MAX), leaf("identity", i64::MAX)];
    let mut lines = bundle_lines(&leaves);
    lines.insert(1, json!({ "index": 0, "leaf_hash": BASE64.encode(&leaf_hash(b"hidden")) }));
    for (index, line) in lines[2..4].iter_mut().enumerate() {
        line["index"] = json!(index + 1);
    }
    let mut hashes = vec![b"hidden".to_vec()];
    hashes.extend(leaves);
    lines[0]["checkpoint"] =
        json!(signed_checkpoint(&format!("{LOG_NAME}/acme"), 3, &root(&hashes)));
    lines[4]["count"] = json!(3);
    assert_eq!(verify_lines(&lines).unwrap().entries, 2, "a reused number is accepted");
}
