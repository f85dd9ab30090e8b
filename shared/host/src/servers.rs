//! Several servers in `--database-url`: a primary and its standbys, one of which becomes the primary at a
//! fail-over. The URL has their addresses with commas between them, as for libpq:
//! `postgres://user@first:5432,second:5432/tenantry`.

use std::time::{Duration, Instant};

use anyhow::Context;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions, query_scalar};
use tokio::time::timeout;

/// Time-out of the question to a server, with the connection to it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the servers are asked again at the start.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// The servers of a database. Clones are equal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers(Vec<PgConnectOptions>);

impl Servers {
    /// Parses a URL with one or more addresses.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let urls = split(url).into_iter();
        let servers: Result<Vec<_>, _> = urls.map(|it| it.parse::<PgConnectOptions>()).collect();
        let servers = servers.context(
            "--database-url is not a valid URL; use for example postgres://user@host/tenantry, or with \
             several servers postgres://user@first:5432,second:5432/tenantry",
        )?;
        Ok(Self(servers))
    }

    /// True if there is another server after a fail-over.
    pub(crate) fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Waits for a server that accepts writes, and returns its options; those of the first server if there is
    /// only one, or none until the end of `patience`.
    pub(crate) async fn wait_for_primary(&self, patience: Duration) -> PgConnectOptions {
        let deadline = Instant::now() + patience;
        while self.are_several() && Instant::now() < deadline {
            if let Some(primary) = self.primary(Clone::clone).await {
                return primary;
            }
            tracing::warn!("no server of --database-url accepts writes; retrying");
            tokio::time::sleep(PROBE_PAUSE).await;
        }
        self.0[0].clone()
    }

    /// Returns the first server that accepts writes. `options` returns the options with which it is asked.
    pub(crate) async fn primary(
        &self,
        options: impl Fn(&PgConnectOptions) -> PgConnectOptions,
    ) -> Option<PgConnectOptions> {
        let probes = self.0.iter().map(async |server| {
            let answer = timeout(PROBE_TIMEOUT, accepts_writes(&options(server))).await;
            matches!(answer, Ok(Ok(true))).then(|| server.clone())
        });
        futures::future::join_all(probes).await.into_iter().flatten().next()
    }
}

async fn accepts_writes(options: &PgConnectOptions) -> sqlx::Result<bool> {
    let mut connection = PgConnection::connect_with(options).await?;
    let is_read_only = is_read_only(&mut connection).await?;
    connection.close().await?;
    Ok(!is_read_only)
}

/// True if a server is a standby, or set to read-only.
pub(crate) async fn is_read_only(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let setting = query_scalar!(
        r#"select current_setting('transaction_read_only') = 'on' as "is_read_only!""#
    );
    setting.fetch_one(connection).await
}

/// Splits a URL with several addresses into URLs with one address each.
fn split(url: &str) -> Vec<String> {
    let authority = url.find("://").map_or(0, |it| it + 3);
    let end = url[authority..].find(['/', '?']).map_or(url.len(), |it| authority + it);
    let hosts = url[authority..end].rfind('@').map_or(authority, |it| authority + it + 1);
    let one = |host: &str| format!("{}{host}{}", &url[..hosts], &url[end..]);
    url[hosts..end].split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_one_or_several_addresses() {
        let parse = |url: &str| {
            let Servers(servers) = Servers::parse(url).unwrap();
            let address = |it: &PgConnectOptions| format!("{}:{}", it.get_host(), it.get_port());
            (servers.iter().map(address).collect::<Vec<_>>().join(" "), servers[0].clone())
        };
        assert_eq!(parse("postgres://ann@db/tenantry").0, "db:5432");
        assert_eq!(parse("postgres://ann@db/tenantry?application_name=a,b").0, "db:5432");
        let (addresses, first) =
            parse("postgres://ann:a,b@one:5433,two,[::1]:5434/tenantry?sslmode=require");
        assert_eq!(addresses, "one:5433 two:5432 [::1]:5434");
        assert_eq!(first.get_username(), "ann");
        assert_eq!(first.get_database(), Some("tenantry"));
        Servers::parse("postgres://ann@one:x,two/tenantry").unwrap_err();
    }
}
