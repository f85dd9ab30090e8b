//! A process that hosts one or more services.

mod connection;
mod database;
mod folder;
mod front;
mod migrate;
mod roles;
mod run;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;
use prost::{Message, Name};
use sqlx::{migrate::Migrator, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, codegen::Service, server::NamedService, service::Routes};

use crate::{
    access::{Access, Authority},
    clock::Clock,
    config::Config,
    db::Db,
    key::Key,
    link::{Link, Target},
    mail::{Mailer, Postman, Writer},
    page::Pager,
    react::{Reaction, Record, Subscriber},
    retention::{self, BoxedStep, Step},
    web::Site,
};

pub use folder::{DataDir, default as default_data_dir};
pub use run::channel;

/// Installs one service into a host.
pub type Install = fn(&mut Host) -> anyhow::Result<()>;

/// Safety devices. All are on; a test switches one off to show that it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// Handlers run to their end, whatever their client does.
    pub detached: bool,
    /// A connection that comes back inside a transaction is discarded.
    pub clean_connections: bool,
    /// A reader of an outbox leaves alone what a running transaction can still precede.
    pub horizon: bool,
    /// An event is acknowledged after what it caused has been committed.
    pub late_acks: bool,
    /// An outbox keeps its events although the broker has them.
    pub kept_events: bool,
    /// An event becomes one entry of the log, however often it comes.
    pub one_entry: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            detached: true,
            clean_connections: true,
            horizon: true,
            late_acks: true,
            kept_events: true,
            one_entry: true,
        }
    }
}

/// A process that hosts one or more services.
pub struct Host {
    config: Config,
    options: PgConnectOptions,
    clock: Clock,
    key: Key,
    folder: DataDir,
    guards: Guards,
    descriptors: &'static [u8],
    databases: Vec<(Db, Schema)>,
    routes: Routes,
    served: Vec<&'static str>,
    subscribers: Vec<Subscriber>,
    postmen: Vec<Postman>,
    sites: Vec<(&'static str, Arc<dyn Site>)>,
    access: Access,
    links: BTreeMap<&'static str, Arc<OnceLock<Target>>>,
    tasks: Vec<Task>,
    startup: Vec<CancellationToken>,
    retention: BTreeMap<&'static str, Vec<BoxedStep>>,
    draining: CancellationToken,
}

/// The tables of a service.
#[derive(Clone, Copy)]
pub(crate) struct Schema {
    migrations: &'static Migrator,
    /// Statements that narrow what the service's role may do with them.
    privileges: &'static str,
}

type Task = (
    &'static str,
    Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
);

impl Host {
    /// A host whose services live in the database at `options` and keep files in `folder`.
    pub fn new(config: Config, options: PgConnectOptions, folder: DataDir) -> anyhow::Result<Self> {
        let key = match &config.key_file {
            Some(path) => Key::read(path)?,
            None => Key::read_or_create(&folder.path().join("secret.key"))?,
        };
        Ok(Self {
            config,
            options,
            clock: Clock::default(),
            key,
            folder,
            guards: Guards::default(),
            descriptors: api::DESCRIPTORS,
            databases: vec![],
            routes: Routes::default(),
            served: vec![],
            subscribers: vec![],
            postmen: vec![],
            sites: vec![],
            access: Access::default(),
            links: BTreeMap::new(),
            tasks: vec![],
            startup: vec![],
            retention: BTreeMap::new(),
            draining: CancellationToken::new(),
        })
    }

    /// Replaces the clock, for tests.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Replaces the contract, for tests of what happens without a rule.
    #[must_use]
    pub fn with_descriptors(self, descriptors: &'static [u8]) -> Self {
        Self { descriptors, ..self }
    }

    /// Switches safety devices off, for tests that show why they are needed.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_guards(self, guards: Guards) -> Self {
        Self { guards, ..self }
    }

    /// Safety devices; all are on but in tests that show why they are needed.
    pub fn guards(&self) -> Guards {
        self.guards
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The deployment's secret key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Where files of the suite lie.
    pub fn folder(&self) -> &DataDir {
        &self.folder
    }

    /// The wall clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Cancelled when the process begins to end: whatever streams without an end of its own ends then.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Makes page tokens.
    pub fn pager(&self) -> Pager {
        Pager::new(&self.key)
    }

    /// The schema `name`, brought up to date before the first call. The service works as the role
    /// `tenantry_<name>`, which reads and writes all of it.
    pub fn database(&mut self, name: &'static str, migrations: &'static Migrator) -> Db {
        self.restricted_database(name, migrations, "")
    }

    /// The same, with statements that narrow what the role may do. They run after the migrations at every
    /// start, with the schema as search path.
    pub fn restricted_database(
        &mut self,
        name: &'static str,
        migrations: &'static Migrator,
        privileges: &'static str,
    ) -> Db {
        let options = roles::options(&self.options, name, self.role_mode());
        let db = Db::new(name, options, self.clock.clone(), self.guards, &self.key);
        self.databases.push((db.clone(), Schema { migrations, privileges }));
        db
    }

    /// How sessions take the role of their service: the private server lets them log in as it.
    fn role_mode(&self) -> roles::Mode {
        match self.config.database_url {
            Some(_) => roles::Mode::Startup,
            None => roles::Mode::Login,
        }
    }

    /// Serves an RPC service.
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

    /// What callers may do.
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// Makes a service of this process the one that decides what callers may do.
    pub fn authority(&mut self, authority: impl Authority) {
        self.access.appoint(Arc::new(authority));
    }

    /// A way from the service `from` to the service `to`, in this process or elsewhere.
    pub fn client(&mut self, from: &'static str, to: &'static str) -> Link {
        Link::new(from, self.links.entry(to).or_default().clone())
    }

    /// Runs `reaction`, in a transaction of `db`, once for every event of its type.
    pub fn on<E, R>(&mut self, db: &Db, reaction: R)
    where
        E: Message + Name + Default + 'static,
        R: for<'t> Reaction<'t, E>,
    {
        self.subscriber(db).on(reaction);
    }

    /// Runs `reaction`, in a transaction of `db`, once for every event of these types, with its envelope.
    pub fn on_each<R>(&mut self, db: &Db, names: impl IntoIterator<Item = String>, reaction: R)
    where
        R: for<'t> Reaction<'t, api::event::Envelope>,
    {
        self.subscriber(db).on_each(names, reaction);
    }

    fn subscriber(&mut self, db: &Db) -> &mut Subscriber {
        let known = self
            .subscribers
            .iter()
            .position(|it| it.db.name() == db.name() && it.wants().is_some());
        let index = known.unwrap_or_else(|| {
            self.subscribers.push(Subscriber::reacting(db.clone()));
            self.subscribers.len() - 1
        });
        &mut self.subscribers[index]
    }

    /// Hands every event of the suite to `record`, in batches, each in a transaction of `db`.
    pub fn on_all(&mut self, db: &Db, record: Arc<dyn Record>) {
        self.subscribers.push(Subscriber::recording(db.clone(), record));
    }

    /// Sends the mails of `db`, which `writer` writes.
    pub fn mail(&mut self, db: &Db, writer: impl Writer) -> anyhow::Result<()> {
        let mailer = Mailer::new(&self.config, self.folder.path().join("mail"))?;
        let (db, mailer, writer) = (db.clone(), Arc::new(mailer), Arc::new(writer));
        self.postmen.push(Postman { db, mailer, writer });
        Ok(())
    }

    /// Serves pages: what browsers ask for under these paths, each with a slash at its end.
    pub fn site(&mut self, paths: &'static [&'static str], site: impl Site) {
        let site: Arc<dyn Site> = Arc::new(site);
        self.sites.extend(paths.iter().map(|it| (*it, site.clone())));
    }

    /// Adds a step to the job that deletes old rows of a database.
    pub fn retain<S>(&mut self, db: &Db, step: S)
    where
        S: for<'t> Step<'t>,
    {
        self.retention.entry(db.name()).or_default().push(retention::boxed(step));
    }

    /// Runs a background task until the process ends. If it fails, the process ends.
    pub fn task<F>(
        &mut self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.push((name, Box::new(move |stop| Box::pin(task(stop)))));
    }

    /// Delays readiness until a background task has done what calls need, and cancelled this token.
    pub fn await_before_ready(&mut self, done: CancellationToken) {
        self.startup.push(done);
    }

    /// Brings every schema up to date.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        database::prepare(&self.options, &self.databases, self.role_mode()).await
    }

    /// The databases, for checks from outside.
    pub fn databases(&self) -> impl Iterator<Item = &Db> {
        self.databases.iter().map(|it| &it.0)
    }
}
