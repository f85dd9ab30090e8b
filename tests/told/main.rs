//! Runs after the other tests: every changing method of the contract has left its primary event in the log of
//! some test.

use std::{collections::BTreeSet, fs};

use chassis::rule::Rules;

/// Methods that ask another service on behalf of their caller: the event is in the name of its method.
const DELEGATING: [&str; 4] = [
    "tenantry.project.v1.CollaboratorService/AddCollaborator",
    "tenantry.project.v1.CollaboratorService/UpdateCollaborator",
    "tenantry.project.v1.CollaboratorService/RemoveCollaborator",
    "tenantry.invitation.v1.InvitationService/SignUp",
];

/// AU-1: generated from the contract, so that a method that is written tomorrow counts, too. What each call
/// left is looked at when a test ends its suite.
#[test]
fn every_changing_method_has_left_exactly_one_primary_event() {
    let notes =
        fs::read_dir(testkit::told()).expect("the other tests run first: `cargo xtask test`");
    let told: BTreeSet<String> = notes
        .flatten()
        .flat_map(|it| {
            let note = fs::read_to_string(it.path()).expect("a note");
            note.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let rules = Rules::load(api::DESCRIPTORS).expect("the contract has rules");
    let untold: Vec<&str> = rules
        .iter()
        .filter(|it| !it.emits.is_empty() && !told.contains(&it.method))
        .map(|it| it.method.as_str())
        .filter(|it| !DELEGATING.contains(it))
        .collect();
    assert!(untold.is_empty(), "no test has seen the event of {untold:#?}");
}
