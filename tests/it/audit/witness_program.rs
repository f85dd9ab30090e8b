//! The program `tenantry witness`: what it cosigns, hostile requests, and kills.

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use data_encoding::{BASE64, HEXLOWER};
use reqwest::StatusCode;
use sha2::Sha256;
use testkit::Process;
use verifier::witness::WitnessKey;

use crate::support::witness_process::WitnessProcess;

/// A log of another implementation of RFC 6962.
#[derive(Clone)]
struct OtherLog {
    origin: &'static str,
    seed: u8,
    tree: MemoryBackedTree<Sha256, Vec<u8>>,
    size: usize,
}

impl OtherLog {
    fn new(origin: &'static str, seed: u8) -> Self {
        Self { origin, seed, tree: MemoryBackedTree::new(), size: 0 }
    }

    /// The log with further entries.
    fn grown(&self, entries: &[&str]) -> Self {
        let mut grown = self.clone();
        for entry in entries {
            grown.tree.push(entry.as_bytes().to_vec());
            grown.size += 1;
        }
        grown
    }

    fn key_pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[self.seed; 32]).unwrap()
    }

    fn typed_key(&self) -> Vec<u8> {
        [&[1], self.key_pair().public_key().as_ref()].concat()
    }

    fn key_id(&self) -> Vec<u8> {
        let named = [self.origin.as_bytes(), b"\n", &self.typed_key()].concat();
        chassis::key::hash(&named)[..4].to_vec()
    }

    /// The line of the log in the file of a witness.
    fn line(&self) -> String {
        let id = HEXLOWER.encode(&self.key_id());
        let origin = self.origin;
        format!("{origin} {origin}+{id}+{}\n", BASE64.encode(&self.typed_key()))
    }

    fn text(&self) -> String {
        let root = self.tree.root();
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(root.as_bytes().as_slice()))
    }

    /// Signs a text as this log.
    fn sign(&self, text: &str) -> String {
        let signature = self.key_pair().sign(text.as_bytes());
        let bytes = [&self.key_id()[..], signature.as_ref()].concat();
        format!("{text}\n\u{2014} {} {}\n", self.origin, BASE64.encode(&bytes))
    }

    /// The body of a request with a checkpoint of this log, after one of `old_size`.
    fn body(&self, old_size: usize) -> String {
        let proof = if old_size == 0 || old_size > self.size {
            vec![]
        } else {
            self.tree.prove_consistency(self.size - old_size).as_bytes().to_vec()
        };
        let lines: String = proof.chunks(32).map(|it| format!("{}\n", BASE64.encode(it))).collect();
        format!("old {old_size}\n{lines}\n{}", self.sign(&self.text()))
    }
}

/// Starts a witness of logs.
async fn witness_of(logs: &[&OtherLog]) -> WitnessProcess {
    let mut witness = WitnessProcess::start("witness.example/w1").await;
    witness.stop();
    witness.set_logs(&logs.iter().map(|it| it.line()).collect::<String>());
    witness.start_again().await;
    witness
}

/// A-07, C2SP tlog-witness: checkpoints that continue the one before are cosigned, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_what_continues() {
    let log = OtherLog::new("example.com/log", 1);
    let other = OtherLog::new("example.org/another", 2).grown(&["x"]);
    let mut witness = witness_of(&[&log, &other]).await;
    let key = WitnessKey::parse(&witness.key).unwrap();
    assert_eq!(witness.newest(log.origin).await.status, StatusCode::NOT_FOUND);
    let empty = witness.add_checkpoint(log.body(0)).await.unwrap();
    assert_eq!(empty.status, StatusCode::OK, "the empty tree: {}", empty.text);
    let mut log = log.grown(&["a", "b", "c"]);
    let mut old_size = 0;
    for entries in [&["d"][..], &["e", "f", "g"], &[]] {
        log = log.grown(entries);
        let cosigned = witness.add_checkpoint(log.body(old_size)).await.unwrap();
        assert_eq!(cosigned.status, StatusCode::OK, "{}", cosigned.text);
        let cosignature = key.cosignature_in(&log.text(), &cosigned.text).unwrap();
        assert!(cosignature.time > 1_700_000_000);
        let newest = witness.newest(log.origin).await;
        let stored = format!("{}{}", log.sign(&log.text()), cosigned.text);
        assert_eq!(newest.text, stored);
        old_size = log.size;
        witness.stop();
        witness.start_again().await;
    }
    // The logs are independent of each other.
    let cosigned = witness.add_checkpoint(other.body(0)).await.unwrap();
    assert_eq!(cosigned.status, StatusCode::OK, "{}", cosigned.text);
    // Extension lines, and signatures of others, are no obstacle.
    let extended = log.grown(&["h"]);
    let body = extended.body(old_size);
    let (head, _) = body.split_once("\n\n").unwrap();
    let note = extended.sign(&format!("{}extension\n", extended.text()));
    let note = format!("{note}{}", other.sign("").trim_start());
    let cosigned = witness.add_checkpoint(format!("{head}\n\n{note}")).await.unwrap();
    assert_eq!(cosigned.status, StatusCode::OK, "{}", cosigned.text);
    let text = format!("{}extension\n", extended.text());
    assert!(key.cosignature_in(&text, &cosigned.text).is_some());
}

/// each hostile request has the status of the specification, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_refuses_hostile_requests() {
    let log = OtherLog::new("example.com/log", 1).grown(&["a", "b", "c"]);
    let mut witness = witness_of(&[&log]).await;
    assert_eq!(witness.add_checkpoint(log.body(0)).await.unwrap().status, StatusCode::OK);
    let stored = witness.newest(log.origin).await.text;
    let grown = log.grown(&["d", "e"]);
    let fork = OtherLog::new(log.origin, 1).grown(&["a", "b", "x"]);
    let larger_fork = fork.grown(&["d", "e"]);
    let foreign = OtherLog { seed: 9, ..grown.clone() };
    let unknown = OtherLog { origin: "example.com/other", ..grown.clone() };
    let good = grown.body(3);
    let (head, note) = good.split_once("\n\n").unwrap();
    let empty_root = OtherLog { tree: log.tree.clone(), ..OtherLog::new(log.origin, 1) };
    let hash = BASE64.encode(&[7; 32]);
    let cases = [
        ("not a request", "checkpoint".to_owned(), 400),
        ("no checkpoint", "old 3\n\n".to_owned(), 404),
        ("an old size with a zero", good.replace("old 3", "old 03"), 400),
        ("64 hashes", format!("old 3\n{}\n{note}", format!("{hash}\n").repeat(64)), 400),
        ("another origin", unknown.body(3), 404),
        ("a key that the witness does not know", foreign.body(3), 403),
        ("a forged signature", good.replace("\n5\n", "\n6\n"), 403),
        ("an unsigned checkpoint", format!("{head}\n\n{}\n", grown.text()), 400),
        ("an old size above the new size", log.body(3).replace("old 3", "old 4"), 400),
        ("an old size above that of the witness", grown.body(4), 409),
        ("an old size below that of the witness", grown.body(2), 409),
        ("the first request again", log.body(0), 409),
        ("no proof", format!("old 3\n\n{note}"), 422),
        ("another proof", good.replacen(&head["old 3\n".len()..][..44], &hash, 1), 422),
        ("too many hashes", format!("{head}\n{hash}\n\n{note}"), 422),
        ("another tree of the same size", fork.body(3), 422),
        ("a larger tree that does not continue", larger_fork.body(3), 422),
        (
            "a hash for the same size",
            log.body(3).replace("old 3\n", &format!("old 3\n{hash}\n")),
            422,
        ),
        ("a smaller size", OtherLog::new(log.origin, 1).grown(&["a"]).body(0), 409),
        ("a root of the empty tree that is not empty", empty_root.body(0), 409),
    ];
    for (name, body, status) in cases {
        let refused = witness.add_checkpoint(body).await.unwrap();
        assert_eq!(refused.status, status, "{name}: {}", refused.text);
        if status == 409 {
            assert_eq!((&*refused.text, &*refused.content_type), ("3\n", "text/x.tlog.size"));
        }
        assert_eq!(witness.newest(log.origin).await.text, stored, "{name}");
    }
    assert!(witness.output().contains("REFUSED: the checkpoint does not continue"));
    let large = witness.add_checkpoint(vec![b'a'; 200 * 1024]).await;
    assert!(large.is_err() || large.unwrap().status == StatusCode::PAYLOAD_TOO_LARGE);
    let url = format!("{}/add-checkpoint", witness.url());
    assert_eq!(reqwest::get(url).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    let cosigned = witness.add_checkpoint(good.clone()).await.unwrap();
    assert_eq!(cosigned.status, StatusCode::OK, "{}", cosigned.text);
    assert_eq!(
        witness.add_checkpoint(good).await.unwrap().status,
        StatusCode::CONFLICT,
        "a replay"
    );
    // A damaged file is not taken for a log that was never cosigned.
    witness.stop();
    damage(&witness.checkpoints());
    let arguments = [
        "witness".to_owned(),
        "--name=witness.example/w1".to_owned(),
        format!("--logs={}", witness.data_dir().join("../logs").display()),
        format!("--data-dir={}", witness.data_dir().display()),
        "--listen=127.0.0.1:0".to_owned(),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let refused = Process::run("tenantry", &arguments);
    let errors = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && errors.contains("it is damaged"), "{errors}");
}

/// Changes a digit of each stored checkpoint.
fn damage(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\n5\n", "\n6\n", 1)).unwrap();
    }
}

/// a witness that is killed at any moment never cosigns two checkpoints of one size.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_witness_cosigns_one_checkpoint_of_a_size() {
    let mut log = OtherLog::new("example.com/log", 1).grown(&["a"]);
    let mut witness = witness_of(&[&log]).await;
    assert_eq!(witness.add_checkpoint(log.body(0)).await.unwrap().status, StatusCode::OK);
    let (mut lost, mut kept) = (0, 0);
    for round in 0..24_u32 {
        let old_size = log.size;
        let [one, other] = ["one", "other"].map(|it| log.grown(&[&format!("{it} {round}")]));
        let url = format!("{}/add-checkpoint", witness.url());
        let request = reqwest::Client::new().post(url).body(one.body(old_size)).send();
        let request = tokio::task::spawn(request);
        // Kills spread over the time of the request: it is polled by another thread.
        for _ in 0..round * 40 {
            tokio::task::yield_now().await;
        }
        witness.kill();
        let is_cosigned =
            request.await.unwrap().is_ok_and(|answer| answer.status() == StatusCode::OK);
        witness.start_again().await;
        let newest = witness.newest(log.origin).await.text;
        let second = witness.add_checkpoint(other.body(old_size)).await.unwrap();
        if newest.starts_with(&one.text()) {
            assert_ne!(second.status, StatusCode::OK, "round {round}: two checkpoints of one size");
            log = one;
            kept += 1;
        } else {
            assert!(!is_cosigned, "round {round}: a cosigned checkpoint is forgotten");
            assert_eq!(second.status, StatusCode::OK, "{}", second.text);
            log = other;
            lost += 1;
        }
    }
    assert_eq!(lost + kept, 24);
}
