//! Running of a host: start-up, serving and graceful shutdown (drain).

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use chassis::{
    Db,
    access::RemoteAuthority,
    channel::{RemoteService, Target},
    denials::Denials,
    key_limits::KeyLimits,
    registry::{self, Service},
    rule::Rules,
    server::{Shared, Stack, limits::Limits, observe::Meter},
};
use eventing::{Bus, JetStream};
use futures::{FutureExt, future::BoxFuture};
use tokio::net::TcpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use worker::{reseal, retention};

use crate::{
    balance,
    connection::{Acceptor, Lifetime},
    database,
    health::Health,
    host::{Host, Task},
    listener::{self, GrpcService, HttpService},
    process,
    tls::Tls,
    web::Sites,
};

/// Connections that wait to be accepted; the kernel refuses more (`net.core.somaxconn` limits it, too).
const BACKLOG: u32 = 1024;

impl Host {
    /// Serves until `stop`, then drains: refuses new connections, waits for the calls in flight, then stops
    /// the background jobs. The bound socket listens, and `ready` is called, when the process serves: after
    /// the start-up steps of [`Host::await_before_ready`].
    pub async fn run(
        mut self,
        socket: TcpSocket,
        ready: impl FnOnce(),
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        // Checks of the contract and the settings.
        let rules = Rules::load(self.descriptors)?;
        self.check_services(&rules)?;
        let tls = self.tls()?;
        let address = socket.local_addr()?;
        require_tls(address, tls.as_ref())?;

        // Databases.
        let stop = stop.shared();
        self.readiness.set_not_ready("waiting for the database and its migrations");
        tokio::select! {
            prepared = self.prepare_databases(self.config.migrate) => prepared?,
            () = stop.clone() => return Ok(()),
        }
        database::claim(&self.databases, &self.key, &self.key_file).await?;
        if let Some((db, _)) = self.databases.first() {
            database::synchronize_clock(db).await?;
        }

        // Background: delivery of events, records of denied calls, tasks of the services.
        let stop_background = CancellationToken::new();
        let background = TaskTracker::new();
        self.start_bus(&stop_background, &background).await?;
        let outboxes = self.databases.iter().map(|it| it.0.clone());
        let denials = Denials::new(outboxes, self.clock.clone());
        background.spawn(denials.clone().run(stop_background.clone()));
        if let Some(tls) = &tls {
            background.spawn(tls.clone().reload_changes(stop_background.clone()));
        }
        database::measure_connections(self.databases().cloned().collect());
        self.start_admin(&stop_background, &background)?;
        let stack = Arc::new(self.stack(rules.clone(), denials)?);
        self.set_targets(&stack, tls.as_ref(), &rules)?;
        let mut task_failure = self.start_tasks(&stop_background, &background);

        // Start-up steps, which calls depend on.
        let startup =
            futures::future::join_all(self.startup.iter().map(CancellationToken::cancelled));
        self.readiness.set_not_ready("start-up steps are running");
        tokio::select! {
            _ = startup => {}
            Some(failure) = &mut task_failure => {
                stop_background.cancel();
                return Err(failure);
            }
            () = stop.clone() => {}
        }

        // The server, until `stop` or the failure of a task; then the drain of its connections.
        let running = stack.running().clone();
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let databases = self.databases.iter().map(|it| it.0.clone());
        let readiness = self.readiness.clone();
        let servers = &self.servers;
        let health = Health::new(reporter, readiness, self.served.clone(), databases, servers);
        let listener = socket.listen(BACKLOG).with_context(|| process::cannot_listen(address))?;
        health.set_serving().await;
        let operator = self.operator_routes()?.add_service(health_service).prepare();
        let drain = Duration::from_secs(self.config.drain_s_max);
        let stop = async {
            ready();
            tokio::select! {
                () = stop => None,
                failure = task_failure => failure,
            }
        };
        let sites = Sites(std::mem::take(&mut self.sites).into());
        let grpc = GrpcService { stack: Stack::clone(&stack), operator };
        let service = HttpService::new(grpc, &self.config.web_origins, sites)?;
        let lifetime = Lifetime {
            idle_max: Duration::from_millis(self.config.connection_idle_ms_max),
            age_max: Duration::from_millis(self.config.connection_age_ms_max),
        };
        let acceptor = Acceptor::new(service, tls, lifetime);
        let failure = {
            let drain = listener::Drain { started: self.draining.clone(), timeout: drain };
            listener::serve(acceptor, listener, health, stop, drain).await.flatten()
        };

        // Drain of handlers whose clients have disconnected, then of the background.
        running.close();
        if tokio::time::timeout(drain, running.wait()).await.is_err() {
            tracing::warn!(
                "calls were still running at the end of the drain; raise --drain-s-max if this repeats"
            );
        }
        stop_background.cancel();
        background.close();
        if tokio::time::timeout(drain, background.wait()).await.is_err() {
            tracing::warn!("background tasks were still running at the end of the drain");
        }
        database::release_key(&self.databases).await;
        failure.map_or(Ok(()), Err)
    }

    /// Fails if a gRPC service is not in the contract, so that each of its methods has a rule.
    fn check_services(&self, rules: &Rules) -> anyhow::Result<()> {
        for service in &self.served {
            ensure!(
                rules.serves(service),
                "{service} is served but is not in the contract; add it to proto/"
            );
        }
        Ok(())
    }

    /// Fails if events need NATS and there is no URL.
    pub(crate) fn require_bus(&self) -> anyhow::Result<()> {
        let has_audit = registry::find("audit")?.serves_any(&self.served);
        ensure!(
            self.config.nats_url.is_some() || has_audit,
            "the audit service is in another process, so this one needs --nats-url"
        );
        Ok(())
    }

    /// Reads the TLS files; `None` without TLS.
    pub(crate) fn tls(&self) -> anyhow::Result<Option<Tls>> {
        match (&self.config.tls_cert, &self.config.tls_key, &self.config.tls_ca) {
            (Some(certificate), Some(key), Some(authority)) => {
                Ok(Some(Tls::read(certificate, key, authority)?))
            }
            (None, None, None) => Ok(None),
            _ => bail!("set all of --tls-cert, --tls-key and --tls-ca, or none"),
        }
    }

    /// Starts the delivery of events.
    async fn start_bus(
        &mut self,
        stop_background: &CancellationToken,
        background: &TaskTracker,
    ) -> anyhow::Result<()> {
        self.require_bus()?;
        let bus = match &self.config.nats_url {
            Some(url) => {
                let replicas = self.config.nats_stream_replicas.into();
                Bus::JetStream(Box::new(JetStream::connect(url, "tenantry", replicas).await?))
            }
            None => Bus::Local,
        };
        bus.start_messages(&self.replica_messages);
        let databases: Vec<_> = self.databases.iter().map(|it| it.0.clone()).collect();
        let with_audit_channel = |it: &Db| (it.clone(), self.client(it.name(), "audit"));
        let outboxes = databases.iter().map(with_audit_channel).collect();
        let direct_after = Duration::from_secs(self.config.nats_patience_s);
        let subscribers = std::mem::take(&mut self.subscribers);
        let tasks = bus.tasks(outboxes, subscribers, direct_after, stop_background);
        for task in tasks.futures {
            background.spawn(task);
        }
        self.queues.extend(tasks.queues);
        background.spawn(worker::queue::measure(self.queues.clone(), stop_background.clone()));
        Ok(())
    }

    /// Builds the server stack around the gRPC services.
    fn stack(&mut self, rules: Rules, denials: Denials) -> anyhow::Result<Stack> {
        let (db, _) = self.databases.first().context("no service is installed in this process")?;
        let shared = Shared {
            rules,
            access: self.access.clone(),
            running: TaskTracker::new(),
            keys: KeyLimits::new(db),
            denials,
            limits: Arc::new(Limits::new(&self.config)),
            clock: self.clock.clone(),
            deadline_max: Duration::from_secs(self.config.deadline_s_max),
            meter: Meter::new(),
            drop_handlers: self.faults.drop_handlers,
        };
        Ok(Stack::new(shared, std::mem::take(&mut self.routes).prepare()))
    }

    /// Sets the targets of the channels between services, and the authority if it is in another process.
    fn set_targets(
        &mut self,
        stack: &Arc<Stack>,
        tls: Option<&Tls>,
        rules: &Rules,
    ) -> anyhow::Result<()> {
        if self.access.authority().is_err() {
            let channel = self.client("authority", "identity");
            self.access.set_authority(Arc::new(RemoteAuthority(channel)));
        }
        for (name, target) in &self.targets {
            let service = registry::find(name)?;
            let location = if service.serves_any(&self.served) {
                Target::Local(Arc::downgrade(stack))
            } else {
                Target::Remote(self.channel(service, tls, rules)?)
            };
            let _ = target.set(location);
        }
        Ok(())
    }

    /// Returns a channel to a service in another process.
    fn channel(
        &self,
        service: &Service,
        tls: Option<&Tls>,
        rules: &Rules,
    ) -> anyhow::Result<RemoteService> {
        let name = service.name;
        let tls = tls.with_context(|| {
            format!(
                "the {name} service is in another process, so this one needs \
                 --tls-cert, --tls-key and --tls-ca"
            )
        })?;
        balance::channel(self.config.service_urls.get(service), tls, rules)
    }

    /// Starts the background tasks and jobs. The returned future resolves with the error of a task that
    /// fails.
    fn start_tasks(
        &mut self,
        stop_background: &CancellationToken,
        background: &TaskTracker,
    ) -> BoxFuture<'static, Option<anyhow::Error>> {
        let (failure_sender, mut failures) = tokio::sync::mpsc::channel(1);
        for Task { name, run } in std::mem::take(&mut self.tasks) {
            let task = run(stop_background.clone());
            let failure_sender = failure_sender.clone();
            background.spawn(async move {
                if let Err(error) = task.await {
                    let _ = failure_sender.send(error.context(name)).await;
                }
            });
        }
        for mail_worker in std::mem::take(&mut self.mail_workers) {
            background.spawn(mail_worker.run(stop_background.clone()));
        }
        if let Some((db, _)) = self.databases.first() {
            background
                .spawn(database::keep_clock_synchronized(db.clone(), stop_background.clone()));
        }
        for (db, _) in &self.databases {
            background.spawn(db.clone().close_surplus_connections(stop_background.clone()));
            let plan = self.retention.remove(db.name()).unwrap_or_default();
            background.spawn(retention::run(db.clone(), plan, stop_background.clone()));
            let columns = self.sealed_columns.remove(db.name()).unwrap_or_default();
            let key = self.key.clone();
            background.spawn(reseal::run(db.clone(), key, columns, stop_background.clone()));
        }
        Box::pin(async move {
            // Holds a sender, so that the channel stays open without a failure.
            let _failure_sender = failure_sender;
            failures.recv().await
        })
    }

    /// Returns the reflection service, if it is enabled.
    fn operator_routes(&self) -> anyhow::Result<Routes> {
        let mut routes = Routes::default();
        if self.config.reflection {
            let builder = || {
                let builder = tonic_reflection::server::Builder::configure();
                // Only the services of this process, not the whole contract.
                let names = self.served.iter().chain(&["grpc.health.v1.Health"]);
                names
                    .fold(builder, |it, name| it.with_service_name(*name))
                    .register_encoded_file_descriptor_set(self.descriptors)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    // With it grpcurl prints error details as JSON instead of base64.
                    .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            };
            routes =
                routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
        }
        Ok(routes)
    }
}

/// Fails for an address that other machines reach without TLS.
pub(crate) fn require_tls(address: SocketAddr, tls: Option<&Tls>) -> anyhow::Result<()> {
    ensure!(
        tls.is_some() || address.ip().is_loopback(),
        "{address} can be reached from other machines, so it needs --tls-cert, --tls-key and --tls-ca; \
         without TLS set --listen to a loopback address"
    );
    Ok(())
}
