//! Every SQL statement about mail rules.

use chassis::{Changed, Db, Error, OrgId, ProjectId, Result, ScopeGrant, Tx, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{MailRule, MailRuleId};
use crate::notification::scope::Scope;

/// Counts the mail rules of an organization. Until the transaction ends, no other transaction creates one.
pub(crate) async fn lock_count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    query!("select pg_advisory_xact_lock(hashtextextended($1, 3))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    let count =
        query_scalar!(r#"select count(*) as "count!" from mail_rule where org_id = $1"#, org_id.0);
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new mail rule and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<MailRule>) -> Result<MailRule> {
    let rule = created.state();
    query!(
        "insert into mail_rule (id, org_id, project_id, recipients, event_types, description, enabled,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        rule.id as _,
        rule.org_id as _,
        rule.project_id.map(|it| it.0),
        &rule.recipients,
        &rule.event_types,
        rule.description,
        rule.enabled,
        rule.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Locks a mail rule in the scope of the grant.
pub(crate) async fn lock(tx: &mut Tx, grant: &ScopeGrant, id: MailRuleId) -> Result<MailRule> {
    let rule = query_as!(
        MailRule,
        "select id, org_id, project_id, recipients, event_types, description, enabled, created_at
         from mail_rule
         where org_id = $1 and id = $2 and ($3::uuid is null or project_id = $3) for update",
        grant.org_id().0,
        id.0,
        grant.project_id().map(|it| it.0),
    );
    rule.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(MailRuleId::NOUN))
}

/// A page of the mail rules in the scope of the grant, newest first.
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

/// The enabled mail rules for a notification type in a scope.
pub(crate) async fn matching(tx: &mut Tx, scope: Scope, event_type: &str) -> Result<Vec<MailRule>> {
    let rows = query_as!(
        MailRule,
        "select id, org_id, project_id, recipients, event_types, description, enabled, created_at
         from mail_rule
         where org_id = $1 and enabled and (project_id is null or project_id = $2)
           and (event_types = '{}' or $3 = any(event_types))
         order by id",
        scope.org_id.0,
        scope.project_id.map(|it| it.0),
        event_type,
    );
    Ok(rows.fetch_all(tx.conn()).await?)
}

/// True if a mail rule exists and is enabled.
pub(crate) async fn is_enabled(db: &Db, org_id: Option<OrgId>, id: Uuid) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from mail_rule where org_id = $1 and id = $2 and enabled) as "found!""#,
        org_id.map(|it| it.0),
        id
    );
    Ok(found.fetch_one(db.pool()).await?)
}

/// Stores the present state of a mail rule and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<MailRule>) -> Result<MailRule> {
    let rule = changed.state();
    query!(
        "update mail_rule set recipients = $3, event_types = $4, description = $5, enabled = $6
         where org_id = $1 and id = $2",
        rule.org_id as _,
        rule.id as _,
        &rule.recipients,
        &rule.event_types,
        rule.description,
        rule.enabled,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Deletes a mail rule and stores its event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<MailRule>) -> Result<()> {
    let rule = deleted.state();
    query!("delete from mail_rule where org_id = $1 and id = $2", rule.org_id as _, rule.id as _)
        .execute(tx.conn())
        .await?;
    tx.emit(deleted);
    Ok(())
}

/// Deletes the mail rules of a project.
pub(crate) async fn delete_of_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
    query!("delete from mail_rule where org_id = $1 and project_id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes the mail rules of an organization.
pub(crate) async fn purge(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!("delete from mail_rule where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}
