//! Fan-out of events: computes the recipients of each notification, and queues it for the inbox, for mails
//! and for webhooks. Permissions are checked at the time of the fan-out, not of the event (NO-10).

use std::{collections::BTreeSet, time::Duration};

use api::{
    event::Envelope,
    identity::{ListAudienceResponse, Listener},
    notification::NotificationChannel,
};
use chassis::{
    Db, Result, Tx,
    channel::ServiceChannel,
    email,
    trace::{self, Kind},
};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;
use worker::{Progress, Schedule};

use super::store::{self, PendingEvent};
use crate::notification::{
    audience::{self, AudienceQuery},
    catalogue::{self, Notification},
    digest::{self, DigestItem, Recipient},
    inbox, mail_rule,
    preference::{self, Preferences},
    scope::Scope,
    webhook::{self, Webhook, delivery::QueuedEvent},
};

/// Largest number of events in one claim.
const BATCH: i64 = 50;

/// Longest pause between two claims: commits of other processes do not end it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Number of attempts after which an event is dropped: about half a day.
const ATTEMPTS_MAX: i32 = 40;

/// The worker that delivers pending events.
pub(crate) struct FanoutWorker {
    pub(crate) db: Db,
    pub(crate) identity: ServiceChannel,
}

/// A notification with the accounts that may receive it.
struct AddressedNotification {
    notification: Notification,
    audience: ListAudienceResponse,
}

/// Reaction to every event that has a notification type: stores it for the worker.
pub(crate) async fn enqueue(tx: &mut Tx, envelope: Envelope) -> Result<()> {
    let event_id = chassis::id::parse("id", &envelope.id)?;
    store::insert(tx, event_id, &envelope.encode_to_vec()).await
}

impl FanoutWorker {
    /// Runs until the process ends.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let schedule = Schedule::woken_by(&self.db, POLL_INTERVAL);
        let step = || async { Ok(self.step().await?) };
        worker::run("notification fan-out".to_owned(), schedule, stop, step).await;
        Ok(())
    }

    /// Delivers one batch of events.
    async fn step(&self) -> Result<Progress> {
        let claim = async |tx: &mut Tx| store::claim(tx, BATCH).await;
        let batch = self.db.write_as_system("notification fan-out", claim).await?;
        let is_full = i64::try_from(batch.len()).unwrap_or_default() == BATCH;
        for event in batch {
            if let Err(error) = self.deliver(&event).await {
                let event_id = event.event_id;
                if event.attempts < ATTEMPTS_MAX {
                    tracing::warn!(%event_id, ?error, "the fan-out of an event failed; it is retried");
                    continue;
                }
                tracing::error!(%event_id, ?error, "the fan-out of an event failed; it is dropped");
                let delete = async |tx: &mut Tx| store::delete(tx, event_id).await;
                self.db.write_as_system("notification fan-out", delete).await?;
            }
        }
        Ok(Progress::busy_if(is_full))
    }

    /// Delivers one event: queries the identity service first, then writes all deliveries in one transaction.
    async fn deliver(&self, event: &PendingEvent) -> Result<()> {
        let envelope = Envelope::decode(&*event.envelope).map_err(anyhow::Error::from)?;
        let traceparent = envelope.origin.as_ref().map(|it| it.traceparent.as_str());
        let span = trace::continued(Kind::Consumer, "notify", traceparent.unwrap_or_default());
        self.notify(event, &envelope).instrument(span).await
    }

    /// Computes the notifications of an event and queues them.
    async fn notify(&self, event: &PendingEvent, envelope: &Envelope) -> Result<()> {
        let mut addressed = vec![];
        for notification in catalogue::render(envelope) {
            let audience = self.list_audience(&notification).await?;
            addressed.push(AddressedNotification { notification, audience });
        }
        let deliver = async |tx: &mut Tx| {
            if !store::delete(tx, event.event_id).await? {
                return Ok(());
            }
            for AddressedNotification { notification, audience } in &addressed {
                notify_people(tx, notification, audience).await?;
                // The Owner has every permission, so an organization without any permitted member was
                // deleted.
                let org_exists = !audience.listeners.is_empty();
                if notification.notification_type.for_webhooks && org_exists {
                    notify_webhooks(tx, notification).await?;
                    notify_team_inboxes(tx, notification).await?;
                }
            }
            Ok(())
        };
        self.db.write_as_system(&event.event_id.to_string(), deliver).await
    }

    /// The accounts that may receive a notification now.
    async fn list_audience(&self, notification: &Notification) -> Result<ListAudienceResponse> {
        let audience = &notification.audience;
        let query = AudienceQuery {
            org_id: notification.org_id,
            project_id: notification.project_id,
            permission: audience.permission.unwrap_or_default(),
            emails: audience.email.iter().cloned().collect(),
            user_ids: audience.user_ids.clone(),
        };
        audience::list(&self.identity, query).await
    }
}

/// Writes the inbox entries and mails of people, by the channels that each of them has chosen.
async fn notify_people(
    tx: &mut Tx,
    notification: &Notification,
    audience: &ListAudienceResponse,
) -> Result<()> {
    let user_ids = recipients(notification, audience);
    if user_ids.is_empty() {
        return Ok(());
    }
    let user_ids: Vec<_> = user_ids.into_iter().collect();
    let preferences = preference::store::of_users(tx, &user_ids).await?;
    let default = Preferences::default();
    let allows = |user_id: &Uuid, channel: NotificationChannel| {
        preferences.get(user_id).unwrap_or(&default).allow(notification, channel)
    };
    let in_app = user_ids.iter().filter(|it| allows(it, NotificationChannel::InApp));
    let in_app: Vec<_> = in_app.copied().collect();
    inbox::store::insert(tx, notification, &in_app).await?;
    for user_id in &user_ids {
        if allows(user_id, NotificationChannel::Email) {
            let recipient = Recipient::Person { user_id: *user_id };
            let quiet_until = preferences.get(user_id).and_then(|it| it.quiet_until);
            digest::store::add(tx, &DigestItem::new(notification, recipient, quiet_until)).await?;
        }
    }
    Ok(())
}

/// The people who receive a notification, each once: present holders of the permission except the actor,
/// and the accounts that are affected by the event.
fn recipients(notification: &Notification, audience: &ListAudienceResponse) -> BTreeSet<Uuid> {
    let has_permission = notification.audience.permission.is_some();
    let is_actor = |it: &&Listener| it.user_id == notification.actor.id;
    let holders = audience.listeners.iter().filter(|it| has_permission && !is_actor(it));
    let all = holders.chain(&audience.accounts);
    all.filter_map(|it| it.user_id.parse().ok()).collect()
}

/// Queues the mails of mail rules, one for each mailbox, although several rules name it. The permission of an
/// address that belongs to an account is checked when the mail is sent.
async fn notify_team_inboxes(tx: &mut Tx, notification: &Notification) -> Result<()> {
    let Some(scope) = Scope::of_notification(notification) else { return Ok(()) };
    let event_type = notification.notification_type.name;
    let mut mailboxes = BTreeSet::new();
    for rule in mail_rule::store::subscribed(tx, scope, event_type).await? {
        for address in rule.recipients {
            let mailbox = email::parse(&address).map(|it| it.canonical).unwrap_or_default();
            if !mailboxes.insert(mailbox) {
                continue;
            }
            let recipient = Recipient::Rule { rule_id: rule.id.0, address };
            digest::store::add(tx, &DigestItem::new(notification, recipient, None)).await?;
        }
    }
    Ok(())
}

/// Queues the deliveries of webhooks, each body in the format of its webhook.
async fn notify_webhooks(tx: &mut Tx, notification: &Notification) -> Result<()> {
    let Some(scope) = Scope::of_notification(notification) else { return Ok(()) };
    let event_type = notification.notification_type.name;
    let subscribers = webhook::store::subscribed(tx, scope, event_type).await?;
    if subscribers.is_empty() {
        return Ok(());
    }
    let body = |it: &Webhook| webhook::format::body(notification, it.format.0);
    let event = QueuedEvent {
        org_id: scope.org_id,
        event_id: notification.event_id,
        event_type,
        webhook_ids: subscribers.iter().map(|it| it.id.0).collect(),
        bodies: subscribers.iter().map(body).collect(),
    };
    webhook::delivery::store::enqueue(tx, &event).await
}
