//! The gRPC surface of tasks, for runners.

use std::{collections::BTreeSet, time::Duration};

use api::project::{self as pb, runner_service_server::RunnerService};
use chassis::{Call, Db, Error, Reply, Result, Tx, reply};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use uuid::Uuid;

use super::{
    Outcome, Task, TaskId,
    lease::{LEASE, Leased},
    report, store,
};
use crate::{
    attachment,
    environment::{self, Environment},
    project, push,
    server::{self, Agent, heartbeat},
    variable::{self, Vault},
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) vault: Vault,
    /// Nobody waits for work while the process ends.
    pub(crate) draining: CancellationToken,
}

/// The longest wait of one call.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// How often a waiting call looks without a wake-up: leases end, and other processes write, too.
const POLL_EVERY: Duration = Duration::from_secs(2);

#[tonic::async_trait]
impl RunnerService for Rpc {
    async fn lease_task(
        &self,
        request: Request<pb::LeaseTaskRequest>,
    ) -> Reply<pb::LeaseTaskResponse> {
        let call = Call::of(request)?;
        let wait = call.message.wait.and_then(|it| Duration::try_from(it).ok());
        let until = tokio::time::Instant::now() + wait.unwrap_or_default().min(WAIT_MAX);
        let mut agent = server::agent::of(&self.db, &call, &call.message.runner).await?;
        let mut of_server = self.db.subscribe(agent.server_id.0);
        let mut of_any = self.db.subscribe(store::ANY_SERVER);
        loop {
            of_server.mark_read();
            of_any.mark_read();
            if call.gone.is_cancelled() {
                return reply(pb::LeaseTaskResponse { lease: None });
            }
            let lease = async |tx: &mut Tx| {
                let Some(task) = store::waiting(tx, &agent).await? else {
                    return Ok(pb::LeaseTaskResponse { lease: None });
                };
                Ok(pb::LeaseTaskResponse { lease: take(tx, &agent, task, &self.vault).await? })
            };
            let answer = self.db.write(&call, lease).await?;
            let now = tokio::time::Instant::now();
            let enough = now >= until || self.draining.is_cancelled() || call.gone.is_cancelled();
            if answer.lease.is_some() || enough {
                return reply(answer);
            }
            tokio::select! {
                () = of_server.changed() => {}
                () = of_any.changed(), if agent.shared => {}
                () = tokio::time::sleep(POLL_EVERY.min(until - now)) => {}
                () = self.draining.cancelled() => {}
                // A task that is handed to nobody would wait for the end of its lease.
                () = call.gone.cancelled() => return reply(answer),
            }
            // The token may have been replaced while its runner waited.
            agent = server::agent::of(&self.db, &call, &call.message.runner).await?;
        }
    }

    async fn report_progress(
        &self,
        request: Request<pb::ReportProgressRequest>,
    ) -> Reply<pb::ReportProgressResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let agent = server::agent::of(&self.db, &call, &it.runner).await?;
        let (id, lease_id) = (it.task_id.parse()?, lease_id(&it.lease_id)?);
        let report = async |tx: &mut Tx| {
            let org_id = store::find(tx, id, agent.server_id).await?.org_id;
            let task = store::lock(tx, org_id, id).await?;
            let mut task = task.report(lease_id, report::progress(it), tx.now)?;
            store::log(tx, &mut task, &it.log_lines).await?;
            store::update(tx, &task).await?;
            Ok(pb::ReportProgressResponse { cancel: task.cancel_requested })
        };
        reply(self.db.write(&call, report).await?)
    }

    async fn finish_task(
        &self,
        request: Request<pb::FinishTaskRequest>,
    ) -> Reply<pb::FinishTaskResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let agent = server::agent::of(&self.db, &call, &it.runner).await?;
        let (id, lease_id): (TaskId, _) = (it.task_id.parse()?, lease_id(&it.lease_id)?);
        let outcome = report::outcome(it);
        let finish = async |tx: &mut Tx| {
            let found = store::find(tx, id, agent.server_id).await?;
            let environment = environment::locking::of_task(tx, &found).await?;
            let task = store::lock(tx, found.org_id, id).await?;
            let mut task = task.finish(lease_id, &outcome, tx.now)?;
            (task.commit_subject, task.commit_author) = report::commit(it);
            over(tx, environment, task, outcome).await?;
            Ok(pb::FinishTaskResponse {})
        };
        reply(self.db.write(&call, finish).await?)
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Reply<pb::HeartbeatResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let agent = server::agent::arriving(&self.db, &call, it).await?;
        let beat = async |tx: &mut Tx| {
            let known = heartbeat::correct(tx, &agent, it).await?;
            let held = it
                .tasks
                .iter()
                .map(|it| Ok((it.task_id.parse::<TaskId>()?.0, lease_id(&it.lease_id)?)));
            let held = held.collect::<Result<Vec<_>>>()?;
            let renewed = store::renew(tx, agent.server_id, &held).await?;
            heartbeat::note(tx, &agent, it).await?;
            let unknown_environment_ids = heartbeat::keep(tx, &agent, it, &known).await?;
            let kept: BTreeSet<_> = renewed.iter().map(|it| it.0).collect();
            let lost = held.iter().filter(|it| !kept.contains(&it.0)).map(|it| it.0.to_string());
            let cancelled = renewed.iter().filter(|it| it.1).map(|it| it.0.to_string());
            Ok(pb::HeartbeatResponse {
                cancelled_task_ids: cancelled.collect(),
                lost_task_ids: lost.collect(),
                unknown_environment_ids,
            })
        };
        reply(self.db.write(&call, beat).await?)
    }
}

fn lease_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_| Error::invalid("lease_id", "must be a UUID"))
}

/// The end of a task, and what follows: of the environment that was copied, of the deployment that was
/// replaced, and of the project that waited for it.
pub(crate) async fn over(
    tx: &mut Tx,
    environment: Environment,
    task: Task,
    outcome: Outcome,
) -> Result<()> {
    let (place, id) = ((environment.org_id, environment.project_id), environment.id);
    if conclude(tx, environment, task, outcome).await? {
        return Ok(());
    }
    push::deploy::catch_up(tx, place, id).await?;
    attachment::provide::catch_up(tx, place, id).await
}

/// Ends a task that nobody wants any more: of an environment, or of the one that copies it. Nothing begins
/// after it.
pub(crate) async fn call_off(tx: &mut Tx, at: &Environment, task: Task, why: &str) -> Result<()> {
    let place = (at.org_id, at.project_id);
    let environment = environment::store::lock(tx, place, task.environment_id).await?;
    let (task, outcome) = task.withdraw(why, tx.now);
    conclude(tx, environment, task, outcome).await.map(|_| ())
}

/// The end of a task; answers whether its environment is gone.
async fn conclude(
    tx: &mut Tx,
    environment: Environment,
    task: Task,
    outcome: Outcome,
) -> Result<bool> {
    let place = (environment.org_id, environment.project_id);
    // The project is locked before what follows, and at once as strongly as its end needs.
    if task.kind == super::Kind::Destroy {
        project::store::lock(tx, place).await?;
    } else {
        project::store::load(tx, place).await?;
    }
    if task.kind == super::Kind::Clone {
        environment::store::let_go(tx, &task).await?;
    }
    let done = matches!(outcome, Outcome::Completed { .. });
    if let (super::Kind::Rollback, true, Some(replaced)) =
        (task.kind, done, environment.deployment_id)
    {
        store::rolled_back(tx, place.0, replaced).await?;
    }
    attachment::provide::ended(tx, &environment, &task, &outcome).await?;
    let ended = environment.finish(task, outcome, tx.now);
    let destroyed = ended.state().0.state == environment::State::Deleted;
    environment::store::end(tx, ended).await?;
    if destroyed {
        project::deletion::go_on(tx, place).await?;
    }
    Ok(destroyed)
}

/// Hands the active task of an environment to the caller, or ends it.
async fn take(
    tx: &mut Tx,
    agent: &Agent,
    waiting: Task,
    vault: &Vault,
) -> Result<Option<pb::Lease>> {
    let mut environment = environment::locking::of_task(tx, &waiting).await?;
    let task = store::active(tx, &environment).await?;
    // Another runner was quicker.
    let Some(mut task) = task.filter(|it| it.waits(tx.now)) else { return Ok(None) };
    let is_placed = environment.server_id.is_some();
    if !is_placed {
        // Any shared server was good; from here on it is this one.
        (environment.server_id, task.server_id) = (Some(agent.server_id), Some(agent.server_id));
    }
    let task = match task.lease(tx.now) {
        Leased::First(changed) => store::save(tx, changed).await?,
        Leased::Again(task) => {
            store::update(tx, &task).await?;
            task
        }
        Leased::Over(task, outcome) => {
            over(tx, environment, task, outcome).await?;
            return Ok(None);
        }
    };
    let lease = lease(tx, task, &environment, vault).await?;
    if !is_placed {
        environment::store::place(tx, &environment, agent.server_id).await?;
    }
    Ok(Some(lease))
}

async fn lease(
    tx: &mut Tx,
    task: Task,
    environment: &Environment,
    vault: &Vault,
) -> Result<pb::Lease> {
    let mut variables = vec![];
    for it in variable::store::load(tx, environment).await? {
        variables.push(vault.open(environment.org_id, it)?);
    }
    let place = (task.org_id, task.project_id);
    let project = project::store::load(tx, place).await?;
    let source = match task.source_environment_id {
        Some(id) if task.kind == super::Kind::Clone => {
            Some(environment::store::load(tx, place, id).await?)
        }
        _ => None,
    };
    variables.extend(environment::wire::variables(&project, environment, &task));
    let release = match task.kind {
        super::Kind::Deploy | super::Kind::Promote | super::Kind::Clone => Some(task.id),
        super::Kind::Rollback => task.deployment_id,
        _ => environment.deployment_id,
    };
    Ok(pb::Lease {
        task_id: task.id.into(),
        lease_id: task.lease_id.map(|it| it.to_string()).unwrap_or_default(),
        environment_id: task.environment_id.into(),
        repository_url: project.repository_url.clone(),
        branch: task.branch.clone(),
        kind: pb::TaskKind::from(task.kind).into(),
        ttl: Some(prost_types::Duration { seconds: LEASE.whole_seconds(), nanos: 0 }),
        commit: task.commit.clone(),
        release: release.map(String::from).unwrap_or_default(),
        source_environment_id: source.as_ref().map(|it| it.id.into()).unwrap_or_default(),
        source_release: source
            .and_then(|it| it.deployment_id)
            .map(String::from)
            .unwrap_or_default(),
        resources: Some(environment::wire::resources(environment.room())),
        provisions: attachment::provide::provisions(tx, environment, vault).await?,
        variables,
    })
}
