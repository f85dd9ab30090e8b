//! Every SQL statement about pushes.

use chassis::{Changed, Db, Error, OrgId, ProjectId, Result, Tx};
use sqlx::{query, query_scalar};

use crate::environment::EnvironmentId;

/// Whose project it is, and its sealed secret. The signature, checked next, is the proof that the caller
/// may know.
pub(crate) async fn secret(db: &Db, id: ProjectId) -> Result<Option<(OrgId, Vec<u8>)>> {
    // By id alone (no org_id): a git server knows no tenants.
    let row = query!(
        r#"select org_id, push_secret as "push_secret!" from project
           where id = $1 and push_secret is not null and state = 'active'"#,
        id.0
    );
    Ok(row.fetch_optional(db.pool()).await?.map(|it| (it.org_id, it.push_secret)))
}

/// Stores the secret of the push webhook, and its event.
pub(crate) async fn rotate(
    tx: &mut Tx,
    (org_id, id): (OrgId, ProjectId),
    sealed: &[u8],
    rotated: Changed<()>,
) -> Result<()> {
    let stored = query!(
        "update project set push_secret = $3 where org_id = $1 and id = $2",
        org_id.0,
        id.0,
        sealed
    );
    if stored.execute(tx.conn()).await?.rows_affected() == 0 {
        return Err(Error::NotFound(ProjectId::NOUN));
    }
    tx.emit(rotated);
    Ok(())
}

/// Remembers the newest push of a busy environment; an empty commit forgets it.
pub(crate) async fn remember(
    tx: &mut Tx,
    org_id: OrgId,
    id: EnvironmentId,
    commit: &str,
) -> Result<()> {
    query!(
        "update environment set pushed_commit = $3 where org_id = $1 and id = $2",
        org_id.0,
        id.0,
        commit
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether a push waits for an environment.
pub(crate) async fn is_remembered(tx: &mut Tx, org_id: OrgId, id: EnvironmentId) -> Result<bool> {
    let waits = query_scalar!(
        r#"select exists (select from environment where org_id = $1 and id = $2 and pushed_commit <> '')
           as "waits!""#,
        org_id.0,
        id.0
    );
    Ok(waits.fetch_one(tx.conn()).await?)
}
