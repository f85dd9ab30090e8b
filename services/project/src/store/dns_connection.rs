//! SQL statements about DNS connections.

use chassis::{Changed, Db, Error, Grant, OrgId, Result, Tx, page::Page};
use project_rules::{
    connection::{
        ConnectionUser, LISTED_USERS_MAX,
        dns::{DnsConnection, Users},
    },
    types::DnsConnectionId,
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

/// Selects rows of DNS connections: the rest of the statement after `from dns_connection`, and its arguments.
macro_rules! dns_connections {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            DnsConnection,
            "select id, org_id, name, zone, provider, server_address, remote_id, key_name, key_algorithm,
                    sealed, is_default, tested_at, test_error, secret_updated_at, version, creator_id,
                    created_at, updated_at
             from dns_connection " + $rest
            $(, $argument)*
        )
    };
}

/// Locks the set of connections of an organization: other calls of this function for it wait until the
/// transaction ends.
pub(crate) async fn lock_set(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    // The second argument separates the advisory locks (see `store::server::lock_and_count`).
    query!("select pg_advisory_xact_lock(hashtextextended($1, 4))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Counts the connections of an organization.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from dns_connection where org_id = $1"#,
        org_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new connection and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<DnsConnection>) -> Result<DnsConnection> {
    let connection = created.state();
    query!(
        "insert into dns_connection (id, org_id, name, zone, provider, server_address, remote_id, key_name,
             key_algorithm, sealed, tested_at, secret_updated_at, creator_id, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        connection.id as _,
        connection.org_id as _,
        connection.name,
        connection.zone,
        connection.provider as _,
        connection.server_address,
        connection.remote_id,
        connection.key_name,
        connection.key_algorithm as _,
        connection.sealed,
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
pub(crate) async fn update(tx: &mut Tx, changed: Changed<DnsConnection>) -> Result<DnsConnection> {
    let connection = changed.state();
    query!(
        "update dns_connection set name = $3, key_name = $4, key_algorithm = $5, sealed = $6, tested_at = $7,
             test_error = $8, secret_updated_at = $9, updated_at = $10, version = version + 1
         where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
        connection.name,
        connection.key_name,
        connection.key_algorithm as _,
        connection.sealed,
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
    tested: Changed<DnsConnection>,
) -> Result<DnsConnection> {
    let connection = tested.state();
    query!(
        "update dns_connection set tested_at = $3, test_error = $4 where org_id = $1 and id = $2",
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
    changed: Changed<DnsConnection>,
) -> Result<DnsConnection> {
    let connection = changed.state();
    query!(
        "update dns_connection set is_default = false where org_id = $1 and is_default",
        connection.org_id as _,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "update dns_connection set is_default = true where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Deletes a connection, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<DnsConnection>) -> Result<()> {
    let connection = deleted.state();
    query!(
        "delete from dns_connection where org_id = $1 and id = $2",
        connection.org_id as _,
        connection.id as _,
    )
    .execute(tx.conn())
    .await?;
    tx.emit(deleted);
    Ok(())
}

/// Locks a connection against changes and against new servers and records that use it.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: DnsConnectionId) -> Result<DnsConnection> {
    let connection = dns_connections!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    connection.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(DnsConnectionId::NOUN))
}

/// Loads a connection for a server or a record, and locks it against removal.
pub(crate) async fn load(tx: &mut Tx, org_id: OrgId, id: DnsConnectionId) -> Result<DnsConnection> {
    let connection =
        dns_connections!("where org_id = $1 and id = $2 for key share", org_id.0, id.0);
    connection.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(DnsConnectionId::NOUN))
}

/// Returns the default connection of an organization.
pub(crate) async fn default(tx: &mut Tx, org_id: OrgId) -> Result<Option<DnsConnection>> {
    let connection = dns_connections!("where org_id = $1 and is_default", org_id.0);
    Ok(connection.fetch_optional(tx.conn()).await?)
}

/// Returns a connection.
pub(crate) async fn get(db: &Db, org_id: OrgId, id: DnsConnectionId) -> Result<DnsConnection> {
    let connection = dns_connections!("where org_id = $1 and id = $2", org_id.0, id.0);
    connection.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(DnsConnectionId::NOUN))
}

/// Returns a page of the connections of an organization, oldest first.
pub(crate) async fn list(db: &Db, grant: &Grant, page: &Page) -> Result<Vec<DnsConnection>> {
    let connections = dns_connections!(
        "where org_id = $1 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $3",
        grant.org_id().0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(connections.fetch_all(db.pool()).await?)
}

/// Returns the servers and records that use a connection. The caller has locked the connection.
pub(crate) async fn users(tx: &mut Tx, connection: &DnsConnection) -> Result<Users> {
    let counts = query!(
        r#"select (select count(*) from server where org_id = $1 and dns_connection_id = $2) as "servers!",
                  (select count(*) from dns_record
                   where org_id = $1 and dns_connection_id = $2) as "records!""#,
        connection.org_id.0,
        connection.id.0
    );
    let counts = counts.fetch_one(tx.conn()).await?;
    let listed = query!(
        "select id, name from server where org_id = $1 and dns_connection_id = $2 order by id limit $3",
        connection.org_id.0,
        connection.id.0,
        LISTED_USERS_MAX
    );
    let listed = listed.fetch_all(tx.conn()).await?.into_iter();
    let listed = listed.map(|it| ConnectionUser { id: it.id.into(), name: it.name });
    Ok(Users { servers: counts.servers, listed: listed.collect(), records: counts.records })
}
