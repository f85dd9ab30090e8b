//! SQL of decisions: access versions, and the facts from which snapshots are built.

use std::collections::HashMap;

use chassis::{Account, Db, Error, OrgId, ProjectId, Result, UserId};
use identity_rules::{
    access::fact::{self, FactChange, FactKey, FactKind, FactOrigin, FactRow},
    snapshot::{Snapshot, Status},
    types::StoredText,
};
use sqlx::{PgConnection, query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

/// Returns the access version of an organization.
pub(crate) async fn version(db: &Db, org_id: OrgId) -> Result<Option<i64>> {
    let version = query_scalar!("select access_version from organization where id = $1", org_id.0);
    Ok(version.fetch_optional(db.pool()).await?)
}

/// True if an organization has more members and projects than `max`.
pub(crate) async fn is_large(db: &Db, org_id: OrgId, max: i64) -> Result<bool> {
    let is_large = query_scalar!(
        r#"select member_count + project_count > $2 as "is_large!" from organization where id = $1"#,
        org_id.0,
        max
    );
    Ok(is_large.fetch_optional(db.pool()).await?.unwrap_or_default())
}

/// Returns the access version of an organization; fails if the credential of the caller has been revoked.
/// Every decision from the newest state makes this read. One statement, so that both are of one moment.
pub(crate) async fn version_for(db: &Db, org_id: OrgId, caller: &Account) -> Result<Option<i64>> {
    // A key by its id alone (no org_id), like `api_key::store::credential`.
    let row = query!(
        r#"select (select access_version from organization where id = $1) as version,
                  case when $3 then exists (select from api_key where id = $2 and revoked_at is null)
                       else exists (select from session where id = $2 and revoked_at is null)
                  end as "is_active!""#,
        org_id.0,
        caller.credential_id,
        caller.key.is_some(),
    );
    let row = row.fetch_one(db.pool()).await?;
    if row.is_active { Ok(row.version) } else { Err(Error::invalid_credential()) }
}

/// Returns the access versions of several organizations; fails if the credential of the caller has been
/// revoked.
pub(crate) async fn versions_for(
    db: &Db,
    org_ids: &[OrgId],
    caller: &Account,
) -> Result<HashMap<OrgId, i64>> {
    // A key by its id alone (no org_id), like `api_key::store::credential`.
    let ids: Vec<_> = org_ids.iter().map(|it| it.0).collect();
    let rows = query!(
        r#"select organization.id as "id?: OrgId", access_version as "access_version?",
                  is_active as "is_active!"
           from (select case when $3 then exists (select from api_key where id = $2 and revoked_at is null)
                             else exists (select from session where id = $2 and revoked_at is null)
                        end as is_active) as credential
           left join organization on organization.id = any($1)"#,
        &ids,
        caller.credential_id,
        caller.key.is_some(),
    );
    let rows = rows.fetch_all(db.pool()).await?;
    if rows.iter().any(|it| !it.is_active) {
        return Err(Error::invalid_credential());
    }
    Ok(rows.into_iter().filter_map(|it| Some((it.id?, it.access_version?))).collect())
}

/// Loads the snapshot of an organization. One statement, so that all rows are of one version. The first part
/// is the organization itself, with its subscription in the column `role`.
pub(crate) async fn load(connection: &mut PgConnection, org_id: OrgId) -> Result<Option<Snapshot>> {
    let rows = query!(
        r#"select 'organization' as "kind!", id as "subject_id!: Uuid", id as "object_id!: Uuid",
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
    let Some(organization) = rows.iter().find(|it| it.kind == "organization") else {
        return Ok(None);
    };
    let status = status(organization.deleted_at, organization.role.as_deref());
    let snapshot = Snapshot::new(org_id, organization.version, status);
    let facts = rows.into_iter().map(|row| FactRow {
        kind: row.kind,
        subject_id: row.subject_id,
        object_id: row.object_id,
        role: row.role,
    });
    Ok(Some(fact::build(snapshot, &facts.collect::<Vec<_>>())))
}

/// Brings a snapshot to the newest version with the facts that changed since its own; `None` if the
/// organization does not exist any more. One statement, so that all rows are of one version. Its cost is
/// proportional to the number of changes, not to the size of the organization. Facts of the snapshot's own
/// version are included, because a transaction may have changed rows before it raised the version.
pub(crate) async fn update(
    connection: &mut PgConnection,
    snapshot: &Snapshot,
) -> Result<Option<Snapshot>> {
    let rows = query!(
        r#"select 'organization' as "kind!", id as "subject_id!: Uuid", id as "object_id!: Uuid",
                  subscription as "role: String", access_version as "version!", deleted_at,
                  true as "is_current!"
           from organization where id = $1
           union all
           select kind, subject_id, place_id, role, 0, null, to_version is null
           from access_fact where org_id = $1 and from_version >= $2
           union all
           select kind, subject_id, place_id, role, 0, null, false
           from access_fact where org_id = $1 and to_version >= $2"#,
        snapshot.org_id.0,
        snapshot.version,
    )
    .fetch_all(connection)
    .await?;
    let Some(organization) = rows.iter().find(|it| it.kind == "organization") else {
        return Ok(None);
    };
    let mut newest = snapshot.clone();
    newest.version = organization.version;
    newest.status = status(organization.deleted_at, organization.role.as_deref());
    let changes = rows.into_iter().map(|row| FactChange {
        row: FactRow {
            kind: row.kind,
            subject_id: row.subject_id,
            object_id: row.object_id,
            role: row.role,
        },
        is_current: row.is_current,
    });
    Ok(Some(fact::update(newest, changes.collect())))
}

/// Loads the part of a snapshot on which decisions about one account rest, in the organization and on at most
/// one of its projects. Its cost is proportional to the number of the account's teams.
pub(crate) async fn load_part(
    connection: &mut PgConnection,
    org_id: OrgId,
    user_id: UserId,
    project_id: Option<ProjectId>,
) -> Result<Option<Snapshot>> {
    let rows = query!(
        r#"with own_team as (
               select team_id from team_member where org_id = $1 and user_id = $2
           )
           select 'organization' as "kind!", id as "subject_id!: Uuid", id as "object_id!: Uuid",
                  subscription as "role: String", access_version as "version!", deleted_at
           from organization where id = $1
           union all
           select 'member', user_id, user_id, role, 0, null from member
           where org_id = $1 and user_id = $2
           union all
           select 'team', team_id, team_id, null, 0, null from own_team
           union all
           select 'team_member', $2, team_id, null, 0, null from own_team
           union all
           select 'project', id, id, null, 0, null from project where org_id = $1 and id = $3
           union all
           select case when user_id is null then 'team_grant' else 'user_grant' end,
                  principal_id, project_id, role, 0, null
           from project_grant
           where org_id = $1 and project_id = $3
             and (user_id = $2 or team_id in (select team_id from own_team))"#,
        org_id.0,
        user_id.0,
        project_id.map(|it| it.0),
    )
    .fetch_all(connection)
    .await?;
    let Some(organization) = rows.iter().find(|it| it.kind == "organization") else {
        return Ok(None);
    };
    let status = status(organization.deleted_at, organization.role.as_deref());
    let snapshot = Snapshot::new(org_id, organization.version, status);
    let facts = rows.into_iter().map(|row| FactRow {
        kind: row.kind,
        subject_id: row.subject_id,
        object_id: row.object_id,
        role: row.role,
    });
    Ok(Some(fact::build(snapshot, &facts.collect::<Vec<_>>())))
}

/// Returns the state of an organization from its columns.
fn status(deleted_at: Option<OffsetDateTime>, subscription: Option<&str>) -> Status {
    match (deleted_at, subscription) {
        (Some(_), _) => Status::Deleted,
        (None, Some("blocked")) => Status::Blocked,
        (None, _) => Status::Active,
    }
}

/// Returns the access version of an organization at a time in the past; `None` if the organization did not
/// exist then.
pub(crate) async fn version_at(db: &Db, org_id: OrgId, at: OffsetDateTime) -> Result<Option<i64>> {
    let version = query_scalar!(
        r#"select max(version) from access_change where org_id = $1 and changed_at <= $2"#,
        org_id.0,
        at
    );
    Ok(version.fetch_one(db.pool()).await?)
}

/// Loads the snapshot of an organization at a version in the past.
pub(crate) async fn load_past(db: &Db, org_id: OrgId, version: i64) -> Result<Snapshot> {
    let facts = sqlx::query_as!(
        FactRow,
        "select kind, subject_id, place_id as object_id, role from access_fact
         where org_id = $1 and from_version <= $2 and (to_version is null or to_version > $2)",
        org_id.0,
        version
    );
    let facts = facts.fetch_all(db.pool()).await?;
    Ok(fact::build(Snapshot::new(org_id, version, Status::Active), &facts))
}

/// Returns the origins of the current facts about some accounts and teams of an organization.
pub(crate) async fn origins(
    db: &Db,
    org_id: OrgId,
    subjects: &[Uuid],
) -> Result<HashMap<FactKey, FactOrigin>> {
    let rows = query!(
        "select kind, subject_id, place_id as object_id, event_id, changed_at
         from access_fact
         join access_change on access_change.org_id = access_fact.org_id and version = from_version
         where access_fact.org_id = $1 and to_version is null and subject_id = any($2)
               and kind in ('member', 'team', 'team_member', 'project', 'user_grant', 'team_grant')",
        org_id.0,
        subjects
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let origins = rows.into_iter().filter_map(|row| {
        let kind = FactKind::parse_text(&row.kind)?;
        let key = FactKey { kind, subject_id: row.subject_id, object_id: row.object_id };
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

/// Returns the accounts with one of the ids, and those that have confirmed one of the canonical addresses,
/// ordered by id.
pub(crate) async fn contacts(db: &Db, ids: &[Uuid], addresses: &[String]) -> Result<Vec<Contact>> {
    let contacts = sqlx::query_as!(
        Contact,
        r#"select id as "user_id: UserId", email as "email: String", canonical_email, display_name
           from account
           where deleted_at is null and (id = any($1)
                 or canonical_email = any($2) and email_verified_at is not null)
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
