//! Every SQL statement about the log.

use std::collections::BTreeMap;

use anyhow::Context;
use api::event::Envelope;
use chassis::{Db, OrgId, Result, Tx, UserId, outbox::Delivery, page::Page};
use prost::Message;
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Entry, Filter};
use crate::merkle::{Edge, Hash, Node, cover, fold, leaf_hash, path};

/// Appends events that are new to the log; answers how many were.
pub(crate) async fn append(tx: &mut Tx, batch: Vec<Delivery>) -> Result<usize> {
    let ids: Vec<Uuid> = batch.iter().map(|it| it.id).collect();
    let mut trees: BTreeMap<Uuid, Vec<Delivery>> = BTreeMap::new();
    for event in batch {
        trees.entry(event.org_id.unwrap_or_default()).or_default().push(event);
    }
    let mut appended = 0;
    // In the order of their ids, so that two batches never wait for each other.
    for (org_id, events) in trees {
        appended += append_to(tx, OrgId(org_id), &ids, events).await?;
    }
    Ok(appended)
}

async fn append_to(
    tx: &mut Tx,
    org_id: OrgId,
    ids: &[Uuid],
    events: Vec<Delivery>,
) -> Result<usize> {
    let mut edge = lock(tx, org_id).await?;
    let known = query_scalar!("select event_id from entry where event_id = any ($1)", ids);
    let mut known = known.fetch_all(tx.conn()).await?;
    let before = edge.size();
    for event in events {
        if known.contains(&event.id) {
            continue;
        }
        let (index, hash) = (edge.size(), leaf_hash(&event.envelope));
        insert_entry(tx, org_id, index, &hash, &event).await?;
        insert_nodes(tx, org_id, &edge.append(hash)).await?;
        known.push(event.id);
    }
    let size = stored(edge.size())?;
    query!("update tree set size = $2 where org_id = $1", org_id.0, size)
        .execute(tx.conn())
        .await?;
    usize::try_from(edge.size() - before).context("a batch is small").map_err(Into::into)
}

/// The right edge of a tree, which nobody else grows until the transaction ends.
async fn lock(tx: &mut Tx, org_id: OrgId) -> Result<Edge> {
    query!("insert into tree (org_id, size) values ($1, 0) on conflict do nothing", org_id.0)
        .execute(tx.conn())
        .await?;
    let size = query_scalar!("select size from tree where org_id = $1 for update", org_id.0);
    let size = loaded(size.fetch_one(tx.conn()).await?)?;
    let hashes = nodes(tx.conn(), org_id, &cover(0, size)).await?;
    Ok(Edge::new(size, hashes))
}

async fn insert_entry(
    tx: &mut Tx,
    org_id: OrgId,
    index: u64,
    hash: &Hash,
    event: &Delivery,
) -> Result<()> {
    // Decoded before it was delivered; what lists need is read from it, the bytes are kept as they are.
    let envelope = Envelope::decode(&*event.envelope).unwrap_or_default();
    let now = tx.now;
    query!(
        "insert into entry (org_id, index, event_id, leaf, leaf_hash, event_type, project_id, actor_id,
             received_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        org_id.0,
        stored(index)?,
        event.id,
        event.envelope,
        hash,
        event.name,
        Uuid::try_parse(&envelope.project_id).ok(),
        envelope.actor.map(|it| it.id).unwrap_or_default(),
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

async fn insert_nodes(tx: &mut Tx, org_id: OrgId, completed: &[(Node, Hash)]) -> Result<()> {
    let (mut levels, mut indexes, mut hashes) = (vec![], vec![], vec![]);
    for (node, hash) in completed {
        levels.push(i16::try_from(node.level).context("a tree has at most 64 levels")?);
        indexes.push(stored(node.index)?);
        hashes.push(hash.to_vec());
    }
    query!(
        "insert into node (org_id, level, index, hash)
         select $1, * from unnest($2::smallint[], $3::bigint[], $4::bytea[])",
        org_id.0,
        &levels,
        &indexes,
        &hashes,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The hashes of these nodes, in their order.
async fn nodes(conn: &mut sqlx::PgConnection, org_id: OrgId, wanted: &[Node]) -> Result<Vec<Hash>> {
    let (mut levels, mut indexes) = (vec![], vec![]);
    for node in wanted {
        levels.push(i16::try_from(node.level).context("a tree has at most 64 levels")?);
        indexes.push(stored(node.index)?);
    }
    let hashes = query_scalar!(
        r#"select node.hash
           from unnest($2::smallint[], $3::bigint[]) with ordinality as wanted (level, index, n)
           join node on node.org_id = $1 and node.level = wanted.level and node.index = wanted.index
           order by wanted.n"#,
        org_id.0,
        &levels,
        &indexes,
    )
    .fetch_all(conn)
    .await?;
    let hashes = hashes.into_iter().map(Hash::try_from).collect::<Result<Vec<_>, _>>();
    let hashes = hashes
        .map_err(|_| anyhow::anyhow!("table node, organization {org_id}: a hash is no SHA-256"))?;
    if hashes.len() != wanted.len() {
        return Err(anyhow::anyhow!("table node, organization {org_id}: a node is missing").into());
    }
    Ok(hashes)
}

/// The root of a tree at a size that it has reached.
pub(crate) async fn root(db: &Db, org_id: OrgId, size: u64) -> Result<Hash> {
    let mut conn = db.pool().acquire().await?;
    let root = fold(&nodes(&mut conn, org_id, &cover(0, size)).await?);
    Ok(root.context("an empty tree has no root to sign")?)
}

/// The path from an entry to the root at a size, lowest first.
pub(crate) async fn inclusion(db: &Db, org_id: OrgId, index: i64, size: u64) -> Result<Vec<Hash>> {
    let steps = path(loaded(index)?, size);
    let mut conn = db.pool().acquire().await?;
    let mut hashes = nodes(&mut conn, org_id, &steps.concat()).await?.into_iter();
    let step = |it: &Vec<Node>| fold(&hashes.by_ref().take(it.len()).collect::<Vec<_>>());
    let path: Option<Vec<Hash>> = steps.iter().map(step).collect();
    Ok(path.context("each step has a node")?)
}

/// Trees that have grown beyond their newest signed head, and how far.
pub(crate) async fn unsigned(db: &Db) -> Result<Vec<(OrgId, u64)>> {
    let rows = query!(
        "select org_id, size from tree
         where size > 0 and not exists (
             select from checkpoint where checkpoint.org_id = tree.org_id and checkpoint.size = tree.size)
         order by org_id limit 100"
    );
    let rows = rows.fetch_all(db.pool()).await?;
    rows.into_iter().map(|it| Ok((it.org_id, loaded(it.size)?))).collect()
}

/// Stores a signed head. One that is there already stays.
pub(crate) async fn insert_checkpoint(
    tx: &mut Tx,
    org_id: OrgId,
    size: u64,
    note: &str,
) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into checkpoint (org_id, size, note, signed_at)
         values ($1, $2, $3, $4) on conflict do nothing",
        org_id.0,
        stored(size)?,
        note,
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The newest signed head: its size and its note.
pub(crate) async fn checkpoint(db: &Db, org_id: OrgId) -> Result<Option<(u64, String)>> {
    let row = query!(
        "select size, note from checkpoint where org_id = $1 order by size desc limit 1",
        org_id.0
    );
    let row = row.fetch_optional(db.pool()).await?;
    row.map(|it| Ok((loaded(it.size)?, it.note))).transpose()
}

/// One entry.
pub(crate) async fn get(db: &Db, org_id: OrgId, event_id: Uuid) -> Result<Option<Entry>> {
    let entry = query_as!(
        Entry,
        "select index, leaf, leaf_hash, received_at from entry where org_id = $1 and event_id = $2",
        org_id.0,
        event_id
    );
    Ok(entry.fetch_optional(db.pool()).await?)
}

/// A page of entries, newest first (AU-12).
pub(crate) async fn list(
    db: &Db,
    org_id: OrgId,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<Entry>> {
    let entries = query_as!(
        Entry,
        "select index, leaf, leaf_hash, received_at from entry
         where org_id = $1 and ($2::bigint is null or index < $2)
           and ($3::uuid is null or project_id = $3)
           and ($4::text is null or event_type = $4)
           and ($5::text is null or actor_id = $5)
         order by index desc limit $6",
        org_id.0,
        page.after::<i64>()?,
        filter.project_id,
        filter.event_type,
        filter.actor_id,
        page.limit(),
    );
    Ok(entries.fetch_all(db.pool()).await?)
}

/// A page of what an account did outside organizations, newest first.
pub(crate) async fn list_of_account(db: &Db, user_id: UserId, page: &Page) -> Result<Vec<Entry>> {
    let filter = Filter { actor_id: Some(user_id.into()), ..Filter::default() };
    list(db, OrgId(Uuid::nil()), &filter, page).await
}

fn stored(number: u64) -> Result<i64> {
    Ok(i64::try_from(number).context("a tree has at most 2^63 leaves")?)
}

fn loaded(number: i64) -> Result<u64> {
    Ok(u64::try_from(number).context("an index is not negative")?)
}
