//! Every SQL statement about extra services.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, ProjectGrant, ProjectId, Result, Tx};
use sqlx::{query, query_as, query_scalar};

use super::{Attachment, AttachmentId, Instance, Refused, State};
use crate::environment::{Environment, EnvironmentId};

/// Selects whole attachments: the rest of the statement after `from attachment`, and its arguments.
macro_rules! attachments {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Attachment,
            r#"select id, org_id, project_id, service_key, config as "config: _", removing, creator_id,
                created_at,
                      version
               from attachment "# + $rest
            $(, $argument)*
        )
    };
}

/// Stores a new attachment and its event.
pub(crate) async fn insert(tx: &mut Tx, attached: Changed<Attachment>) -> Result<Attachment> {
    let it = attached.state();
    query!(
        "insert into attachment (id, org_id, project_id, service_key, config, creator_id, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        it.id as _,
        it.org_id as _,
        it.project_id as _,
        it.service_key,
        &it.config as _,
        it.creator_id as _,
        it.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("attachment_service", Refused::Attached)?;
    Ok(tx.emit(attached))
}

/// Stores an attachment as it is now, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Attachment>) -> Result<Attachment> {
    let it = changed.state();
    query!(
        "update attachment set config = $3, removing = $4,
            version = version + 1 where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        &it.config as _,
        it.removing,
    )
    .execute(tx.conn())
    .await?;
    let mut it = tx.emit(changed);
    it.version += 1;
    Ok(it)
}

/// Deletes an attachment that no environment has any more, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, gone: Changed<Attachment>) -> Result<()> {
    let it = gone.state();
    query!("delete from attachment where org_id = $1 and id = $2", it.org_id as _, it.id as _)
        .execute(tx.conn())
        .await?;
    Ok(tx.emit(gone)).map(|_| ())
}

/// Loads an attachment and keeps others from changing it.
pub(crate) async fn lock(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
    id: AttachmentId,
) -> Result<Attachment> {
    let it = attachments!(
        "where org_id = $1 and project_id = $2 and id = $3 for update",
        org_id.0,
        project_id.0,
        id.0
    );
    it.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(AttachmentId::NOUN))
}

/// One attachment.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: AttachmentId) -> Result<Attachment> {
    let it = attachments!(
        "where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    it.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(AttachmentId::NOUN))
}

/// The attachments of a project; the catalogue has only so many.
pub(crate) async fn list(db: &Db, grant: &ProjectGrant) -> Result<Vec<Attachment>> {
    let all = attachments!(
        "where org_id = $1 and project_id = $2 order by id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(all.fetch_all(db.pool()).await?)
}

/// The attachments of a project, inside a transaction.
pub(crate) async fn of_project(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, ProjectId),
) -> Result<Vec<Attachment>> {
    let all =
        attachments!("where org_id = $1 and project_id = $2 order by id", org_id.0, project_id.0);
    Ok(all.fetch_all(tx.conn()).await?)
}

/// What the environments of a project have of its services.
pub(crate) async fn instances(db: &Db, grant: &ProjectGrant) -> Result<Vec<Instance>> {
    let all = query_as!(
        Instance,
        "select attachment_id, environment_id, state, error_message, sealed from instance
         where org_id = $1 and attachment_id in
             (select id from attachment where org_id = $1 and project_id = $2)
         order by environment_id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(all.fetch_all(db.pool()).await?)
}

/// What an environment has of services.
pub(crate) async fn of_environment(tx: &mut Tx, it: &Environment) -> Result<Vec<Instance>> {
    let all = query_as!(
        Instance,
        "select attachment_id, environment_id, state, error_message, sealed from instance
         where org_id = $1 and environment_id = $2 order by attachment_id",
        it.org_id.0,
        it.id.0
    );
    Ok(all.fetch_all(tx.conn()).await?)
}

/// Stores what an environment has of a service.
pub(crate) async fn put(tx: &mut Tx, org_id: OrgId, it: &Instance) -> Result<()> {
    query!(
        "insert into instance (org_id, attachment_id, environment_id, state, error_message, sealed)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (attachment_id, environment_id) do update set
             state = excluded.state, error_message = excluded.error_message",
        org_id as _,
        it.attachment_id as _,
        it.environment_id as _,
        it.state as _,
        it.error_message,
        it.sealed,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Every environment loses a service, or, if it is to change only, is to look at it again.
pub(crate) async fn mark(tx: &mut Tx, it: &Attachment, state: State) -> Result<()> {
    query!(
        "update instance set state = $3, error_message = '' where org_id = $1 and attachment_id = $2",
        it.org_id as _,
        it.id as _,
        state as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// An environment has a service no more.
pub(crate) async fn drop_instance(tx: &mut Tx, org_id: OrgId, it: &Instance) -> Result<()> {
    query!(
        "delete from instance where org_id = $1 and attachment_id = $2 and environment_id = $3",
        org_id as _,
        it.attachment_id as _,
        it.environment_id as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// How many environments have a service.
pub(crate) async fn count(tx: &mut Tx, it: &Attachment) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from instance where org_id = $1 and attachment_id = $2"#,
        it.org_id.0,
        it.id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Remembers that an environment is to get or lose something, or forgets it.
pub(crate) async fn due(tx: &mut Tx, org_id: OrgId, id: EnvironmentId, due: bool) -> Result<()> {
    query!(
        "update environment set provision_due = $3 where org_id = $1 and id = $2",
        org_id.0,
        id.0,
        due
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether an environment is to get or lose something.
pub(crate) async fn is_due(tx: &mut Tx, org_id: OrgId, id: EnvironmentId) -> Result<bool> {
    let due = query_scalar!(
        r#"select exists (select from environment where org_id = $1 and id = $2 and provision_due)
           as "due!""#,
        org_id.0,
        id.0
    );
    Ok(due.fetch_one(tx.conn()).await?)
}

/// Where the programs of an environment reach its server's databases; empty if nobody has said.
pub(crate) async fn database_address(db: &Db, it: &Environment) -> Result<String> {
    // Of an environment that the caller may see (no org_id).
    let address = query_scalar!(
        "select database_address from server where id = $1",
        it.server_id.map(|it| it.0)
    );
    Ok(address.fetch_optional(db.pool()).await?.unwrap_or_default())
}
