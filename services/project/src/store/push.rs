//! SQL statements about pushes.

use chassis::{Changed, Db, Error, OrgId, ProjectId, Result, Tx};
use project_rules::types::{EnvironmentId, ProjectRef};
use sqlx::{query, query_scalar};

/// Sealed secret of a project's push webhook.
pub(crate) struct SealedSecret {
    pub(crate) org_id: OrgId,
    pub(crate) sealed: Vec<u8>,
}

/// Returns the secret of a project. The caller checks the signature of the delivery with it.
pub(crate) async fn sealed_secret(db: &Db, id: ProjectId) -> Result<Option<SealedSecret>> {
    // By id alone (no org_id): the deliveries of git servers name no organization.
    let row = query!(
        r#"select org_id, push_secret as "push_secret!" from project
           where id = $1 and push_secret is not null and state = 'active'"#,
        id.0
    );
    let row = row.fetch_optional(db.pool()).await?;
    Ok(row.map(|it| SealedSecret { org_id: it.org_id, sealed: it.push_secret }))
}

/// Stores a new secret and its event.
pub(crate) async fn set_secret(
    tx: &mut Tx,
    project: ProjectRef,
    sealed: &[u8],
    rotated: Changed<()>,
) -> Result<()> {
    let stored = query!(
        "update project set push_secret = $3 where org_id = $1 and id = $2",
        project.org_id.0,
        project.project_id.0,
        sealed
    );
    if stored.execute(tx.conn()).await?.rows_affected() == 0 {
        return Err(Error::NotFound(ProjectId::NOUN));
    }
    tx.emit(rotated);
    Ok(())
}

/// Returns the sealed secret of a project; stores a new one if it has none.
pub(crate) async fn ensure_secret(tx: &mut Tx, project: ProjectRef, new: &[u8]) -> Result<Vec<u8>> {
    let secret = query_scalar!(
        r#"update project set push_secret = coalesce(push_secret, $3) where org_id = $1 and id = $2
           returning push_secret as "push_secret!""#,
        project.org_id.0,
        project.project_id.0,
        new
    );
    secret.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ProjectId::NOUN))
}

/// Refuses another sealed secret of a project than the one that was read, and locks it.
pub(crate) async fn require_secret(tx: &mut Tx, project: ProjectRef, sealed: &[u8]) -> Result<()> {
    let is_same = query_scalar!(
        r#"select push_secret = $3 as "is_same!" from project
           where org_id = $1 and id = $2 and push_secret is not null for update"#,
        project.org_id.0,
        project.project_id.0,
        sealed
    );
    match is_same.fetch_optional(tx.conn()).await? {
        Some(true) => Ok(()),
        _ => Err(Error::conflict("the push secret was rotated meanwhile; repeat the call")),
    }
}

/// Stores the commit of the push that waits for an environment; empty text removes it.
pub(crate) async fn set_pending_commit(
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

/// Returns the commit of the push that waits for an environment; empty if there is none.
pub(crate) async fn pending_commit(
    tx: &mut Tx,
    org_id: OrgId,
    id: EnvironmentId,
) -> Result<String> {
    let commit = query_scalar!(
        "select pushed_commit from environment where org_id = $1 and id = $2",
        org_id.0,
        id.0
    );
    Ok(commit.fetch_optional(tx.conn()).await?.unwrap_or_default())
}
