//! The outbox: a service's table of events. An event is written in the transaction of the change that it is
//! about.

use api::event::Envelope;
use prost::Message;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Result;

/// Returns the type of an event: the full name of its message.
pub fn event_type(envelope: &Envelope) -> String {
    let url = envelope.event.as_ref().map(|it| it.type_url.as_str()).unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Longest envelope in bytes. An entry bundle of the audit log has a length field of 16 bits (64 KiB), and
/// personal fields grow by a third when they are encrypted: 47 KiB become at most 63 KiB.
/// `tests/it/suite/event_sizes.rs` builds each event at its largest size.
pub const ENVELOPE_BYTES_MAX: usize = 47 << 10;

/// Writes events in their order and gives each the next sequence number of its organization. The counters of
/// the organizations are locked until the transaction ends, so this must be its last statement. The number is
/// appended to the encoded envelope as its field 15 (sfixed64): the tag `y` and eight bytes.
pub(crate) async fn write(conn: &mut PgConnection, events: Vec<Envelope>) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut ids = vec![];
    let mut types = vec![];
    let mut org_ids = vec![];
    let mut envelopes = vec![];
    for event in events {
        let event_type = event_type(&event);
        if event.encoded_len() > ENVELOPE_BYTES_MAX {
            return Err(anyhow::anyhow!(
                "the event {event_type} exceeds {ENVELOPE_BYTES_MAX} bytes"
            )
            .into());
        }
        ids.push(Uuid::try_parse(&event.id).map_err(anyhow::Error::from)?);
        // The nil UUID is the counter of events without an organization.
        org_ids.push(Uuid::try_parse(&event.org_id).unwrap_or_default());
        envelopes.push(event.encode_to_vec());
        types.push(event_type);
    }
    // `behind` is the number of later events of the same organization in this statement.
    sqlx::query!(
        r"with new as (
              select *, count(*) over (partition by org_id)
                        - row_number() over (partition by org_id order by n) as behind
              from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bytea[])
                   with ordinality as new (id, type, org_id, envelope, n)
          ), counted as (
              insert into outbox_sequence as counter (org_id, last)
              select org_id, count(*) from new group by org_id order by org_id
              on conflict (org_id) do update set last = counter.last + excluded.last
              returning org_id, last
          )
          insert into outbox (id, type, org_id, sequence, envelope)
          select id, type, nullif(org_id, '00000000-0000-0000-0000-000000000000'), last - behind,
                 envelope || 'y'::bytea || little_endian(last - behind)
          from new join counted using (org_id) order by n",
        &ids,
        &types,
        &org_ids,
        &envelopes,
    )
    .execute(conn)
    .await?;
    Ok(())
}
