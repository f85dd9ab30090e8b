//! Works out who is told of an event by which way: in the application, by mail, by webhooks, by e-mail rules.
//! Who may see what is asked now, not when it happened (NO-10).

use std::{collections::HashMap, time::Duration};

use api::{
    event::Envelope,
    identity::{
        ListAudienceRequest, ListAudienceResponse, Listener,
        access_service_client::AccessServiceClient,
    },
    invitation::NotificationChannel,
};
use chassis::{Db, Result, Tx, error::remote, link::Link};
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::store::{self, News};
use crate::{
    catalogue::{self, Story},
    digest::{self, Letter, Recipient},
    mail_rule, notification,
    preference::{self, Preferences},
    webhook,
};

/// How many events are taken at a time.
const BATCH: i64 = 50;

/// How often the table is looked at when nothing wakes the editor.
const PAUSE: Duration = Duration::from_secs(1);

/// After so many tries, half a day, an event is told no more.
const ATTEMPTS_MAX: i32 = 40;

/// Works out who is told.
pub(crate) struct Editor {
    pub(crate) db: Db,
    pub(crate) identity: Link,
}

/// A reaction: keeps what somebody may have to be told of.
pub(crate) async fn hear(tx: &mut Tx, envelope: Envelope) -> Result<()> {
    let event_id = chassis::id::parse("id", &envelope.id)?;
    store::keep(tx, event_id, &envelope.encode_to_vec()).await
}

impl Editor {
    /// Runs until the process ends.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let woken = self.db.changed();
            match self.step().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "notifications wait"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = woken => tokio::time::sleep(Duration::from_millis(20)).await,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        Ok(())
    }

    /// Tells a batch of events. Answers whether there may be more.
    async fn step(&self) -> Result<bool> {
        let take = async |tx: &mut Tx| store::take(tx, BATCH).await;
        let batch = self.db.write_as_system("news", take).await?;
        let full = i64::try_from(batch.len()).unwrap_or_default() == BATCH;
        for news in batch {
            if let Err(error) = self.publish(&news).await {
                let (event, given_up) = (news.event_id, news.attempts >= ATTEMPTS_MAX);
                tracing::warn!(%event, %error, given_up, "an event was not told");
                if given_up {
                    let told = async |tx: &mut Tx| store::told(tx, event).await;
                    self.db.write_as_system("news", told).await?;
                }
            }
        }
        Ok(full)
    }

    async fn publish(&self, news: &News) -> Result<()> {
        let envelope = Envelope::decode(&*news.envelope).map_err(anyhow::Error::from)?;
        let mut told = vec![];
        for story in catalogue::tell(&envelope) {
            let audience = self.audience(&story).await?;
            told.push((story, audience));
        }
        let publish = async |tx: &mut Tx| {
            if !store::told(tx, news.event_id).await? {
                return Ok(());
            }
            for (story, audience) in &told {
                self.tell_people(tx, story, audience).await?;
                // Its Owner may see everything: an organization without a listener was deleted.
                let is_alive = !audience.listeners.is_empty();
                if story.kind.for_hooks && is_alive {
                    tell_hooks(tx, story).await?;
                    tell_rules(tx, story).await?;
                }
            }
            Ok(())
        };
        self.db.write_as_system(&news.event_id.to_string(), publish).await
    }

    /// Asks identity who may be told at this moment.
    async fn audience(&self, story: &Story) -> Result<ListAudienceResponse> {
        let Some(org_id) = story.org_id else {
            return self.accounts(story).await;
        };
        let on_project = story.audience.holders.is_some_and(|it| it.starts_with("project."));
        let project_id = story.project_id.filter(|_| on_project);
        self.ask(ListAudienceRequest {
            org_id: org_id.into(),
            project_id: project_id.map(String::from).unwrap_or_default(),
            permission: story.audience.holders.unwrap_or("org.view").to_owned(),
            emails: story.audience.address.clone().into_iter().collect(),
            user_ids: story.audience.users.clone(),
        })
        .await
    }

    /// An account is told of itself; there is no organization to ask about.
    async fn accounts(&self, story: &Story) -> Result<ListAudienceResponse> {
        self.ask(ListAudienceRequest {
            org_id: uuid::Uuid::nil().to_string(),
            permission: "org.view".to_owned(),
            user_ids: story.audience.users.clone(),
            ..Default::default()
        })
        .await
    }

    async fn ask(&self, request: ListAudienceRequest) -> Result<ListAudienceResponse> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(10));
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let answer = identity.list_audience(request).await;
        Ok(answer.map_err(remote("identity"))?.into_inner())
    }

    /// In the application and by mail, as each person wants it.
    async fn tell_people(
        &self,
        tx: &mut Tx,
        story: &Story,
        audience: &ListAudienceResponse,
    ) -> Result<()> {
        let people = people(story, audience);
        let ids: Vec<_> = people.keys().copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let preferences = preference::store::of(tx, &ids).await?;
        let wants = |id: &uuid::Uuid, channel: NotificationChannel| {
            let default = Preferences::default();
            preferences.get(id).unwrap_or(&default).wants(story, channel)
        };
        let in_app: Vec<_> =
            ids.iter().filter(|it| wants(it, NotificationChannel::InApp)).copied().collect();
        notification::store::insert(tx, story, &in_app).await?;
        for (id, listener) in &people {
            if wants(id, NotificationChannel::Email) {
                let to = Recipient::Person(*id, listener.email.clone());
                let quiet = preferences.get(id).and_then(|it| it.quiet_until);
                digest::store::add(tx, &Letter::of(story, to, quiet)).await?;
            }
        }
        Ok(())
    }
}

/// Team inboxes. Whether an address belongs to somebody who may not see it is asked when the mail leaves.
async fn tell_rules(tx: &mut Tx, story: &Story) -> Result<()> {
    let Some(org_id) = story.org_id else { return Ok(()) };
    let place = (org_id, story.project_id);
    for rule in mail_rule::store::matching(tx, place, story.kind.name).await? {
        for address in rule.recipients {
            let to = Recipient::Rule(rule.id.0, address);
            digest::store::add(tx, &Letter::of(story, to, None)).await?;
        }
    }
    Ok(())
}

/// Who is told, each once: holders of the permission, but not who did it; and whom it happened to.
fn people<'a>(
    story: &Story,
    audience: &'a ListAudienceResponse,
) -> HashMap<uuid::Uuid, &'a Listener> {
    let holders = audience.listeners.iter();
    let holders =
        holders.filter(|it| story.audience.holders.is_some() && it.user_id != story.actor_id);
    let all = holders.chain(&audience.accounts);
    all.filter_map(|it| Some((it.user_id.parse().ok()?, it))).collect()
}

/// Webhooks, each in its format.
async fn tell_hooks(tx: &mut Tx, story: &Story) -> Result<()> {
    let Some(org_id) = story.org_id else { return Ok(()) };
    let place = (org_id, story.project_id);
    let webhooks = webhook::store::subscribed(tx, place, story.kind.name).await?;
    if webhooks.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = webhooks.iter().map(|it| it.id.0).collect();
    let bodies: Vec<_> =
        webhooks.iter().map(|it| webhook::format::body(story, it.format)).collect();
    let event = (story.event_id, story.kind.name);
    webhook::store::enqueue(tx, org_id, event, (&ids, &bodies)).await
}
