//! A host from its start to its drain.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use futures::{FutureExt, future::BoxFuture};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint},
};

use super::{
    Host,
    connection::Acceptor,
    database,
    front::{self, Front, Health},
};
use crate::{
    access::RemoteAuthority,
    bus::{Bus, IDLE, JetStream, follow},
    db::Db,
    denials::Denials,
    key_limits::KeyLimits,
    link::Target,
    retention,
    rule::Rules,
    server::{Shared, Stack, limits::Limits},
    telemetry::Meter,
    tls::Tls,
    web::Sites,
};

impl Host {
    /// Serves until `stop`, then drains: no new calls, calls in flight end, events and mails pause.
    /// Calls `ready` once it serves and what [`Host::await_before_ready`] names is done.
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
        if let Some((db, _)) = self.databases.first() {
            database::set_clock(db).await?;
        }

        let ending = CancellationToken::new();
        let background = TaskTracker::new();
        self.start_bus(&ending, &background).await?;
        let outboxes = self.databases.iter().map(|it| it.0.clone());
        let denials = Denials::new(outboxes, self.clock.clone());
        background.spawn(denials.clone().run(ending.clone()));
        let stack = self.stack(rules, denials)?;
        self.connect(&stack, tls.as_ref())?;
        let mut failed = self.start_tasks(&ending, &background);
        let startup =
            futures::future::join_all(self.startup.iter().map(CancellationToken::cancelled));
        let stop = stop.shared();
        tokio::select! {
            _ = startup => {}
            Some(failure) = &mut failed => {
                ending.cancel();
                return Err(failure);
            }
            () = stop.clone() => {}
        }

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
        let sites = Sites(std::mem::take(&mut self.sites).into());
        let front = Front { stack, operator, sites };
        let acceptor = Acceptor::new(front, tls.map(|it| it.server()).transpose()?);
        let failure = {
            let drain = front::Drain { begun: self.draining.clone(), patience: drain };
            front::serve(acceptor, listener, health, stop, drain).await.flatten()
        };
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
        let whole = self.served.iter().any(|it| it.starts_with("tenantry.audit."));
        let bus = match &self.config.nats_url {
            Some(url) => Bus::JetStream(Box::new(JetStream::connect(url, "tenantry").await?)),
            None if whole => Bus::Local,
            None => bail!("the audit service is in another process, so this one needs --nats-url"),
        };
        let databases: Vec<_> = self.databases.iter().map(|it| it.0.clone()).collect();
        let link = |it: &Db| (it.clone(), self.client(it.name(), "audit"));
        let outboxes = databases.iter().map(link).collect();
        let patience = Duration::from_secs(self.config.nats_patience_s);
        let subscribers = std::mem::take(&mut self.subscribers);
        for task in bus.tasks(outboxes, subscribers, patience, ending) {
            background.spawn(task);
        }
        Ok(())
    }

    fn stack(&mut self, rules: Rules, denials: Denials) -> anyhow::Result<Stack> {
        let shared = Shared {
            rules,
            access: self.access.clone(),
            running: TaskTracker::new(),
            keys: KeyLimits::new(&self.clock),
            denials,
            limits: Arc::new(Limits::new(&self.config)),
            clock: self.clock.clone(),
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
            "invitation" => &self.config.invitation_url,
            _ => &self.config.audit_url,
        };
        let tls = tls.with_context(|| {
            format!(
                "the {name} service is in another process, so this one needs \
                 --tls-cert, --tls-key and --tls-ca"
            )
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
                follow("mail".to_owned(), stop, (db, IDLE), || postman.step()).await;
            });
        }
        if let Some((db, _)) = self.databases.first() {
            background.spawn(database::keep_time(db.clone(), ending.clone()));
        }
        for (db, _) in &self.databases {
            let steps = self.retention.remove(db.name()).unwrap_or_default();
            background.spawn(retention::run(db.clone(), steps, ending.clone()));
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
                let builder = tonic_reflection::server::Builder::configure();
                // What this process serves, not all that the contract knows.
                let names = self.served.iter().chain(&["grpc.health.v1.Health"]);
                names
                    .fold(builder, |it, name| it.with_service_name(*name))
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
