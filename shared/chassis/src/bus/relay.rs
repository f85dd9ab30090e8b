//! Publishes one outbox to JetStream.

use async_nats::HeaderMap;

use super::{BATCH, jetstream::JetStream, settle::Followers};
use crate::{
    db::{Db, Tx},
    outbox::{self, Cursor, Delivery},
};

/// Publishes one outbox.
pub(super) struct Relay {
    nats: JetStream,
    outbox: Db,
    followers: Followers,
}

impl Relay {
    pub(super) fn new(nats: JetStream, outbox: Db, followers: Followers) -> Self {
        followers.at("relay", Cursor::default());
        Self { nats, outbox, followers }
    }

    /// Publishes a batch and remembers it once NATS has it. Answers whether there may be more.
    pub(super) async fn step(&self) -> anyhow::Result<bool> {
        let stream = self.nats.stream().await?;
        // A stream that was created anew has nothing of what an earlier one had: start over.
        let reader = format!("relay@{}", stream.cached_info().created.unix_timestamp_nanos());
        let work = async |tx: &mut Tx| {
            let from = outbox::load(tx.conn(), &reader, self.outbox.name()).await?;
            self.followers.at("relay", from);
            // One relay at a time, however many replicas there are.
            let alone = sqlx::query_scalar!(
                r#"select pg_try_advisory_xact_lock(hashtext(current_schema()), 1) as "alone!""#
            );
            if !alone.fetch_one(tx.conn()).await? {
                return Ok(false);
            }
            let from = outbox::load(tx.conn(), &reader, self.outbox.name()).await?;
            let (batch, cursor) = outbox::read(&self.outbox, from, BATCH).await?;
            if batch.is_empty() {
                return Ok(false);
            }
            self.publish(&batch).await?;
            if !self.outbox.guards().kept_events {
                let ids: Vec<uuid::Uuid> = batch.iter().map(|it| it.id).collect();
                sqlx::query!("delete from outbox where id = any ($1)", &ids)
                    .execute(tx.conn())
                    .await?;
            }
            outbox::save(tx.conn(), &reader, self.outbox.name(), cursor).await?;
            Ok(true)
        };
        Ok(self.outbox.write_as_system("relay", work).await?)
    }

    async fn publish(&self, batch: &[Delivery]) -> anyhow::Result<()> {
        let mut acks = vec![];
        for event in batch {
            let payload = event.envelope.clone().into();
            let context = &self.nats.context;
            acks.push(context.publish_with_headers(subject(event), headers(event), payload).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }
}

/// `tenantry.identity.v1.member_joined.<org id>`, so that wildcards choose service, event or tenant. The
/// second word is the service that publishes: NATS lets it use no other (A-12).
fn subject(event: &Delivery) -> String {
    let name = event.name.rsplit('.').next().unwrap_or_default();
    let mut snake = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    let org = event.org_id.map_or_else(|| "account".to_owned(), |it| it.to_string());
    format!("tenantry.{}.v1.{snake}.{org}", event.source)
}

/// CloudEvents 1.0 in binary mode, and the id by which JetStream drops duplicates.
fn headers(event: &Delivery) -> HeaderMap {
    let id = event.id.to_string();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", id.as_str());
    headers.insert("ce-type", event.name.as_str());
    headers.insert("ce-source", "tenantry");
    headers.insert("ce-datacontenttype", "application/protobuf");
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_go_from_wide_to_narrow() {
        let name = "tenantry.identity.v1.MemberRoleChanged".to_owned();
        let (id, source) = (uuid::Uuid::nil(), "identity".to_owned());
        let mut event = Delivery { id, source, name, org_id: None, envelope: vec![] };
        assert_eq!(subject(&event), "tenantry.identity.v1.member_role_changed.account");
        event.org_id = Some(uuid::Uuid::nil());
        assert!(subject(&event).ends_with(".00000000-0000-0000-0000-000000000000"));
    }
}
