//! Events of denied calls, for the audit log (AU-6). The first denial of an account, method and object is
//! written at once; later ones are counted and written together, at most once a minute, so that a client that
//! repeats a denied call does not fill the log.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{audit::PermissionDenied, error::Reason, event as pb};
use http::HeaderMap;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    Changed, Clock, Db, EventTarget, OrgId, ProjectId, Tx, UserId,
    call::{Context, account_actor},
};

/// Shortest time between two events of the same denial.
const WINDOW: time::Duration = time::Duration::minutes(1);
/// Interval at which counted denials that are due are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of distinct denials that are counted at a time. Further ones are not recorded.
const DENIALS_MAX: usize = 10_000;

/// A permission that was denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denied {
    /// The permission.
    pub permission: String,
    /// The organization.
    pub org_id: OrgId,
    /// The project, if the permission is needed on one.
    pub project_id: Option<ProjectId>,
    /// Reason of the denial.
    pub reason: Reason,
}

/// Denials with equal keys are counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    user_id: UserId,
    method: String,
    denied: Denied,
}

/// Denials with the same key since the last event.
struct Count {
    last_event_at: OffsetDateTime,
    pending: i32,
    actor: pb::Actor,
    origin: pb::Origin,
}

/// Records denials, each in the outbox of the service that was called.
#[derive(Clone)]
pub struct Denials {
    outboxes: Arc<BTreeMap<&'static str, Db>>,
    clock: Clock,
    counts: Arc<Mutex<HashMap<Key, Count>>>,
}

impl Denials {
    /// Creates the recorder for the services with these databases.
    pub fn new(outboxes: impl Iterator<Item = Db>, clock: Clock) -> Self {
        let outboxes = outboxes.map(|it| (it.name(), it)).collect();
        Self { outboxes: Arc::new(outboxes), clock, counts: Arc::default() }
    }

    /// Records the denial of a call, if its response has an error. Denied reads are recorded only if they
    /// need a permission on the audit log.
    pub async fn record(&self, context: &Context, response: &HeaderMap) {
        let denied = context.denied.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((denied, account)) = denied.zip(context.account.as_ref()) else { return };
        let status = Status::from_header_map(response);
        if status.is_none_or(|it| it.code() == Code::Ok) {
            return;
        }
        // For example `org.audit.list`.
        let is_of_audit_log = denied.permission.contains(".audit.");
        if context.rule.read && !is_of_audit_log {
            return;
        }
        let key = Key { user_id: account.user_id, method: context.rule.method.clone(), denied };
        let actor = account_actor(account);
        if let Some(count) = self.count(&key, &actor, &context.origin) {
            self.emit(&key, actor, context.origin.clone(), count).await;
        }
    }

    /// Counts a denial. Returns the number of denials to be written now; `None` if none is due.
    fn count(&self, key: &Key, actor: &pb::Actor, origin: &pb::Origin) -> Option<i32> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if let Some(count) = counts.get_mut(key) {
            count.pending = count.pending.saturating_add(1);
            if count.last_event_at + WINDOW > now {
                return None;
            }
            count.last_event_at = now;
            return Some(std::mem::take(&mut count.pending));
        }
        if counts.len() >= DENIALS_MAX {
            return None;
        }
        let (actor, origin) = (actor.clone(), origin.clone());
        counts.insert(key.clone(), Count { last_event_at: now, pending: 0, actor, origin });
        Some(1)
    }

    /// Writes an event for `count` denials.
    async fn emit(&self, key: &Key, actor: pb::Actor, origin: pb::Origin, count: i32) {
        let Key { method, denied, .. } = key;
        // `identity` in `tenantry.identity.v1.TeamService/CreateTeam`.
        let service = method.split('.').nth(1).unwrap_or_default();
        let Some(outbox) = self.outboxes.get(service) else { return };
        let event = PermissionDenied {
            method: method.clone(),
            permission: denied.permission.clone(),
            count,
        };
        let target = match denied.project_id {
            Some(project_id) => {
                EventTarget::object("project", project_id, "").in_project(project_id)
            }
            None => EventTarget::object("organization", denied.org_id, ""),
        };
        let event = Changed::new((), &event, target.in_org(denied.org_id));
        let event = event.with_outcome(pb::Outcome::Denied, denied.reason);
        let work = async |tx: &mut Tx| {
            tx.emit(event);
            Ok(())
        };
        if let Err(error) = outbox.write_as(actor, origin, work).await {
            tracing::warn!(
                error = crate::error::causes(&error),
                method,
                "a denied call was not recorded"
            );
        }
    }

    /// Writes counted denials when they are due, until `stop`; then all that are left.
    pub async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(FLUSH_INTERVAL)).await.is_some() {
            let now = self.clock.now();
            self.flush(|it| it.last_event_at + WINDOW <= now).await;
        }
        self.flush(|_| true).await;
    }

    async fn flush(&self, is_due: impl Fn(&Count) -> bool) {
        let due: Vec<(Key, Count)> = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.extract_if(|_, it| is_due(it)).collect()
        };
        for (key, count) in due.into_iter().filter(|it| it.1.pending > 0) {
            self.emit(&key, count.actor, count.origin, count.pending).await;
        }
    }
}
