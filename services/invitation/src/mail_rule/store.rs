//! Every SQL statement about e-mail rules.

use chassis::{Changed, Db, Error, OrgId, ProjectId, Result, ScopeGrant, Tx, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{MailRule, MailRuleId};

/// How many rules an organization has. Keeps others from making one until the transaction ends.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    query!("select pg_advisory_xact_lock(hashtextextended($1, 3))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    let count =
        query_scalar!(r#"select count(*) as "count!" from mail_rule where org_id = $1"#, org_id.0);
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new rule and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<MailRule>) -> Result<MailRule> {
    let it = created.state();
    query!(
        "insert into mail_rule (id, org_id, project_id, recipients, event_types, description, enabled,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        it.id as _,
        it.org_id as _,
        it.project_id.map(|it| it.0),
        &it.recipients,
        &it.event_types,
        it.description,
        it.enabled,
        it.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Loads a rule of the organization, or of the project that the grant is about, and keeps others from
/// changing it.
pub(crate) async fn lock(tx: &mut Tx, grant: &ScopeGrant, id: MailRuleId) -> Result<MailRule> {
    let it = query_as!(
        MailRule,
        "select id, org_id, project_id, recipients, event_types, description, enabled, created_at
         from mail_rule
         where org_id = $1 and id = $2 and ($3::uuid is null or project_id = $3) for update",
        grant.org_id().0,
        id.0,
        grant.project_id().map(|it| it.0),
    );
    it.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(MailRuleId::NOUN))
}

/// A page of rules, newest first.
pub(crate) async fn list(db: &Db, grant: &ScopeGrant, page: &Page) -> Result<Vec<MailRule>> {
    let rows = query_as!(
        MailRule,
        "select id, org_id, project_id, recipients, event_types, description, enabled, created_at
         from mail_rule
         where org_id = $1 and ($2::uuid is null or project_id = $2) and ($3::uuid is null or id < $3)
         order by id desc limit $4",
        grant.org_id().0,
        grant.project_id().map(|it| it.0),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// The rules that want an event.
pub(crate) async fn matching(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, Option<ProjectId>),
    event_type: &str,
) -> Result<Vec<MailRule>> {
    let rows = query_as!(
        MailRule,
        "select id, org_id, project_id, recipients, event_types, description, enabled, created_at
         from mail_rule
         where org_id = $1 and enabled and (project_id is null or project_id = $2)
           and (event_types = '{}' or $3 = any(event_types))
         order by id",
        org_id.0,
        project_id.map(|it| it.0),
        event_type,
    );
    Ok(rows.fetch_all(tx.conn()).await?)
}

/// Whether a rule is there and sends mails.
pub(crate) async fn enabled(db: &Db, org_id: Option<OrgId>, id: Uuid) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from mail_rule where org_id = $1 and id = $2 and enabled) as "found!""#,
        org_id.map(|it| it.0),
        id
    );
    Ok(found.fetch_one(db.pool()).await?)
}

/// Stores a rule as it is now, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<MailRule>) -> Result<MailRule> {
    let it = changed.state();
    query!(
        "update mail_rule set recipients = $3, event_types = $4, description = $5, enabled = $6
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        &it.recipients,
        &it.event_types,
        it.description,
        it.enabled,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Deletes a rule.
pub(crate) async fn delete(tx: &mut Tx, gone: Changed<MailRule>) -> Result<()> {
    let it = gone.state();
    query!("delete from mail_rule where org_id = $1 and id = $2", it.org_id as _, it.id as _)
        .execute(tx.conn())
        .await?;
    tx.emit(gone);
    Ok(())
}

/// Deletes what is of one project only.
pub(crate) async fn forget_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
    query!("delete from mail_rule where org_id = $1 and project_id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes everything of an organization.
pub(crate) async fn purge(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!("delete from mail_rule where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}
