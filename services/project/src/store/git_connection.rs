//! SQL statements about Git connections.

use chassis::{Changed, Db, Error, Grant, OrgId, Result, Tx, page::Page};
use project_rules::{
    connection::{ConnectionUser, ConnectionUsers, LISTED_USERS_MAX, git::GitConnection},
    types::GitConnectionId,
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

/// Selects rows of Git connections: the rest of the statement after `from git_connection`, and its arguments.
macro_rules! git_connections {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            GitConnection,
            "select id, org_id, name, provider, server_url, test_repository_url, username, sealed,
                    deploy_key_id, public_key, host_key, is_default, tested_at, test_error,
                    secret_updated_at, version, creator_id, created_at, updated_at
             from git_connection " + $rest
            $(, $argument)*
        )
    };
}

/// Locks the set of connections of an organization: other calls of this function for it wait until the
/// transaction ends.
pub(crate) async fn lock_set(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    // The second argument separates the advisory locks (see `store::server::lock_and_count`).
    query!("select pg_advisory_xact_lock(hashtextextended($1, 3))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Counts the connections of an organization.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from git_connection where org_id = $1"#,
        org_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new connection and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<GitConnection>) -> Result<GitConnection> {
    let connection = created.state();
    query!(
        "insert into git_connection (id, org_id, name, provider, server_url, test_repository_url, username,
             sealed, deploy_key_id, public_key, host_key, tested_at, secret_updated_at, creator_id,
             created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        connection.id as _,
        connection.org_id as _,
        connection.name,
        connection.provider as _,
        connection.server_url,
        connection.test_repository_url,
        connection.username,
        connection.sealed,
        connection.deploy_key_id.map(|id| id.0),
        connection.public_key,
        connection.host_key,
        connection.tested_at,
        connection.secret_updated_at,
        connection.creator_id as _,
        connection.created_at,
        connection.updated_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Stores the new settings of a connection and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<GitConnection>) -> Result<GitConnection> {
    let connection = changed.state();
    query!(
        "update git_connection set name = $3, provider = $4, test_repository_url = $5, username = $6,
             sealed = $7, deploy_key_id = $8, public_key = $9, host_key = $10, tested_at = $11,
             test_error = $12, secret_updated_at = $13, updated_at = $14, version = version + 1
         where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
        connection.name,
        connection.provider as _,
        connection.test_repository_url,
        connection.username,
        connection.sealed,
        connection.deploy_key_id.map(|id| id.0),
        connection.public_key,
        connection.host_key,
        connection.tested_at,
        connection.test_error,
        connection.secret_updated_at,
        connection.updated_at,
    )
    .execute(tx.conn())
    .await?;
    let mut connection = tx.emit(changed);
    connection.version += 1;
    Ok(connection)
}

/// Stores the result of a test and its event.
pub(crate) async fn update_test(
    tx: &mut Tx,
    tested: Changed<GitConnection>,
) -> Result<GitConnection> {
    let connection = tested.state();
    query!(
        "update git_connection set tested_at = $3, test_error = $4 where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
        connection.tested_at,
        connection.test_error,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(tested))
}

/// Makes a connection the only default one of its organization, and stores the event. The caller has locked
/// the set of connections.
pub(crate) async fn set_default(
    tx: &mut Tx,
    changed: Changed<GitConnection>,
) -> Result<GitConnection> {
    let connection = changed.state();
    query!(
        "update git_connection set is_default = false where org_id = $1 and is_default",
        connection.org_id as _,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "update git_connection set is_default = true where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Deletes a connection, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<GitConnection>) -> Result<()> {
    let connection = deleted.state();
    query!(
        "delete from git_connection where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
    )
    .execute(tx.conn())
    .await?;
    tx.emit(deleted);
    Ok(())
}

/// Locks a connection against changes and against new projects that use it.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: GitConnectionId) -> Result<GitConnection> {
    let connection = git_connections!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    connection.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(GitConnectionId::NOUN))
}

/// Loads a connection for a project, and locks it against removal.
pub(crate) async fn load(tx: &mut Tx, org_id: OrgId, id: GitConnectionId) -> Result<GitConnection> {
    let connection =
        git_connections!("where org_id = $1 and id = $2 for key share", org_id.0, id.0);
    connection.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(GitConnectionId::NOUN))
}

/// Loads the default connection of an organization if it is for this server, and locks it against removal.
pub(crate) async fn load_default(
    tx: &mut Tx,
    org_id: OrgId,
    server_url: &str,
) -> Result<Option<GitConnection>> {
    let connection = git_connections!(
        "where org_id = $1 and is_default and server_url = $2 for key share",
        org_id.0,
        server_url
    );
    Ok(connection.fetch_optional(tx.conn()).await?)
}

/// Returns the default connection of an organization.
pub(crate) async fn default(tx: &mut Tx, org_id: OrgId) -> Result<Option<GitConnection>> {
    let connection = git_connections!("where org_id = $1 and is_default", org_id.0);
    Ok(connection.fetch_optional(tx.conn()).await?)
}

/// Returns a connection.
pub(crate) async fn get(db: &Db, grant: &Grant, id: GitConnectionId) -> Result<GitConnection> {
    let connection = git_connections!("where org_id = $1 and id = $2", grant.org_id().0, id.0);
    connection.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(GitConnectionId::NOUN))
}

/// Returns a page of the connections of an organization, oldest first.
pub(crate) async fn list(db: &Db, grant: &Grant, page: &Page) -> Result<Vec<GitConnection>> {
    let connections = git_connections!(
        "where org_id = $1 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $3",
        grant.org_id().0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(connections.fetch_all(db.pool()).await?)
}

/// Returns the projects that use a connection. The caller has locked the connection.
pub(crate) async fn users(tx: &mut Tx, connection: &GitConnection) -> Result<ConnectionUsers> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from project where org_id = $1 and git_connection_id = $2"#,
        connection.org_id.0,
        connection.id.0
    );
    let count = count.fetch_one(tx.conn()).await?;
    let listed = query!(
        "select id, name from project where org_id = $1 and git_connection_id = $2 order by id limit $3",
        connection.org_id.0,
        connection.id.0,
        LISTED_USERS_MAX
    );
    let listed = listed.fetch_all(tx.conn()).await?.into_iter();
    let listed = listed.map(|it| ConnectionUser { id: it.id.into(), name: it.name });
    Ok(ConnectionUsers { count, listed: listed.collect() })
}
