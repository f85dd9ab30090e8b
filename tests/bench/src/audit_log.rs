//! The audit log: how fast the stream becomes entries, how soon an entry is proven, what a page and a proof
//! cost, and what an entry takes on disk.

#![expect(
    clippy::disallowed_methods,
    reason = "a reference is written by hand, in a task of its own"
)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use api::{
    audit::{
        self as pb, audit_service_client::AuditServiceClient, log_service_client::LogServiceClient,
    },
    event::{Actor, ActorKind, Envelope, Origin, Outcome, Resource},
    project::{Environment, EnvironmentUpdated},
};
use async_nats::jetstream;
use chassis::Clock;
use prost::{Message, Name};
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::task::JoinHandle;
use tonic::{Request, metadata::MetadataValue};
use uuid::Uuid;

use crate::{load, median, nats::Nats, row, say, suite::Suite};

/// Entries that are loaded; `cargo xtask bench audit 2000000` asks for more.
const ENTRIES: u64 = 200_000;
/// Organizations beside Ann's.
const ORGS: u64 = 20;

/// An event as the project service writes it.
fn event(org: Uuid, number: u64, actor: u64) -> Vec<u8> {
    let id = chassis::id::new();
    let environment = Environment {
        id: Uuid::from_u128(u128::from(number % 500)).to_string(),
        org_id: org.to_string(),
        name: format!("environment {}", number % 500),
        branch: "main".to_owned(),
        ..Default::default()
    };
    let after = Environment { branch: format!("feature-{number}"), ..environment.clone() };
    let told = EnvironmentUpdated { before: Some(environment), after: Some(after) };
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
            value: told.encode_to_vec(),
        }),
        salt: id.as_bytes().to_vec(),
        outcome: Outcome::Success.into(),
        sequence: i64::try_from(number).unwrap_or_default() + 1,
        ..Default::default()
    };
    envelope.encode_to_vec()
}

/// Measures everything.
pub(crate) async fn run() -> Result<()> {
    let entries = std::env::args().nth(2).and_then(|it| it.parse().ok()).unwrap_or(ENTRIES);
    let nats = Nats::start()?;
    let url = format!("nats://127.0.0.1:{}", nats.port);
    let suite = Suite::start_with(tenantry::INSTALLS, |it| {
        it.nats_url = Some(url.clone());
        // Events that are published here are in no outbox.
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
    let org: Uuid = created.organization.context("an organization")?.id.parse()?;
    let stream = jetstream::new(async_nats::connect(&url).await?);
    ingestion(&suite, &stream, org, entries).await?;
    provable(&suite, &stream, org, entries).await?;
    suite.analyze().await?;
    pages(&suite, &token, org).await?;
    proofs(&suite, &token, org).await?;
    suite.stop().await
}

/// Publishes events of many organizations, half of them Ann's.
fn publisher(stream: jetstream::Context, org: Uuid, entries: u64) -> JoinHandle<Result<()>> {
    tokio::spawn(async move {
        let mut sequences = vec![0_u64; usize::try_from(ORGS).unwrap_or_default() + 1];
        let mut acks = vec![];
        for n in 0..entries {
            let tenant = if n % 2 == 0 { 0 } else { 1 + n / 2 % ORGS };
            let of = if tenant == 0 { org } else { Uuid::from_u128(u128::from(tenant) << 64) };
            let number = &mut sequences[usize::try_from(tenant).unwrap_or_default()];
            let payload = event(of, *number, n % 97);
            *number += 1;
            let subject = format!("tenantry.project.v1.environment_updated.{of}");
            acks.push(stream.publish(subject, payload.into()).await?);
            if acks.len() == 500 {
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

/// The stream into the log, beside the same leaves by plain `UNNEST` into a plain table.
async fn ingestion(
    suite: &Suite,
    stream: &jetstream::Context,
    org: Uuid,
    entries: u64,
) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let before = resident();
    // Published first, so that what is measured is the log.
    let size = logged(&mut connection).await?;
    let started = Instant::now();
    publisher(stream.clone(), org, entries).await??;
    let published = started.elapsed();
    let at = logged(&mut connection).await? - size;
    let rest = Instant::now();
    let (mut middle, total) = (0, i64::try_from(entries)?);
    while logged(&mut connection).await? < size + total {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if middle == 0 && logged(&mut connection).await? > size + i64::midpoint(at, total) {
            middle = resident();
        }
    }
    let took = rest.elapsed();
    let ours = f64::from(u32::try_from(total - at)?) / took.as_secs_f64();
    let reference = unnest(&mut connection).await?;
    say(&format!("| published in | {:.1} s | | | |\n", published.as_secs_f64()));
    row(
        "entries from the stream, beside UNNEST of the same leaves",
        ours,
        reference,
        "≥ 0.5, ≥ 5,000/s",
    );
    let after = resident();
    say(&format!(
        "| memory of the process, MiB | before {before} | half {middle} | after {after} | flat |\n"
    ));
    disk(&mut connection).await
}

async fn logged(connection: &mut PgConnection) -> Result<i64> {
    let size = "select coalesce(sum(size), 0)::bigint from audit.tree
                where org_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    Ok(connection.fetch_one(size).await?.try_get(0)?)
}

/// The same bytes into a table with a primary key, in the same batches, by one connection.
async fn unnest(connection: &mut PgConnection) -> Result<f64> {
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

/// What an entry takes beyond its own bytes, everything counted.
async fn disk(connection: &mut PgConnection) -> Result<()> {
    let sizes = "select sum(pg_total_relation_size(c.oid))::float8,
                        (select count(*) from audit.entry)::float8,
                        (select sum(length(leaf)) from audit.entry)::float8
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where nspname = 'audit' and relkind = 'r'
                   and relname not in ('outbox', 'outbox_sequence', 'outbox_cursor', 'inbox', 'idempotency')";
    let it = connection.fetch_one(sizes).await?;
    let (all, entries, leaves): (f64, f64, f64) = (it.get(0), it.get(1), it.get(2));
    let beyond = (all - leaves) / entries;
    let leaf = leaves / entries;
    say(&format!(
        "| bytes on disk per entry beyond its own {leaf:.0} | {beyond:.0} | | | ≤ 250 |\n"
    ));
    Ok(())
}

/// How soon an event is under a signed head, at 500 a second.
async fn provable(
    suite: &Suite,
    stream: &jetstream::Context,
    org: Uuid,
    entries: u64,
) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let first = entries.div_ceil(2);
    let mut published = vec![];
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    for n in first..first + 5_000 {
        tick.tick().await;
        let subject = format!("tenantry.project.v1.environment_updated.{org}");
        published.push(Clock::default().now());
        let _ = stream.publish(subject, event(org, n, n % 97).into()).await?;
    }
    let last = i64::try_from(first + 5_000)?;
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
    let mut waits: Vec<f64> = vec![];
    for (row, at) in rows.iter().rev().zip(published) {
        let signed: time::OffsetDateTime = row.try_get(0)?;
        waits.push((signed - at).as_seconds_f64() * 1_000.0);
    }
    waits.sort_by(f64::total_cmp);
    let (p50, p99) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    say(&format!(
        "| event to signed head at 500/s, ms | p50 {p50:.0} | p99 {p99:.0} | | ≤ 200, ≤ 1,000 |\n"
    ));
    Ok(())
}

fn signed_in<M>(token: &str, message: M) -> Result<Request<M>> {
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    Ok(request)
}

/// A page of 50 by one actor and one action, the first and one far behind, beside the bare query.
async fn pages(suite: &Suite, token: &str, org: Uuid) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let mut client = AuditServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let actor_id = Uuid::from_u128(1).to_string();
    let filter = pb::EntryFilter {
        actor_id: actor_id.clone(),
        action: "environment.updated".to_owned(),
        ..Default::default()
    };
    let page = |page_token: String, page_size| pb::ListEntriesRequest {
        org_id: org.to_string(),
        filter: Some(filter.clone()),
        page_size,
        page_token,
        ..Default::default()
    };
    let mut far = String::new();
    // As far as this actor has entries.
    for _ in 0..50 {
        let next =
            client.list_entries(signed_in(token, page(far.clone(), 10))?).await?.into_inner();
        if next.next_page_token.is_empty() {
            break;
        }
        far = next.next_page_token;
    }
    for (name, at) in [("first", String::new()), ("far", far)] {
        let mut ours = vec![];
        for _ in 0..200 {
            let started = Instant::now();
            client.list_entries(signed_in(token, page(at.clone(), 50))?).await?;
            ours.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let mut bare = vec![];
        let query = "select index, event_id, received_at, flags, leaf from audit.entry
                     where actor = (select term.number from audit.term
                                    join audit.tree on tree.number = term.tree
                                    where org_id = $1 and kind = 1 and value = $2)
                       and index < $3 order by index desc limit 50";
        for _ in 0..200 {
            let started = Instant::now();
            let rows = sqlx::query(query)
                .bind(org)
                .bind(&actor_id)
                .bind(if name == "first" { i64::MAX } else { 50_000 })
                .fetch_all(&mut connection)
                .await?;
            anyhow::ensure!(!rows.is_empty(), "the query finds entries");
            bare.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let (ours, bare) = (median(ours), median(bare));
        let ratio = ours / bare;
        say(&format!("| a page of 50, {name}, µs | {ours:.0} | {bare:.0} | {ratio:.2} | ≤ 2 |\n"));
    }
    Ok(())
}

/// An inclusion proof by gRPC.
async fn proofs(suite: &Suite, token: &str, org: Uuid) -> Result<()> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let ids = "select event_id from audit.entry join audit.tree on number = entry.tree
               where org_id = $1 and index % 211 = 3 order by random() limit 300";
    let ids = sqlx::query(ids).bind(org).fetch_all(&mut connection).await?;
    let channel = load::channels(suite.address).await?.remove(0);
    let mut client = LogServiceClient::new(channel);
    let mut took = vec![];
    for it in &ids {
        let event_id: Uuid = it.try_get(0)?;
        let (org_id, event_id) = (org.to_string(), event_id.to_string());
        let get = pb::GetInclusionProofRequest { org_id, event_id };
        let started = Instant::now();
        client.get_inclusion_proof(signed_in(token, get)?).await?;
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let p50 = median(took);
    say(&format!("| an inclusion proof, µs | p50 {p50:.0} | | | ≤ 1,000 |\n"));
    Ok(())
}

/// Memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|it| it.parse::<u64>().ok()).unwrap_or_default() / 1024
}
