//! SQL of decisions: versions of access, and the facts of which snapshots are built.

use std::collections::HashMap;

use chassis::{Db, OrgId, ProjectId, Result, UserId};
use sqlx::{PgConnection, query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    policy::{OrgRole, ProjectRole},
    snapshot::{Change, Snapshot, Status},
    types::{Principal, TeamId},
};

/// Returns the access version of an organization. Every decision from the newest state makes this read, by
/// primary key.
pub(crate) async fn version(db: &Db, org_id: OrgId) -> Result<Option<i64>> {
    let version = query_scalar!("select access_version from organization where id = $1", org_id.0);
    Ok(version.fetch_optional(db.pool()).await?)
}

/// Returns the access versions of several organizations.
pub(crate) async fn versions(db: &Db, org_ids: &[OrgId]) -> Result<HashMap<OrgId, i64>> {
    let ids: Vec<_> = org_ids.iter().map(|it| it.0).collect();
    let rows = query!("select id, access_version from organization where id = any($1)", &ids);
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.access_version)).collect())
}

/// The kind of a fact about access, as tables store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FactKind {
    Member,
    Team,
    TeamMember,
    Project,
    UserGrant,
    TeamGrant,
}

impl FactKind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "member" => Self::Member,
            "team" => Self::Team,
            "team_member" => Self::TeamMember,
            "project" => Self::Project,
            "user_grant" => Self::UserGrant,
            "team_grant" => Self::TeamGrant,
            _ => return None,
        })
    }

    /// Returns true if the fact connects a member, team or project to another one.
    fn is_relation(self) -> bool {
        matches!(self, Self::TeamMember | Self::UserGrant | Self::TeamGrant)
    }
}

/// A fact, as tables store it.
struct FactRow {
    kind: String,
    /// The account, team or project.
    subject_id: Uuid,
    /// The team or project to which the subject is related; the subject itself if there is none.
    place_id: Uuid,
    role: Option<String>,
}

/// Loads the snapshot of an organization. One statement, so that all rows are of one version.
pub(crate) async fn load(connection: &mut PgConnection, org_id: OrgId) -> Result<Option<Snapshot>> {
    let rows = query!(
        r#"select 'organization' as "kind!", id as "subject_id!: Uuid", id as "place_id!: Uuid",
                  subscription as "role: String", access_version as "version!", deleted_at
           from organization where id = $1
           union all
           select 'member', user_id, user_id, role, 0, null from member where org_id = $1
           union all
           select 'team', id, id, null, 0, null from team where org_id = $1
           union all
           select 'team_member', user_id, team_id, null, 0, null from team_member where org_id = $1
           union all
           select 'project', id, id, null, 0, null from project where org_id = $1
           union all
           select case when user_id is null then 'team_grant' else 'user_grant' end,
                  principal_id, project_id, role, 0, null
           from project_grant where org_id = $1"#,
        org_id.0
    )
    .fetch_all(connection)
    .await?;
    let Some(head) = rows.iter().find(|it| it.kind == "organization") else { return Ok(None) };
    let status = match (&head.deleted_at, head.role.as_deref()) {
        (Some(_), _) => Status::Deleted,
        (None, Some("blocked")) => Status::Blocked,
        (None, _) => Status::Active,
    };
    let snapshot = Snapshot::new(org_id, head.version, status);
    let facts = rows.into_iter().map(|row| FactRow {
        kind: row.kind,
        subject_id: row.subject_id,
        place_id: row.place_id,
        role: row.role,
    });
    Ok(Some(build(snapshot, &facts.collect::<Vec<_>>())))
}

/// Loads the snapshot of an organization at a time in the past; `None` if the organization did not exist
/// then.
pub(crate) async fn load_past(
    db: &Db,
    org_id: OrgId,
    at: OffsetDateTime,
) -> Result<Option<Snapshot>> {
    let version = query_scalar!(
        r#"select max(version) from access_change where org_id = $1 and changed_at <= $2"#,
        org_id.0,
        at
    );
    let Some(version) = version.fetch_one(db.pool()).await? else { return Ok(None) };
    let facts = sqlx::query_as!(
        FactRow,
        "select kind, subject_id, place_id, role from access_fact
         where org_id = $1 and from_version <= $2 and (to_version is null or to_version > $2)",
        org_id.0,
        version
    );
    let facts = facts.fetch_all(db.pool()).await?;
    Ok(Some(build(Snapshot::new(org_id, version, Status::Active), &facts)))
}

/// Adds facts to a snapshot: first members, teams and projects, then the relations between them.
fn build(mut snapshot: Snapshot, rows: &[FactRow]) -> Snapshot {
    let facts = rows.iter().filter_map(|row| Some((FactKind::parse(&row.kind)?, row)));
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
    let project_id = ProjectId(row.place_id);
    Some(match kind {
        FactKind::Member => Change::SetRole(user_id, parse_org_role(role)?),
        FactKind::Team => Change::AddTeam(TeamId(row.subject_id)),
        FactKind::Project => Change::AddProject(project_id),
        FactKind::TeamMember => Change::AddToTeam(TeamId(row.place_id), user_id),
        FactKind::UserGrant => {
            Change::Grant(project_id, Principal::User(user_id), parse_project_role(role)?)
        }
        FactKind::TeamGrant => {
            let principal = Principal::Team(TeamId(row.subject_id));
            Change::Grant(project_id, principal, parse_project_role(role)?)
        }
    })
}

fn parse_org_role(text: &str) -> Option<OrgRole> {
    Some(match text {
        "viewer" => OrgRole::Viewer,
        "developer" => OrgRole::Developer,
        "admin" => OrgRole::Admin,
        "owner" => OrgRole::Owner,
        _ => return None,
    })
}

fn parse_project_role(text: &str) -> Option<ProjectRole> {
    Some(match text {
        "viewer" => ProjectRole::Viewer,
        "developer" => ProjectRole::Developer,
        "admin" => ProjectRole::Admin,
        _ => return None,
    })
}

/// The identity of a fact about access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FactKey {
    pub(crate) kind: FactKind,
    pub(crate) subject_id: Uuid,
    /// Like [`FactRow::place_id`].
    pub(crate) place_id: Uuid,
}

impl FactKey {
    /// Returns the key of a membership in the organization.
    pub(crate) fn member(user_id: UserId) -> Self {
        Self { kind: FactKind::Member, subject_id: user_id.0, place_id: user_id.0 }
    }

    /// Returns the key of a grant to a member.
    pub(crate) fn user_grant(user_id: UserId, project_id: ProjectId) -> Self {
        Self { kind: FactKind::UserGrant, subject_id: user_id.0, place_id: project_id.0 }
    }

    /// Returns the key of a grant to a team.
    pub(crate) fn team_grant(team_id: TeamId, project_id: ProjectId) -> Self {
        Self { kind: FactKind::TeamGrant, subject_id: team_id.0, place_id: project_id.0 }
    }
}

/// The event that established a fact, and its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FactOrigin {
    pub(crate) event_id: Uuid,
    pub(crate) changed_at: OffsetDateTime,
}

/// Returns the origins of the current facts about some accounts and teams of an organization.
pub(crate) async fn origins(
    db: &Db,
    org_id: OrgId,
    subjects: &[Uuid],
) -> Result<HashMap<FactKey, FactOrigin>> {
    let rows = query!(
        "select kind, subject_id, place_id, event_id, changed_at
         from access_fact
         join access_change on access_change.org_id = access_fact.org_id and version = from_version
         where access_fact.org_id = $1 and to_version is null and subject_id = any($2)",
        org_id.0,
        subjects
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let origins = rows.into_iter().filter_map(|row| {
        let kind = FactKind::parse(&row.kind)?;
        let key = FactKey { kind, subject_id: row.subject_id, place_id: row.place_id };
        Some((key, FactOrigin { event_id: row.event_id, changed_at: row.changed_at }))
    });
    Ok(origins.collect())
}

/// Returns names of teams and e-mail addresses of members, by their ids.
pub(crate) async fn names(db: &Db, org_id: OrgId, ids: &[Uuid]) -> Result<HashMap<Uuid, String>> {
    let rows = query!(
        r#"select id as "id!: Uuid", name as "name!" from team where org_id = $1 and id = any($2)
           union all
           select account.id, email from member join account on account.id = member.user_id
           where member.org_id = $1 and member.user_id = any($2)"#,
        org_id.0,
        ids
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
}

/// The name and address of an account.
#[derive(Clone)]
pub(crate) struct Contact {
    pub(crate) user_id: UserId,
    pub(crate) email: String,
    pub(crate) canonical_email: String,
    pub(crate) display_name: String,
}

/// Returns the accounts with one of the ids or canonical addresses, ordered by id.
pub(crate) async fn contacts(db: &Db, ids: &[Uuid], addresses: &[String]) -> Result<Vec<Contact>> {
    let contacts = sqlx::query_as!(
        Contact,
        r#"select id as "user_id: UserId", email as "email: String", canonical_email, display_name
           from account where deleted_at is null and (id = any($1) or canonical_email = any($2))
           order by id"#,
        ids,
        addresses,
    );
    Ok(contacts.fetch_all(db.pool()).await?)
}

/// Returns the name of an organization.
pub(crate) async fn org_name(db: &Db, org_id: OrgId) -> Result<Option<String>> {
    let name = query_scalar!("select name from organization where id = $1", org_id.0);
    Ok(name.fetch_optional(db.pool()).await?)
}
