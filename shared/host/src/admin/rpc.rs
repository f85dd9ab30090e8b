//! RPCs of the AdminService.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use api::{
    admin::{
        self as pb, DeadLetter, DiscardDeadLetterRequest, DiscardDeadLetterResponse,
        EndAccountSessionsRequest, EndAccountSessionsResponse, FsckRun, GetIntegrityRequest,
        GetIntegrityResponse, GetProcessRequest, GetProcessResponse, Job, JobOutcome,
        ListAccountSessionsRequest, ListAccountSessionsResponse, ListDeadLettersRequest,
        ListDeadLettersResponse, ListJobsRequest, ListJobsResponse, ListQueuesRequest,
        ListQueuesResponse, PauseConsumerRequest, PauseConsumerResponse, Queue as QueueRow,
        ReplayDeadLetterRequest, ReplayDeadLetterResponse, ResumeConsumerRequest,
        ResumeConsumerResponse, RunFsckRequest, RunFsckResponse, SetLogFilterRequest,
        SetLogFilterResponse, Setting, admin_service_server::AdminService,
    },
    check::Check,
    event::Envelope,
};
use chassis::{Db, UserId, timestamp};
use eventing::{dead_letter, pause};
use health::Readiness;
use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use worker::{
    Progress,
    jobs::{self, JobState},
    queue::Queue,
};

use super::operations::{AccountSession, AccountSessions, LogCheck, LogChecks, Operations};
use crate::telemetry;

/// Number of dead letters in a list without a page size.
const PAGE_SIZE: i64 = 50;

/// Largest number of sessions in a list.
const SESSIONS_MAX: i64 = 1_000;

/// The AdminService of a process.
pub(super) struct Admin {
    pub(super) started_at: SystemTime,
    pub(super) databases: Vec<Db>,
    pub(super) queues: Vec<Queue>,
    pub(super) readiness: Readiness,
    pub(super) operations: Operations,
}

type Reply<M> = Result<Response<M>, Status>;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_process(&self, _: Request<GetProcessRequest>) -> Reply<GetProcessResponse> {
        let cause = self.readiness.cause();
        let details = self.readiness.details();
        let mut paused_consumers = vec![];
        for db in &self.databases {
            if pause::is_paused(db).await.map_err(failed)? {
                paused_consumers.push(db.name().to_owned());
            }
        }
        let setting = |it: &settings::arguments::Setting| Setting {
            name: it.name.clone(),
            value: it.value.clone(),
        };
        Ok(Response::new(GetProcessResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(self.started_at.into()),
            services: self.databases.iter().map(|it| it.name().to_owned()).collect(),
            ready: cause.is_none(),
            problems: cause.into_iter().chain(details.lines().map(str::to_owned)).collect(),
            log_filter: telemetry::log_filter().unwrap_or_default(),
            settings: settings::arguments::in_effect().iter().map(setting).collect(),
            paused_consumers,
        }))
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Reply<SetLogFilterResponse> {
        let SetLogFilterRequest { filter } = checked(request)?;
        telemetry::set_log_filter(&filter).map_err(|error| {
            Status::invalid_argument(format!("{error:#}; use for example `info,project=debug`"))
        })?;
        tracing::info!(filter, "an operator has set the filter of the log");
        Ok(Response::new(SetLogFilterResponse { filter }))
    }

    async fn list_queues(&self, _: Request<ListQueuesRequest>) -> Reply<ListQueuesResponse> {
        let mut queues = vec![];
        for queue in &self.queues {
            let state = queue.state().await.map_err(failed)?;
            queues.push(QueueRow {
                service: queue.db.name().to_owned(),
                name: queue.name.to_owned(),
                waiting: state.waiting,
                oldest_age: queue.oldest_age(state).map(|it| duration(it.unsigned_abs())),
            });
        }
        queues.sort_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
        Ok(Response::new(ListQueuesResponse { queues }))
    }

    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Reply<ListJobsResponse> {
        let jobs = jobs::states().into_iter().map(|(name, state)| job(name, state)).collect();
        Ok(Response::new(ListJobsResponse { jobs }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Reply<ListDeadLettersResponse> {
        let ListDeadLettersRequest { service, page_size } = checked(request)?;
        let limit = if page_size == 0 { PAGE_SIZE } else { page_size.into() };
        let databases = match service.as_str() {
            "" => self.databases.iter().collect(),
            name => vec![self.database(name)?],
        };
        let mut dead_letters = vec![];
        for db in databases {
            let letters = dead_letter::list(db, limit).await.map_err(failed)?;
            dead_letters.extend(letters.into_iter().map(|it| dead_letter_row(db, it)));
        }
        let time = |it: &DeadLetter| it.fail_time.map(|it| (it.seconds, it.nanos));
        dead_letters.sort_by_key(time);
        dead_letters.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Response::new(ListDeadLettersResponse { dead_letters }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<ReplayDeadLetterRequest>,
    ) -> Reply<ReplayDeadLetterResponse> {
        let ReplayDeadLetterRequest { service, event_id } = checked(request)?;
        let id = parse_uuid("event_id", &event_id)?;
        let is_found = dead_letter::replay(self.database(&service)?, id).await.map_err(failed)?;
        found(is_found, &event_id)?;
        tracing::info!(service, event_id, "an operator has replayed a dead letter");
        Ok(Response::new(ReplayDeadLetterResponse {}))
    }

    async fn discard_dead_letter(
        &self,
        request: Request<DiscardDeadLetterRequest>,
    ) -> Reply<DiscardDeadLetterResponse> {
        let DiscardDeadLetterRequest { service, event_id } = checked(request)?;
        let id = parse_uuid("event_id", &event_id)?;
        let is_found = dead_letter::discard(self.database(&service)?, id).await.map_err(failed)?;
        found(is_found, &event_id)?;
        tracing::warn!(service, event_id, "an operator has discarded a dead letter");
        Ok(Response::new(DiscardDeadLetterResponse {}))
    }

    async fn pause_consumer(
        &self,
        request: Request<PauseConsumerRequest>,
    ) -> Reply<PauseConsumerResponse> {
        let PauseConsumerRequest { service } = checked(request)?;
        let db = self.database(&service)?;
        if service == "audit" {
            let message = "the audit log must be complete, so its consumer cannot be paused";
            return Err(Status::failed_precondition(message));
        }
        pause::pause(db).await.map_err(failed)?;
        tracing::warn!(service, "an operator has paused the consumer");
        Ok(Response::new(PauseConsumerResponse {}))
    }

    async fn resume_consumer(
        &self,
        request: Request<ResumeConsumerRequest>,
    ) -> Reply<ResumeConsumerResponse> {
        let ResumeConsumerRequest { service } = checked(request)?;
        pause::resume(self.database(&service)?).await.map_err(failed)?;
        tracing::info!(service, "an operator has resumed the consumer");
        Ok(Response::new(ResumeConsumerResponse {}))
    }

    async fn get_integrity(&self, _: Request<GetIntegrityRequest>) -> Reply<GetIntegrityResponse> {
        let integrity = self.log_checks()?.integrity().await.map_err(failed)?;
        Ok(Response::new(GetIntegrityResponse {
            interval: integrity.interval.map(duration),
            next_time: integrity.next_at.map(timestamp),
            runs: integrity.runs.into_iter().map(fsck_run).collect(),
            findings: integrity.findings,
            restrictions: integrity.restrictions,
        }))
    }

    async fn run_fsck(&self, _: Request<RunFsckRequest>) -> Reply<RunFsckResponse> {
        if !self.log_checks()?.start_check().await.map_err(failed)? {
            return Err(Status::failed_precondition("a check is running; see GetIntegrity"));
        }
        tracing::info!("an operator has started a check of the audit log");
        Ok(Response::new(RunFsckResponse {}))
    }

    async fn list_account_sessions(
        &self,
        request: Request<ListAccountSessionsRequest>,
    ) -> Reply<ListAccountSessionsResponse> {
        let ListAccountSessionsRequest { account } = checked(request)?;
        let user_id = self.account(&account).await?;
        let sessions =
            self.account_sessions()?.list(user_id, SESSIONS_MAX).await.map_err(failed)?;
        Ok(Response::new(ListAccountSessionsResponse {
            account_id: user_id.to_string(),
            sessions: sessions.into_iter().map(account_session).collect(),
        }))
    }

    async fn end_account_sessions(
        &self,
        request: Request<EndAccountSessionsRequest>,
    ) -> Reply<EndAccountSessionsResponse> {
        let EndAccountSessionsRequest { account, session_id } = checked(request)?;
        let user_id = self.account(&account).await?;
        let provider = self.account_sessions()?;
        let ended_count = if session_id.is_empty() {
            provider.end_all(user_id).await.map_err(failed)?
        } else {
            let id = parse_uuid("session_id", &session_id)?;
            provider.end(user_id, id).await.map_err(failed)?;
            1
        };
        tracing::warn!(%user_id, ended_count, "an operator has ended sessions of an account");
        Ok(Response::new(EndAccountSessionsResponse { ended_count }))
    }
}

impl Admin {
    /// Returns the database of a service of this process.
    fn database(&self, service: &str) -> Result<&Db, Status> {
        let database = self.databases.iter().find(|it| it.name() == service);
        database.ok_or_else(|| {
            let names: Vec<_> = self.databases.iter().map(Db::name).collect();
            let names = names.join(", ");
            Status::not_found(format!("this process has no service {service:?}; it has {names}"))
        })
    }
}

impl Admin {
    fn log_checks(&self) -> Result<&dyn LogChecks, Status> {
        let checks = self.operations.log_checks.as_deref();
        checks.ok_or_else(|| Status::not_found("this process does not run the audit service"))
    }

    fn account_sessions(&self) -> Result<&dyn AccountSessions, Status> {
        let sessions = self.operations.account_sessions.as_deref();
        sessions.ok_or_else(|| Status::not_found("this process does not run the identity service"))
    }

    /// Returns the account with an id or an e-mail address.
    async fn account(&self, id_or_email: &str) -> Result<UserId, Status> {
        let accounts = self.account_sessions()?.find_accounts(id_or_email).await.map_err(failed)?;
        match *accounts {
            [account] => Ok(account),
            [] => Err(Status::not_found(format!("there is no account {id_or_email:?}"))),
            _ => {
                let ids: Vec<_> = accounts.iter().map(UserId::to_string).collect();
                Err(Status::failed_precondition(format!(
                    "the address is not confirmed, and several accounts have it; use an id: {}",
                    ids.join(", ")
                )))
            }
        }
    }
}

/// Returns the message of a request, if its fields are valid.
fn checked<M: Check>(request: Request<M>) -> Result<M, Status> {
    let message = request.into_inner();
    let violations = message.violations();
    if violations.is_empty() {
        return Ok(message);
    }
    let lines = violations.iter().map(|it| format!("{}: {}", it.field, it.description));
    Err(Status::invalid_argument(lines.collect::<Vec<_>>().join("; ")))
}

/// Converts an error. One of the database has its causes: operators see what the log shows.
fn failed(error: chassis::Error) -> Status {
    if let chassis::Error::NotFound(_) = error {
        return error.into();
    }
    Status::unavailable(format!("{:#}", anyhow::Error::from(error)))
}

fn parse_uuid(field: &'static str, text: &str) -> Result<Uuid, Status> {
    let parsed = Uuid::try_parse(text).with_context(|| format!("{field} is not a UUID"));
    parsed.map_err(|error| Status::invalid_argument(format!("{error:#}")))
}

/// Fails with NOT_FOUND if there was no dead letter.
fn found(is_found: bool, event_id: &str) -> Result<(), Status> {
    if is_found {
        return Ok(());
    }
    Err(Status::not_found(format!("no dead letter has the event id {event_id}")))
}

fn dead_letter_row(db: &Db, letter: dead_letter::DeadLetter) -> DeadLetter {
    let envelope = Envelope::decode(&*letter.envelope).unwrap_or_default();
    DeadLetter {
        service: db.name().to_owned(),
        event_id: letter.event_id.to_string(),
        event_type: letter.event_type,
        org_id: envelope.org_id,
        error: letter.error,
        fail_time: Some(timestamp(letter.failed_at)),
    }
}

fn job(name: String, state: JobState) -> Job {
    let outcome = match state.outcome {
        Some(Progress::Busy) => JobOutcome::Busy,
        Some(Progress::Idle) => JobOutcome::Idle,
        None => JobOutcome::Failed,
    };
    Job {
        name,
        steps: i64::try_from(state.steps).unwrap_or(i64::MAX),
        last_time: Some(state.last_at.into()),
        last_duration: Some(duration(state.last_duration)),
        outcome: outcome.into(),
        failures: i32::try_from(state.failures).unwrap_or(i32::MAX),
        last_error: state.last_error,
    }
}

fn fsck_run(check: LogCheck) -> FsckRun {
    FsckRun {
        start_time: Some(timestamp(check.started_at)),
        end_time: check.ended_at.map(timestamp),
        trees: check.trees,
        entries: check.entries,
        checkpoints: check.checkpoints,
        finding_count: check.finding_count,
        error: check.error,
    }
}

fn account_session(session: AccountSession) -> pb::AccountSession {
    pb::AccountSession {
        id: session.id.to_string(),
        create_time: Some(timestamp(session.created_at)),
        last_use_time: Some(timestamp(session.last_used_at)),
        expire_time: Some(timestamp(session.expires_at)),
        address: session.address,
        user_agent: session.user_agent,
    }
}

fn duration(it: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(it).unwrap_or_default()
}
