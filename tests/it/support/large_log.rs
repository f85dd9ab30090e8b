//! A log with many entries, written to the tables at once instead of event by event. Its tree is right, so
//! the suite signs and serves it, and `fsck` finds no difference.

use std::collections::HashMap;

use api::{
    event::{Actor, ActorKind, Envelope, Outcome, Resource},
    project::{EnvironmentCreated, EnvironmentUpdated},
};
use chassis::clock::Duration;
use prost::{Message, Name};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;
use verifier::tree::{Hash, RootBuilder, leaf_hash};

use super::tampering::tamper;

/// Days over which the entries are spread; fewer than the plan of the organization shows.
const DAYS: i32 = 29;
/// Hashes of a tile.
const TILE_WIDTH: usize = 16;
/// Entries of one statement.
const BATCH: usize = 2_000;

/// The entries to add to the log of one organization. Every second one is of an environment and succeeded;
/// actors, objects and projects take turns.
pub(crate) struct LargeLog {
    /// The organization; nil for the log of accounts.
    pub(crate) org_id: Uuid,
    pub(crate) count: i64,
    pub(crate) actors: Vec<Uuid>,
    pub(crate) projects: Vec<String>,
}

/// An entry, and its index terms as kind and value.
struct NewEntry {
    event_id: Uuid,
    received_at: OffsetDateTime,
    outcome: i16,
    leaf: Vec<u8>,
    actor: String,
    resource: String,
    kind: String,
    action: String,
    project: String,
    environment: String,
}

impl LargeLog {
    /// Number of objects.
    const OBJECTS: i64 = 64;

    /// Id of an object.
    pub(crate) fn object(number: i64) -> Uuid {
        Uuid::from_u128(1_000_000 + u128::try_from(number % Self::OBJECTS).unwrap())
    }

    /// Returns the time at which an entry was received.
    fn received_at(&self, number: i64, end: OffsetDateTime) -> OffsetDateTime {
        let left = i32::try_from(self.count - number).unwrap();
        end - Duration::days(1) * DAYS * left / i32::try_from(self.count).unwrap()
    }

    fn entry(&self, number: i64, end: OffsetDateTime) -> NewEntry {
        let take = |count: usize| usize::try_from(number).unwrap() % count;
        let is_even = number % 2 == 0;
        let received_at = self.received_at(number, end);
        let event_id = chassis::id::new();
        let kind = if is_even { "environment" } else { "project" };
        let outcome = if is_even { Outcome::Success } else { Outcome::Failed };
        let event =
            if is_even { EnvironmentUpdated::type_url() } else { EnvironmentCreated::type_url() };
        let action = if is_even { "environment.updated" } else { "environment.created" };
        let org_id = if self.org_id.is_nil() { String::new() } else { self.org_id.to_string() };
        let envelope = Envelope {
            id: event_id.to_string(),
            source: "project".to_owned(),
            org_id,
            project_id: self.projects[take(self.projects.len())].clone(),
            environment_id: if is_even { Self::object(0).to_string() } else { String::new() },
            resource: Some(Resource {
                kind: kind.to_owned(),
                id: Self::object(number).to_string(),
                name: String::new(),
            }),
            actor: Some(Actor {
                kind: ActorKind::User.into(),
                id: self.actors[take(self.actors.len())].to_string(),
                ..Default::default()
            }),
            occur_time: Some(chassis::timestamp(received_at)),
            event: Some(prost_types::Any { type_url: event, value: vec![] }),
            salt: event_id.as_bytes().to_vec(),
            outcome: outcome.into(),
            ..Default::default()
        };
        NewEntry {
            event_id,
            received_at,
            outcome: i16::try_from(i32::from(outcome)).unwrap(),
            leaf: envelope.encode_to_vec(),
            actor: envelope.actor.unwrap().id,
            resource: format!("{}:{kind}", Self::object(number)),
            kind: kind.to_owned(),
            action: action.to_owned(),
            project: envelope.project_id,
            environment: envelope.environment_id,
        }
    }

    /// Adds the entries while no suite runs on the database. Earlier entries of the log get earlier times.
    pub(crate) async fn write(&self, pool: &PgPool, end: OffsetDateTime) {
        let create = "insert into audit.tree (org_id) values ($1) on conflict do nothing";
        sqlx::query(create).bind(self.org_id).execute(pool).await.unwrap();
        let tree = "select number, size from audit.tree where org_id = $1";
        let (tree, size): (i32, i64) =
            sqlx::query_as(tree).bind(self.org_id).fetch_one(pool).await.unwrap();
        for day in 0..=DAYS + 1 {
            let month = "select audit.open_month(date_trunc('month', $1 at time zone 'UTC')::date)";
            let time = end - Duration::days(day.into());
            sqlx::query(month).bind(time).execute(pool).await.unwrap();
        }
        let first = end - Duration::days((DAYS + 1).into());
        let micros = first.unix_timestamp_nanos() / 1_000;
        let earlier = format!(
            "update audit.entry set received_at =
                 to_timestamp({micros}::numeric / 1000000) + index * interval '1 ms' where tree = {tree}"
        );
        tamper(pool, &[&earlier]).await;
        let entries: Vec<NewEntry> = (0..self.count).map(|it| self.entry(it, end)).collect();
        for (n, batch) in entries.chunks(BATCH).enumerate() {
            let next = size + i64::try_from(n * BATCH).unwrap();
            insert(pool, tree, next, batch).await;
        }
        write_tree(pool, tree).await;
    }
}

/// Inserts entries with their index terms.
async fn insert(pool: &PgPool, tree: i32, first_index: i64, entries: &[NewEntry]) {
    let mut counts: HashMap<(i16, &str), i64> = HashMap::new();
    for it in entries {
        let optional = [(3, &it.project), (4, &it.environment)];
        let optional = optional.into_iter().filter(|(_, value)| !value.is_empty());
        let required = [(1, &it.actor), (2, &it.resource), (5, &it.action), (6, &it.kind)];
        for (kind, value) in required.into_iter().chain(optional) {
            *counts.entry((kind, value)).or_default() += 1;
        }
    }
    let (kinds, values): (Vec<i16>, Vec<&str>) = counts.keys().copied().unzip();
    let upsert = "insert into audit.term (tree, kind, value, entries)
                  select $1, * from unnest($2::smallint[], $3::text[], $4::bigint[])
                  on conflict (tree, kind, value) do update set entries = term.entries + excluded.entries";
    let upsert = sqlx::query(upsert).bind(tree).bind(kinds).bind(values);
    upsert.bind(counts.values().copied().collect::<Vec<_>>()).execute(pool).await.unwrap();
    let column = |value: fn(&NewEntry) -> &String| -> Vec<String> {
        entries.iter().map(|it| value(it).clone()).collect()
    };
    let term = |kind: i16, value: &str| {
        format!(
            "(select number from audit.term where tree = $1 and kind = {kind} and value = new.{value})"
        )
    };
    let insert = format!(
        "insert into audit.entry (tree, index, event_id, received_at, outcome, flags, leaf,
                                  actor, resource, type, action, project, environment)
         select $1, $2 + n - 1, event_id, received_at, outcome, 0, leaf, {}, {}, {}, {}, {}, {}
         from unnest($3::uuid[], $4::timestamptz[], $5::smallint[], $6::bytea[], $7::text[], $8::text[],
                     $9::text[], $10::text[], $11::text[], $12::text[]) with ordinality
              as new (event_id, received_at, outcome, leaf, actor, resource, kind, action, project,
                      environment, n)",
        term(1, "actor"),
        term(2, "resource"),
        term(6, "kind"),
        term(5, "action"),
        term(3, "project"),
        term(4, "environment"),
    );
    sqlx::query(sqlx::AssertSqlSafe(insert))
        .bind(tree)
        .bind(first_index)
        .bind(entries.iter().map(|it| it.event_id).collect::<Vec<_>>())
        .bind(entries.iter().map(|it| it.received_at).collect::<Vec<_>>())
        .bind(entries.iter().map(|it| it.outcome).collect::<Vec<_>>())
        .bind(entries.iter().map(|it| it.leaf.clone()).collect::<Vec<_>>())
        .bind(column(|it| &it.actor))
        .bind(column(|it| &it.resource))
        .bind(column(|it| &it.kind))
        .bind(column(|it| &it.action))
        .bind(column(|it| &it.project))
        .bind(column(|it| &it.environment))
        .execute(pool)
        .await
        .unwrap();
}

/// Stores the missing tiles, the edge and the size of a tree.
pub(crate) async fn write_tree(pool: &PgPool, tree: i32) {
    let leaves = "select leaf from audit.entry where tree = $1 order by index";
    let leaves: Vec<Vec<u8>> = sqlx::query_scalar(leaves).bind(tree).fetch_all(pool).await.unwrap();
    let mut hashes: Vec<Hash> = leaves.iter().map(|it| leaf_hash(it)).collect();
    let mut edge = vec![];
    for level in (0..64_i16).step_by(4) {
        let (tiles, rest) = hashes.as_chunks::<TILE_WIDTH>();
        edge.extend(rest.concat());
        let insert = "insert into audit.tile (tree, level, index, hashes)
                      select $1, $2, n - 1, hashes from unnest($3::bytea[]) with ordinality as new (hashes, n)
                      on conflict do nothing";
        let bytes: Vec<Vec<u8>> = tiles.iter().map(|it| it.concat()).collect();
        let insert = sqlx::query(insert).bind(tree).bind(level).bind(bytes);
        insert.execute(pool).await.unwrap();
        hashes = tiles.iter().map(|it| tile_root(it)).collect();
    }
    let update = "update audit.tree set size = $2, edge = $3 where number = $1";
    let size = i64::try_from(leaves.len()).unwrap();
    sqlx::query(update).bind(tree).bind(size).bind(edge).execute(pool).await.unwrap();
}

fn tile_root(hashes: &[Hash]) -> Hash {
    let mut root = RootBuilder::default();
    for hash in hashes {
        root.push(*hash);
    }
    root.root()
}
