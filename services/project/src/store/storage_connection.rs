//! SQL statements about storage connections.

use chassis::{Changed, Db, Error, Grant, OrgId, Result, Tx, page::Page};
use project_rules::{
    connection::{LISTED_USERS_MAX, StorageConsumer, StorageConsumers, storage::StorageConnection},
    types::StorageConnectionId,
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

/// Selects rows of storage connections: the rest of the statement after `from storage_connection`, and its
/// arguments.
macro_rules! storage_connections {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            StorageConnection,
            "select id, org_id, name, kind, server_url, region, bucket, path, username, path_style, sealed,
                    deploy_key_id, public_key, host_key, is_default, tested_at, test_error,
                    secret_updated_at, version, creator_id, created_at, updated_at
             from storage_connection " + $rest
            $(, $argument)*
        )
    };
}

/// Locks the set of connections of an organization: other calls of this function for it wait until the
/// transaction ends.
pub(crate) async fn lock_set(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    // The second argument separates the advisory locks (see `store::server::lock_and_count`).
    query!("select pg_advisory_xact_lock(hashtextextended($1, 5))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Counts the connections of an organization.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from storage_connection where org_id = $1"#,
        org_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new connection and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<StorageConnection>,
) -> Result<StorageConnection> {
    let connection = created.state();
    query!(
        "insert into storage_connection (id, org_id, name, kind, server_url, region, bucket, path, username,
             path_style, sealed, deploy_key_id, public_key, host_key, tested_at, secret_updated_at,
             creator_id, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        connection.id as _,
        connection.org_id as _,
        connection.name,
        connection.kind as _,
        connection.server_url,
        connection.region,
        connection.bucket,
        connection.path,
        connection.username,
        connection.path_style,
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
pub(crate) async fn update(
    tx: &mut Tx,
    changed: Changed<StorageConnection>,
) -> Result<StorageConnection> {
    let connection = changed.state();
    query!(
        "update storage_connection set name = $3, region = $4, bucket = $5, path = $6, username = $7,
             path_style = $8, sealed = $9, deploy_key_id = $10, public_key = $11, host_key = $12,
             tested_at = $13, test_error = $14, secret_updated_at = $15, updated_at = $16,
             version = version + 1
         where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
        connection.name,
        connection.region,
        connection.bucket,
        connection.path,
        connection.username,
        connection.path_style,
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
    tested: Changed<StorageConnection>,
) -> Result<StorageConnection> {
    let connection = tested.state();
    query!(
        "update storage_connection set tested_at = $3, test_error = $4 where org_id = $1 and id = $2",
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
    changed: Changed<StorageConnection>,
) -> Result<StorageConnection> {
    let connection = changed.state();
    query!(
        "update storage_connection set is_default = false where org_id = $1 and is_default",
        connection.org_id as _,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "update storage_connection set is_default = true where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Deletes a connection, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<StorageConnection>) -> Result<()> {
    let connection = deleted.state();
    query!(
        "delete from storage_connection where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
    )
    .execute(tx.conn())
    .await?;
    tx.emit(deleted);
    Ok(())
}

/// Locks a connection against changes and against new uses.
pub(crate) async fn lock(
    tx: &mut Tx,
    org_id: OrgId,
    id: StorageConnectionId,
) -> Result<StorageConnection> {
    let connection =
        storage_connections!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    connection.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(StorageConnectionId::NOUN))
}

/// Returns the default connection of an organization.
pub(crate) async fn default(tx: &mut Tx, org_id: OrgId) -> Result<Option<StorageConnection>> {
    let connection = storage_connections!("where org_id = $1 and is_default", org_id.0);
    Ok(connection.fetch_optional(tx.conn()).await?)
}

/// Returns a connection.
pub(crate) async fn get(
    db: &Db,
    org_id: OrgId,
    id: StorageConnectionId,
) -> Result<StorageConnection> {
    let connection = storage_connections!("where org_id = $1 and id = $2", org_id.0, id.0);
    connection.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(StorageConnectionId::NOUN))
}

/// Returns a page of the connections of an organization, oldest first.
pub(crate) async fn list(db: &Db, grant: &Grant, page: &Page) -> Result<Vec<StorageConnection>> {
    let connections = storage_connections!(
        "where org_id = $1 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $3",
        grant.org_id().0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(connections.fetch_all(db.pool()).await?)
}

/// Returns the objects that use a connection. The caller has locked the connection.
pub(crate) async fn consumers(
    tx: &mut Tx,
    connection: &StorageConnection,
) -> Result<StorageConsumers> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from storage_connection_use
           where org_id = $1 and storage_connection_id = $2"#,
        connection.org_id.0,
        connection.id.0
    );
    let count = count.fetch_one(tx.conn()).await?;
    let listed = query!(
        "select consumer_id, name from storage_connection_use where org_id = $1 and storage_connection_id = $2
         order by consumer_id limit $3",
        connection.org_id.0,
        connection.id.0,
        LISTED_USERS_MAX
    );
    let listed = listed.fetch_all(tx.conn()).await?.into_iter();
    let listed = listed.map(|it| StorageConsumer { id: it.consumer_id.to_string(), name: it.name });
    Ok(StorageConsumers { count, listed: listed.collect() })
}

/// Registers the use of a connection in place of another one of the same consumer. The caller has locked the
/// connection.
pub(crate) async fn register_use(
    tx: &mut Tx,
    connection: &StorageConnection,
    consumer: &StorageConsumer,
) -> Result<()> {
    let consumer_id: Uuid = consumer.id.parse().map_err(anyhow::Error::from)?;
    query!(
        "insert into storage_connection_use (org_id, consumer_id, storage_connection_id, name, created_at)
         values ($1, $2, $3, $4, $5)
         on conflict (org_id, consumer_id) do update
             set storage_connection_id = excluded.storage_connection_id, name = excluded.name",
        connection.org_id.0,
        consumer_id,
        connection.id.0,
        consumer.name,
        tx.now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Removes the registration of a use.
pub(crate) async fn remove_use(tx: &mut Tx, org_id: OrgId, consumer_id: Uuid) -> Result<()> {
    query!(
        "delete from storage_connection_use where org_id = $1 and consumer_id = $2",
        org_id.0,
        consumer_id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
