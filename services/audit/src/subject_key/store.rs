//! SQL statements about the keys of people.

use std::collections::BTreeSet;

use chassis::{Db, Result, Tx, key::random};
use sqlx::{PgConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::KeyVault;
use crate::seal::{SubjectId, SubjectKeys, Subjects};

/// A row of `person` or `person_interim_key`.
pub(crate) struct StoredKey {
    pub(crate) person: Uuid,
    /// The key, encrypted under the key of the deployment.
    pub(crate) sealed: Vec<u8>,
    /// True for a key that was created while the row in `person` could not be decrypted.
    pub(crate) is_interim: bool,
}

/// Returns the keys of these people. Creates the missing ones, except for people who were erased. A person
/// whose stored key cannot be decrypted gets an interim key.
pub(crate) async fn get_or_create(
    tx: &mut Tx,
    vault: &KeyVault,
    subjects: &Subjects,
) -> Result<SubjectKeys> {
    let ids: Vec<Uuid> = subjects.all.iter().copied().collect();
    if ids.is_empty() {
        return Ok(SubjectKeys::default());
    }
    let mut keys = vault.decrypt_keys(select(tx.conn(), &ids).await?);
    let without_key = ids.into_iter().filter(|id| !keys.contains(id));
    let (damaged, missing): (Vec<_>, Vec<_>) = without_key.partition(|id| keys.is_unreadable(id));
    if !missing.is_empty() {
        keys.extend(create(tx, vault, missing).await?);
    }
    if !damaged.is_empty() {
        create_interim(tx, vault, &damaged, &mut keys).await?;
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
    Ok(vault.decrypt_keys(select(tx.conn(), &new).await?))
}

/// Creates interim keys for people whose stored keys cannot be decrypted. A concurrent batch may create
/// others: each opens the entries that it has sealed.
async fn create_interim(
    tx: &mut Tx,
    vault: &KeyVault,
    damaged: &[Uuid],
    keys: &mut SubjectKeys,
) -> Result<()> {
    let mut encrypted = vec![];
    for id in damaged {
        let key = random();
        encrypted.push(vault.encrypt_key(*id, &key));
        keys.insert(*id, key);
    }
    query!(
        "insert into person_interim_key (person, sealed) select unnest($1::uuid[]), unnest($2::bytea[])",
        damaged,
        &encrypted
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the stored keys of these people, also their interim keys.
async fn select(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<StoredKey>> {
    let keys = query_as!(
        StoredKey,
        r#"select id as "person!", sealed as "sealed!", false as "is_interim!" from person
           where id = any ($1)
           union all
           select person, sealed, true from person_interim_key where person = any ($1)"#,
        ids
    );
    Ok(keys.fetch_all(connection).await?)
}

/// Returns the next stored keys of all people after an id.
pub(crate) async fn page(db: &Db, after: Uuid, limit: i64) -> Result<Vec<StoredKey>> {
    let keys = query_as!(
        StoredKey,
        r#"select id as person, sealed, false as "is_interim!" from person where id > $1
           order by id limit $2"#,
        after,
        limit
    );
    Ok(keys.fetch_all(db.pool()).await?)
}

/// Returns the keys of these people; erased people have none.
pub(crate) async fn get(
    db: &Db,
    vault: &KeyVault,
    ids: &BTreeSet<SubjectId>,
) -> Result<SubjectKeys> {
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    if ids.is_empty() {
        return Ok(SubjectKeys::default());
    }
    let mut connection = db.pool().acquire().await?;
    Ok(vault.decrypt_keys(select(&mut connection, &ids).await?))
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
