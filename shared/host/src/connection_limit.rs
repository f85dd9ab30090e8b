//! Number of connections that the database allows, compared at the start with the number that this process
//! opens.

use anyhow::{Context, ensure};
use chassis::Db;
use sqlx::{Executor, PgConnection, Row};

use crate::host::Schema;

/// Smallest number of connections of a service: two for reads, because the relay of events holds one while it
/// reads, and two for transactions.
const SERVICE_MIN: u32 = 4;

/// Connections of the process besides those of its services: one for migrations.
const OTHER: u32 = 1;

/// A limit on connections.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    connections: u32,
    /// The setting in PostgreSQL, with its value.
    setting: String,
}

/// Sets the number of connections of each service to what the database allows. Fails if that is too few for
/// the services of this process.
pub(crate) async fn apply(
    connection: &mut PgConnection,
    databases: &[(Db, Schema)],
    connections_max: u32,
) -> anyhow::Result<()> {
    let limit = read(connection).await.context("the limits on connections cannot be read")?;
    let services = u32::try_from(databases.len()).unwrap_or(u32::MAX);
    let of_service = of_service(&limit, services, connections_max)?;
    if of_service < connections_max {
        let Limit { connections, setting } = &limit;
        tracing::warn!(
            "the database allows {connections} connections ({setting}), but this process opens up to {} \
             ({services} services with --database-connections-max {connections_max}, and {OTHER}); each \
             service uses at most {of_service}. Raise the limit of the database, or set \
             --database-connections-max to {of_service}",
            services * connections_max + OTHER
        );
    }
    for (db, _) in databases {
        db.set_connections_max(of_service);
    }
    Ok(())
}

/// Returns the number of connections of each service.
fn of_service(limit: &Limit, services: u32, connections_max: u32) -> anyhow::Result<u32> {
    let Limit { connections, setting } = limit;
    let needed = services * SERVICE_MIN + OTHER;
    ensure!(
        *connections >= needed,
        "the database allows {connections} connections ({setting}), but this process needs at least \
         {needed} for its {services} services; raise this limit to {} for the present \
         --database-connections-max",
        services * connections_max + OTHER
    );
    Ok(((connections - OTHER) / services.max(1)).min(connections_max))
}

/// Reads the smallest limit for the user of the connection.
async fn read(connection: &mut PgConnection) -> anyhow::Result<Limit> {
    // `reserved_connections` exists since PostgreSQL 16. Superusers are exempt from all but the first.
    let row = connection
        .fetch_one(
            "select current_setting('max_connections')::int,
                    current_setting('superuser_reserved_connections')::int
                        + coalesce(current_setting('reserved_connections', true)::int, 0),
                    rolname::text, rolconnlimit, datname::text, datconnlimit, rolsuper
             from pg_roles, pg_database
             where rolname = session_user and datname = current_database()",
        )
        .await?;
    let max: i32 = row.try_get(0)?;
    let reserved: i32 = row.try_get(1)?;
    let (role, of_role): (String, i32) = (row.try_get(2)?, row.try_get(3)?);
    let (database, of_database): (String, i32) = (row.try_get(4)?, row.try_get(5)?);
    let limit = |connections: i32, setting: String| Limit {
        connections: u32::try_from(connections).unwrap_or(0),
        setting,
    };
    if row.try_get(6)? {
        return Ok(limit(max, format!("max_connections = {max}")));
    }
    let mut limits = vec![limit(
        max - reserved,
        format!("max_connections = {max}, of which {reserved} are reserved for superusers"),
    )];
    // A negative value means no limit.
    if of_role >= 0 {
        limits.push(limit(of_role, format!("the connection limit of the role {role}")));
    }
    if of_database >= 0 {
        limits.push(limit(of_database, format!("the connection limit of the database {database}")));
    }
    limits.into_iter().min_by_key(|it| it.connections).context("there is at least one limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_share_the_connections_of_the_database() {
        let limit = |connections| Limit { connections, setting: "max_connections".to_owned() };
        assert_eq!(of_service(&limit(97), 4, 16).unwrap(), 16);
        assert_eq!(of_service(&limit(20), 4, 16).unwrap(), 4);
        assert_eq!(of_service(&limit(20), 1, 16).unwrap(), 16);
        let error = of_service(&limit(16), 4, 16).unwrap_err().to_string();
        assert!(error.contains("allows 16") && error.contains("at least 17"), "{error}");
    }
}
