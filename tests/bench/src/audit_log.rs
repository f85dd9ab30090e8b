//! Audit log: rate of ingestion from the stream, delay until an entry is covered by a signed checkpoint, time
//! of a list page and of an inclusion proof, rate of `fsck`, and bytes on disk per entry.

#![expect(
    clippy::disallowed_methods,
    reason = "the reference uses plain queries, and a task without a host"
)]

mod read;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use api::{
    event::{Actor, ActorKind, Envelope, Origin, Outcome, Resource},
    project::{Environment, EnvironmentUpdated},
};
use async_nats::jetstream;
use chassis::Clock;
use prost::{Message, Name};
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{memory::resident_mib, nats::Nats, print, print_rates, suite::Suite};

/// Default number of entries; `cargo xtask bench audit 2000000` measures with more.
const ENTRIES: u64 = 200_000;

/// Number of organizations, in addition to the measured one.
const OTHER_ORGS: u64 = 20;

/// Number of events published to measure the delay of checkpoints.
const CHECKPOINT_EVENTS: u64 = 5_000;

/// Returns an encoded event like those of the project service.
fn encode_event(org: Uuid, number: u64, actor: u64) -> Vec<u8> {
    let id = chassis::id::new();
    let environment = Environment {
        id: Uuid::from_u128(u128::from(number % 500)).to_string(),
        org_id: org.to_string(),
        name: format!("environment {}", number % 500),
        branch: "main".to_owned(),
        ..Default::default()
    };
    let after = Environment { branch: format!("feature-{number}"), ..environment.clone() };
    let updated = EnvironmentUpdated { before: Some(environment), after: Some(after) };
    let envelope = Envelope {
        id: id.to_string(),
        source: "project".to_owned(),
        org_id: org.to_string(),
        project_id: Uuid::from_u128(u128::from(number % 50) + 1).to_string(),
        environment_id: Uuid::from_u128(u128::from(number % 500)).to_string(),
        resource: Some(Resource {
            kind: "environment".to_owned(),
            id: Uuid::from_u128(u128::from(number % 500)).to_string(),
            name: format!("environment {}", number % 500),
        }),
        actor: Some(Actor {
            kind: ActorKind::User.into(),
            id: Uuid::from_u128(u128::from(actor) + 1).to_string(),
            name: format!("Person {actor}"),
            email: format!("person{actor}@example.com"),
            credential_id: id.to_string(),
        }),
        occur_time: Some(chassis::timestamp(Clock::default().now())),
        origin: Some(Origin {
            method: "tenantry.project.v1.EnvironmentService/UpdateEnvironment".to_owned(),
            request_id: id.to_string(),
            address: "192.0.2.7".to_owned(),
            user_agent: "grpcurl/1.9".to_owned(),
            ..Default::default()
        }),
        event: Some(prost_types::Any {
            type_url: EnvironmentUpdated::type_url(),
            value: updated.encode_to_vec(),
        }),
        salt: id.as_bytes().to_vec(),
        outcome: Outcome::Success.into(),
        sequence: i64::try_from(number).unwrap_or_default() + 1,
        ..Default::default()
    };
    envelope.encode_to_vec()
}

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    let entries = std::env::args().nth(2).and_then(|it| it.parse().ok()).unwrap_or(ENTRIES);
    let nats = Nats::start()?;
    let url = format!("nats://127.0.0.1:{}", nats.port);
    let suite = Suite::start_with(tenantry::INSTALLS, |it| {
        it.nats_url = Some(url.clone());
        // The published events are in no outbox, so reconciliation must not run.
        it.nats_patience_s = 3_600;
    })
    .await?;
    let token = suite.sign_in("ann@example.com").await?;
    let ann = suite.client.with_token(&token);
    let create = api::identity::CreateOrganizationRequest {
        name: "acme".to_owned(),
        slug: "acme".to_owned(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let created: api::identity::CreateOrganizationResponse = ann.call(method, create).await?;
    let org: Uuid = created.organization.context("the response has no organization")?.id.parse()?;
    let stream = jetstream::new(async_nats::connect(&url).await?);
    measure_ingestion(&suite, &stream, org, entries).await?;
    measure_checkpoint_delay(&suite, &stream, org, entries).await?;
    suite.analyze().await?;
    read::measure_pages(&suite, &token, org).await?;
    read::measure_proofs(&suite, &token, org).await?;
    read::measure_text_filter(&suite, &token, org).await?;
    measure_fsck(&suite).await?;
    suite.stop().await
}

/// Organization of the n-th event: `org` for half of them, [`OTHER_ORGS`] for the others.
fn mixed(org: Uuid) -> impl Fn(u64) -> Uuid + Send + 'static {
    move |number| {
        let tenant = 1 + number / 2 % OTHER_ORGS;
        if number.is_multiple_of(2) { org } else { Uuid::from_u128(u128::from(tenant) << 64) }
    }
}

/// Publishes events as the project service does.
fn publish(
    stream: jetstream::Context,
    entries: u64,
    org_of: impl Fn(u64) -> Uuid + Send + 'static,
) -> JoinHandle<Result<()>> {
    tokio::spawn(async move {
        let mut sequences: HashMap<Uuid, u64> = HashMap::new();
        let mut acks = vec![];
        for number in 0..entries {
            let org = org_of(number);
            let sequence = sequences.entry(org).or_default();
            let payload = encode_event(org, *sequence, number % 97);
            *sequence += 1;
            let subject = format!("tenantry.project.v1.environment_updated.{org}");
            acks.push(stream.publish(subject, payload.into()).await?);
            // Limits the number of unacknowledged messages.
            if acks.len() == 4_000 {
                for ack in acks.drain(..) {
                    ack.await?;
                }
            }
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    })
}

/// Ingestion of the events that were waiting when the last one was published.
struct Ingestion {
    publish_time: Duration,
    /// Number of events.
    count: i64,
    time: Duration,
    memory_halfway: i64,
}

impl Ingestion {
    /// Entries per second.
    fn rate(&self) -> Result<f64> {
        Ok(f64::from(u32::try_from(self.count)?) / self.time.as_secs_f64())
    }
}

/// Publishes events, and measures the ingestion of those that are not in the log by then.
async fn ingest(
    connection: &mut PgConnection,
    stream: &jetstream::Context,
    entries: u64,
    org_of: impl Fn(u64) -> Uuid + Send + 'static,
) -> Result<Ingestion> {
    let end = count_entries(connection).await? + i64::try_from(entries)?;
    let started = Instant::now();
    publish(stream.clone(), entries, org_of).await??;
    let publish_time = started.elapsed();
    let started = Instant::now();
    let count = end - count_entries(connection).await?;
    let mut memory_halfway = None;
    loop {
        let left = end - count_entries(connection).await?;
        if memory_halfway.is_none() && left < count / 2 {
            memory_halfway = Some(resident_mib()?);
        }
        if left <= 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let time = started.elapsed();
    let memory_halfway = memory_halfway.map_or_else(resident_mib, Ok)?;
    Ok(Ingestion { publish_time, count, time, memory_halfway })
}

/// Measures the rate at which events become entries. Reference: inserts of the same leaves into a plain table
/// with `UNNEST`.
async fn measure_ingestion(
    suite: &Suite,
    stream: &jetstream::Context,
    org: Uuid,
    entries: u64,
) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let memory_before = resident_mib()?;
    let mixed = ingest(&mut connection, stream, entries, mixed(org)).await?;
    let reference = insert_rate(&mut connection).await?;
    print(&format!(
        "| time to publish the events | {:.1} s | | | |\n",
        mixed.publish_time.as_secs_f64()
    ));
    print_rates(
        "ingestion from the stream (inserts of the same leaves with UNNEST)",
        mixed.rate()?,
        reference,
        "≥ 0.5, ≥ 5,000/s",
    );
    let memory_after = resident_mib()?;
    print(&format!(
        "| resident memory of the process, MiB | before {memory_before} | halfway {} \
         | after {memory_after} | constant |\n",
        mixed.memory_halfway
    ));
    measure_disk(&mut connection).await?;
    for (name, logs, goal) in [("one log", 1, "≥ 20,000/s"), ("100 logs", 100, "≥ 30,000/s")] {
        let org_of =
            move |number: u64| Uuid::from_u128(((logs << 32) | (u128::from(number) % logs)) << 64);
        let measured = ingest(&mut connection, stream, ENTRIES, org_of).await?;
        print(&format!(
            "| ingestion of {} events into {name} | {:.0}/s | | | {goal} |\n",
            measured.count,
            measured.rate()?
        ));
    }
    Ok(())
}

/// Returns the number of entries of all trees but the suite tree (id `ffffffff-…`), whose entries are
/// checkpoints of the others.
async fn count_entries(connection: &mut PgConnection) -> Result<i64> {
    let size = "select coalesce(sum(size), 0)::bigint from audit.tree
                where org_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    Ok(connection.fetch_one(size).await?.try_get(0)?)
}

/// Returns the rate of inserts of the same bytes into a table with a primary key, in the same batches, with
/// one connection.
async fn insert_rate(connection: &mut PgConnection) -> Result<f64> {
    let leaves = "select leaf from audit.entry limit 50000";
    let leaves: Vec<Vec<u8>> =
        connection.fetch_all(leaves).await?.iter().map(|it| it.get(0)).collect();
    connection.execute("create table raw (index bigint primary key, leaf bytea not null)").await?;
    let started = Instant::now();
    for (n, batch) in leaves.chunks(500).enumerate() {
        let first = i64::try_from(n * 500)?;
        let indexes: Vec<i64> = (first..first + i64::try_from(batch.len())?).collect();
        sqlx::query("insert into raw select * from unnest($1::bigint[], $2::bytea[])")
            .bind(indexes)
            .bind(batch)
            .execute(&mut *connection)
            .await?;
    }
    let rate = f64::from(u32::try_from(leaves.len())?) / started.elapsed().as_secs_f64();
    connection.execute("drop table raw").await?;
    Ok(rate)
}

/// Measures the bytes on disk per entry, including all tables and indexes, without the entry's own bytes.
async fn measure_disk(connection: &mut PgConnection) -> Result<()> {
    let sizes = "select sum(pg_total_relation_size(c.oid))::float8,
                        (select count(*) from audit.entry)::float8,
                        (select sum(length(leaf)) from audit.entry)::float8
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where nspname = 'audit' and relkind = 'r'
                   and relname not in ('outbox', 'outbox_sequence', 'outbox_cursor', 'inbox', 'idempotency')";
    let row = connection.fetch_one(sizes).await?;
    let total_bytes: f64 = row.get(0);
    let entries: f64 = row.get(1);
    let leaf_bytes: f64 = row.get(2);
    let overhead = (total_bytes - leaf_bytes) / entries;
    let leaf = leaf_bytes / entries;
    print(&format!(
        "| bytes on disk per entry, in addition to its own {leaf:.0} | {overhead:.0} | | | ≤ 250 |\n"
    ));
    Ok(())
}

/// Measures the delay between publishing an event and the signed checkpoint that covers it, at 500 events per
/// second.
async fn measure_checkpoint_delay(
    suite: &Suite,
    stream: &jetstream::Context,
    org: Uuid,
    entries: u64,
) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let first = entries.div_ceil(2);
    let mut published = vec![];
    let mut interval = tokio::time::interval(Duration::from_millis(2));
    for number in first..first + CHECKPOINT_EVENTS {
        interval.tick().await;
        let subject = format!("tenantry.project.v1.environment_updated.{org}");
        published.push(Clock::default().now());
        let payload = encode_event(org, number, number % 97);
        let _ = stream.publish(subject, payload.into()).await?;
    }
    let last = i64::try_from(first + CHECKPOINT_EVENTS)?;
    loop {
        let signed: i64 = sqlx::query_scalar("select signed from audit.tree where org_id = $1")
            .bind(org)
            .fetch_one(&mut connection)
            .await?;
        if signed >= last {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let signed = "select (select min(signed_at) from audit.checkpoint as it
                          where it.tree = entry.tree and it.size > entry.index)
                  from audit.entry join audit.tree on number = entry.tree
                  where org_id = $1 order by index desc limit 5000";
    let rows = sqlx::query(signed).bind(org).fetch_all(&mut connection).await?;
    let mut delays_ms: Vec<f64> = vec![];
    for (row, published_at) in rows.iter().rev().zip(published) {
        let signed_at: time::OffsetDateTime = row.try_get(0)?;
        delays_ms.push((signed_at - published_at).as_seconds_f64() * 1_000.0);
    }
    delays_ms.sort_by(f64::total_cmp);
    let p50 = delays_ms[delays_ms.len() / 2];
    let p99 = delays_ms[delays_ms.len() * 99 / 100];
    print(&format!(
        "| event to signed checkpoint at 500/s, ms | p50 {p50:.0} | p99 {p99:.0} | | ≤ 200, ≤ 1,000 |\n"
    ));
    Ok(())
}

/// Measures the rate at which the check of the whole log reads entries.
async fn measure_fsck(suite: &Suite) -> Result<()> {
    let started = Instant::now();
    let found = suite.fsck().await?;
    let rate = f64::from(u32::try_from(found.entries)?) / started.elapsed().as_secs_f64();
    anyhow::ensure!(found.differences.is_empty(), "{found}");
    print(&format!("| check of the whole log, entries/s | {rate:.0} | | | ≥ 80,000 |\n"));
    Ok(())
}
