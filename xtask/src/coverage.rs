//! Coverage of the contract by events (AU-1): after all tests, every method that declares events must have
//! left a primary event in the audit log of some test. The tests record those methods in
//! `target/event-coverage`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{Outcome, run::root};

/// Methods that write no event of their own: they call a method of another service, which does.
const DELEGATING: [&str; 4] = [
    "tenantry.project.v1.CollaboratorService/AddCollaborator",
    "tenantry.project.v1.CollaboratorService/UpdateCollaborator",
    "tenantry.project.v1.CollaboratorService/RemoveCollaborator",
    "tenantry.invitation.v1.InvitationService/SignUp",
];

/// Folder with one file per suite that a test has started; each line is a method.
fn records() -> PathBuf {
    root().join("target/event-coverage")
}

/// Deletes the records of earlier runs.
pub(crate) fn reset() {
    let _ = fs::remove_dir_all(records());
}

/// Fails if a method that declares events is in no record.
pub(crate) fn check() -> Outcome {
    let records =
        fs::read_dir(records()).map_err(|error| format!("target/event-coverage: {error}"))?;
    let mut covered = BTreeSet::new();
    for record in records.flatten() {
        let text = fs::read_to_string(record.path()).unwrap_or_default();
        covered.extend(text.lines().map(str::to_owned));
    }
    let mut uncovered = vec![];
    for file in contract(&root().join("proto")) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        uncovered.extend(
            methods_with_events(&text).into_iter().filter(|method| {
                !covered.contains(method) && !DELEGATING.contains(&method.as_str())
            }),
        );
    }
    if uncovered.is_empty() {
        Ok(())
    } else {
        Err(format!("no test has recorded an event of {}", uncovered.join(", ")))
    }
}

/// Files of the contract below a folder.
fn contract(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(contract(&path));
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Methods of a file of the contract (`package.Service/Method`) whose rule has a line `emits:`.
fn methods_with_events(text: &str) -> Vec<String> {
    let mut package = "";
    let mut service = "";
    let mut method = "";
    let mut found: Vec<String> = vec![];
    for line in text.lines().map(str::trim_start) {
        if let Some(rest) = line.strip_prefix("package ") {
            package = rest.trim_end_matches(';');
        } else if let Some(rest) = line.strip_prefix("service ") {
            service = rest.split([' ', '{']).next().unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("rpc ") {
            method = rest.split('(').next().unwrap_or_default();
        } else if line.starts_with("emits:") {
            found.push(format!("{package}.{service}/{method}"));
        }
    }
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_with_events_are_found() {
        let text = "package tenantry.identity.v1;\n\
                    service TeamService {\n\
                      rpc CreateTeam(CreateTeamRequest) returns (CreateTeamResponse) {\n\
                        option (tenantry.policy.v1.rule) = {\n\
                          emits: \"tenantry.identity.v1.TeamCreated\"\n\
                          emits: \"tenantry.identity.v1.TeamMemberAdded\"\n\
                        };\n\
                      }\n\
                      rpc GetTeam(GetTeamRequest) returns (GetTeamResponse) {\n\
                      }\n\
                    }\n";
        assert_eq!(methods_with_events(text), ["tenantry.identity.v1.TeamService/CreateTeam"]);
    }
}
