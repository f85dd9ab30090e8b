//! The whole suite in the test process, on a free port.

mod end;
mod start;

pub use end::StoppedSuite;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use api::{
    identity::{self as pb, organization_service_client::OrganizationServiceClient},
    notification::{self as ntf, alert_service_client::AlertServiceClient},
    project::environment_service_client::EnvironmentServiceClient,
};
use chassis::{Clock, FaultInjection, channel::ServiceChannel};
use health::Readiness;
use ipnet::IpNet;
use sqlx::{AssertSqlSafe, PgPool, SqlSafeStr, postgres::PgConnectOptions};
use tempfile::TempDir;
use tenantry::{
    client::Client,
    demo::{Mailbox, Services},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::start::{host, install, start_logging};
use crate::{Database, LOOPBACK, Person, database::of_each_service, eventually, network};

/// Settings that differ from the defaults.
#[derive(Default)]
pub struct Options {
    /// URL of a NATS server; without one, events are delivered within the process.
    pub nats_url: Option<String>,
    /// Number of NATS nodes that store each event; 0 for the default.
    pub nats_stream_replicas: u8,
    /// Seconds without NATS after which events are sent to the audit log directly; 0 for the default.
    pub nats_patience_s: u64,
    /// URL of a mail server; without one, mails are written to files.
    pub smtp_url: Option<String>,
    /// Injected faults: protections that are switched off.
    pub faults: FaultInjection,
    /// Locale of the database, as options of `CREATE DATABASE`; empty for the default.
    pub locale: &'static str,
    /// Adds 2 ms of latency in each direction to the connections to the database.
    pub slow_database: bool,
    /// Limit on calls in flight; 0 for the default.
    pub in_flight_max: usize,
    /// Limit on open connections; 0 for the default.
    pub connections_max: usize,
    /// Largest age of a connection in milliseconds; 0 for the default.
    pub connection_age_ms_max: u64,
    /// Origins of web pages whose scripts may call through gRPC-Web.
    pub web_origins: Vec<String>,
    /// Limit on open calls of one organization; 0 for the default.
    pub open_calls_per_org_max: usize,
    /// Networks of trusted proxies.
    pub trusted_proxies: Vec<IpNet>,
    /// Limit on sign-ins per address and minute; 0 for none.
    pub sign_ins_max: u32,
    /// Limit on organizations that one account creates; 0 for 1,000, more than any test creates.
    pub created_orgs_max: i64,
    /// URL of an `OpenID` provider.
    pub oidc_issuer: Option<String>,
    /// Limit on invitations per organization and hour; 0 for none.
    pub invitations_max: i64,
    /// Limit on invitation mails per address and day; 0 for none.
    pub invitation_mails_max: i64,
    /// Simulated difference of the machine's clock from the database's clock.
    pub clock_error: chassis::clock::Duration,
    /// Addresses that are not public and to which webhooks are allowed.
    pub webhook_exceptions: Vec<String>,
    /// Addresses that are not public and to which connections are allowed.
    pub connection_exceptions: Vec<String>,
    /// Directory for connections to folders.
    pub storage_folder: Option<PathBuf>,
    /// DNS server for the hosts of webhooks and connections; the one of the system by default.
    pub webhook_dns: Option<SocketAddr>,
    /// URL of the API of Cloudflare; the real one by default.
    pub cloudflare_url: Option<String>,
    /// URL of the Stripe API; without one, plan changes are free.
    pub stripe_url: Option<String>,
    /// File with the witnesses of the audit log.
    pub witnesses: Option<PathBuf>,
    /// Seconds between two checks of the whole audit log; 0 for never.
    pub fsck_interval_s: u64,
    /// Further arguments of the command line.
    pub arguments: Vec<String>,
}

/// A running suite.
pub struct Suite {
    /// Calls without a credential.
    pub client: Client,
    /// Mails that the suite has written to files.
    pub mailbox: Mailbox,
    /// Clock of all services.
    pub clock: Clock,
    /// Readiness of the process.
    pub readiness: Readiness,
    /// Connections to the database, for assertions on tables.
    pub pool: PgPool,
    /// Address of the gRPC server.
    pub address: SocketAddr,
    /// Channel for calls of the external service `billing` to identity.
    pub billing_to_identity: ServiceChannel,
    /// Channel for calls of the project service to audit.
    pub project_to_audit: ServiceChannel,
    /// Channel for calls of the audit service to project.
    pub audit_to_project: ServiceChannel,
    /// Channel for calls of the project service to identity.
    pub project_to_identity: ServiceChannel,
    monitoring_to_invitation: ServiceChannel,
    billing_to_project: ServiceChannel,
    options: Options,
    database: Database,
    folder: TempDir,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Suite {
    /// Starts the suite with the defaults.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts the suite with some settings changed.
    pub async fn start_with(options: Options) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        start_logging();
        let database = match options.locale {
            "" => Database::new().await,
            locale => Database::with_locale(locale).await,
        };
        let folder = tempfile::tempdir().expect("a temporary directory");
        let clock = Clock::skewed_by(options.clock_error);
        Self::launch(options, database, folder, clock).await
    }

    async fn launch(options: Options, database: Database, folder: TempDir, clock: Clock) -> Self {
        let mut database_options = database.options.clone();
        if options.slow_database {
            let socket = database_options
                .get_socket()
                .expect("the server has a Unix socket")
                .join(".s.PGSQL.5432");
            let url =
                format!("postgres://tenantry@127.0.0.1:{}/x", network::slow_link(socket).await);
            let over_tcp: PgConnectOptions = url.parse().expect("a valid URL");
            database_options =
                over_tcp.database(database_options.get_database().unwrap_or_default());
        }
        let socket = host::process::bind(LOOPBACK).expect("an unused port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let readiness = Readiness::default();
        let host = host(&options, database_options, folder.path(), address)
            .with_readiness(readiness.clone())
            .with_clock(clock.clone())
            .with_faults(options.faults);
        let mut host = install(host);
        let billing_to_identity = host.client("billing", "identity");
        let monitoring_to_invitation = host.client("monitoring", "invitation");
        let billing_to_project = host.client("billing", "project");
        let project_to_audit = host.client("project", "audit");
        let audit_to_project = host.client("audit", "project");
        let project_to_identity = host.client("project", "identity");

        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let (ready_sender, ready) = tokio::sync::oneshot::channel();
        let serving = host.run(socket, move || _ = ready_sender.send(()), stopped);
        let mut running = tokio::task::spawn(serving);
        tokio::select! {
            _ = ready => {}
            ended = &mut running => panic!("the suite did not start: {ended:?}"),
        }
        let client =
            Client::connect(&format!("http://{address}"), None).await.expect("the suite answers");
        let pool =
            PgPool::connect_with(database.options.clone()).await.expect("the database answers");
        let mailbox = Mailbox::Folders(vec![folder.path().join("mail")]);
        Self {
            client,
            mailbox,
            clock,
            readiness,
            pool,
            address,
            billing_to_identity,
            project_to_audit,
            audit_to_project,
            project_to_identity,
            monitoring_to_invitation,
            billing_to_project,
            options,
            database,
            folder,
            stop,
            running,
        }
    }

    /// Starts a second instance on the same database and NATS server.
    pub async fn replica(&self) -> Self {
        assert!(self.options.nats_url.is_some(), "replicas share a NATS server");
        let folder = start::new_replica_folder(self.folder.path());
        let options = Options {
            nats_url: self.options.nats_url.clone(),
            sign_ins_max: self.options.sign_ins_max,
            connection_exceptions: self.options.connection_exceptions.clone(),
            ..Options::default()
        };
        Self::launch(options, self.database.share(), folder, self.clock.clone()).await
    }

    /// URL of the database for other processes.
    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// Checks the stored audit log like `tenantry audit fsck`.
    pub async fn fsck(&self) -> audit::Findings {
        self.fsck_with(audit::Release::None).await
    }

    /// Checks the stored audit log and lifts restrictions like `tenantry audit fsck --release`.
    pub async fn fsck_and_release(&self) -> audit::Findings {
        self.fsck_with(audit::Release::Intact).await
    }

    async fn fsck_with(&self, release: audit::Release) -> audit::Findings {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for name in ["secret.key", "audit.key", "audit.keys", "audit.signed"] {
            std::fs::copy(self.folder.path().join(name), folder.path().join(name))
                .expect("a file of the data directory");
        }
        let options = self.database.options.clone();
        let mut host = host(&Options::default(), options, folder.path(), self.address);
        audit::install(&mut host).expect("the service installs");
        audit::fsck(&host, release).await.expect("the log can be read")
    }

    /// Sets the state of a subscription as the billing system.
    pub async fn set_subscription(&self, org_id: &str, subscription: pb::Subscription) {
        let mut billing = OrganizationServiceClient::new(self.billing_to_identity.clone());
        let request = pb::SetSubscriptionRequest {
            org_id: org_id.to_owned(),
            subscription: subscription.into(),
            ..Default::default()
        };
        billing.set_subscription(request).await.expect("the subscription is set");
    }

    /// Client of the billing system for environments.
    pub fn billing_environments(&self) -> EnvironmentServiceClient<ServiceChannel> {
        EnvironmentServiceClient::new(self.billing_to_project.clone())
    }

    /// Reports an alert as the monitoring system.
    pub async fn report_alert(&self, report: ntf::ReportAlertRequest) -> Option<ntf::Alert> {
        let mut alerts = AlertServiceClient::new(self.monitoring_to_invitation.clone());
        let response = alerts.report_alert(report).await.expect("the report is accepted");
        response.into_inner().alert
    }

    /// Clients of all services over one connection.
    pub fn services(&self) -> Services {
        Services::all_in_one(&self.client)
    }

    /// Data directory of the suite.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Registers a person and signs them in.
    pub async fn person(&self, email: &str) -> Person {
        Person::join(&self.client, &self.mailbox, email).await.expect("a person registers")
    }

    /// Executes a query that returns one number.
    pub async fn count(&self, sql: impl SqlSafeStr) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("the query returns one number")
    }

    /// Number of statements that contain a text and wait for a lock. Other statements of background tasks can
    /// wait for the same lock.
    pub async fn count_blocked(&self, statement: &str) -> i64 {
        let blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                       and datname = current_database() and position($1 in query) > 0";
        let blocked = sqlx::query_scalar(blocked).bind(statement);
        blocked.fetch_one(&self.pool).await.expect("the query returns one number")
    }

    /// Number of events written to outboxes so far, and number of entries in the audit log. The tree with the
    /// id `ffffffff-…` is left out, because its entries are checkpoints of the other trees.
    pub async fn written_and_logged(&self) -> (i64, i64) {
        // Events without an organization have the sequence number 0.
        let numbered = of_each_service("select sum(last) from {service}.outbox_sequence");
        let others = of_each_service("select count(*) from {service}.outbox where sequence = 0");
        let written = format!(
            "select coalesce(sum(n), 0)::bigint from ({numbered} union all {others}) as it (n)"
        );
        let logged = "select coalesce(sum(size), 0)::bigint from audit.tree
                      where org_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
        (self.count(AssertSqlSafe(written)).await, self.count(logged).await)
    }

    /// Number of audit entries with an action (`member.removed`).
    pub async fn count_entries(&self, action: &str) -> i64 {
        let entries =
            "select count(*) from audit.entry join audit.term on term.number = entry.action
                       where value = $1";
        let entries = sqlx::query_scalar(entries).bind(action);
        entries.fetch_one(&self.pool).await.expect("the query returns one number")
    }

    /// Number of `BEGIN`s on connections that were already in a transaction.
    pub fn nested_transactions(&self) -> usize {
        self.database.nested_transactions()
    }

    /// Messages about the database in the log of the PostgreSQL server, with their further lines.
    pub fn server_log(&self) -> Vec<String> {
        self.database.server_log()
    }

    /// Waits until every event that was written to an outbox is in the audit log.
    pub async fn wait_for_log(&self) {
        eventually("the ingestion of every event", async || {
            let (written, logged) = self.written_and_logged().await;
            (written == logged).then_some(())
        })
        .await;
    }
}
