//! The project service: projects, their environments, and the tasks with which runners deploy them.
//!
//! | concept | module |
//! |---|---|
//! | projects, and their creation across services | `project` |
//! | deployed branches of projects, their variables and states | `environment` |
//! | units of work of runners, for people | `task` |
//! | API of runners | `runner` |
//! | streams from runners to readers | `stream` |
//! | output of programs | `log` |
//! | people and teams with a role on a project | `collaborator` |
//! | custom domains of environments | `domain` |
//! | extra services of a project, like a database | `addon` |
//! | connections to Git servers and storage, and their tests | `connection` |
//! | connections to DNS servers | `dns_connection` |
//! | records on DNS servers | `dns` |
//! | push webhooks of git servers | `push` |
//! | columns that the secret key of the deployment seals | `sealed` |
//! | machines on which environments run | `server` |
//! | alerts about environments and servers | `alert` |
//! | calls to identity about organizations | `organization` |
//! | reactions to events of identity, and background jobs | `reactions` |
//! | SQL statements | `store` |
//!
//! The rules are in the crate `project-rules`. Modules import each other in one direction:
//! `store` ← `connection` ← `push`, `store` ← `dns` ← `dns_connection`, `store` ← `organization` ← `server`,
//! `store` ← `alert` ← `runner`, `environment` ← `domain`, `environment` ← `addon`,
//! `push` ← `task` ← `runner`, `dns` ← `runner`, `stream` ← `runner`, `stream` ← `log`, and
//! `environment`, `push` ← `project` ← `reactions`.

mod addon;
mod alert;
mod collaborator;
mod command;
mod connection;
mod dns;
mod dns_connection;
mod domain;
mod environment;
mod log;
mod organization;
mod project;
mod push;
mod reactions;
mod runner;
mod sealed;
mod server;
mod store;
mod stream;
mod task;

use std::sync::Arc;

use anyhow::{Context, ensure};
use api::project::{
    addon_service_server::AddonServiceServer,
    collaborator_service_server::CollaboratorServiceServer,
    dns_connection_service_server::DnsConnectionServiceServer,
    domain_service_server::DomainServiceServer,
    environment_command_service_server::EnvironmentCommandServiceServer,
    environment_log_service_server::EnvironmentLogServiceServer,
    environment_service_server::EnvironmentServiceServer,
    git_connection_service_server::GitConnectionServiceServer,
    project_service_server::ProjectServiceServer, runner_service_server::RunnerServiceServer,
    server_service_server::ServerServiceServer,
    storage_connection_service_server::StorageConnectionServiceServer,
    storage_object_service_server::StorageObjectServiceServer,
    task_service_server::TaskServiceServer,
};
use chassis::{Db, public_address::Exceptions};
use connection::{address::AddressChecker, probe::Prober};
use dns::{dns_client::DnsClient, publisher::Publisher};
use domain::DomainChecker;
use host::{Host, resolver::Resolver};
use project_rules::{
    domain::ReservedDomain,
    environment::metric::{HOUR_RETENTION, MINUTE_RETENTION},
    variable::Vault,
};
use stream::RunnerStreams;
use time::Duration;
use url::Url;
use worker::partition::PartitionedTable;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Installs the project service in a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("project", &MIGRATIONS);
    sealed::install(host, &db);
    let access = host.access();
    let pager = host.pager();
    let identity = host.client("project", "identity");
    let invitation = host.client("project", "invitation");
    let vault = Vault::new(host.key());
    let addresses = address_checker(host)?;
    let folder = host.data_dir().path().to_owned();
    let prober = Arc::new(Prober::new(addresses.clone(), folder));
    host.rpc(ProjectServiceServer::new(project::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity: identity.clone(),
        vault: vault.clone(),
        prober: prober.clone(),
        local_repositories: host.config().local_repositories,
        push_url: host.config().push_url(),
        push_secret_keys: host.key().derive("push secrets"),
    }));
    host.rpc(EnvironmentServiceServer::new(environment::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity: identity.clone(),
        vault: vault.clone(),
    }));
    host.rpc(AddonServiceServer::new(addon::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        vault: vault.clone(),
    }));
    host.rpc(CollaboratorServiceServer::new(collaborator::rpc::Rpc {
        access: access.clone(),
        identity: identity.clone(),
        invitation,
    }));
    host.rpc(ServerServiceServer::new(server::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        identity,
    }));
    install_connections(host, &db, &vault, &addresses, &prober);
    install_domains(host, &db)?;
    let publisher = install_dns(host, &db, &vault)?;
    let jobs_db = db.clone();
    let jobs_vault = vault.clone();
    host.task("repository credentials", move |stop| {
        reactions::move_credentials(jobs_db, jobs_vault, stop)
    });
    let draining = host.draining();
    host.rpc(RunnerServiceServer::new(runner::rpc::Rpc {
        db: db.clone(),
        vault,
        publisher,
        streams: RunnerStreams::new(host.replica_messages()),
        draining: draining.clone(),
    }));
    install_streams(host, &db);
    let hook = push::hook::Hook {
        project: host.client("project", "project"),
        db: db.clone(),
        secret_keys: host.key().derive("push secrets"),
    };
    host.site(push::hook::PATHS, hook);
    host.rpc(TaskServiceServer::new(task::rpc::Rpc { db: db.clone(), access, pager, draining }));
    host.queue("task", &db, store::task::queue);
    let jobs_db = db.clone();
    host.task("server health", move |stop| reactions::update_server_health(jobs_db, stop));
    install_alerts(host, &db);
    let jobs_db = db.clone();
    host.task("project registrations", move |stop| reactions::abandon_registrations(jobs_db, stop));
    host.add_retention_step(&db, project::creation::delete_ended_registrations);
    install_partitioned_tables(host, &db);
    host.on(&db, reactions::project_registered);
    host.on(&db, reactions::organization_deleted);
    host.on(&db, reactions::organization_restored);
    host.on(&db, reactions::organization_purged);
    host.on(&db, reactions::subscription_changed);
    Ok(())
}

/// Adds the logs of tasks and the metrics of environments to the retention job, which also sorts these.
fn install_partitioned_tables(host: &mut Host, db: &Db) {
    let log_retention = Duration::days(host.config().retention.task_log_retention_days.into());
    let table = |name, interval, retention| PartitionedTable {
        name,
        interval,
        retention,
        age_column: None,
    };
    host.add_partitioned_table(db, table("task_log", Duration::days(7), log_retention));
    host.add_partitioned_table(db, table("metric_minute", Duration::DAY, MINUTE_RETENTION));
    host.add_partitioned_table(db, table("metric_hour", Duration::days(28), HOUR_RETENTION));
    host.add_retention_step(db, store::metric::sort_last_hour);
}

/// Installs the job that reports alerts, and their deletion.
fn install_alerts(host: &mut Host, db: &Db) {
    let invitation = host.client("project", "invitation");
    host.add_retention_step(db, store::alert::delete_old);
    let db = db.clone();
    host.task("alerts", move |stop| alert::reporter::run(db, invitation, stop));
}

/// Adds the output of programs, and commands beside them.
fn install_streams(host: &mut Host, db: &Db) {
    let (tasks, received_tasks) = tokio::sync::mpsc::unbounded_channel();
    host.task("command sessions", move |stop| command::session::run_tasks(received_tasks, stop));
    host.rpc(EnvironmentCommandServiceServer::new(command::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        streams: RunnerStreams::new(host.replica_messages()),
        tasks,
        draining: host.draining(),
    }));
    host.rpc(EnvironmentLogServiceServer::new(log::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        streams: RunnerStreams::new(host.replica_messages()),
        draining: host.draining(),
    }));
}

/// Adds connections to Git servers and storage.
fn install_connections(
    host: &mut Host,
    db: &Db,
    vault: &Vault,
    addresses: &Arc<AddressChecker>,
    prober: &Arc<Prober>,
) {
    let folder = host.data_dir().path().to_owned();
    host.rpc(GitConnectionServiceServer::new(connection::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        vault: vault.clone(),
        prober: prober.clone(),
        local_repositories: host.config().local_repositories,
    }));
    host.add_retention_step(db, store::deploy_key::delete_expired);
    let storage_folder = host.config().storage_folder.clone();
    let client =
        connection::storage::client::StorageClient::new(addresses.clone(), folder, storage_folder);
    let client = Arc::new(client);
    host.rpc(StorageConnectionServiceServer::new(connection::storage::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        vault: vault.clone(),
        client: client.clone(),
    }));
    host.rpc(StorageObjectServiceServer::new(connection::storage::object::rpc::Rpc {
        db: db.clone(),
        vault: vault.clone(),
        client,
    }));
}

/// Returns the checker of the addresses of connections.
fn address_checker(host: &Host) -> anyhow::Result<Arc<AddressChecker>> {
    let config = host.config();
    let exceptions = Exceptions::parse("--connection-exceptions", &config.connection_exceptions)?;
    let resolver = Resolver::new(config.webhook_dns)?;
    Ok(Arc::new(AddressChecker::new(resolver, exceptions)))
}

/// Installs DNS connections and the publication of records.
fn install_dns(host: &mut Host, db: &Db, vault: &Vault) -> anyhow::Result<Publisher> {
    let dns = Arc::new(dns_client(host)?);
    let (access, pager) = (host.access(), host.pager());
    host.rpc(DnsConnectionServiceServer::new(dns_connection::rpc::Rpc {
        db: db.clone(),
        access,
        pager,
        vault: vault.clone(),
        dns: dns.clone(),
    }));
    let publisher = Publisher { db: db.clone(), vault: vault.clone(), dns };
    let job = publisher.clone();
    host.task("DNS records", move |stop| job.run(stop));
    Ok(publisher)
}

/// Installs custom domains and the job that checks them.
fn install_domains(host: &mut Host, db: &Db) -> anyhow::Result<()> {
    let checker = Arc::new(DomainChecker::new(Resolver::new(host.config().webhook_dns)?));
    let base_url = Url::parse(&host.config().base_url()).context("--base-url is not a URL")?;
    let base_host = ReservedDomain {
        name: base_url.host_str().unwrap_or_default().to_owned(),
        owner: "it is the host of the suite",
    };
    let (access, pager) = (host.access(), host.pager());
    let rpc =
        domain::rpc::Rpc { db: db.clone(), access, pager, checker: checker.clone(), base_host };
    host.rpc(DomainServiceServer::new(rpc));
    let db = db.clone();
    host.task("domains", move |stop| domain::recheck::run(db, checker, stop));
    Ok(())
}

/// Returns the client of DNS servers.
fn dns_client(host: &Host) -> anyhow::Result<DnsClient> {
    let config = host.config();
    let exceptions = Exceptions::parse("--connection-exceptions", &config.connection_exceptions)?;
    let url = Url::parse(&config.cloudflare_url).context("--cloudflare-url is not a URL")?;
    let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    ensure!(url.scheme() == "https" || is_loopback, "--cloudflare-url must use https");
    let cloudflare_url = config.cloudflare_url.trim_end_matches('/').to_owned();
    let resolver = Resolver::new(config.webhook_dns)?;
    Ok(DnsClient::new(resolver, exceptions, cloudflare_url, host.key()))
}
