//! Every SQL statement about mail rules.

use chassis::{Changed, Db, OrgId, Result, Tx};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{MailRule, MailRuleId};
use crate::notification::scope::store::scoped_store;

/// Selects whole mail rules. Takes the rest of the statement after `from mail_rule`, and its arguments.
macro_rules! mail_rules {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            MailRule,
            "select id, org_id, project_id, recipients, event_types, description, enabled, created_at
             from mail_rule " + $rest
            $(, $argument)*
        )
    };
}

scoped_store!(MailRule, MailRuleId, "mail_rule", mail_rules);

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

/// Returns a mail rule in a transaction, if it exists.
pub(crate) async fn get(tx: &mut Tx, org_id: OrgId, id: Uuid) -> Result<Option<MailRule>> {
    let rule = mail_rules!("where org_id = $1 and id = $2", org_id.0, id);
    Ok(rule.fetch_optional(tx.conn()).await?)
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

/// Stores the new state of a mail rule and its event.
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
