//! A server that lies, in every way that we could think of (A-08, G-10). Each is refused with the reason.

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
    note::VerifierKey,
    receipt::Receipt,
    seen::{Consistency, Seen},
    tree::{Growing, Hash, leaf_hash},
};

const NAME: &str = "log.example";

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn key(pair: &Ed25519KeyPair, name: &str) -> (String, [u8; 4]) {
    let public = [&[1], pair.public_key().as_ref()].concat();
    let hash = digest(&SHA256, &[name.as_bytes(), b"\n", &public].concat());
    let id: [u8; 4] = hash.as_ref()[..4].try_into().unwrap();
    (format!("{name}+{}+{}", HEXLOWER.encode(&id), BASE64.encode(&public)), id)
}

fn line(seed: u8, name: &str, text: &str) -> String {
    let pair = pair(seed);
    let bytes = [&key(&pair, name).1[..], pair.sign(text.as_bytes()).as_ref()].concat();
    format!("\u{2014} {name} {}\n", BASE64.encode(&bytes))
}

pub(super) fn head(origin: &str, size: u64, root: &Hash) -> String {
    let text = format!("{origin}\n{size}\n{}\n", BASE64.encode(root));
    format!("{text}\n{}", line(1, NAME, &text))
}

pub(super) fn pins() -> Pins {
    let keys = vec![VerifierKey::parse(&key(&pair(1), NAME).0).unwrap()];
    Pins { keys, org_id: Some("acme".to_owned()) }
}

/// An event of a service, with its number there.
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
    let mut tree = Growing::default();
    for leaf in leaves {
        tree.add(leaf_hash(leaf));
    }
    tree.root()
}

/// RFC 6962, 2.1.1, word for word.
fn path(index: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    if index < k {
        [path(index, left), vec![root(right)]].concat()
    } else {
        [path(index - k, right), vec![root(left)]].concat()
    }
}

pub(super) fn receipt(index: usize, leaves: &[Vec<u8>]) -> Receipt {
    Receipt {
        index: index as u64,
        leaf: leaves[index].clone(),
        hashes: path(index, leaves),
        checkpoint: head(&format!("{NAME}/acme"), leaves.len() as u64, &root(leaves)),
        keys: sealed::Keys::new(),
    }
}

/// A bundle of all entries, as its lines.
pub(super) fn bundle(leaves: &[Vec<u8>]) -> Vec<Value> {
    let checkpoint = head(&format!("{NAME}/acme"), leaves.len() as u64, &root(leaves));
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

fn verify(lines: &[Value]) -> Result<bundle::Report, Refused> {
    let text: String = lines.iter().map(|it| format!("{it}\n")).collect();
    bundle::verify(text.as_bytes(), &pins(), |_| None, |_| ())
}

/// the example of the C2SP text.
#[test]
fn the_example_of_the_specification_of_signed_notes_is_believed() {
    let key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let note = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n\n\
                \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZS\
                NXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let pins = Pins { keys: vec![VerifierKey::parse(key).unwrap()], org_id: None };
    // The signature is right; the text is no head.
    let refused = note::open(note, &pins).unwrap_err();
    assert_eq!(refused, Refused::Malformed("a head has three lines".to_owned()));
    let forged = note.replace("cryptography", "Cryptography");
    assert_eq!(note::open(&forged, &pins), Err(Refused::BadSignature));
}

/// one bit, another place, a path that is not the whole one.
#[test]
fn a_receipt_is_believed_as_it_is_and_in_no_other_way() {
    let leaves = leaves(7);
    let good = receipt(3, &leaves);
    assert_eq!(good.verify(&pins()).unwrap().1.sequence, 4);
    let refused = |change: &dyn Fn(&mut Receipt)| {
        let mut forged = good.clone();
        change(&mut forged);
        forged.verify(&pins()).unwrap_err()
    };
    let not_in_log = Refused::NotInLog { index: 3 };
    for byte in 0..good.leaf.len() {
        assert_eq!(refused(&|it| it.leaf[byte] ^= 1), not_in_log, "one bit of byte {byte}");
    }
    for (i, _) in good.hashes.iter().enumerate() {
        assert_eq!(refused(&|it| it.hashes[i][31] ^= 0x80), not_in_log);
    }
    assert_eq!(refused(&|it| it.index = 2), Refused::NotInLog { index: 2 });
    assert_eq!(refused(&|it| it.index = 7), Refused::BeyondHead { index: 7, size: 7 });
    // A partial proof, as of CVE-2022-36111: shorter, longer, none.
    assert_eq!(refused(&|it| it.hashes.truncate(1)), not_in_log);
    assert_eq!(refused(&|it| it.hashes.push([0; 32])), not_in_log);
    assert_eq!(refused(&|it| it.hashes.clear()), not_in_log);
    // A leaf that is a node, and a node that is a leaf.
    assert_eq!(refused(&|it| it.leaf = [it.leaf.as_slice(), &[1]].concat()), not_in_log);
}

/// another key, another log, another organization, another text.
#[test]
fn a_head_is_believed_only_from_the_pinned_log_and_key() {
    let leaves = leaves(3);
    let with = |checkpoint: String| Receipt { checkpoint, ..receipt(1, &leaves) }.verify(&pins());
    let root = root(&leaves);
    let text = format!("{NAME}/acme\n3\n{}\n", BASE64.encode(&root));
    assert!(with(format!("{text}\n{}", line(1, NAME, &text))).is_ok());
    // Another key, under its own name and under ours.
    assert_eq!(with(format!("{text}\n{}", line(2, "b.example", &text))), Err(Refused::UnknownKey));
    assert_eq!(with(format!("{text}\n{}", line(2, NAME, &text))), Err(Refused::UnknownKey));
    // Our key, over another text.
    let other = text.replace("\n3\n", "\n2\n");
    assert_eq!(with(format!("{text}\n{}", line(1, NAME, &other))), Err(Refused::BadSignature));
    // Another organization, another log, the head of the log itself.
    for origin in [format!("{NAME}/globex"), "other.example/acme".to_owned(), NAME.to_owned()] {
        let refused = with(head(&origin, 3, &root)).unwrap_err();
        assert!(matches!(refused, Refused::WrongOrigin { .. }), "{origin}: {refused}");
    }
    // Signatures of others beside ours are passed over, also many.
    let others: String = (3..40).map(|it| line(it, "w.example", &text)).collect();
    assert!(with(format!("{text}\n{others}{}", line(1, NAME, &text))).is_ok());
    // Sizes and lines that are not canonical.
    for (from, to) in
        [("\n3\n", "\n03\n"), ("\n3\n", "\n+3\n"), ("\n3\n", "\r\n3\n"), ("\n3\n", "\n3\nx\n")]
    {
        let text = text.replacen(from, to, 1);
        let refused = with(format!("{text}\n{}", line(1, NAME, &text))).unwrap_err();
        assert!(matches!(refused, Refused::Malformed(_)), "{refused}");
    }
    let good = format!("{text}\n{}", line(1, NAME, &text));
    assert!(
        matches!(with(good.trim_end().to_owned()), Err(Refused::Malformed(_))),
        "no last line end"
    );
}

/// G-10: fork, truncation, roll-back and replay, for somebody who has seen an older head.
#[test]
fn a_log_that_goes_back_or_is_another_one_is_refused() {
    let leaves = leaves(8);
    let heads: Vec<Head> = (1..=8)
        .map(|size| Head { origin: "o".to_owned(), size: size as u64, root: root(&leaves[..size]) })
        .collect();
    let mut seen = Seen::default();
    seen.remember(&heads[3]);
    // From 4, which is complete, to 8: the other half.
    let proof = Consistency { from: 4, to: 8, hashes: vec![root(&leaves[4..])] };
    assert_eq!(seen.check(&heads[7], None, Some(&proof)), Ok(()));
    assert_eq!(seen.check(&heads[7], Some(heads[3].root), None), Ok(()));
    assert_eq!(seen.check(&heads[7], None, None), Err(Refused::NoConsistency { seen: 4, size: 8 }));
    assert_eq!(seen.check(&heads[1], None, None), Err(Refused::RolledBack { size: 2, seen: 4 }));
    let forked = Head { root: [0; 32], ..heads[3].clone() };
    assert_eq!(seen.check(&forked, None, None), Err(Refused::Forked { seen: 4 }));
    let forked = Head { root: [0; 32], ..heads[7].clone() };
    assert_eq!(seen.check(&forked, None, Some(&proof)), Err(Refused::Forked { seen: 4 }));
    assert_eq!(seen.check(&heads[7], Some([0; 32]), None), Err(Refused::Forked { seen: 4 }));
    let wrong = Consistency { from: 3, ..proof.clone() };
    assert_eq!(seen.check(&heads[7], None, Some(&wrong)), Err(Refused::Forked { seen: 4 }));
    // An older head of the same log is believed if that is proven.
    let back = Consistency { from: 2, to: 4, hashes: vec![root(&leaves[2..4])] };
    assert_eq!(seen.check(&heads[1], None, Some(&back)), Ok(()));
    seen.remember(&heads[7]);
    seen.remember(&heads[1]);
    assert_eq!(seen.of("o").unwrap().size, 8);
}

#[test]
fn a_whole_bundle_proves_that_nothing_is_missing() {
    let mut all = leaves(5);
    all.insert(2, leaf("project", 1));
    let report = verify(&bundle(&all)).unwrap();
    assert_eq!((report.entries, report.hidden, report.whole), (6, 0, true));
    assert_eq!(report.sources["identity"], (1, 5));
    assert_eq!(report.sources["project"], (1, 1));
}

#[test]
fn a_bundle_that_was_changed_says_which_entry() {
    let good = bundle(&leaves(6));
    let refused = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut forged = good.clone();
        change(&mut forged);
        verify(&forged).unwrap_err()
    };
    // One byte of an entry.
    let mut other = leaves(6)[2].clone();
    other[5] ^= 1;
    let changed = refused(&|it| it[3]["leaf"] = BASE64.encode(&other).into());
    assert_eq!(changed, Refused::Changed { index: 2 });
    // An entry together with its hash.
    let both = refused(&|it| {
        it[3]["leaf"] = BASE64.encode(&leaf("identity", 3)).into();
        it[3]["leaf_hash"] = BASE64.encode(&leaf_hash(b"x")).into();
    });
    assert_eq!(both, Refused::Changed { index: 2 });
    let consistent = refused(&|it| {
        let mut forged = leaves(6)[2].clone();
        forged.push(0x62);
        forged.push(0);
        it[3]["leaf_hash"] = BASE64.encode(&leaf_hash(&forged)).into();
        it[3]["leaf"] = BASE64.encode(&forged).into();
    });
    assert_eq!(consistent, Refused::RootMismatch);
    // Deleted, inserted, swapped, cut.
    assert_eq!(refused(&|it| drop(it.remove(3))), Refused::Missing { index: 2 });
    assert_eq!(refused(&|it| it.insert(3, good[3].clone())), Refused::Missing { index: 3 });
    assert_eq!(refused(&|it| it.swap(3, 4)), Refused::Missing { index: 2 });
    let renumbered = refused(&|it| {
        it.swap(3, 4);
        it[3]["index"] = 2.into();
        it[4]["index"] = 3.into();
    });
    let gap = Refused::Gap { source_name: "identity".to_owned(), sequence: 3, index: 2 };
    assert_eq!(renumbered, gap);
    assert_eq!(
        refused(&|it| it.truncate(4)),
        malformed("the bundle is cut off: it has no last line")
    );
    let shorter = refused(&|it| {
        it.remove(6);
        it[6]["count"] = 5.into();
    });
    assert_eq!(shorter, Refused::Missing { index: 5 });
    // A hash in the place of an entry hides it, but not that it is there.
    let mut hidden = good.clone();
    hidden[1] = json!({ "index": 0, "leaf_hash": good[1]["leaf_hash"] });
    let report = verify(&hidden).unwrap();
    assert_eq!((report.entries, report.hidden), (5, 1));
}

/// A service that lost an event shows by its numbers.
#[test]
fn a_gap_in_the_numbers_of_a_service_is_told() {
    let mut all = leaves(5);
    all.remove(2);
    let gap = Refused::Gap { source_name: "identity".to_owned(), sequence: 3, index: 2 };
    assert_eq!(verify(&bundle(&all)).unwrap_err(), gap);
}

/// A project whose name looks sealed is shown with that name.
#[test]
fn a_name_of_an_object_that_looks_sealed_is_shown() {
    let name = format!("sealed:{}", data_encoding::BASE64URL_NOPAD.encode(&[1; 40]));
    let shown = |kind: &str| {
        let (kind, name) = (kind.to_owned(), name.clone());
        let resource = api::event::Resource { kind, name, id: "7".to_owned() };
        let leaf = Envelope { resource: Some(resource), ..Default::default() }.encode_to_vec();
        receipt::read(0, &leaf, &sealed::Keys::new()).unwrap().resource
    };
    assert_eq!(shown("project"), format!("project \u{201c}{name}\u{201d}"));
    assert_eq!(shown("member"), "member \u{201c}erased\u{201d}");
}

/// A number of an event that cannot be followed is refused like any gap.
#[test]
fn the_highest_number_of_a_service_is_no_way_around_the_check() {
    let leaves = vec![leaf("identity", i64::MAX), leaf("identity", i64::MAX)];
    let mut lines = bundle(&leaves);
    lines.insert(1, json!({ "index": 0, "leaf_hash": BASE64.encode(&leaf_hash(b"hidden")) }));
    for (index, line) in lines[2..4].iter_mut().enumerate() {
        line["index"] = json!(index + 1);
    }
    let mut hashes = vec![b"hidden".to_vec()];
    hashes.extend(leaves);
    lines[0]["checkpoint"] = json!(head(&format!("{NAME}/acme"), 3, &root(&hashes)));
    lines[4]["count"] = json!(3);
    assert_eq!(
        verify(&lines).unwrap().entries,
        2,
        "a number that is used again takes nothing away"
    );
}
