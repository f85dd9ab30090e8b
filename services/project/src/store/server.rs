//! SQL statements about servers.

use std::collections::BTreeMap;

use chassis::{Changed, Db, Error, Grant, OnConstraint, OrgId, Result, Tx, page::Page};
use project_rules::{
    alert::SERVER_SILENCE,
    runner::AuthenticatedRunner,
    server::{Allocated, Refused, Server, health::HEARTBEAT_INTERVAL, require_reachable},
    types::{DnsConnectionId, EnvironmentId, ServerId},
};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

/// Selects rows of servers: the rest of the statement after `from server`, and its arguments.
macro_rules! servers {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Server,
            "select id, org_id, name, address, cpu_millis, memory_mb, disk_gb, token_hash, health, isolation,
                    limits, runner_version, last_seen_at, database_address, dns_connection_id, apps_domain,
                    version,
                    created_at
             from server " + $rest
            $(, $argument)*
        )
    };
}

/// Counts the servers of an organization. Other calls of this function for the organization wait until the
/// transaction ends.
pub(crate) async fn lock_and_count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    // The second argument separates the advisory locks of environments (0), servers (1), project ids (2), and
    // connections (Git: 3, DNS: 4, storage: 5).
    query!("select pg_advisory_xact_lock(hashtextextended($1, 1))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    let count =
        query_scalar!(r#"select count(*) as "count!" from server where org_id = $1"#, org_id.0);
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new server and its event.
pub(crate) async fn insert(tx: &mut Tx, connected: Changed<Server>) -> Result<Server> {
    let server = connected.state();
    query!(
        "insert into server (id, org_id, name, address, cpu_millis, memory_mb, disk_gb, token_hash,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        server.id as _,
        server.org_id.map(|id| id.0),
        server.name,
        server.address,
        server.cpu_millis,
        server.memory_mb,
        server.disk_gb,
        server.token_hash,
        server.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("server_address", Refused::Exists)?;
    Ok(tx.emit(connected))
}

/// Stores the new fields of a server and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Server>) -> Result<Server> {
    let server = changed.state();
    query!(
        "update server set name = $3, address = $4, cpu_millis = $5, memory_mb = $6, disk_gb = $7,
             token_hash = $8, dns_connection_id = $9, version = version + 1
         where org_id = $1 and id = $2",
        server.org_id.map(|id| id.0),
        server.id as _,
        server.name,
        server.address,
        server.cpu_millis,
        server.memory_mb,
        server.disk_gb,
        server.token_hash,
        server.dns_connection_id.map(|id| id.0),
    )
    .execute(tx.conn())
    .await
    .on_constraint("server_address", Refused::Exists)?;
    let mut server = tx.emit(changed);
    server.version += 1;
    Ok(server)
}

/// Deletes a server, clears it as the default server of projects, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, removed: Changed<Server>) -> Result<()> {
    let server = removed.state();
    query!(
        "update project set server_id = null where org_id = $1 and server_id = $2",
        server.org_id.map(|id| id.0),
        server.id as _
    )
    .execute(tx.conn())
    .await?;
    query!(
        "delete from server where org_id = $1 and id = $2",
        server.org_id.map(|id| id.0),
        server.id as _
    )
    .execute(tx.conn())
    .await?;
    super::alert::close_of_target(tx, server.id.0).await?;
    tx.emit(removed);
    Ok(())
}

/// Locks a connected server of an organization against changes.
pub(crate) async fn lock_connected(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    let server = servers!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Locks a connected server for removal. The projects whose default server it is are locked first.
pub(crate) async fn lock_to_remove(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    query!(
        "select id from project where org_id = $1 and server_id = $2 order by id for no key update",
        org_id.0,
        id.0
    )
    .fetch_all(tx.conn())
    .await?;
    lock_connected(tx, org_id, id).await
}

/// Locks a server that an organization may use, so that no other environment is placed on it.
pub(crate) async fn lock_for_placement(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    let server = servers!(
        "where (org_id = $1 or org_id is null) and id = $2 for no key update",
        org_id.0,
        id.0
    );
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Loads a server that an organization may use (PE-5), and locks it against removal.
pub(crate) async fn lock_against_removal(
    tx: &mut Tx,
    org_id: OrgId,
    id: ServerId,
) -> Result<Server> {
    let server =
        servers!("where (org_id = $1 or org_id is null) and id = $2 for key share", org_id.0, id.0);
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Locks the server of a runner.
pub(crate) async fn lock_of_runner(tx: &mut Tx, id: ServerId) -> Result<Server> {
    // The server of an authenticated runner (no org_id).
    let server = servers!("where id = $1 for no key update", id.0);
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Returns the resources of the environments on a server, except those of `except`.
pub(crate) async fn allocated(
    tx: &mut Tx,
    id: ServerId,
    except: Option<EnvironmentId>,
) -> Result<Allocated> {
    // Environments of all organizations (no org_id): they share the server.
    let allocated = query_as!(
        Allocated,
        r#"select coalesce(sum(cpu_millis), 0) as "cpu_millis!", coalesce(sum(memory_mb), 0) as "memory_mb!",
                  coalesce(sum(disk_gb), 0) as "disk_gb!", count(*) as "environments!"
           from environment where server_id = $1 and id is distinct from $2::uuid"#,
        id.0,
        except.map(|it| it.0)
    );
    Ok(allocated.fetch_one(tx.conn()).await?)
}

/// Returns the resources of the environments on each of these servers. Servers without environments are
/// missing.
pub(crate) async fn allocated_by_server(
    db: &Db,
    ids: &[Uuid],
) -> Result<BTreeMap<ServerId, Allocated>> {
    // The caller has read the servers with the grant (no org_id).
    let rows = query!(
        r#"select server_id as "server_id!", coalesce(sum(cpu_millis), 0) as "cpu_millis!",
                  coalesce(sum(memory_mb), 0) as "memory_mb!", coalesce(sum(disk_gb), 0) as "disk_gb!",
                  count(*) as "environments!"
           from environment where server_id = any ($1) group by server_id"#,
        ids
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows
        .into_iter()
        .map(|it| {
            let allocated = Allocated {
                cpu_millis: it.cpu_millis,
                memory_mb: it.memory_mb,
                disk_gb: it.disk_gb,
                environments: it.environments,
            };
            (it.server_id, allocated)
        })
        .collect())
}

/// True if the runner of a server sends heartbeats. `None`: the runner of any shared server.
pub(crate) async fn is_reachable(tx: &mut Tx, id: Option<ServerId>) -> Result<bool> {
    // The server of an environment that the caller has locked, or shared servers (no org_id).
    let last_seen_at = query_scalar!(
        "select coalesce((select last_seen_at from server where id = $1),
                         (select max(last_seen_at) from server where $1 is null and org_id is null))",
        id.map(|it| it.0)
    );
    let last_seen_at = last_seen_at.fetch_one(tx.conn()).await?;
    Ok(require_reachable(id, last_seen_at, tx.now).is_ok())
}

/// Returns a server that an organization may use.
pub(crate) async fn get(db: &Db, grant: &Grant, id: ServerId) -> Result<Server> {
    let server =
        servers!("where (org_id = $1 or org_id is null) and id = $2", grant.org_id().0, id.0);
    server.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Returns a page of the servers that an organization may use. The servers of the organization and the shared
/// ones are two ranges of an index, from each of which a page is read.
pub(crate) async fn list(db: &Db, grant: &Grant, page: &Page) -> Result<Vec<Server>> {
    let servers = servers!(
        "where id in (
             (select id from server where org_id = $1
                 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
              order by id limit $3)
             union all
             (select id from server where org_id is null
                 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
              order by id limit $3))
         order by id limit $3",
        grant.org_id().0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(servers.fetch_all(db.pool()).await?)
}

/// Hash of the secret of a server's agent token.
pub(crate) struct TokenHash {
    pub(crate) server_id: ServerId,
    pub(crate) token_hash: Vec<u8>,
}

/// Returns the token hash of a connected server. The id of an agent token is the one of its server.
pub(crate) async fn token_hash(db: &Db, token_id: Uuid) -> Result<Option<TokenHash>> {
    // By the token (no org_id), whose secret the caller checks.
    let row = query!(
        r#"select id, token_hash as "token_hash!" from server where id = $1 and token_hash is not null"#,
        token_id
    );
    let row = row.fetch_optional(db.pool()).await?;
    Ok(row.map(|it| TokenHash { server_id: it.id, token_hash: it.token_hash }))
}

/// Addresses of the environments of a server.
pub(crate) struct Addresses {
    /// Host name or IP address of the server.
    pub(crate) address: String,
    /// Domain of the host names of its environments; empty if it has none.
    pub(crate) apps_domain: String,
    /// Connection with which the host names are published.
    pub(crate) dns_connection_id: Option<DnsConnectionId>,
}

/// Returns the addresses of the environments of the server of an authenticated runner.
pub(crate) async fn addresses(tx: &mut Tx, id: ServerId) -> Result<Addresses> {
    // The credential of the runner names the server (no org_id).
    let addresses = query_as!(
        Addresses,
        "select address, apps_domain, dns_connection_id from server where id = $1",
        id.0
    );
    Ok(addresses.fetch_one(tx.conn()).await?)
}

/// Returns the runner of the shared server with this name.
pub(crate) async fn find_shared(db: &Db, name: &str) -> Result<Option<AuthenticatedRunner>> {
    // Shared servers (no org_id).
    let id = query_scalar!("select id from server where org_id is null and name = $1", name);
    let id = id.fetch_optional(db.pool()).await?;
    Ok(id.map(|server_id| AuthenticatedRunner { server_id, shared: true }))
}

/// Returns the runner of the shared server with this name, and creates the server if it does not exist.
pub(crate) async fn get_or_create_shared(
    db: &Db,
    name: &str,
    address: &str,
) -> Result<AuthenticatedRunner> {
    if let Some(runner) = find_shared(db, name).await? {
        return Ok(runner);
    }
    let id = ServerId::new();
    let now = db.now();
    let insert = async |tx: &mut Tx| {
        query!(
            "insert into server (id, org_id, name, address, created_at) values ($1, null, $2, $3, $4)
             on conflict do nothing",
            id.0,
            name,
            address,
            now
        )
        .execute(tx.conn())
        .await?;
        Ok(())
    };
    db.write_as_system("a shared server", insert).await?;
    find_shared(db, name).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Stores the status of a server.
pub(crate) async fn update_status(tx: &mut Tx, server: &Server) -> Result<()> {
    // The server of an authenticated runner, or one that was locked before (no org_id).
    query!(
        "update server set last_seen_at = $2, health = $3, isolation = $4, limits = $5, runner_version = $6,
             cpu_millis = $7, memory_mb = $8, disk_gb = $9, database_address = $10, apps_domain = $11
         where id = $1",
        server.id as _,
        server.last_seen_at,
        server.health as _,
        server.isolation,
        server.limits,
        server.runner_version,
        server.cpu_millis,
        server.memory_mb,
        server.disk_gb,
        server.database_address,
        server.apps_domain,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Locks servers with missing heartbeats that are not yet DEAD, a limited number at once.
pub(crate) async fn lock_overdue(tx: &mut Tx) -> Result<Vec<Server>> {
    let before: OffsetDateTime = tx.now - HEARTBEAT_INTERVAL * 2;
    // Servers of all organizations (no org_id).
    let servers = servers!(
        "where health <> 'dead' and last_seen_at < $1
         order by id limit 100 for update skip locked",
        before
    );
    Ok(servers.fetch_all(tx.conn()).await?)
}

/// Locks connected servers that are silent, and have no open alert about it, in the order of their ids.
pub(crate) async fn lock_silent(tx: &mut Tx) -> Result<Vec<Server>> {
    let before: OffsetDateTime = tx.now - SERVER_SILENCE;
    // Servers of all organizations (no org_id).
    let servers = servers!(
        "where org_id is not null and last_seen_at < $1
           and not exists (select from alert where target_id = server.id
                           and kind = 'server_unreachable' and phase = 'open')
         order by id limit 100 for no key update skip locked",
        before
    );
    Ok(servers.fetch_all(tx.conn()).await?)
}
