//! Every SQL statement about servers.

use chassis::{Changed, Db, Error, Grant, OnConstraint, OrgId, Result, Tx, page::Page};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Agent, Allocated, Health, Refused, Server, ServerId};
use crate::environment::{Environment, EnvironmentId, edit::Patch};

/// Selects whole servers: the rest of the statement after `from server`, and its arguments.
macro_rules! servers {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Server,
            "select id, org_id, name, address, cpu_millis, memory_mb, disk_gb, token_hash, health, isolation,
                    limits, runner_version, last_seen_at, database_address, version, created_at
             from server " + $rest
            $(, $argument)*
        )
    };
}

/// How many servers an organization has. Keeps others from adding one until the transaction ends.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    query!("select pg_advisory_xact_lock(hashtextextended($1, 1))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    let count =
        query_scalar!(r#"select count(*) as "count!" from server where org_id = $1"#, org_id.0);
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new server and its event.
pub(crate) async fn insert(tx: &mut Tx, connected: Changed<Server>) -> Result<Server> {
    let it = connected.state();
    query!(
        "insert into server (id, org_id, name, address, cpu_millis, memory_mb, disk_gb, token_hash,
            created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        it.id as _,
        it.org_id.map(|it| it.0),
        it.name,
        it.address,
        it.cpu_millis,
        it.memory_mb,
        it.disk_gb,
        it.token_hash,
        it.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("server_address", Refused::Exists)?;
    Ok(tx.emit(connected))
}

/// Stores what somebody changed of a server, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Server>) -> Result<Server> {
    let it = changed.state();
    query!(
        "update server set name = $3, address = $4, cpu_millis = $5, memory_mb = $6, disk_gb = $7,
             token_hash = $8, version = version + 1
         where org_id = $1 and id = $2",
        it.org_id.map(|it| it.0),
        it.id as _,
        it.name,
        it.address,
        it.cpu_millis,
        it.memory_mb,
        it.disk_gb,
        it.token_hash,
    )
    .execute(tx.conn())
    .await
    .on_constraint("server_address", Refused::Exists)?;
    let mut it = tx.emit(changed);
    it.version += 1;
    Ok(it)
}

/// Deletes a server and stores its event.
pub(crate) async fn delete(tx: &mut Tx, removed: Changed<Server>) -> Result<()> {
    let it = removed.state();
    query!(
        "update project set server_id = null where org_id = $1 and server_id = $2",
        it.org_id.map(|it| it.0),
        it.id as _
    )
    .execute(tx.conn())
    .await?;
    query!(
        "delete from server where org_id = $1 and id = $2",
        it.org_id.map(|it| it.0),
        it.id as _
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(removed)).map(|_| ())
}

/// Loads a server of an organization and keeps others from changing it.
pub(crate) async fn lock_own(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    let server = servers!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// The same for a server that is to go, with the projects that name it: they are locked before it.
pub(crate) async fn lock_to_remove(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    query!(
        "select id from project where org_id = $1 and server_id = $2 order by id for no key update",
        org_id.0,
        id.0
    )
    .fetch_all(tx.conn())
    .await?;
    lock_own(tx, org_id, id).await
}

/// Loads a server that an organization may use, and keeps others from placing something on it.
pub(crate) async fn lock(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    let server = servers!(
        "where (org_id = $1 or org_id is null) and id = $2 for no key update",
        org_id.0,
        id.0
    );
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// The same, and the server stays as long as the transaction goes on.
pub(crate) async fn hold(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    let server =
        servers!("where (org_id = $1 or org_id is null) and id = $2 for key share", org_id.0, id.0);
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Loads a server that an organization may use (PE-5).
pub(crate) async fn load(tx: &mut Tx, org_id: OrgId, id: ServerId) -> Result<Server> {
    let server = servers!("where (org_id = $1 or org_id is null) and id = $2", org_id.0, id.0);
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Loads the server of a runner, which proved that it is.
pub(crate) async fn lock_any(tx: &mut Tx, id: ServerId) -> Result<Server> {
    // Its own runner (no org_id).
    let server = servers!("where id = $1 for no key update", id.0);
    server.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// What environments have of a server, but for one of them.
pub(crate) async fn allocated(
    tx: &mut Tx,
    id: ServerId,
    but: Option<EnvironmentId>,
) -> Result<Allocated> {
    // Of every tenant (no org_id): a shared server is shared.
    let allocated = query_as!(
        Allocated,
        r#"select coalesce(sum(cpu_millis), 0) as "cpu_millis!", coalesce(sum(memory_mb), 0) as "memory_mb!",
                  coalesce(sum(disk_gb), 0) as "disk_gb!", count(*) as "environments!"
           from environment where server_id = $1 and id is distinct from $2::uuid"#,
        id.0,
        but.map(|it| it.0)
    );
    Ok(allocated.fetch_one(tx.conn()).await?)
}

/// The same, for a page of servers.
pub(crate) async fn allocations(db: &Db, ids: &[Uuid]) -> Result<Vec<(ServerId, Allocated)>> {
    // Of servers that the caller may see (no org_id).
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

/// Refuses what is asked of a server whose runner does not call, or of none at all (PE-21, PL-20).
pub(crate) async fn require_reachable(tx: &mut Tx, id: Option<ServerId>) -> Result<()> {
    let now = tx.now;
    let seen = match id {
        // Under its environment (no org_id).
        Some(id) => query_scalar!("select last_seen_at from server where id = $1", id.0)
            .fetch_optional(tx.conn())
            .await?
            .flatten(),
        // Any shared one will do (no org_id).
        None => {
            query_scalar!("select max(last_seen_at) from server where org_id is null")
                .fetch_one(tx.conn())
                .await?
        }
    };
    match Health::at(seen, now) {
        Health::Healthy | Health::Degraded => Ok(()),
        _ => Err(Refused::Unreachable(id).into()),
    }
}

/// Refuses a change of an environment that its server, or its new one, has no room for.
pub(crate) async fn require_room(tx: &mut Tx, it: &Environment, patch: &Patch) -> Result<()> {
    let Some(id) = patch.server_id.or(it.server_id) else { return Ok(()) };
    if patch.room.is_none() && patch.server_id.is_none() {
        return Ok(());
    }
    let server = lock(tx, it.org_id, id).await?;
    if patch.server_id.is_some() {
        server.reachable(tx.now)?;
    }
    let allocated = allocated(tx, id, Some(it.id)).await?;
    Ok(server.has_room(patch.room.unwrap_or(it.room()), allocated)?)
}

/// One server that an organization may use.
pub(crate) async fn get(db: &Db, grant: &Grant, id: ServerId) -> Result<Server> {
    let server =
        servers!("where (org_id = $1 or org_id is null) and id = $2", grant.org_id().0, id.0);
    server.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// A page of the servers that an organization may use.
pub(crate) async fn list(db: &Db, grant: &Grant, page: &Page) -> Result<Vec<Server>> {
    let servers = servers!(
        "where (org_id = $1 or org_id is null) and ($2::uuid is null or id > $2) order by id limit $3",
        grant.org_id().0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(servers.fetch_all(db.pool()).await?)
}

/// The server with a token, and what is stored of its secret.
pub(crate) async fn by_token(db: &Db, id: Uuid) -> Result<Option<(ServerId, Vec<u8>)>> {
    // By its token (no org_id), which is checked next.
    let row = query!(
        r#"select id, token_hash as "token_hash!" from server where id = $1 and token_hash is not null"#,
        id
    );
    Ok(row.fetch_optional(db.pool()).await?.map(|it| (it.id, it.token_hash)))
}

/// The shared server with a runner of this name.
pub(crate) async fn shared(db: &Db, name: &str) -> Result<Option<Agent>> {
    // Of no tenant (no org_id).
    let id = query_scalar!("select id from server where org_id is null and name = $1", name);
    let id = id.fetch_optional(db.pool()).await?;
    Ok(id.map(|server_id| Agent { server_id, shared: true }))
}

/// The same; it is there from now on.
pub(crate) async fn share(db: &Db, name: &str, address: &str) -> Result<Agent> {
    if let Some(agent) = shared(db, name).await? {
        return Ok(agent);
    }
    let (id, now) = (ServerId::new(), db.now());
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
    shared(db, name).await?.ok_or(Error::NotFound(ServerId::NOUN))
}

/// Stores what a runner says of its machine.
pub(crate) async fn seen(tx: &mut Tx, it: &Server) -> Result<()> {
    // Its own runner (no org_id).
    query!(
        "update server set last_seen_at = $2, health = $3, isolation = $4, limits = $5, runner_version = $6,
             cpu_millis = $7, memory_mb = $8, disk_gb = $9, database_address = $10
         where id = $1",
        it.id as _,
        it.last_seen_at,
        it.health as _,
        it.isolation,
        it.limits,
        it.runner_version,
        it.cpu_millis,
        it.memory_mb,
        it.disk_gb,
        it.database_address,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Servers that are due to be looked at.
pub(crate) async fn seen_too_long_ago(tx: &mut Tx) -> Result<Vec<Server>> {
    let before: OffsetDateTime = tx.now - super::health::BEAT * 2;
    // Of every tenant (no org_id).
    let servers = servers!(
        "where health <> 'dead' and last_seen_at < $1
         order by id limit 100 for update skip locked",
        before
    );
    Ok(servers.fetch_all(tx.conn()).await?)
}
