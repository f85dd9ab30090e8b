//! Every SQL statement about mails that tell of events.

use chassis::{Db, OrgId, ProjectId, Result, Tx, UserId};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Letter, MAIL, Recipient};

/// A mail, as it waits.
pub(crate) struct Digest {
    pub(crate) org_id: Option<OrgId>,
    pub(crate) user_id: Option<Uuid>,
    pub(crate) rule_id: Option<Uuid>,
    pub(crate) address: Option<String>,
}

/// One thing that it tells.
pub(crate) struct Item {
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) permission: String,
    pub(crate) title: String,
    pub(crate) body: String,
}

/// Adds an event to the recipient's open mail, or opens one. What is urgent has a mail of its own.
pub(crate) async fn add(tx: &mut Tx, it: &Letter) -> Result<()> {
    let now = tx.now;
    let (user_id, rule_id, address) = match &it.to {
        Recipient::Person(id, _) => (Some(*id), None, None),
        Recipient::Rule(id, address) => (None, Some(*id), Some(address.as_str())),
    };
    let open = query_scalar!(
        "select id from digest
         where not urgent and not $1 and due_at > $2::timestamptz + interval '1 second'
           and org_id is not distinct from $3 and user_id is not distinct from $4
           and rule_id is not distinct from $5 and address is not distinct from $6
           and due_at >= coalesce($7, due_at)
         order by due_at limit 1 for update",
        it.urgent,
        now,
        it.org_id.map(|it| it.0),
        user_id,
        rule_id,
        address,
        // What must wait for the morning does not join a mail that leaves at night.
        it.quiet_until,
    );
    let digest_id = match open.fetch_optional(tx.conn()).await? {
        Some(id) => id,
        None => open_new(tx, it, (user_id, rule_id, address)).await?,
    };
    query!(
        "insert into digest_item (digest_id, project_id, permission, title, body)
         values ($1, $2, $3, $4, $5)",
        digest_id,
        it.project_id.map(|it| it.0),
        it.permission,
        it.title,
        it.body,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

async fn open_new(
    tx: &mut Tx,
    it: &Letter,
    (user_id, rule_id, address): (Option<Uuid>, Option<Uuid>, Option<&str>),
) -> Result<Uuid> {
    let (id, due_at) = (chassis::id::new(), it.due(tx.now));
    query!(
        "insert into digest (id, org_id, user_id, rule_id, address, urgent, due_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        id,
        it.org_id.map(|it| it.0),
        user_id,
        rule_id,
        address,
        it.urgent,
        due_at,
    )
    .execute(tx.conn())
    .await?;
    tx.mail_at(MAIL, id, due_at).await?;
    Ok(id)
}

/// A mail with what it tells.
pub(crate) async fn get(db: &Db, id: Uuid) -> Result<Option<(Digest, Vec<Item>)>> {
    let digest = query_as!(
        Digest,
        r#"select org_id as "org_id: OrgId", user_id, rule_id, address from digest where id = $1"#,
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

/// How many mails of rules an organization has sent since a moment.
pub(crate) async fn sent_since(
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

/// Forgets the mails that tell somebody of an organization.
pub(crate) async fn purge(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!("delete from digest where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Deletes the mails that wait for a person, or have left.
pub(crate) async fn forget(tx: &mut Tx, user_id: UserId) -> Result<()> {
    query!("delete from digest where user_id = $1", user_id.0).execute(tx.conn()).await?;
    Ok(())
}
