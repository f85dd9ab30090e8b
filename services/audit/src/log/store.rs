//! SQL statements that append to the log.

use std::collections::{BTreeSet, HashMap};

use anyhow::Context;
use chassis::{Db, Result, Tx, fold};
use sqlx::{query, query_scalar};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{EntryFlags, order::LastSequences};
use crate::{
    db_int::to_db_int,
    decode::Producer,
    seal::SubjectId,
    search_index::{Term, TermKind},
};

/// Returns the last appended sequence number of each producer.
pub(super) async fn last_sequences(tx: &mut Tx, org_ids: &[Uuid]) -> Result<LastSequences> {
    let rows = query!(
        "select org_id, source, sequence from producer join tree on number = producer.tree
         where org_id = any ($1)",
        org_ids
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let producer = |org_id, source| Producer { org_id, source };
    Ok(rows.into_iter().map(|it| (producer(it.org_id, it.source), it.sequence)).collect())
}

/// Returns the events among these that are in the log, as the transaction reads it.
pub(super) async fn find_logged_in_tx(tx: &mut Tx, event_ids: &[Uuid]) -> Result<BTreeSet<Uuid>> {
    // (no org_id): producers ask for their own events, and only the ids are returned.
    let logged = query_scalar!("select event_id from entry where event_id = any ($1)", event_ids);
    Ok(logged.fetch_all(tx.conn()).await?.into_iter().collect())
}

/// Returns the events among these that are in the log, or deferred in its database until they can be
/// appended.
pub(super) async fn find_received(db: &Db, event_ids: &[Uuid]) -> Result<BTreeSet<Uuid>> {
    // (no org_id): producers ask for their own events, and only the ids are returned.
    let received = query_scalar!(
        r#"select event_id as "event_id!" from entry where event_id = any ($1)
           union all select event_id from deferred_event where event_id = any ($1)"#,
        event_ids
    );
    Ok(received.fetch_all(db.pool()).await?.into_iter().collect())
}

/// An index term of one tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TreeTerm {
    pub(super) tree: i32,
    pub(super) term: Term,
}

/// An index term and the number of new entries that have it.
pub(super) struct TermCount {
    pub(super) term: TreeTerm,
    pub(super) new_entries: i64,
}

/// Creates missing index terms and adds the new entries to their counts. Returns the number (primary key) of
/// each term.
pub(super) async fn upsert_terms(
    tx: &mut Tx,
    counts: &[TermCount],
) -> Result<HashMap<TreeTerm, i32>> {
    let trees: Vec<i32> = counts.iter().map(|it| it.term.tree).collect();
    let kinds: Vec<i16> = counts.iter().map(|it| it.term.term.kind as i16).collect();
    let values: Vec<String> = counts.iter().map(|it| it.term.term.value.clone()).collect();
    let entries: Vec<i64> = counts.iter().map(|it| it.new_entries).collect();
    let rows = query!(
        "insert into term (tree, kind, value, entries)
         select unnest($1::integer[]), unnest($2::smallint[]), unnest($3::text[]), unnest($4::bigint[])
         on conflict (tree, kind, value) do update set entries = term.entries + excluded.entries
         returning tree, kind, value, number",
        &trees,
        &kinds,
        &values,
        &entries,
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let term = |tree, kind, value| -> Result<TreeTerm> {
        let kind = TermKind::from_db(kind).context("table term: the column kind is unknown")?;
        Ok(TreeTerm { tree, term: Term { kind, value } })
    };
    rows.into_iter().map(|it| Ok((term(it.tree, it.kind, it.value)?, it.number))).collect()
}

/// A name for the text search.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NewName {
    /// Number of the index term of the actor or object that has the name.
    pub(super) term: i32,
    pub(super) name: String,
    /// The person whose personal data the name is.
    pub(super) subject: Option<SubjectId>,
}

/// Stores names for the text search.
pub(super) async fn insert_names(tx: &mut Tx, names: &BTreeSet<NewName>) -> Result<()> {
    let terms: Vec<i32> = names.iter().map(|it| it.term).collect();
    let texts: Vec<String> = names.iter().map(|it| it.name.clone()).collect();
    let keys: Vec<String> = names.iter().map(|it| fold::key(&it.name)).collect();
    let persons: Vec<Uuid> = names.iter().map(|it| it.subject.unwrap_or_default()).collect();
    query!(
        "insert into term_name (term, name, name_key, person)
         select term, name, name_key, nullif(person, '00000000-0000-0000-0000-000000000000')
         from unnest($1::integer[], $2::text[], $3::text[], $4::uuid[])
              as new (term, name, name_key, person)
         on conflict do nothing",
        &terms,
        &texts,
        &keys,
        &persons,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A new entry.
pub(super) struct NewEntry {
    pub(super) tree: i32,
    pub(super) index: u64,
    pub(super) event_id: Uuid,
    pub(super) terms: TermNumbers,
    /// Number of `tenantry.event.v1.Outcome`.
    pub(super) outcome: i16,
    pub(super) flags: EntryFlags,
    pub(super) leaf: Vec<u8>,
}

/// Numbers of the index terms of an entry.
pub(super) struct TermNumbers {
    pub(super) actor: i32,
    pub(super) resource: i32,
    pub(super) resource_kind: i32,
    pub(super) action: i32,
    pub(super) project: Option<i32>,
    pub(super) environment: Option<i32>,
}

/// Stores entries.
pub(super) async fn insert_entries(tx: &mut Tx, new: Vec<NewEntry>) -> Result<()> {
    let now = tx.now;
    let trees: Vec<i32> = new.iter().map(|it| it.tree).collect();
    let actors: Vec<i32> = new.iter().map(|it| it.terms.actor).collect();
    let resources: Vec<i32> = new.iter().map(|it| it.terms.resource).collect();
    let types: Vec<i32> = new.iter().map(|it| it.terms.resource_kind).collect();
    // 0 becomes null in the statement.
    let projects: Vec<i32> = new.iter().map(|it| it.terms.project.unwrap_or(0)).collect();
    let environments: Vec<i32> = new.iter().map(|it| it.terms.environment.unwrap_or(0)).collect();
    let actions: Vec<i32> = new.iter().map(|it| it.terms.action).collect();
    let indexes = new.iter().map(|it| to_db_int(it.index)).collect::<Result<Vec<_>>>()?;
    let event_ids: Vec<Uuid> = new.iter().map(|it| it.event_id).collect();
    let outcomes: Vec<i16> = new.iter().map(|it| it.outcome).collect();
    let flags: Vec<i16> = new.iter().map(|it| it.flags.0).collect();
    let leaves: Vec<Vec<u8>> = new.into_iter().map(|it| it.leaf).collect();
    query!(
        "insert into entry (tree, actor, resource, type, project, environment, action, index, received_at,
                            event_id, outcome, flags, leaf)
         select tree, actor, resource, type, nullif(project, 0), nullif(environment, 0), action, index, $12,
                event_id, outcome, flags, leaf
         from unnest($1::integer[], $2::integer[], $3::integer[], $4::integer[], $5::integer[],
                     $6::integer[], $7::integer[], $8::bigint[], $9::uuid[], $10::smallint[],
                     $11::smallint[], $13::bytea[])
              as new (tree, actor, resource, type, project, environment, action, index, event_id, outcome,
                      flags, leaf)",
        &trees,
        &actors,
        &resources,
        &types,
        &projects,
        &environments,
        &actions,
        &indexes,
        &event_ids,
        &outcomes,
        &flags,
        now,
        &leaves,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Last appended sequence number of a producer.
pub(super) struct ProducerPosition {
    pub(super) tree: i32,
    pub(super) source: String,
    pub(super) sequence: i64,
}

/// Stores the last appended sequence numbers of producers.
pub(super) async fn set_producer_positions(
    tx: &mut Tx,
    positions: &[ProducerPosition],
) -> Result<()> {
    let trees: Vec<i32> = positions.iter().map(|it| it.tree).collect();
    let sources: Vec<String> = positions.iter().map(|it| it.source.clone()).collect();
    let sequences: Vec<i64> = positions.iter().map(|it| it.sequence).collect();
    query!(
        "insert into producer (tree, source, sequence)
         select unnest($1::integer[]), unnest($2::text[]), unnest($3::bigint[])
         on conflict (tree, source) do update set sequence = excluded.sequence",
        &trees,
        &sources,
        &sequences,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Creates the partition of a month, if it does not exist.
pub(super) async fn create_partition(tx: &mut Tx, month: Date) -> Result<()> {
    query!("select open_month($1)", month).fetch_one(tx.conn()).await?;
    Ok(())
}

/// Stores the plan of an organization, which determines its retention.
pub(super) async fn set_plan(tx: &mut Tx, org_id: Uuid, plan: &str) -> Result<()> {
    query!("update tree set plan = $2 where org_id = $1", org_id, plan).execute(tx.conn()).await?;
    Ok(())
}

/// Deletes the sinks of the continuous export of a purged organization. The project service deletes its
/// storage connections itself.
pub(super) async fn delete_export_sinks(tx: &mut Tx, org_id: Uuid) -> Result<()> {
    query!("delete from export_sink where org_id = $1", org_id).execute(tx.conn()).await?;
    query!("delete from export_storage_use where org_id = $1", org_id).execute(tx.conn()).await?;
    Ok(())
}

/// Returns the first day of the month, which identifies a partition.
pub(super) fn month_of(time: OffsetDateTime) -> Date {
    time.date().replace_day(1).expect("every month has a first day")
}
