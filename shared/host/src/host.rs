//! The host: what the services of a process install before it runs.

mod values;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use chassis::{
    Clock, Config, Db, FaultInjection,
    access::{Access, Authority},
    channel::{ServiceChannel, Target},
    key::Key,
};
use eventing::{EventSink, Reaction, Subscriber, replica_messages::ReplicaMessages};
use futures::future::BoxFuture;
use health::Readiness;
use mail::{MailRenderer, MailWorker, Mailer};
use prost::{Message, Name};
use secrecy::ExposeSecret;
use sqlx::{migrate::Migrator, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, codegen::Service, server::NamedService, service::Routes};
use worker::{
    partition::PartitionedTable,
    queue::{Queue, QueueState},
    reseal::SealedColumn,
    retention::{self, Step},
};

use crate::{
    admin::{AccountSessions, LogChecks, Operations},
    data_dir::DataDir,
    database, roles,
    servers::Servers,
    web::PageHandler,
};

/// Installs one service into a host.
pub type Install = fn(&mut Host) -> anyhow::Result<()>;

/// A process with one or more services. Services install their databases, gRPC services, reactions and jobs
/// into it; then [`Host::run`] serves them.
pub struct Host {
    pub(crate) config: Config,
    pub(crate) options: PgConnectOptions,
    /// Servers of `--database-url`, of which `options` name one; none for the private server.
    pub(crate) servers: Servers,
    pub(crate) clock: Clock,
    pub(crate) key: Key,
    /// Path of the file with the secret key.
    pub(crate) key_file: PathBuf,
    pub(crate) data_dir: DataDir,
    pub(crate) faults: FaultInjection,
    pub(crate) descriptors: &'static [u8],
    pub(crate) databases: Vec<(Db, Schema)>,
    pub(crate) routes: Routes,
    /// Full names of the gRPC services.
    pub(crate) served: Vec<&'static str>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) mail_workers: Vec<MailWorker>,
    pub(crate) sites: Vec<(&'static str, Arc<dyn PageHandler>)>,
    pub(crate) access: Access,
    /// Targets of the channels between services, by service.
    pub(crate) targets: BTreeMap<&'static str, Arc<OnceLock<Target>>>,
    pub(crate) tasks: Vec<Task>,
    /// Tokens that are cancelled when a part of the start-up is done.
    pub(crate) startup: Vec<CancellationToken>,
    pub(crate) retention: BTreeMap<&'static str, retention::Plan>,
    /// Columns with sealed values, by database.
    pub(crate) sealed_columns: BTreeMap<&'static str, Vec<SealedColumn>>,
    /// Queues in the databases, for metrics and operators.
    pub(crate) queues: Vec<Queue>,
    pub(crate) operations: Operations,
    pub(crate) replica_messages: ReplicaMessages,
    pub(crate) readiness: Readiness,
    pub(crate) draining: CancellationToken,
}

/// Schema of a service.
#[derive(Clone, Copy)]
pub(crate) struct Schema {
    pub(crate) migrations: &'static Migrator,
    /// SQL statements that restrict the privileges of the service's role.
    pub(crate) privileges: &'static str,
}

/// A background task, which ends when its token is cancelled.
pub(crate) struct Task {
    pub(crate) name: &'static str,
    pub(crate) run: BoxedTask,
}

type BoxedTask =
    Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

impl Host {
    /// Creates a host without services. Reads the secret key, and creates it on the first start.
    pub fn new(
        config: Config,
        options: PgConnectOptions,
        data_dir: DataDir,
    ) -> anyhow::Result<Self> {
        let default_key_file = || data_dir.path().join("secret.key");
        let key_file = config.key_file.clone().unwrap_or_else(default_key_file);
        let key = match &config.key_file {
            Some(path) => Key::read(path)?,
            None => Key::read_or_create(&key_file)?,
        };
        let url = config.database_url.as_ref().map(ExposeSecret::expose_secret);
        let servers = url.map(Servers::parse).transpose()?.unwrap_or_default();
        Ok(Self {
            config,
            options,
            servers,
            clock: Clock::default(),
            key,
            key_file,
            data_dir,
            faults: FaultInjection::default(),
            descriptors: api::DESCRIPTORS,
            databases: vec![],
            routes: Routes::default(),
            served: vec![],
            subscribers: vec![],
            mail_workers: vec![],
            sites: vec![],
            access: Access::default(),
            targets: BTreeMap::new(),
            tasks: vec![],
            startup: vec![],
            retention: BTreeMap::new(),
            sealed_columns: BTreeMap::new(),
            queues: vec![],
            operations: Operations::default(),
            replica_messages: ReplicaMessages::default(),
            readiness: Readiness::default(),
            draining: CancellationToken::new(),
        })
    }

    /// Reports the readiness of the process through this value.
    #[must_use]
    pub fn with_readiness(self, readiness: Readiness) -> Self {
        Self { readiness, ..self }
    }

    /// Replaces the clock, for tests.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Replaces the descriptors of the contract, for tests of methods without a rule.
    #[must_use]
    pub fn with_descriptors(self, descriptors: &'static [u8]) -> Self {
        Self { descriptors, ..self }
    }

    /// Injects faults, for tests that show that a protection is needed.
    #[cfg(feature = "fault-injection")]
    #[must_use]
    pub fn with_faults(self, faults: FaultInjection) -> Self {
        Self { faults, ..self }
    }

    /// Adds the schema `name`, which is migrated before the first call. The service uses the role
    /// `tenantry_<name>`, which may read and write all tables of the schema.
    pub fn database(&mut self, name: &'static str, migrations: &'static Migrator) -> Db {
        self.restricted_database(name, migrations, "")
    }

    /// Adds the schema `name` with SQL statements that restrict the privileges of the role. They run after
    /// the migrations at every start, with the schema as search path.
    pub fn restricted_database(
        &mut self,
        name: &'static str,
        migrations: &'static Migrator,
        privileges: &'static str,
    ) -> Db {
        let options = roles::options(&self.options, name, self.role_mode());
        let connections_max = self.config.database_connections_max;
        let mut db =
            Db::new(name, options, self.clock.clone(), self.faults, &self.key, connections_max);
        if self.is_only_process() {
            db = db.as_only_process();
        }
        self.databases.push((db.clone(), Schema { migrations, privileges }));
        self.add_retention_step(&db, chassis::rate_limit::delete_expired);
        db
    }

    /// Returns the method by which sessions get the role of their service.
    fn role_mode(&self) -> roles::Mode {
        match self.config.database_url {
            Some(_) => roles::Mode::Startup,
            None => roles::Mode::Login,
        }
    }

    /// Adds a gRPC service.
    pub fn rpc<S>(&mut self, service: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        self.served.push(S::NAME);
        self.routes = std::mem::take(&mut self.routes).add_service(service);
    }

    /// Returns the handle for authorization.
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// Sets the authority, for the process of the identity service. Others call it over the network.
    pub fn set_authority(&mut self, authority: impl Authority) {
        self.access.set_authority(Arc::new(authority));
    }

    /// Returns a channel from the service `from` to the service `to`, in this process or another.
    pub fn client(&mut self, from: &'static str, to: &'static str) -> ServiceChannel {
        ServiceChannel::new(from, self.targets.entry(to).or_default().clone())
    }

    /// Adds a reaction: it runs once for each event of its type, in a transaction of `db`.
    pub fn on<E, R>(&mut self, db: &Db, reaction: R)
    where
        E: Message + Name + Default + 'static,
        R: for<'t> Reaction<'t, E>,
    {
        self.subscriber(db).on(reaction);
    }

    /// Adds a reaction to events of several types, which gets the envelope. It runs once for each event, in a
    /// transaction of `db`.
    pub fn on_each<R>(
        &mut self,
        db: &Db,
        event_types: impl IntoIterator<Item = String>,
        reaction: R,
    ) where
        R: for<'t> Reaction<'t, api::event::Envelope>,
    {
        self.subscriber(db).on_each(event_types, reaction);
    }

    /// Returns the subscriber of a database, created on first use.
    fn subscriber(&mut self, db: &Db) -> &mut Subscriber {
        let existing = self
            .subscribers
            .iter()
            .position(|it| it.db.name() == db.name() && it.event_types().is_some());
        let index = existing.unwrap_or_else(|| {
            self.subscribers.push(Subscriber::reacting(db.clone()));
            self.subscribers.len() - 1
        });
        &mut self.subscribers[index]
    }

    /// Delivers all events of the suite to a sink in batches, each in a transaction of `db`.
    pub fn on_all(&mut self, db: &Db, sink: Arc<dyn EventSink>) {
        self.subscribers.push(Subscriber::recording(db.clone(), sink));
    }

    /// Sends the queued mails of `db`, rendered by `renderer`.
    pub fn mail(&mut self, db: &Db, renderer: impl MailRenderer) -> anyhow::Result<()> {
        let mailer = Mailer::new(&self.config, self.data_dir.path().join("mail"))?;
        let readiness = self.readiness.clone();
        self.queue("mail", db, mail::queue::state);
        self.mail_workers.push(MailWorker::new(db.clone(), mailer, renderer, readiness));
        Ok(())
    }

    /// Adds pages for browsers, below path prefixes with a slash at their end.
    pub fn site(&mut self, paths: &'static [&'static str], site: impl PageHandler) {
        let site: Arc<dyn PageHandler> = Arc::new(site);
        self.sites.extend(paths.iter().map(|it| (*it, site.clone())));
    }

    /// Adds a queue in a database, whose length and age are metrics.
    pub fn queue<F>(
        &mut self,
        name: &'static str,
        db: &Db,
        read: impl Fn(Db) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = chassis::Result<QueueState>> + Send + 'static,
    {
        self.queues.push(Queue::new(name, db, read));
    }

    /// Adds a step to the job that deletes old rows of a database.
    pub fn add_retention_step<S>(&mut self, db: &Db, step: S)
    where
        S: for<'t> Step<'t>,
    {
        self.retention.entry(db.name()).or_default().steps.push(retention::boxed(step));
    }

    /// Adds sealed columns, for rotations of the secret key. A value that a removed key sealed is lost.
    pub fn add_sealed_columns(&mut self, db: &Db, columns: &[SealedColumn]) {
        self.sealed_columns.entry(db.name()).or_default().extend(columns);
    }

    /// Adds a table with partitions to the job that deletes old rows of a database.
    pub fn add_partitioned_table(&mut self, db: &Db, table: PartitionedTable) {
        self.retention.entry(db.name()).or_default().tables.push(table);
    }

    /// Adds a background task, which runs until the process shuts down. Its error is final: the process ends
    /// with it. A task repeats steps that fail for another reason, for example because of the database
    /// ([`worker::run`]).
    pub fn task<F>(
        &mut self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.push(Task { name, run: Box::new(move |stop| Box::pin(task(stop))) });
    }

    /// Sets the part of the AdminService about checks of the audit log.
    pub fn set_log_checks(&mut self, checks: Arc<dyn LogChecks>) {
        self.operations.log_checks = Some(checks);
    }

    /// Sets the part of the AdminService about sessions of accounts.
    pub fn set_account_sessions(&mut self, sessions: Arc<dyn AccountSessions>) {
        self.operations.account_sessions = Some(sessions);
    }

    /// Delays readiness until a background task cancels this token, after a step that calls depend on.
    pub fn await_before_ready(&mut self, done: CancellationToken) {
        self.startup.push(done);
    }

    /// Migrates all schemas, as soon as the database responds.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        self.prepare_databases(true).await
    }

    /// Waits for the database, then migrates all schemas or waits until they are migrated.
    pub(crate) async fn prepare_databases(&self, migrates: bool) -> anyhow::Result<()> {
        let patience = Duration::from_secs(self.config.database_patience_s);
        let connections_max = self.config.database_connections_max;
        let start = database::Start { mode: self.role_mode(), migrates, patience, connections_max };
        database::prepare(&self.options, &self.databases, start).await
    }

    /// Returns the columns with sealed values of a database.
    pub fn sealed_columns(&self, db: &Db) -> &[SealedColumn] {
        self.sealed_columns.get(db.name()).map_or(&[][..], Vec::as_slice)
    }

    /// Iterates over the databases, for checks in tests.
    pub fn databases(&self) -> impl Iterator<Item = &Db> {
        self.databases.iter().map(|it| &it.0)
    }
}
