//! SQL statements that append to the log.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

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

/// Last appended sequence number of each producer of some organizations.
pub(super) struct StoredPositions {
    pub(super) last_sequences: LastSequences,
    /// Start of the server that has them.
    pub(super) server_started_at: OffsetDateTime,
}

/// Returns the last appended sequence number of each producer.
pub(super) async fn positions(tx: &mut Tx, org_ids: &[Uuid]) -> Result<StoredPositions> {
    let rows = query!(
        r#"select pg_postmaster_start_time() as "server_started_at!", org_id as "org_id?",
                  source as "source?", sequence as "sequence?"
           from (values (0)) as server
           left join (producer join tree on number = producer.tree) on org_id = any ($1)"#,
        org_ids
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let server_started_at = rows.first().context("at least one row")?.server_started_at;
    let position =
        |org_id, source, sequence| Some((Producer { org_id: org_id?, source: source? }, sequence?));
    let positions = rows.into_iter().filter_map(|it| position(it.org_id, it.source, it.sequence));
    Ok(StoredPositions { last_sequences: positions.collect(), server_started_at })
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

/// Returns the numbers (primary keys) of those index terms that are stored.
pub(super) async fn find_terms(tx: &mut Tx, terms: &[&TreeTerm]) -> Result<HashMap<TreeTerm, i32>> {
    // (no org_id): each term has the number of its tree.
    let TermColumns { trees, kinds, values } = TermColumns::of(terms.iter().copied());
    let rows = query!(
        "select tree, kind, value, number from term
         join unnest($1::integer[], $2::smallint[], $3::text[]) as wanted (tree, kind, value)
              using (tree, kind, value)",
        &trees,
        &kinds,
        &values,
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let term = |tree, kind, value, number| Ok((tree_term(tree, kind, value)?, number));
    rows.into_iter().map(|it| term(it.tree, it.kind, it.value, it.number)).collect()
}

/// An index term that is not stored, and the number of new entries that have it.
pub(super) struct NewTerm<'t> {
    pub(super) term: &'t TreeTerm,
    pub(super) entries: i64,
}

/// Stores new index terms. Returns the number of each.
pub(super) async fn insert_terms(
    tx: &mut Tx,
    new: &[NewTerm<'_>],
) -> Result<HashMap<TreeTerm, i32>> {
    let TermColumns { trees, kinds, values } = TermColumns::of(new.iter().map(|it| it.term));
    let entries: Vec<i64> = new.iter().map(|it| it.entries).collect();
    let rows = query!(
        "insert into term (tree, kind, value, entries)
         select unnest($1::integer[]), unnest($2::smallint[]), unnest($3::text[]), unnest($4::bigint[])
         returning tree, kind, value, number",
        &trees,
        &kinds,
        &values,
        &entries,
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let term = |tree, kind, value, number| Ok((tree_term(tree, kind, value)?, number));
    rows.into_iter().map(|it| term(it.tree, it.kind, it.value, it.number)).collect()
}

/// Columns of index terms.
struct TermColumns {
    trees: Vec<i32>,
    kinds: Vec<i16>,
    values: Vec<String>,
}

impl TermColumns {
    fn of<'t>(terms: impl Iterator<Item = &'t TreeTerm>) -> Self {
        let mut columns = Self { trees: vec![], kinds: vec![], values: vec![] };
        for TreeTerm { tree, term } in terms {
            columns.trees.push(*tree);
            columns.kinds.push(term.kind as i16);
            columns.values.push(term.value.clone());
        }
        columns
    }
}

fn tree_term(tree: i32, kind: i16, value: String) -> Result<TreeTerm> {
    let kind = TermKind::from_db(kind).context("table term: the column kind is unknown")?;
    Ok(TreeTerm { tree, term: Term { kind, value } })
}

/// Adds new entries to the counts of index terms.
pub(super) async fn add_entries_to_terms(tx: &mut Tx, counts: &BTreeMap<i32, i64>) -> Result<()> {
    // Of all organizations (no org_id): terms by their primary keys.
    let numbers: Vec<i32> = counts.keys().copied().collect();
    let entries: Vec<i64> = counts.values().copied().collect();
    // Locked in the order of the numbers, so that replicas do not deadlock.
    query!(
        "with locked as (
             select number from term where number = any ($1) order by number for no key update
         )
         update term set entries = term.entries + new.entries
         from locked join unnest($1::integer[], $2::bigint[]) as new (number, entries) using (number)
         where term.number = locked.number",
        &numbers,
        &entries,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A name for the text search.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NewName {
    pub(super) tree: i32,
    /// Number of the index term of the actor or object that has the name.
    pub(super) term: i32,
    pub(super) name: String,
    /// The person whose personal data the name is.
    pub(super) subject: Option<SubjectId>,
    /// True if the name is stored for ever, or until its person is erased: then no event has it any more.
    pub(super) is_lasting: bool,
}

/// Stores names for the text search. Returns those that were stored before.
pub(super) async fn insert_names(tx: &mut Tx, names: BTreeSet<NewName>) -> Result<Vec<NewName>> {
    let trees: Vec<i32> = names.iter().map(|it| it.tree).collect();
    let terms: Vec<i32> = names.iter().map(|it| it.term).collect();
    let texts: Vec<String> = names.iter().map(|it| it.name.clone()).collect();
    let keys: Vec<String> = names.iter().map(|it| fold::key(&it.name)).collect();
    let persons: Vec<Uuid> = names.iter().map(|it| it.subject.unwrap_or_default()).collect();
    let inserted = query!(
        "insert into term_name (tree, term, name, name_key, person)
         select tree, term, name, name_key, nullif(person, '00000000-0000-0000-0000-000000000000')
         from unnest($1::integer[], $2::integer[], $3::text[], $4::text[], $5::uuid[])
              as new (tree, term, name, name_key, person)
         on conflict do nothing
         returning term, name",
        &trees,
        &terms,
        &texts,
        &keys,
        &persons,
    );
    let inserted = inserted.fetch_all(tx.conn()).await?;
    let inserted: HashSet<(i32, String)> =
        inserted.into_iter().map(|it| (it.term, it.name)).collect();
    let is_old = |name: &NewName| !inserted.contains(&(name.term, name.name.clone()));
    Ok(names.into_iter().filter(is_old).collect())
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
pub(crate) struct TermNumbers {
    pub(crate) actor: i32,
    pub(crate) resource: i32,
    pub(crate) resource_kind: i32,
    pub(crate) action: i32,
    pub(crate) project: Option<i32>,
    pub(crate) environment: Option<i32>,
}

impl TermNumbers {
    /// Iterates over all numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = i32> {
        let required = [self.actor, self.resource, self.resource_kind, self.action];
        required.into_iter().chain(self.project).chain(self.environment)
    }
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
