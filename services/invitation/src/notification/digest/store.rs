//! Every SQL statement about digests: mails about events.

use api::notification::NotificationCategory;
use chassis::{Db, OrgId, ProjectId, Result, Tx};
use mail::{NewMail, Priority};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{DigestItem, MAIL_TEMPLATE, Recipient, URGENT_WINDOW};
use crate::db_enum::DbEnum;

/// A mail to an account, or to an address of a mail rule.
pub(super) struct Digest {
    pub(super) org_id: Option<OrgId>,
    pub(super) user_id: Option<Uuid>,
    pub(super) rule_id: Option<Uuid>,
    pub(super) address: Option<String>,
    /// Category of all items; none for mail rules.
    pub(super) category: Option<DbEnum<NotificationCategory>>,
}

/// One event in a mail.
pub(super) struct Item {
    pub(super) project_id: Option<ProjectId>,
    pub(super) permission: String,
    pub(super) title: String,
    pub(super) body: String,
}

/// Columns of a recipient.
#[derive(Clone, Copy)]
struct RecipientColumns<'a> {
    user_id: Option<Uuid>,
    rule_id: Option<Uuid>,
    address: Option<&'a str>,
}

impl<'a> From<&'a Recipient> for RecipientColumns<'a> {
    fn from(recipient: &'a Recipient) -> Self {
        match recipient {
            Recipient::Person { user_id } => {
                Self { user_id: Some(*user_id), rule_id: None, address: None }
            }
            Recipient::Rule { rule_id, address } => {
                Self { user_id: None, rule_id: Some(*rule_id), address: Some(address) }
            }
        }
    }
}

/// Adds an item to the recipient's next mail with items of the same category and urgency.
pub(crate) async fn add(tx: &mut Tx, item: &DigestItem) -> Result<()> {
    let now = tx.now;
    let recipient = RecipientColumns::from(&item.recipient);
    // A mail that is due within a second may be rendered already, so it gets no more items.
    let next = query_scalar!(
        "select id from digest
         where urgent = $1 and due_at > $2::timestamptz + interval '1 second'
           and org_id is not distinct from $3 and user_id is not distinct from $4
           and rule_id is not distinct from $5 and address is not distinct from $6
           and due_at >= coalesce($7, due_at) and category is not distinct from $8
         order by due_at limit 1 for update",
        item.urgent,
        now,
        item.org_id.map(|it| it.0),
        recipient.user_id,
        recipient.rule_id,
        recipient.address,
        // An item that waits for the end of quiet hours does not join a mail that is sent before.
        item.quiet_until,
        item.category.map(i32::from),
    );
    let digest_id = match next.fetch_optional(tx.conn()).await? {
        Some(id) => id,
        None => insert(tx, item, recipient).await?,
    };
    query!(
        "insert into digest_item (digest_id, project_id, permission, title, body)
         values ($1, $2, $3, $4, $5)",
        digest_id,
        item.project_id.map(|it| it.0),
        item.permission,
        item.title,
        item.body,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

async fn insert(tx: &mut Tx, item: &DigestItem, recipient: RecipientColumns<'_>) -> Result<Uuid> {
    let id = chassis::id::new();
    let urgent_mail_at = if item.urgent { last_urgent(tx, item, recipient).await? } else { None };
    let due_at = item.due_at(urgent_mail_at, tx.now);
    query!(
        "insert into digest (id, org_id, user_id, rule_id, address, urgent, due_at, category)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        id,
        item.org_id.map(|it| it.0),
        recipient.user_id,
        recipient.rule_id,
        recipient.address,
        item.urgent,
        due_at,
        item.category.map(i32::from),
    )
    .execute(tx.conn())
    .await?;
    let (org_id, priority) = (item.org_id, Priority::Notice);
    let mail = NewMail { template: MAIL_TEMPLATE, subject_id: id, org_id, priority, due_at };
    mail::enqueue_new(tx, mail).await?;
    Ok(id)
}

/// Time of the newest urgent mail to a recipient that was due within the last [`URGENT_WINDOW`].
async fn last_urgent(
    tx: &mut Tx,
    item: &DigestItem,
    recipient: RecipientColumns<'_>,
) -> Result<Option<OffsetDateTime>> {
    let since = tx.now - URGENT_WINDOW;
    // Compared as `org_id is not distinct from` (no org_id): mails about an account have no organization.
    let last = query_scalar!(
        "select max(due_at) from digest
         where urgent and due_at > $1 and org_id is not distinct from $2
           and user_id is not distinct from $3 and rule_id is not distinct from $4
           and address is not distinct from $5 and category is not distinct from $6",
        since,
        item.org_id.map(|it| it.0),
        recipient.user_id,
        recipient.rule_id,
        recipient.address,
        item.category.map(i32::from),
    );
    Ok(last.fetch_one(tx.conn()).await?)
}

/// A mail with its items.
pub(super) async fn get(db: &Db, id: Uuid) -> Result<Option<(Digest, Vec<Item>)>> {
    // The queue of mails of all organizations has the id (no org_id).
    let digest = query_as!(
        Digest,
        r#"select org_id as "org_id: OrgId", user_id, rule_id, address,
                  category as "category: DbEnum<NotificationCategory>"
           from digest where id = $1"#,
        id
    );
    let Some(digest) = digest.fetch_optional(db.pool()).await? else { return Ok(None) };
    let items = query_as!(
        Item,
        r#"select project_id as "project_id: ProjectId", permission, title, body from digest_item
           where digest_id = $1 order by position"#,
        id
    );
    Ok(Some((digest, items.fetch_all(db.pool()).await?)))
}

/// Number of mails of mail rules that an organization has sent since a time.
pub(super) async fn rule_mails_sent_since(
    db: &Db,
    org_id: Option<OrgId>,
    since: OffsetDateTime,
) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from digest join mail on mail.subject_id = digest.id
           where digest.org_id = $1 and digest.rule_id is not null and mail.outcome = 'SENT'
             and mail.sent_at > $2"#,
        org_id.map(|it| it.0),
        since,
    );
    Ok(count.fetch_one(db.pool()).await?)
}
