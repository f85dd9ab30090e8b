//! Facts about access: who is a member, who is in a team, who has which role. Tables store them; a snapshot
//! is built from them.

use std::collections::HashSet;

use chassis::{ProjectId, TeamId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    policy::{OrgRole, ProjectRole},
    snapshot::{Change, Snapshot},
    types::{Principal, StoredText},
};

/// The kind of a fact about access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FactKind {
    Member,
    Team,
    TeamMember,
    Project,
    UserGrant,
    TeamGrant,
}

impl StoredText for FactKind {
    const TEXTS: &'static [(Self, &'static str)] = &[
        (Self::Member, "member"),
        (Self::Team, "team"),
        (Self::TeamMember, "team_member"),
        (Self::Project, "project"),
        (Self::UserGrant, "user_grant"),
        (Self::TeamGrant, "team_grant"),
    ];
}

impl FactKind {
    /// Returns true if the fact connects a member or team with a team or project.
    fn is_relation(self) -> bool {
        matches!(self, Self::TeamMember | Self::UserGrant | Self::TeamGrant)
    }
}

/// A fact, as a row.
pub struct FactRow {
    pub kind: String,
    /// The account, team or project that the fact is about.
    pub subject_id: Uuid,
    /// The team or project on the other side of a relation; the subject itself if the fact is no relation.
    pub object_id: Uuid,
    /// The role of a member or grant.
    pub role: Option<String>,
}

impl FactRow {
    /// Returns the key of the fact; `None` for an unknown kind.
    fn key(&self) -> Option<FactKey> {
        let kind = FactKind::parse_text(&self.kind)?;
        Some(FactKey { kind, subject_id: self.subject_id, object_id: self.object_id })
    }
}

/// The identifying fields of a fact. An organization has at most one current fact with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FactKey {
    pub kind: FactKind,
    /// Like [`FactRow::subject_id`].
    pub subject_id: Uuid,
    /// Like [`FactRow::object_id`].
    pub object_id: Uuid,
}

impl FactKey {
    /// Returns the key of a membership in the organization.
    pub fn member(user_id: UserId) -> Self {
        Self { kind: FactKind::Member, subject_id: user_id.0, object_id: user_id.0 }
    }

    /// Returns the key of a grant to a member.
    pub fn user_grant(user_id: UserId, project_id: ProjectId) -> Self {
        Self { kind: FactKind::UserGrant, subject_id: user_id.0, object_id: project_id.0 }
    }

    /// Returns the key of a grant to a team.
    pub fn team_grant(team_id: TeamId, project_id: ProjectId) -> Self {
        Self { kind: FactKind::TeamGrant, subject_id: team_id.0, object_id: project_id.0 }
    }
}

/// The event that established a fact, and its time.
#[derive(Clone, Copy, Debug)]
pub struct FactOrigin {
    pub event_id: Uuid,
    pub changed_at: OffsetDateTime,
}

/// A fact that changed after a version: its row, and if it is current at the newest version.
pub struct FactChange {
    pub row: FactRow,
    pub is_current: bool,
}

/// Applies the changes of facts since the version of a snapshot, in any order. Facts that are not current any
/// more are removed before the current ones are added.
pub fn update(mut snapshot: Snapshot, changes: Vec<FactChange>) -> Snapshot {
    let (current, ended): (Vec<_>, Vec<_>) = changes.into_iter().partition(|it| it.is_current);
    let current: Vec<_> = current.into_iter().map(|it| it.row).collect();
    let current_keys: HashSet<_> = current.iter().filter_map(FactRow::key).collect();
    let ended_keys = ended.iter().filter_map(|it| it.row.key());
    // A fact whose role changed has an ended row and a current one.
    for key in ended_keys.filter(|it| !current_keys.contains(it)) {
        snapshot.apply(to_removal(key));
    }
    build(snapshot, &current)
}

/// Returns the change that removes a fact from a snapshot.
fn to_removal(key: FactKey) -> Change {
    let FactKey { kind, subject_id, object_id } = key;
    match kind {
        FactKind::Member => Change::RemoveMember(UserId(subject_id)),
        FactKind::Team => Change::DeleteTeam(TeamId(subject_id)),
        FactKind::Project => Change::RemoveProject(ProjectId(subject_id)),
        FactKind::TeamMember => Change::RemoveFromTeam(TeamId(object_id), UserId(subject_id)),
        FactKind::UserGrant => {
            Change::Revoke(ProjectId(object_id), Principal::User(UserId(subject_id)))
        }
        FactKind::TeamGrant => {
            Change::Revoke(ProjectId(object_id), Principal::Team(TeamId(subject_id)))
        }
    }
}

/// Adds facts to a snapshot: first members, teams and projects, then the relations between them. Facts with
/// an unknown kind or role are left out.
pub fn build(mut snapshot: Snapshot, rows: &[FactRow]) -> Snapshot {
    let facts = rows.iter().filter_map(|row| Some((FactKind::parse_text(&row.kind)?, row)));
    let (relations, objects): (Vec<_>, Vec<_>) = facts.partition(|(kind, _)| kind.is_relation());
    for (kind, row) in objects.into_iter().chain(relations) {
        if let Some(change) = to_change(kind, row) {
            snapshot.apply(change);
        }
    }
    snapshot
}

/// Returns the change that adds a fact to a snapshot; `None` for an unknown role.
fn to_change(kind: FactKind, row: &FactRow) -> Option<Change> {
    let role = row.role.as_deref().unwrap_or_default();
    let user_id = UserId(row.subject_id);
    let project_id = ProjectId(row.object_id);
    Some(match kind {
        FactKind::Member => Change::SetRole(user_id, OrgRole::parse_text(role)?),
        FactKind::Team => Change::AddTeam(TeamId(row.subject_id)),
        FactKind::Project => Change::AddProject(project_id),
        FactKind::TeamMember => Change::AddToTeam(TeamId(row.object_id), user_id),
        FactKind::UserGrant => {
            Change::Grant(project_id, Principal::User(user_id), ProjectRole::parse_text(role)?)
        }
        FactKind::TeamGrant => {
            let principal = Principal::Team(TeamId(row.subject_id));
            Change::Grant(project_id, principal, ProjectRole::parse_text(role)?)
        }
    })
}

#[cfg(test)]
mod tests;
