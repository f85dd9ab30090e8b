//! Collaborators: people and teams with a role on a project. Identity owns the grants; this service
//! forwards calls to it with the caller's credential (P-09).

pub(crate) mod rpc;
