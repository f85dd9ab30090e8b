//! Checks of the services and of the systems that they use: database, NATS, mail server, base URL.

use std::time::{Duration, Instant};

use anyhow::Context;
use chassis::{Clock, Config, Db, db::deployment_key::StoredKey, key::Key};
use eventing::JetStream;
use mail::Mailer;
use tokio::net::TcpStream;
use worker::reseal::{self, SealedColumn};

use super::{Level, Report, machine::Machine};
use crate::{Host, Install, connection_limit, database, migrate, process, run};

/// Difference of two clocks above which it is reported.
const CLOCK_DIFFERENCE_MAX: time::Duration = time::Duration::seconds(2);

/// Time limit of a connection to the base URL.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Compares settings with those that are recommended for production.
pub(super) fn check_settings(config: &Config, report: &mut Report) {
    let is_public = !config.listen.ip().is_loopback();
    let mut warn = |check, message: &str| report.add(check, Level::Warning, message);
    if config.smtp_url.is_none() {
        warn("mail", "mails are written to files in the data directory; set --smtp-url");
    }
    if is_public && config.base_url.is_none() {
        warn("base URL", "links in mails lead to this machine only; set --base-url");
    }
    if config.allow_weak_isolation {
        warn(
            "isolation",
            "deployed code may run without full isolation; unset --allow-weak-isolation",
        );
    }
    let nodes = config.nats_url.as_ref().map_or(0, |it| it.split(',').count());
    if nodes >= 3 && config.nats_stream_replicas < 3 {
        warn("NATS", "one node of the cluster stores all events; set --nats-stream-replicas to 3");
    }
}

/// Checks the services and the systems that they use.
pub(super) async fn check(
    config: &Config,
    machine: &Machine,
    installs: &[Install],
    report: &mut Report,
) {
    check_nats(config, report).await;
    check_mail(config, machine, report).await;
    check_base_url(config, report).await;
    if machine.is_running && config.database_url.is_none() {
        report.add("database", Level::Ok, "private server of the running process");
        return;
    }
    let database = process::database(config, &machine.data_dir).await;
    let describe = |postgres: bool| if postgres { "private server" } else { "of --database-url" };
    let Some((options, postgres)) =
        report.step("database", database, |it| describe(it.1.is_some()).to_owned())
    else {
        return;
    };
    let host = Host::new(config.clone(), options, machine.data_dir.clone());
    let installed = host.and_then(|mut host| {
        for install in installs {
            install(&mut host)?;
        }
        Ok(host)
    });
    if let Some(host) = report.step("settings", installed, |_| "valid".to_owned()) {
        host.examine(report).await;
    }
    if let Some(postgres) = postgres {
        // Its end is the end of the check; a panic would be one of the server's own process.
        let _ = tokio::task::spawn_blocking(|| postgres.stop()).await;
    }
}

async fn check_nats(config: &Config, report: &mut Report) {
    let Some(url) = &config.nats_url else { return };
    let state = JetStream::examine(url).await;
    report.step("NATS", state, ToString::to_string);
}

async fn check_mail(config: &Config, machine: &Machine, report: &mut Report) {
    let mailer = Mailer::new(config, machine.data_dir.path().join("mail"));
    let Some(mailer) = report.step("mail settings", mailer, |_| config.mail_from.clone()) else {
        return;
    };
    if config.smtp_url.is_some() {
        let connected = mailer.examine().await;
        report.step("mail server", connected, |()| "accepts the connection".to_owned());
    }
}

async fn check_base_url(config: &Config, report: &mut Report) {
    let Some(base_url) = &config.base_url else { return };
    let Ok(url) = url::Url::parse(base_url) else { return };
    let Ok(addresses) = url.socket_addrs(|| None) else {
        let message =
            format!("{base_url}: the name cannot be resolved here; check its DNS records");
        report.add("base URL", Level::Warning, message);
        return;
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&addresses[..])).await;
    match connected {
        Ok(Ok(_)) => report.add("base URL", Level::Ok, base_url),
        _ => report.add(
            "base URL",
            Level::Warning,
            format!("{base_url} does not accept connections from here; check the proxy in front"),
        ),
    }
}

impl Host {
    /// Checks TLS, the database, its migrations, the key and the clock.
    async fn examine(&self, report: &mut Report) {
        let tls = self.tls().and_then(|it| {
            run::require_tls(self.config.listen, it.as_ref())?;
            Ok(it)
        });
        report.step("TLS", tls, |it| match it {
            Some(tls) => format!("valid for {} more days", tls.remaining_days()),
            None => "none, for connections of this machine only".to_owned(),
        });
        report.step("events", self.require_bus(), |()| match self.config.nats_url {
            Some(_) => "through NATS".to_owned(),
            None => "within the process".to_owned(),
        });
        let connection = migrate::connect(&self.options, Instant::now()).await;
        let Some(mut connection) = report.step("connection", connection, |_| "accepted".to_owned())
        else {
            return;
        };
        let settings = database::check_settings(&mut connection).await;
        let Some(settings) =
            report.step("PostgreSQL", settings, |it| format!("version {}", it.version))
        else {
            return;
        };
        if !settings.is_durable {
            report.add("durability", Level::Warning, database::NOT_DURABLE);
        }
        let connections_max = self.config.database_connections_max;
        let limit =
            connection_limit::apply(&mut connection, &self.databases, connections_max).await;
        report.step("connection limit", limit, |()| "sufficient".to_owned());
        let mut pending = 0;
        for (db, schema) in &self.databases {
            match migrate::pending(&mut connection, db.name(), *schema).await {
                Ok(count) => pending += count,
                Err(error) => return report.add("migrations", Level::Error, format!("{error:#}")),
            }
        }
        if pending > 0 {
            let message = format!("{pending} migrations are applied at the start, or by `migrate`");
            return report.add("migrations", Level::Ok, message);
        }
        report.add("migrations", Level::Ok, "all are applied");
        let key = database::require_key(&self.databases, &self.key, &self.key_file).await;
        if report.step("secret key", key, |()| self.key_file.display().to_string()).is_some() {
            self.examine_keys(report).await;
        }
        if let Some((db, _)) = self.databases.first() {
            let difference = clock_difference(db).await;
            let text =
                |it: time::Duration| format!("{} ms from the database's", it.whole_milliseconds());
            match difference {
                Ok(it) if it.abs() > CLOCK_DIFFERENCE_MAX => report.add(
                    "clock",
                    Level::Warning,
                    format!("{}; synchronize the clocks of both machines", text(it)),
                ),
                other => drop(report.step("clock", other, |it| text(*it))),
            }
        }
    }
}

impl Host {
    /// Reports the values and the state of each secret key, for a file or a schema with several ones.
    async fn examine_keys(&self, report: &mut Report) {
        for (db, _) in &self.databases {
            let state = key_state(db, &self.key, self.sealed_columns(db)).await;
            let service = db.name();
            match state {
                Ok(None) => {}
                Ok(Some(KeyState { level, text })) => {
                    report.add("key rotation", level, format!("{service}: {text}"));
                }
                Err(error) => report.add("key rotation", Level::Error, format!("{error:#}")),
            }
        }
    }
}

/// State of the secret keys of a schema.
struct KeyState {
    level: Level,
    text: String,
}

/// Returns the state of the keys of a schema; `None` if there is only one.
async fn key_state(
    db: &Db,
    key: &Key,
    columns: &[SealedColumn],
) -> anyhow::Result<Option<KeyState>> {
    let stored = db.stored_keys().await?;
    let has_previous = stored.iter().any(|it| !it.is_retired && !is_current(it, key));
    if key.ids().len() == 1 && !has_previous {
        return Ok(None);
    }
    let counts = reseal::count(db, key, columns).await?;
    let mut texts = vec![];
    for (id, check_value) in key.ids().into_iter().zip(key.check_values()) {
        let count = counts.get(&id).copied().unwrap_or_default();
        let stored = stored.iter().find(|it| it.check_value[..] == check_value);
        let state = match stored {
            _ if check_value == key.check_value() => "current",
            Some(it) if it.is_retired => "not needed",
            Some(it) if it.is_used => "used by a process",
            Some(_) => "needed",
            None => "not used yet",
        };
        texts.push(format!("{id} {state}, {count} values"));
    }
    if let Some(count) = counts.get(reseal::UNREADABLE) {
        texts.push(format!("{count} values are sealed with none of them"));
    }
    let level = if has_previous { Level::Warning } else { Level::Ok };
    Ok(Some(KeyState { level, text: texts.join("; ") }))
}

fn is_current(stored: &StoredKey, key: &Key) -> bool {
    stored.check_value[..] == key.check_value()
}

/// Returns the difference of this machine's clock from the database's.
async fn clock_difference(db: &Db) -> anyhow::Result<time::Duration> {
    let machine = Clock::default();
    let now =
        sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(db.pool()).await;
    Ok(machine.now() - now.context("the database's clock cannot be read")?)
}
