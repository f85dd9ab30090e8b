//! The statements behind decisions.

use std::collections::HashMap;

use chassis::{Db, OrgId, ProjectId, Result, UserId};
use sqlx::{PgConnection, query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    policy::{OrgRole, ProjectRole},
    snapshot::{Change, Principal, Snapshot, Standing},
    team::TeamId,
};

/// The version of an organization's access. One row by its primary key: every fresh decision reads it.
pub(crate) async fn version(db: &Db, org_id: OrgId) -> Result<Option<i64>> {
    let version = query_scalar!("select access_version from organization where id = $1", org_id.0);
    Ok(version.fetch_optional(db.pool()).await?)
}

/// The versions of several organizations.
pub(crate) async fn versions(db: &Db, org_ids: &[OrgId]) -> Result<HashMap<OrgId, i64>> {
    let ids: Vec<_> = org_ids.iter().map(|it| it.0).collect();
    let rows = query!("select id, access_version from organization where id = any($1)", &ids);
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|it| (it.id, it.access_version)).collect())
}

/// A fact as it is stored.
struct Fact {
    kind: String,
    subject_id: Uuid,
    place_id: Uuid,
    role: Option<String>,
}

/// The facts about an organization. One statement, so that they are of one moment.
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
    let standing = match (&head.deleted_at, head.role.as_deref()) {
        (Some(_), _) => Standing::Deleted,
        (None, Some("blocked")) => Standing::Blocked,
        (None, _) => Standing::Active,
    };
    let snapshot = Snapshot::new(org_id, head.version, standing);
    let facts = rows.into_iter().map(|it| Fact {
        kind: it.kind,
        subject_id: it.subject_id,
        place_id: it.place_id,
        role: it.role,
    });
    Ok(Some(build(snapshot, &facts.collect::<Vec<_>>())))
}

/// The facts about an organization as they were at a moment; `None` if there was no such organization.
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
        Fact,
        "select kind, subject_id, place_id, role from access_fact
         where org_id = $1 and from_version <= $2 and (to_version is null or to_version > $2)",
        org_id.0,
        version
    );
    let facts = facts.fetch_all(db.pool()).await?;
    Ok(Some(build(Snapshot::new(org_id, version, Standing::Active), &facts)))
}

/// Puts facts into a snapshot: first who and what is there, then how they belong together.
fn build(mut snapshot: Snapshot, facts: &[Fact]) -> Snapshot {
    let change = |it: &Fact| {
        let (user, team, project) =
            (UserId(it.subject_id), TeamId(it.subject_id), ProjectId(it.place_id));
        Some(match it.kind.as_str() {
            "member" => Change::SetRole(user, org_role(it.role.as_deref()?)?),
            "team" => Change::AddTeam(team),
            "project" => Change::AddProject(project),
            "team_member" => Change::AddToTeam(TeamId(it.place_id), user),
            "user_grant" => {
                Change::Grant(project, Principal::User(user), project_role(it.role.as_deref()?)?)
            }
            "team_grant" => {
                Change::Grant(project, Principal::Team(team), project_role(it.role.as_deref()?)?)
            }
            _ => return None,
        })
    };
    let (bonds, things): (Vec<_>, Vec<_>) = facts
        .iter()
        .partition(|it| ["team_member", "user_grant", "team_grant"].contains(&it.kind.as_str()));
    for change in things.into_iter().chain(bonds).filter_map(change) {
        snapshot.apply(change);
    }
    snapshot
}

fn org_role(text: &str) -> Option<OrgRole> {
    Some(match text {
        "viewer" => OrgRole::Viewer,
        "developer" => OrgRole::Developer,
        "admin" => OrgRole::Admin,
        "owner" => OrgRole::Owner,
        _ => return None,
    })
}

fn project_role(text: &str) -> Option<ProjectRole> {
    Some(match text {
        "viewer" => ProjectRole::Viewer,
        "developer" => ProjectRole::Developer,
        "admin" => ProjectRole::Admin,
        _ => return None,
    })
}

/// The event and the moment behind each fact that is true now, by kind, subject and place.
pub(crate) type Origins = HashMap<(String, Uuid, Uuid), (Uuid, OffsetDateTime)>;

/// What made true what is true now about some principals of an organization.
pub(crate) async fn origins(db: &Db, org_id: OrgId, subjects: &[Uuid]) -> Result<Origins> {
    let rows = query!(
        "select kind, subject_id, place_id, event_id, changed_at
         from access_fact
         join access_change on access_change.org_id = access_fact.org_id and version = from_version
         where access_fact.org_id = $1 and to_version is null and subject_id = any($2)",
        org_id.0,
        subjects
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows
        .into_iter()
        .map(|it| ((it.kind, it.subject_id, it.place_id), (it.event_id, it.changed_at)))
        .collect())
}

/// Names of some teams and addresses of some members, for sentences.
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
    Ok(rows.into_iter().map(|it| (it.id, it.name)).collect())
}

/// An account, as somebody who can be told something.
pub(crate) struct Person {
    pub(crate) user_id: UserId,
    pub(crate) email: String,
    pub(crate) canonical_email: String,
    pub(crate) display_name: String,
}

/// Accounts by their ids or addresses.
pub(crate) async fn people(db: &Db, ids: &[Uuid], addresses: &[String]) -> Result<Vec<Person>> {
    let people = sqlx::query_as!(
        Person,
        r#"select id as "user_id: UserId", email as "email: String", canonical_email, display_name
           from account where deleted_at is null and (id = any($1) or canonical_email = any($2))
           order by id"#,
        ids,
        addresses,
    );
    Ok(people.fetch_all(db.pool()).await?)
}

/// The name of an organization.
pub(crate) async fn name(db: &Db, org_id: OrgId) -> Result<Option<String>> {
    let name = query_scalar!("select name from organization where id = $1", org_id.0);
    Ok(name.fetch_optional(db.pool()).await?)
}
