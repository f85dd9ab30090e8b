//! The whole suite in a test, in process, on a port of its own.

mod end;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use api::{
    identity::{self as pb, organization_service_client::OrganizationServiceClient},
    invitation::{self as inv, alert_service_client::AlertServiceClient},
    project::environment_service_client::EnvironmentServiceClient,
};
use chassis::{
    Clock, Config, Host,
    host::{DataDir, Guards},
    link::Link,
    telemetry::Telemetry,
};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use tenantry::{
    client::Client,
    demo::{Mailbox, Services},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{Database, Person, database, eventually, slow};

/// What is different from the defaults.
#[derive(Default)]
pub struct Options {
    /// A NATS server; without it events stay in the process.
    pub nats_url: Option<String>,
    /// Seconds without NATS after which the log is handed its events directly; 0 means the default.
    pub nats_patience_s: u64,
    /// A mail server; without it mails become files.
    pub smtp_url: Option<String>,
    /// Safety devices, for tests that switch one off.
    pub guards: Guards,
    /// Whether the database is a network away.
    pub distant_database: bool,
    /// Calls in flight; 0 means the default.
    pub in_flight_max: usize,
    /// Open connections; 0 means the default.
    pub connections_max: usize,
    /// Open calls in one organization; 0 means the default.
    pub open_calls_per_org_max: usize,
    /// Addresses of trusted proxies.
    pub trusted_proxies: Vec<IpAddr>,
    /// Sign-ins from one address in a minute; 0 means no limit.
    pub sign_ins_max: u32,
    /// Organizations that one account may create; 0 means many.
    pub created_orgs_max: i64,
    /// An identity provider.
    pub oidc_issuer: Option<String>,
    /// Invitations of one organization in an hour; 0 means no limit.
    pub invitations_max: i64,
    /// Invitations that are mailed to one address in a day; 0 means no limit.
    pub invitation_mails_max: i64,
    /// By how much the machine's clock is wrong.
    pub clock_wrong_by: chassis::clock::Duration,
    /// Where webhooks may go although it is not public.
    pub webhook_exceptions: Vec<String>,
    /// Who finds the addresses of webhooks.
    pub webhook_dns: Option<SocketAddr>,
    /// Witnesses of the audit log.
    pub witness_keys: Vec<String>,
}

/// A running suite.
pub struct Suite {
    /// Calls without a credential.
    pub client: Client,
    /// What arrives by mail.
    pub mailbox: Mailbox,
    /// The clock of every service.
    pub clock: Clock,
    /// The database, to look at from outside.
    pub pool: PgPool,
    /// Where it serves.
    pub address: SocketAddr,
    /// The billing system's way to identity.
    pub billing: Link,
    /// The project service's way to the log.
    pub producer: Link,
    /// The project service's way to identity.
    pub identity: Link,
    monitoring: Link,
    hosting: Link,
    options: Options,
    database: Database,
    folder: TempDir,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Suite {
    /// The suite with its defaults.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// The suite with something different.
    pub async fn start_with(options: Options) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        log();
        let database = Database::new().await;
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::wrong_by(options.clock_wrong_by);
        Self::launch(options, database, folder, clock).await
    }

    async fn launch(options: Options, database: Database, folder: TempDir, clock: Clock) -> Self {
        let mut reach = database.options.clone();
        if options.distant_database {
            let socket = reach.get_socket().expect("a socket").join(".s.PGSQL.5432");
            let url = format!("postgres://tenantry@127.0.0.1:{}/x", slow::link(socket).await);
            let distant: PgConnectOptions = url.parse().expect("an address");
            reach = distant.database(reach.get_database().unwrap_or_default());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let host = host(&options, reach, folder.path(), address)
            .with_clock(clock.clone())
            .with_guards(options.guards);
        let mut host = install(host);
        let billing = host.client("billing", "identity");
        let monitoring = host.client("monitoring", "invitation");
        let hosting = host.client("billing", "project");
        let producer = host.client("project", "audit");
        let identity = host.client("project", "identity");

        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let serving = host.run(listener, move || _ = ready.send(()), stopped);
        let mut running = tokio::task::spawn(serving);
        tokio::select! {
            _ = is_ready => {}
            ended = &mut running => panic!("the suite did not start: {ended:?}"),
        }
        let client =
            Client::connect(&format!("http://{address}"), None).await.expect("the suite answers");
        let pool =
            PgPool::connect_with(database.options.clone()).await.expect("the database answers");
        let mailbox = Mailbox::new(vec![folder.path().join("mail")]);
        Self {
            client,
            mailbox,
            clock,
            pool,
            address,
            billing,
            producer,
            identity,
            monitoring,
            hosting,
            options,
            database,
            folder,
            stop,
            running,
        }
    }

    /// Another process on the same database and the same NATS.
    pub async fn replica(&self) -> Self {
        assert!(self.options.nats_url.is_some(), "replicas share a NATS server");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(self.folder.path().join("secret.key"), folder.path().join("secret.key"))
            .expect("the deployment's key");
        std::fs::copy(self.folder.path().join("audit.key"), folder.path().join("audit.key"))
            .expect("the log's key");
        let options = Options { nats_url: self.options.nats_url.clone(), ..Options::default() };
        Self::launch(options, self.database.share(), folder, self.clock.clone()).await
    }

    /// The address of the database, for a process beside this one.
    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// Derives the audit log again from what is stored, as `tenantry audit fsck` does.
    pub async fn fsck(&self) -> audit::Findings {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["secret.key", "audit.key", "audit.keys", "audit.signed"] {
            std::fs::copy(self.folder.path().join(name), folder.path().join(name))
                .expect("a file of the data directory");
        }
        let options = self.database.options.clone();
        let mut host = host(&Options::default(), options, folder.path(), self.address);
        audit::install(&mut host).expect("the service installs");
        audit::fsck(&host).await.expect("the log can be read")
    }

    /// What the billing system says about an organization.
    pub async fn subscribe(&self, org_id: &str, subscription: pb::Subscription) {
        let mut billing = OrganizationServiceClient::new(self.billing.clone());
        let request = pb::SetSubscriptionRequest {
            org_id: org_id.to_owned(),
            subscription: subscription.into(),
            ..Default::default()
        };
        billing.set_subscription(request).await.expect("billing is heard");
    }

    /// The billing system's way to projects.
    pub fn billing_of_projects(&self) -> EnvironmentServiceClient<Link> {
        EnvironmentServiceClient::new(self.hosting.clone())
    }

    /// What a monitoring system reports.
    pub async fn report(&self, report: inv::ReportAlertRequest) -> Option<inv::Alert> {
        let mut monitoring = AlertServiceClient::new(self.monitoring.clone());
        let answer = monitoring.report_alert(report).await.expect("a report is heard");
        answer.into_inner().alert
    }

    /// All services at one place.
    pub fn services(&self) -> Services {
        Services::at_one(&self.client)
    }

    /// The data directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new person, who has signed in.
    pub async fn person(&self, email: &str) -> Person {
        Person::join(&self.client, &self.mailbox, email).await.expect("a person joins")
    }

    /// A number from the database.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("a count")
    }

    /// Events that were written, and entries of the log.
    pub async fn written_and_logged(&self) -> (i64, i64) {
        let written = "select coalesce(sum(n), 0)::bigint from (
                           select sum(last) from identity.outbox_sequence
                           union all select sum(last) from project.outbox_sequence
                           union all select sum(last) from invitation.outbox_sequence
                           union all select sum(last) from audit.outbox_sequence
                           union all select count(*) from identity.outbox where sequence = 0) as it (n)";
        let logged = "select coalesce(sum(size), 0)::bigint from audit.tree
                      where org_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
        (self.count(written).await, self.count(logged).await)
    }

    /// How many entries tell an action.
    pub async fn told(&self, action: &str) -> i64 {
        let entries =
            "select count(*) from audit.entry join audit.term on term.number = entry.action
                       where value = $1";
        let entries = sqlx::query_scalar(entries).bind(action);
        entries.fetch_one(&self.pool).await.expect("a count")
    }

    /// How often somebody began a transaction inside another.
    pub fn nested_transactions(&self) -> usize {
        self.database.nested_transactions()
    }

    /// Waits until the log tells every event.
    pub async fn logged(&self) {
        eventually("the log of every event", async || {
            let (written, logged) = self.written_and_logged().await;
            (written == logged).then_some(())
        })
        .await;
    }
}

/// `RUST_LOG=info cargo test …` shows what the suite says.
fn log() {
    if let Ok(log) = std::env::var("RUST_LOG") {
        // The second suite of a process finds it started.
        let _ = Telemetry::start("test", &Config { log, ..database::config() });
    }
}

fn host(options: &Options, database: PgConnectOptions, folder: &Path, address: SocketAddr) -> Host {
    let defaults = database::config();
    let config = Config {
        listen: address,
        invitations_max: options.invitations_max,
        invitation_mails_max: options.invitation_mails_max,
        webhook_exceptions: options.webhook_exceptions.clone(),
        webhook_dns: options.webhook_dns,
        audit_witness_keys: options.witness_keys.clone(),
        nats_url: options.nats_url.clone(),
        smtp_url: options.smtp_url.clone().map(Into::into),
        local_repositories: true,
        // Root has everything that isolation needs; without it deployed code runs in a weaker sandbox.
        allow_weak_isolation: !rustix::process::geteuid().is_root(),
        nats_patience_s: if options.nats_patience_s == 0 {
            defaults.nats_patience_s
        } else {
            options.nats_patience_s
        },
        mail_console: false,
        created_orgs_max: if options.created_orgs_max == 0 {
            1_000
        } else {
            options.created_orgs_max
        },
        sign_ins_max: options.sign_ins_max,
        trusted_proxies: options.trusted_proxies.clone(),
        oidc_issuer: options.oidc_issuer.clone(),
        oidc_client_id: options.oidc_issuer.is_some().then(|| "tenantry".to_owned()),
        oidc_client_secret: options.oidc_issuer.is_some().then(|| "secret".into()),
        in_flight_max: or_default(options.in_flight_max, defaults.in_flight_max),
        connections_max: or_default(options.connections_max, defaults.connections_max),
        open_calls_per_org_max: or_default(
            options.open_calls_per_org_max,
            defaults.open_calls_per_org_max,
        ),
        ..defaults
    };
    let data = DataDir::open(Some(folder)).expect("a data directory");
    // Deployed code runs as another account, if the tests run as root.
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a folder");
    Host::new(config, database, data).expect("a host")
}

/// A setting, or its default if it is 0.
fn or_default(value: usize, default: usize) -> usize {
    if value == 0 { default } else { value }
}

fn install(mut host: Host) -> Host {
    for install in tenantry::INSTALLS {
        install(&mut host).expect("a service installs");
    }
    host
}
