//! Following an outbox: every event, in commit order for each row that was touched, at least once.
//!
//! A reader remembers a horizon (a transaction id below which nothing can appear any more) and, for the
//! horizon itself, a position. Rows of transactions that may still be running are left for later. A row is
//! also left for later if a lower position is: two transactions that touched one row took their positions
//! while they held its lock, so position order is their commit order, and a later one must not overtake.

pub(crate) mod cluster;

use api::event::Envelope;
use prost::Message;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Db, Result, key};

/// An event on its way to whoever follows.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event's identity.
    pub id: Uuid,
    /// The service that wrote it.
    pub source: String,
    /// Full name of the event's message.
    pub name: String,
    /// The organization, for the subject.
    pub org_id: Option<Uuid>,
    /// The exact bytes that were written: an encoded [`api::event::Envelope`].
    pub envelope: Vec<u8>,
}

impl Delivery {
    /// Takes what `source`, which has proven who it is, hands over as an event of its own. What is none, or
    /// claims to be of another, has no name, so that nobody acts on it; the log keeps it all the same, under
    /// an id that follows from its bytes.
    pub fn of(source: &str, envelope: Vec<u8>) -> Self {
        let event = Envelope::decode(&*envelope).ok();
        let event = event.filter(|it| it.source == source);
        let id = event.as_ref().and_then(|it| Uuid::try_parse(&it.id).ok());
        let (Some(it), Some(id)) = (event, id) else {
            let id = Uuid::from_slice(&key::hash(&envelope)[..16]).expect("a hash is longer");
            return Self {
                id,
                source: source.to_owned(),
                name: String::new(),
                org_id: None,
                envelope,
            };
        };
        let org_id = Uuid::try_parse(&it.org_id).ok();
        Self { id, name: name_of(&it), source: it.source, org_id, envelope }
    }

    /// Id of the object of the event, for example an account; without one, the event's own.
    pub(crate) fn object_id(&self) -> Uuid {
        let envelope = Envelope::decode(&*self.envelope).ok();
        let object = envelope.and_then(|it| it.resource);
        object.and_then(|it| Uuid::try_parse(&it.id).ok()).unwrap_or(self.id)
    }
}

/// The full name of an event's message.
fn name_of(envelope: &Envelope) -> String {
    let url = envelope.event.as_ref().map(|it| it.type_url.as_str()).unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The longest envelope, in bytes: an entry of the log has a length of 16 bits where tiles are served, and
/// its personal fields grow by a third when they are sealed. A test builds every event at its largest.
pub const ENVELOPE_BYTES_MAX: usize = 47 << 10;

/// Writes events, in their order, as the last thing before a transaction commits: here they get their
/// numbers, and the counters of their organizations are locked until then. In one statement, so that the
/// lock is short; it appends the number to the bytes (field 15, sfixed64).
pub(crate) async fn write(conn: &mut PgConnection, events: Vec<Envelope>) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let (mut ids, mut names, mut orgs, mut envelopes) = (vec![], vec![], vec![], vec![]);
    for event in events {
        let name = name_of(&event);
        if event.encoded_len() > ENVELOPE_BYTES_MAX {
            return Err(anyhow::anyhow!("the event {name} is too long to be logged").into());
        }
        ids.push(Uuid::try_parse(&event.id).map_err(anyhow::Error::from)?);
        orgs.push(Uuid::try_parse(&event.org_id).unwrap_or_default());
        envelopes.push(event.encode_to_vec());
        names.push(name);
    }
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
        &names,
        &orgs,
        &envelopes,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How far a reader has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    /// Rows of older transactions are all behind the reader.
    horizon: i64,
    /// Among the rows of the transaction `horizon`, those up to here are, too.
    position: i64,
}

/// How many rows beyond a batch are looked at for one that must go first. More than all transactions that
/// run at the same time write.
const AHEAD: i64 = 1_000;

/// Events that the reader has not seen, oldest first, and where it stands after them.
pub(crate) async fn read(db: &Db, from: Cursor, limit: i64) -> Result<(Vec<Delivery>, Cursor)> {
    if !db.guards().horizon {
        return read_by_position(db, from, limit).await;
    }
    let rows = sqlx::query!(
        r#"with horizon as (select pg_snapshot_xmin(pg_current_snapshot()) as oldest),
                -- The next ones by transaction, which the index gives without looking at any other row.
                near as materialized (
                    select position, id, type, org_id, envelope, written_by
                    from outbox, horizon
                    where (written_by, position) > ($1::bigint::text::xid8, $2::bigint)
                      and written_by < oldest
                    order by written_by, position limit $4
                ),
                -- The first that is left for later. The sum keeps the planner from walking the table.
                later as (
                    select min(position + 0) as position from outbox, horizon where written_by >= oldest
                ),
                ready as (
                    select near.position, id, type, org_id, envelope from near, later
                    where near.position < coalesce(later.position, near.position + 1)
                    order by near.position limit $3
                )
           select ready.position as "position?", id as "id?", type as "type?", org_id,
                  envelope as "envelope?",
                  -- The oldest transaction that still has a row to read.
                  (select min(written_by::text::bigint) from near
                   where position > (select max(position) from ready)) as unread,
                  oldest::text::bigint as "oldest!"
           from horizon left join ready on true
           order by ready.position"#,
        from.horizon,
        from.position,
        limit,
        limit + AHEAD,
    )
    .fetch_all(db.pool())
    .await?;
    let mut cursor = from;
    let mut deliveries = vec![];
    for row in rows {
        let (Some(id), Some(name), Some(envelope)) = (row.id, row.r#type, row.envelope) else {
            break;
        };
        cursor = match row.unread {
            Some(horizon) => Cursor { horizon, position: row.position.unwrap_or_default() },
            // Nothing of the oldest running transaction is read yet, whatever its positions are.
            None => Cursor { horizon: row.oldest, position: 0 },
        };
        let source = db.name().to_owned();
        deliveries.push(Delivery { id, source, name, org_id: row.org_id, envelope });
    }
    Ok((deliveries, cursor))
}

/// Where a reader stands in the outbox of `source`, kept in the reader's own schema.
pub(crate) async fn load(conn: &mut PgConnection, reader: &str, source: &str) -> Result<Cursor> {
    let row = sqlx::query!(
        r#"select horizon::text::bigint as "horizon!", position from outbox_cursor
           where reader = $1 and source = $2"#,
        reader,
        source
    )
    .fetch_optional(conn)
    .await?;
    let cursor = row.map(|it| Cursor { horizon: it.horizon, position: it.position });
    Ok(cursor.unwrap_or_default())
}

/// Remembers where a reader stands.
pub(crate) async fn save(
    conn: &mut PgConnection,
    reader: &str,
    source: &str,
    cursor: Cursor,
) -> Result<()> {
    sqlx::query!(
        "insert into outbox_cursor (reader, source, horizon, position)
         values ($1, $2, $3::bigint::text::xid8, $4)
         on conflict (reader, source) do update set horizon = excluded.horizon, position = excluded.position",
        reader,
        source,
        cursor.horizon,
        cursor.position,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How many events are forgotten in one transaction.
pub(crate) const FORGOTTEN_AT_ONCE: u64 = 500;

/// Forgets the oldest events up to `read`, if they are older than the id `before`; answers how many.
pub(crate) async fn forget(conn: &mut PgConnection, read: Cursor, before: Uuid) -> Result<u64> {
    let forgotten = sqlx::query!(
        "delete from outbox where position in (
             select position from outbox
             where (written_by, position) <= ($1::bigint::text::xid8, $2::bigint) and id < $3
             order by written_by, position limit 500)",
        read.horizon,
        read.position,
        before,
    )
    .execute(conn)
    .await?;
    Ok(forgotten.rows_affected())
}

/// What a simpler reader would do: only a test uses it, to show what it loses.
async fn read_by_position(db: &Db, from: Cursor, limit: i64) -> Result<(Vec<Delivery>, Cursor)> {
    let rows = sqlx::query!(
        "select position, id, type, org_id, envelope from outbox where position > $1
         order by position limit $2",
        from.position,
        limit
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let position = rows.last().map_or(from.position, |it| it.position);
    let delivery = |(id, name, org_id, envelope)| {
        let source = db.name().to_owned();
        Delivery { id, source, name, org_id, envelope }
    };
    let deliveries =
        rows.into_iter().map(|it| delivery((it.id, it.r#type, it.org_id, it.envelope))).collect();
    Ok((deliveries, Cursor { horizon: from.horizon, position }))
}
