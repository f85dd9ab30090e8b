//! A process that hosts one or more services.

mod database;
mod folder;
mod front;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures::future::BoxFuture;
use prost::{Message, Name};
use sqlx::{migrate::Migrator, postgres::PgConnectOptions};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    body::Body,
    codegen::Service,
    server::NamedService,
    service::Routes,
    transport::{Channel, Endpoint, Server},
};

use crate::{
    access::{Access, Authority, RemoteAuthority},
    bus::{Bus, JetStream, follow},
    clock::Clock,
    config::Config,
    db::Db,
    key::Key,
    link::{Link, Target},
    mail::{Mailer, Postman, Write},
    outbox::Delivery,
    page::Pager,
    react::{Reaction, Subscriber},
    rule::Rules,
    server::{Shared, Stack},
    telemetry::Meter,
    tls::Tls,
};

pub use folder::{DataDir, default as default_data_dir};
use front::{Front, Health};

/// Installs one service into a host.
pub type Install = fn(&mut Host) -> anyhow::Result<()>;

/// Safety devices. All are on; a test switches one off to show that it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// Handlers run to their end, whatever their client does.
    pub detached: bool,
    /// A connection that comes back inside a transaction is discarded.
    pub clean_connections: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self { detached: true, clean_connections: true }
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
    databases: Vec<(Db, &'static Migrator)>,
    routes: Routes,
    served: Vec<&'static str>,
    subscribers: Vec<Subscriber>,
    postmen: Vec<Postman>,
    access: Access,
    links: BTreeMap<&'static str, Arc<OnceLock<Target>>>,
    tasks: Vec<Task>,
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
            access: Access::default(),
            links: BTreeMap::new(),
            tasks: vec![],
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

    /// Makes page tokens.
    pub fn pager(&self) -> Pager {
        Pager::new(&self.key)
    }

    /// The schema `name`, brought up to date before the first call.
    pub fn database(&mut self, name: &'static str, migrations: &'static Migrator) -> Db {
        let guard = self.guards.clean_connections;
        let db = Db::new(name, self.options.clone(), self.clock.clone(), guard);
        self.databases.push((db.clone(), migrations));
        db
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
        let known = self
            .subscribers
            .iter()
            .position(|it| it.db.name() == db.name() && it.wants().is_some());
        let index = known.unwrap_or_else(|| {
            self.subscribers.push(Subscriber::reacting(db.clone()));
            self.subscribers.len() - 1
        });
        self.subscribers[index].on(reaction);
    }

    /// Hands every event of the suite to `record`, in batches, each in a transaction of `db`. It must not
    /// mind an event that comes twice.
    pub fn on_all<R>(&mut self, db: &Db, record: R)
    where
        R: for<'t> Reaction<'t, Vec<Delivery>>,
    {
        self.subscribers.push(Subscriber::recording(db.clone(), record));
    }

    /// Sends the mails of `db`, whose text `write` makes.
    pub fn mail(
        &mut self,
        db: &Db,
        templates: &[&'static str],
        write: Write,
    ) -> anyhow::Result<()> {
        let mailer = Mailer::new(&self.config, self.folder.path().join("mail"))?;
        let (db, templates) = (db.clone(), templates.to_vec());
        self.postmen.push(Postman { db, mailer: Arc::new(mailer), templates, write });
        Ok(())
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

    /// Brings every schema up to date.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        database::prepare(&self.options, &self.databases).await
    }

    /// The databases, for checks from outside.
    pub fn databases(&self) -> impl Iterator<Item = &Db> {
        self.databases.iter().map(|it| &it.0)
    }

    /// Serves until `stop`, then drains: no new calls, calls in flight end, events and mails pause.
    /// Calls `ready` once it serves.
    pub async fn run(
        mut self,
        listener: TcpListener,
        ready: impl FnOnce(),
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let rules = Rules::load(self.descriptors)?;
        self.check_services(&rules)?;
        let tls = self.tls()?;
        let address = listener.local_addr()?;
        ensure!(
            tls.is_some() || address.ip().is_loopback(),
            "{address} can be reached from other machines, so it needs --tls-cert, --tls-key and --tls-ca; \
             without TLS only a loopback address is served"
        );
        self.migrate().await?;

        let ending = CancellationToken::new();
        let background = TaskTracker::new();
        self.start_bus(&ending, &background).await?;
        let stack = self.stack(rules)?;
        self.connect(&stack, tls.as_ref())?;
        let failed = self.start_tasks(&ending, &background);

        let running = stack.running().clone();
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let names = [""].iter().chain(&self.served).map(|it| (*it).to_owned()).collect();
        let health = Health { reporter, names };
        health.serving().await;
        let operator = self.operator_routes()?.add_service(health_service).prepare();
        let drain = Duration::from_secs(self.config.drain_s_max);
        let stop = async {
            ready();
            tokio::select! {
                () = stop => None,
                failure = failed => failure,
            }
        };
        let front = Front { stack, operator };
        let failure =
            front::serve(Self::server(tls)?, front, listener, health, stop, drain).await?.flatten();
        running.close();
        if tokio::time::timeout(drain, running.wait()).await.is_err() {
            tracing::warn!("calls were still running at the end of the drain");
        }
        ending.cancel();
        background.close();
        if tokio::time::timeout(drain, background.wait()).await.is_err() {
            tracing::warn!("background tasks were still running at the end of the drain");
        }
        failure.map_or(Ok(()), Err)
    }

    /// Every method that is served has a rule.
    fn check_services(&self, rules: &Rules) -> anyhow::Result<()> {
        for service in &self.served {
            ensure!(rules.serves(service), "{service} is served but is not in the contract");
        }
        Ok(())
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        match (&self.config.tls_cert, &self.config.tls_key, &self.config.tls_ca) {
            (Some(certificate), Some(key), Some(authority)) => {
                Ok(Some(Tls::read(certificate, key, authority)?))
            }
            (None, None, None) => Ok(None),
            _ => bail!("--tls-cert, --tls-key and --tls-ca belong together"),
        }
    }

    async fn start_bus(
        &mut self,
        ending: &CancellationToken,
        background: &TaskTracker,
    ) -> anyhow::Result<()> {
        let bus = match &self.config.nats_url {
            Some(url) => Bus::JetStream(Box::new(JetStream::connect(url, "tenantry").await?)),
            None => Bus::Local,
        };
        let outboxes = self.databases.iter().map(|it| it.0.clone()).collect();
        for task in bus.tasks(outboxes, std::mem::take(&mut self.subscribers), ending) {
            background.spawn(task);
        }
        Ok(())
    }

    fn stack(&mut self, rules: Rules) -> anyhow::Result<Stack> {
        let shared = Shared {
            rules,
            access: self.access.clone(),
            running: TaskTracker::new(),
            permits: Arc::new(tokio::sync::Semaphore::new(self.config.in_flight_max)),
            deadline_max: Duration::from_secs(self.config.deadline_s_max),
            meter: Meter::new(),
            detached: self.guards.detached,
        };
        ensure!(!self.served.is_empty(), "nothing to serve");
        Ok(Stack::new(shared, std::mem::take(&mut self.routes).prepare()))
    }

    /// Points every link to where its service is.
    fn connect(&mut self, stack: &Stack, tls: Option<&Tls>) -> anyhow::Result<()> {
        if self.access.authority().is_err() {
            let link = self.client("authority", "identity");
            self.access.appoint(Arc::new(RemoteAuthority(link)));
        }
        for (name, target) in &self.links {
            let package = format!("tenantry.{name}.");
            let here = self.served.iter().any(|it| it.starts_with(&package));
            let place = if here {
                Target::Here(stack.clone())
            } else {
                Target::There(self.channel(name, tls)?)
            };
            let _ = target.set(place);
        }
        Ok(())
    }

    fn channel(&self, name: &str, tls: Option<&Tls>) -> anyhow::Result<Channel> {
        let url = match name {
            "identity" => &self.config.identity_url,
            "project" => &self.config.project_url,
            _ => &self.config.audit_url,
        };
        let tls = tls.with_context(|| {
            format!("the {name} service is in another process, so this one needs --tls-cert, --tls-key and --tls-ca")
        })?;
        channel(url, tls)
    }

    /// Starts what runs beside the calls. The answer resolves if one of the tasks fails.
    fn start_tasks(
        &mut self,
        ending: &CancellationToken,
        background: &TaskTracker,
    ) -> BoxFuture<'static, Option<anyhow::Error>> {
        let (report, mut reports) = tokio::sync::mpsc::channel(1);
        for (name, task) in std::mem::take(&mut self.tasks) {
            let (task, report) = (task(ending.clone()), report.clone());
            background.spawn(async move {
                if let Err(error) = task.await {
                    let _ = report.send(error.context(name)).await;
                }
            });
        }
        for postman in std::mem::take(&mut self.postmen) {
            let (stop, db) = (ending.clone(), postman.db.clone());
            background.spawn(async move {
                follow("mail".to_owned(), stop, db, || postman.step()).await;
            });
        }
        for (db, _) in &self.databases {
            background.spawn(database::forget_answers(db.clone(), ending.clone()));
        }
        Box::pin(async move {
            // The sender lives as long as this future: without a failure it never resolves.
            let _report = report;
            reports.recv().await
        })
    }

    /// What operators live on: reflection.
    fn operator_routes(&self) -> anyhow::Result<Routes> {
        let mut routes = Routes::default();
        if self.config.reflection {
            let builder = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(self.descriptors)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    // Without it grpcurl prints error details as base64.
                    .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            };
            routes =
                routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
        }
        Ok(routes)
    }

    fn server(tls: Option<Tls>) -> anyhow::Result<Server> {
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_max_pending_accept_reset_streams(Some(20))
            .http2_max_header_list_size(8 * 1024)
            .max_connection_age(Duration::from_secs(30 * 60))
            .max_connection_age_grace(Duration::from_secs(60))
            .max_concurrent_streams(256);
        Ok(match tls {
            Some(tls) => server.tls_config(tls.server())?,
            None => server,
        })
    }
}

/// A connection to a service of the suite, made when it is needed.
pub fn channel(url: &str, tls: &Tls) -> anyhow::Result<Channel> {
    let endpoint =
        Endpoint::from_shared(url.to_owned()).with_context(|| format!("{url} is no address"))?;
    let endpoint = endpoint
        .tls_config(tls.client())?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(60))
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}
