//! Refused attempts, for the audit log: each is told at once, and then at most once a minute for the same
//! person, method and object, with how many there were (AU-6). Somebody who knocks all day fills no log.

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
    About, Changed, Clock, Db, OrgId, ProjectId, Tx,
    call::{Context, user},
};

/// How often the same refusal is told at most.
const EVERY: time::Duration = time::Duration::minutes(1);
/// How often what was held back is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Refusals that are remembered; more than that in one minute are not told apart, they are not told.
const REMEMBERED_MAX: usize = 10_000;

/// What somebody was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Denied {
    pub(crate) permission: String,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) reason: Reason,
}

/// Who, by which method, what.
type Key = (String, String, Denied);

struct Told {
    at: OffsetDateTime,
    /// How often since.
    more: i32,
    actor: pb::Actor,
    origin: pb::Origin,
}

/// Tells refusals, each in the outbox of the service that refused.
#[derive(Clone)]
pub(crate) struct Denials {
    outboxes: Arc<BTreeMap<&'static str, Db>>,
    clock: Clock,
    told: Arc<Mutex<HashMap<Key, Told>>>,
}

impl Denials {
    pub(crate) fn new(outboxes: impl Iterator<Item = Db>, clock: Clock) -> Self {
        let outboxes = outboxes.map(|it| (it.name(), it)).collect();
        Self { outboxes: Arc::new(outboxes), clock, told: Arc::default() }
    }

    /// A call was refused. Refusals of reading are told only where reading is what counts: the audit log.
    pub(crate) async fn note(&self, context: &Context, answer: &HeaderMap) {
        let denied = context.denied.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((denied, account)) = denied.zip(context.account.as_ref()) else { return };
        let status = Status::from_header_map(answer);
        if status.is_none_or(|it| it.code() == Code::Ok) {
            return;
        }
        if context.rule.read && !denied.permission.contains(".audit.") {
            return;
        }
        let key = (account.user_id.to_string(), context.rule.method.clone(), denied);
        let (actor, origin) = (user(account), context.origin.clone());
        if let Some(count) = self.count(&key, &actor, &origin) {
            self.tell(&key, (actor, origin), count).await;
        }
    }

    /// How many refusals are to be told of now, if any.
    fn count(&self, key: &Key, actor: &pb::Actor, origin: &pb::Origin) -> Option<i32> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if let Some(known) = told.get_mut(key) {
            known.more = known.more.saturating_add(1);
            if known.at + EVERY > now {
                return None;
            }
            known.at = now;
            return Some(std::mem::take(&mut known.more));
        }
        if told.len() >= REMEMBERED_MAX {
            return None;
        }
        let (actor, origin) = (actor.clone(), origin.clone());
        told.insert(key.clone(), Told { at: now, more: 0, actor, origin });
        Some(1)
    }

    async fn tell(&self, key: &Key, by: (pb::Actor, pb::Origin), count: i32) {
        let (_, method, denied) = key;
        let service = method.split('.').nth(1).unwrap_or_default();
        let Some(outbox) = self.outboxes.get(service) else { return };
        let event = PermissionDenied {
            method: method.clone(),
            permission: denied.permission.clone(),
            count,
        };
        let about = match denied.project_id {
            Some(it) => About::object("project", it, "").in_project(it),
            None => About::object("organization", denied.org_id, ""),
        };
        let event = Changed::new((), &event, about.of(denied.org_id));
        let event = event.not_done(pb::Outcome::Denied, denied.reason);
        let work = async |tx: &mut Tx| {
            tx.emit(event);
            Ok(())
        };
        if let Err(error) = outbox.write_for(by, work).await {
            tracing::warn!(%error, method, "a refusal was not logged");
        }
    }

    /// Tells what was held back, until `stop`; then the rest.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let now = self.clock.now();
            self.tell_held_back(|it| it.at + EVERY <= now).await;
        }
        self.tell_held_back(|_| true).await;
    }

    async fn tell_held_back(&self, is_due: impl Fn(&Told) -> bool) {
        let due: Vec<(Key, Told)> = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.extract_if(|_, it| is_due(it)).collect()
        };
        for (key, it) in due.into_iter().filter(|it| it.1.more > 0) {
            self.tell(&key, (it.actor, it.origin), it.more).await;
        }
    }
}
