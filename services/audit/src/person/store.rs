//! Every SQL statement about the keys of people.

use std::collections::{BTreeMap, BTreeSet};

use chassis::{
    Db, Result, Tx,
    key::{Secret, random},
};
use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::Vault;
use crate::seal::{People, PersonId};

/// The keys of these people; new ones are made for those who have none and were not erased.
pub(crate) async fn keys(
    tx: &mut Tx,
    vault: &Vault,
    people: &People,
) -> Result<BTreeMap<PersonId, Secret>> {
    let wanted: Vec<Uuid> = people.all.iter().copied().collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = query!("select id, sealed from person where id = any ($1)", &wanted);
    let rows = rows.fetch_all(tx.conn()).await?;
    let mut keys = opened(vault, rows.into_iter().map(|it| (it.id, it.sealed)))?;
    let missing: Vec<Uuid> = wanted.into_iter().filter(|it| !keys.contains_key(it)).collect();
    if !missing.is_empty() {
        keys.extend(make(tx, vault, missing).await?);
    }
    // Also if both keys were there already: somebody else may have written to the address before.
    if !people.addresses.is_empty() {
        let (accounts, addresses): (Vec<Uuid>, Vec<Uuid>) =
            people.addresses.iter().copied().unzip();
        query!(
            "insert into person_address (account, address)
             select unnest($1::uuid[]), unnest($2::uuid[]) on conflict do nothing",
            &accounts,
            &addresses
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(keys)
}

async fn make(
    tx: &mut Tx,
    vault: &Vault,
    missing: Vec<Uuid>,
) -> Result<BTreeMap<PersonId, Secret>> {
    let erased = query_scalar!("select id from person_erased where id = any ($1)", &missing);
    let erased: BTreeSet<Uuid> = erased.fetch_all(tx.conn()).await?.into_iter().collect();
    let new: Vec<Uuid> = missing.into_iter().filter(|it| !erased.contains(it)).collect();
    let sealed: Vec<Vec<u8>> = new.iter().map(|it| vault.seal(*it, &random())).collect();
    // Another batch may have made one at the same time: its key is taken.
    query!(
        "insert into person (id, sealed) select unnest($1::uuid[]), unnest($2::bytea[])
         on conflict do nothing",
        &new,
        &sealed
    )
    .execute(tx.conn())
    .await?;
    let rows = query!("select id, sealed from person where id = any ($1)", &new);
    let rows = rows.fetch_all(tx.conn()).await?;
    opened(vault, rows.into_iter().map(|it| (it.id, it.sealed)))
}

fn opened(
    vault: &Vault,
    rows: impl Iterator<Item = (Uuid, Vec<u8>)>,
) -> Result<BTreeMap<PersonId, Secret>> {
    let open = |(id, sealed): (Uuid, Vec<u8>)| {
        let key = vault.open(id, &sealed);
        let key =
            key.ok_or_else(|| anyhow::anyhow!("table person, {id}: sealed under another key"))?;
        Ok((id, key))
    };
    rows.map(open).collect()
}

/// The keys of these people, as far as they were not erased.
pub(crate) async fn read(
    db: &Db,
    vault: &Vault,
    people: &BTreeSet<PersonId>,
) -> Result<BTreeMap<PersonId, Secret>> {
    let wanted: Vec<Uuid> = people.iter().copied().collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = query!("select id, sealed from person where id = any ($1)", &wanted);
    let rows = rows.fetch_all(db.pool()).await?;
    opened(vault, rows.into_iter().map(|it| (it.id, it.sealed)))
}

/// Destroys the keys of an account and of its addresses, and its names; answers how many keys.
pub(crate) async fn forget(tx: &mut Tx, user_id: Uuid) -> Result<u64> {
    let now = tx.now;
    let destroyed = query_scalar!(r#"select forget_person($1, $2) as "keys!""#, user_id, now);
    let destroyed = destroyed.fetch_one(tx.conn()).await?;
    Ok(u64::try_from(destroyed).unwrap_or(0))
}

/// The organizations in whose logs an account acted or was acted on.
pub(crate) async fn trees_of(tx: &mut Tx, user_id: Uuid) -> Result<Vec<Uuid>> {
    // (no org_id): a person belongs to none.
    let id = user_id.to_string();
    let values = vec![id.clone(), format!("{id}:user"), format!("{id}:member")];
    let trees = query_scalar!(
        "select distinct org_id from term join tree on tree.number = term.tree
         where value = any ($1) and kind in (1, 2) order by org_id",
        &values
    );
    Ok(trees.fetch_all(tx.conn()).await?)
}
