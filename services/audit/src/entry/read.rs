//! Entries as they are shown: opened, with the names of that time, and what they changed.

use std::{collections::BTreeSet, sync::Arc};

use api::{audit as pb, event::Envelope};
use chassis::{Db, Result, timestamp};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::Row;
use crate::{
    difference::changes,
    log::{Flags, ingest::Ledger},
    merkle::leaf_hash,
    person, seal,
};

/// Opens entries.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) db: Db,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) pool: DescriptorPool,
}

impl Reader {
    pub(crate) fn new(db: Db, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        Ok(Self { db, ledger, pool: DescriptorPool::decode(api::DESCRIPTORS)? })
    }

    /// The keys that open some leaves, by person; those of people who were erased are gone.
    pub(crate) async fn keys(
        &self,
        rows: &[Row],
    ) -> Result<std::collections::BTreeMap<seal::PersonId, chassis::key::Secret>> {
        let plans = self.ledger.plans();
        let people: BTreeSet<_> =
            rows.iter().flat_map(|it| seal::sealed_for(plans, &it.leaf)).collect();
        person::store::read(&self.db, self.ledger.vault(), &people).await
    }

    /// Opens entries, in their order.
    pub(crate) async fn open(&self, rows: Vec<Row>) -> Result<Vec<pb::Entry>> {
        let keys = self.keys(&rows).await?;
        rows.iter().map(|it| self.entry(it, &keys)).collect()
    }

    /// A message as canonical JSON.
    pub(crate) fn json<M: Message + prost::Name>(&self, message: &M) -> Result<serde_json::Value> {
        let descriptor = self.pool.get_message_by_name(&M::full_name());
        let descriptor = descriptor.ok_or_else(|| anyhow::anyhow!("an unknown message"))?;
        let dynamic = DynamicMessage::decode(descriptor, &*message.encode_to_vec());
        let dynamic = dynamic.map_err(anyhow::Error::from)?;
        Ok(serde_json::to_value(&dynamic).map_err(anyhow::Error::from)?)
    }

    /// Opens one entry.
    pub(crate) fn entry(
        &self,
        row: &Row,
        keys: &std::collections::BTreeMap<seal::PersonId, chassis::key::Secret>,
    ) -> Result<pb::Entry> {
        let key = |person| Some(seal::leaf_key(keys.get(&person)?, row.event_id));
        let opened = seal::open(self.ledger.plans(), &row.leaf, key);
        let opened = opened.unwrap_or_else(|| row.leaf.clone());
        let envelope = Envelope::decode(&*opened).map_err(anyhow::Error::from)?;
        Ok(pb::Entry {
            index: row.index,
            action: self.ledger.actions().of(&envelope),
            changes: envelope.event.as_ref().map(|it| changes(&self.pool, it)).unwrap_or_default(),
            envelope: Some(envelope),
            receive_time: Some(timestamp(row.received_at)),
            leaf_hash: leaf_hash(&row.leaf).to_vec(),
            flags: Flags(row.flags).words(),
        })
    }
}
