//! SQL statements about the keys of people.

use std::collections::BTreeSet;

use chassis::{
    Db, Result, Tx,
    key::{Secret, random},
};
use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::KeyVault;
use crate::seal::{SubjectId, SubjectKeys, Subjects};

/// Returns the keys of these people. Creates the missing ones, except for people who were erased.
pub(crate) async fn get_or_create(
    tx: &mut Tx,
    vault: &KeyVault,
    subjects: &Subjects,
) -> Result<SubjectKeys> {
    let ids: Vec<Uuid> = subjects.all.iter().copied().collect();
    if ids.is_empty() {
        return Ok(SubjectKeys::new());
    }
    let rows = query!("select id, sealed from person where id = any ($1)", &ids);
    let rows = rows.fetch_all(tx.conn()).await?;
    let mut keys = decrypt_rows(vault, rows.into_iter().map(|it| (it.id, it.sealed)))?;
    let missing: Vec<Uuid> = ids.into_iter().filter(|id| !keys.contains_key(id)).collect();
    if !missing.is_empty() {
        keys.extend(create(tx, vault, missing).await?);
    }
    // Written even if both keys exist: the address may have been known before it belonged to the account.
    if !subjects.addresses.is_empty() {
        let accounts: Vec<Uuid> = subjects.addresses.iter().map(|it| it.account).collect();
        let addresses: Vec<Uuid> = subjects.addresses.iter().map(|it| it.address).collect();
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

async fn create(tx: &mut Tx, vault: &KeyVault, missing: Vec<Uuid>) -> Result<SubjectKeys> {
    let erased = query_scalar!("select id from person_erased where id = any ($1)", &missing);
    let erased: BTreeSet<Uuid> = erased.fetch_all(tx.conn()).await?.into_iter().collect();
    let new: Vec<Uuid> = missing.into_iter().filter(|id| !erased.contains(id)).collect();
    let encrypted: Vec<Vec<u8>> = new.iter().map(|id| vault.encrypt_key(*id, &random())).collect();
    // A concurrent batch may insert a key first; the select below returns that one.
    query!(
        "insert into person (id, sealed) select unnest($1::uuid[]), unnest($2::bytea[])
         on conflict do nothing",
        &new,
        &encrypted
    )
    .execute(tx.conn())
    .await?;
    let rows = query!("select id, sealed from person where id = any ($1)", &new);
    let rows = rows.fetch_all(tx.conn()).await?;
    decrypt_rows(vault, rows.into_iter().map(|it| (it.id, it.sealed)))
}

fn decrypt_rows(
    vault: &KeyVault,
    rows: impl Iterator<Item = (Uuid, Vec<u8>)>,
) -> Result<SubjectKeys> {
    let decrypt = |(id, encrypted): (Uuid, Vec<u8>)| -> Result<(SubjectId, Secret)> {
        let key = vault.decrypt_key(id, &encrypted);
        let key = key.ok_or_else(|| {
            anyhow::anyhow!("table person, row {id}: encrypted under another deployment key")
        })?;
        Ok((id, key))
    };
    rows.map(decrypt).collect()
}

/// Returns the keys of these people; erased people have none.
pub(crate) async fn get(
    db: &Db,
    vault: &KeyVault,
    ids: &BTreeSet<SubjectId>,
) -> Result<SubjectKeys> {
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    if ids.is_empty() {
        return Ok(SubjectKeys::new());
    }
    let rows = query!("select id, sealed from person where id = any ($1)", &ids);
    let rows = rows.fetch_all(db.pool()).await?;
    decrypt_rows(vault, rows.into_iter().map(|it| (it.id, it.sealed)))
}

/// Destroys the keys of an account and of its addresses, and deletes its names from the search index. Returns
/// the number of destroyed keys.
pub(crate) async fn destroy_keys(tx: &mut Tx, user_id: Uuid) -> Result<u64> {
    let now = tx.now;
    let destroyed = query_scalar!(r#"select forget_person($1, $2) as "keys!""#, user_id, now);
    let destroyed = destroyed.fetch_one(tx.conn()).await?;
    Ok(u64::try_from(destroyed).unwrap_or(0))
}

/// Returns the organizations whose logs have entries by or about an account.
pub(crate) async fn orgs_with_entries_about(tx: &mut Tx, user_id: Uuid) -> Result<Vec<Uuid>> {
    // (no org_id): an account occurs in the logs of several organizations.
    let id = user_id.to_string();
    let values = vec![id.clone(), format!("{id}:user"), format!("{id}:member")];
    let org_ids = query_scalar!(
        "select distinct org_id from term join tree on tree.number = term.tree
         where value = any ($1) and kind in (1, 2) order by org_id",
        &values
    );
    Ok(org_ids.fetch_all(tx.conn()).await?)
}
