//! Tests of cosignatures and policies: examples of the specifications, forged lines, and defective files.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::*;

pub(super) const TEXT: &str =
    "log.example/suite\n2\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

/// A witness for tests.
pub(super) struct TestWitness {
    name: String,
    key: Ed25519KeyPair,
}

impl TestWitness {
    pub(super) fn new(seed: u8) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Self { name: format!("w{seed}.example"), key }
    }

    pub(super) fn verifier_key(&self) -> String {
        verifier_key(&self.name, self.key.public_key().as_ref())
    }

    pub(super) fn line(&self, text: &str, time: u64) -> String {
        let signature = self.key.sign(&cosigned_message(text, time));
        let public = self.key.public_key().as_ref();
        cosignature_line(&self.name, public, time, signature.as_ref())
    }
}

/// A note with a line of the log, which nobody here verifies, and cosignatures.
pub(super) fn note(witnesses: &[&TestWitness]) -> String {
    let lines: String = witnesses.iter().map(|it| format!("{}\n", it.line(TEXT, 7))).collect();
    format!("{TEXT}\n\u{2014} log.example AAAAAAAA\n{lines}")
}

#[test]
fn only_the_cosignature_of_the_witness_under_this_text_counts() {
    let [one, two] = [1, 2].map(TestWitness::new);
    let key = WitnessKey::parse(&one.verifier_key()).unwrap();
    let cosigned = note(&[&two, &one]);
    assert_eq!(key.cosignature(&cosigned).unwrap().time, 7);
    assert_eq!(key.cosignature(&note(&[&two])), None);
    assert_eq!(key.cosignature(&cosigned.replace("\n2\n", "\n3\n")), None, "another text");
    assert_eq!(key.cosignature(&cosigned.replace(&one.name, &two.name)), None, "another name");
    let lines = format!("{}\n{}\n", two.line(TEXT, 7), one.line(TEXT, 7));
    assert_eq!(key.cosignature_in(TEXT, &lines).unwrap().line, one.line(TEXT, 7));
    assert_eq!(key.cosignature_in(TEXT, "no line\n"), None);
    for time in [0, u64::MAX] {
        assert_eq!(key.cosignature_in(TEXT, &one.line(TEXT, time)), None, "time {time}");
    }
    let log_key = "log.example+4419620e+AfYwYSymMpBlHYFGcNoxlTWpWArGBc3BEc6qqVqTDgCw";
    assert!(WitnessKey::parse(log_key).is_err(), "the key of a log is not that of a witness");
}

#[test]
fn a_policy_has_groups_with_thresholds() {
    let witnesses = [1, 2, 3, 4, 5].map(TestWitness::new);
    let lines: String = witnesses
        .iter()
        .map(|it| {
            format!(" witness\t{} {} https://{}/\n", &it.name[..2], it.verifier_key(), it.name)
        })
        .collect();
    let text = format!(
        "# two operators\n\n{lines}group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup both all x y\nquorum both"
    );
    let policy = WitnessPolicy::parse(&text).unwrap();
    assert_eq!(policy.witnesses()[4].url.as_deref(), Some("https://w5.example/"));
    let [w1, w2, w3, w4, w5] = witnesses.each_ref();
    for (cosigners, is_met) in [
        (vec![w1, w2, w4], true),
        (vec![w1, w3, w5, w4], true),
        (vec![w1, w4, w5], false),
        (vec![w1, w2, w3], false),
        (vec![w1, w1, w4], false),
        (vec![], false),
    ] {
        let note = note(&cosigners);
        let names: Vec<_> = cosigners.iter().map(|it| &it.name).collect();
        assert_eq!(policy.is_met(&note), is_met, "{names:?}");
        assert_eq!(policy.require(&note).is_ok(), is_met);
    }
    let keys = [w1, w2].map(TestWitness::verifier_key);
    let refused = WitnessPolicy::of_keys(&keys, 2).unwrap().require(&note(&[w1]));
    assert_eq!(refused, Err(VerifyError::NotWitnessed { found: "w1.example".to_owned() }));
    assert!(WitnessPolicy::of_keys(&keys, 1).unwrap().is_met(&note(&[w2])));
    assert!(WitnessPolicy::parse("quorum none\n").unwrap().is_met(&note(&[])));
}

#[test]
fn a_defective_policy_is_refused_with_the_line() {
    let [one, two] = [1, 2].map(|it| TestWitness::new(it).verifier_key());
    let witnesses = format!("witness a {one}\nwitness b {two}\n");
    for (text, message) in [
        (String::new(), "line 1: there is no line `quorum <name>`"),
        (format!("{witnesses}quorum c"), "line 3: c is not defined"),
        (format!("{witnesses}quorum a\nquorum b"), "line 4: there is a second quorum"),
        (format!("{witnesses}group g 3 a b\nquorum g"), "line 3: 3 of 2 members is not possible"),
        (format!("{witnesses}group g 0 a b\nquorum g"), "line 3: 0 of 2 members is not possible"),
        (format!("{witnesses}group g all\nquorum g"), "line 3: 0 of 0 members is not possible"),
        (format!("{witnesses}group g any a a\nquorum g"), "line 3: a is already in a group"),
        (format!("{witnesses}group g any a none\nquorum g"), "line 3: none is not defined"),
        (format!("{witnesses}group a any b\nquorum a"), "line 3: the name a is already in use"),
        (format!("{witnesses}witness none {one}"), "line 3: another line has the same key"),
        (format!("witness none {one}"), "line 1: the name none is already in use"),
        ("witness a b+c".to_owned(), "line 1: MALFORMED"),
        ("log a b c".to_owned(), "line 1: expected `log"),
        ("# a\u{1}".to_owned(), "line 1: a control character"),
    ] {
        let error = WitnessPolicy::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}: {error}");
    }
}
