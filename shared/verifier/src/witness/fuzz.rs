//! Fuzz targets: cosigned checkpoints from a malicious log, and policy files.

use bolero::check;

use super::{
    tests::{TEXT, TestWitness, note},
    *,
};
use crate::fuzz::input::Input;

/// A modified checkpoint has no cosignature, or is the cosigned one.
#[test]
fn a_changed_checkpoint_is_not_cosigned() {
    let [one, two] = [1, 2].map(TestWitness::new);
    let key = WitnessKey::parse(&one.verifier_key()).unwrap();
    let cosigned = note(&[&two, &one]);
    check!().with_type::<Input>().for_each(|input| {
        let changed = input.text(&[&cosigned]);
        if let Some(cosignature) = key.cosignature(&changed) {
            assert!(changed.starts_with(&format!("{TEXT}\n")), "another text");
            assert_eq!(cosignature.line, one.line(TEXT, 7));
        }
    });
}

/// A policy is refused, or is met by all its witnesses together if it is met by some of them.
#[test]
fn more_cosignatures_never_break_a_policy() {
    let witnesses = [1, 2, 3].map(TestWitness::new);
    let lines: String = witnesses
        .iter()
        .enumerate()
        .map(|(index, it)| {
            format!("witness w{index} {} https://w{index}.example\n", it.verifier_key())
        })
        .collect();
    let sample = format!("# comment\n{lines}group two 2 w0 w1 w2\ngroup any any two\nquorum any\n");
    let few = note(&[&witnesses[0], &witnesses[2]]);
    let all = note(&witnesses.each_ref());
    check!().with_type::<Input>().for_each(|input| {
        let Ok(policy) = WitnessPolicy::parse(&input.text(&[&sample])) else { return };
        assert!(!policy.is_met("") || policy.is_met(&few));
        assert!(!policy.is_met(&few) || policy.is_met(&all));
    });
}
