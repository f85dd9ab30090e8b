//! The secret keys of the deployment that the values of a schema need. Without one of them, encrypted values
//! could not be decrypted, and new ones would be lost with the return of the right key.
//!
//! A schema stores the check value of each key that was the current one. A start is refused unless its key
//! file has all of them, except those that the job of the rotation has retired.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, bail};
use sqlx::{PgConnection, query, query_scalar, raw_sql};
use uuid::Uuid;

use super::{Db, Tx};
use crate::{
    Result, id,
    key::{DerivedKeys, Key, Secret, key_id},
};

/// Purpose of the keys of stored responses. It must not change, or responses that are stored already could
/// not be decrypted.
pub const RESPONSES: &str = "first answers";

/// Purpose of the keys that seal retained keys.
const RETAINED: &str = "retained keys";

/// The same as an SQL expression.
pub const RETAINED_SQL: &str = "'retained keys'";

/// Use of secret keys by the schema in this process.
#[derive(Clone)]
pub(super) struct KeyUse {
    /// Id of this process among those that use a key.
    process_id: Uuid,
    /// Purposes whose derived keys are stored before a secret key is retired.
    retained_purposes: Arc<OnceLock<&'static [&'static str]>>,
}

impl Default for KeyUse {
    fn default() -> Self {
        Self { process_id: id::new(), retained_purposes: Arc::default() }
    }
}

impl Db {
    /// Sets the purposes whose derived keys are stored before a secret key is retired, because data depends
    /// on their values for ever.
    pub fn retain_keys_for(&self, purposes: &'static [&'static str]) {
        let _ = self.key_use.retained_purposes.set(purposes);
    }

    fn retained_purposes(&self) -> impl Iterator<Item = &'static str> {
        let purposes = self.key_use.retained_purposes.get().copied().unwrap_or_default();
        [RESPONSES].into_iter().chain(purposes.iter().copied())
    }

    /// Fails if values of the schema need a key that the ring lacks. Completes the ring with the retained
    /// keys of the schema.
    pub async fn require_key(&self, key: &Key) -> anyhow::Result<()> {
        let mut connection = self.pools.get().writes.acquire().await?;
        self.require_needed(&mut connection, key).await?;
        self.load_history(&mut connection, key).await
    }

    async fn require_needed(&self, connection: &mut PgConnection, key: &Key) -> anyhow::Result<()> {
        let needed = query_scalar!(
            "select check_value from deployment_key where retired_at is null order by created_at"
        );
        let needed = needed.fetch_all(connection).await;
        let needed = needed.context("the check value of the secret key cannot be read")?;
        let known: Vec<_> = key.check_values().collect();
        let missing: Vec<_> =
            needed.iter().filter(|it| !known.iter().any(|known| known[..] == it[..])).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing_ids = missing.iter().map(|it| key_id(it)).collect::<Vec<_>>().join(" and ");
        let ids = key.ids().join(" and ");
        if missing.len() == needed.len() {
            bail!(
                "the secret key has the id {ids}, but the schema {} was set up with the key \
                 {missing_ids}; nothing was written",
                self.name
            );
        }
        bail!(
            "the key file has the key {ids}, but values of the schema {} also need the key {missing_ids}; \
             add it as a further line until `tenantry doctor` reports it as retired; nothing was written",
            self.name
        )
    }

    /// Stores the check value of the current key, and that this process uses it. Fails if values of the
    /// schema need a key that the ring lacks, also if another process has stored it meanwhile.
    pub async fn register_key(&self, key: &Key) -> anyhow::Result<()> {
        let mut tx = self.pools.get().writes.begin().await?;
        lock_keys(&mut tx).await.context("the keys of the database cannot be locked")?;
        self.require_needed(&mut tx, key).await?;
        self.record_use(&mut tx, key)
            .await
            .context("the use of the secret key cannot be stored")?;
        self.load_history(&mut tx, key).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn record_use(&self, connection: &mut PgConnection, key: &Key) -> sqlx::Result<()> {
        let value = key.check_value();
        query!(
            "insert into deployment_key (check_value, used_at) values ($1, clock_timestamp())
             on conflict (check_value) do update set retired_at = null, used_at = clock_timestamp()",
            &value[..]
        )
        .execute(&mut *connection)
        .await?;
        query!(
            "insert into key_user (process_id, check_value, seen_at) values ($1, $2, clock_timestamp())
             on conflict (process_id) do update set seen_at = clock_timestamp()",
            self.key_use.process_id,
            &value[..]
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Removes this process from those that use the key, at its end.
    pub async fn release_key(&self) -> Result<()> {
        let mut connection = self.pools.get().writes.acquire().await?;
        query!("delete from key_user where process_id = $1", self.key_use.process_id)
            .execute(&mut *connection)
            .await?;
        Ok(())
    }

    /// Completes the ring with the original key of the schema and its retained keys.
    async fn load_history(&self, connection: &mut PgConnection, key: &Key) -> anyhow::Result<()> {
        let original =
            query_scalar!("select check_value from deployment_key order by created_at limit 1");
        let Some(original) = original.fetch_optional(&mut *connection).await? else {
            return Ok(());
        };
        let original = Secret::try_from(original).ok().context("a check value has 32 bytes")?;
        for purpose in self.retained_purposes() {
            key.set_original(purpose, original);
        }
        let retained = query!("select purpose, check_value, sealed from retained_key");
        let sealing_keys = key.derive(RETAINED);
        for row in retained.fetch_all(connection).await? {
            let context = [row.purpose.as_bytes(), &row.check_value].concat();
            let secret = sealing_keys.open(&context, &row.sealed);
            let secret = secret.and_then(|it| it.try_into().ok());
            let check_value = Secret::try_from(row.check_value).ok();
            let (Some(secret), Some(check_value)) = (secret, check_value) else {
                bail!(
                    "a key in the table {}.retained_key ({}) cannot be decrypted; restore its row from a \
                     backup",
                    self.name,
                    row.purpose
                );
            };
            key.retain(&row.purpose, check_value, secret);
        }
        Ok(())
    }
}

/// Lets one process at a time change the keys of a schema. Readers go on.
async fn lock_keys(connection: &mut PgConnection) -> sqlx::Result<()> {
    let lock = raw_sql("lock table deployment_key in share row exclusive mode");
    lock.execute(connection).await.map(|_| ())
}

/// A secret key that values of a schema need, or needed.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// Check value of the key.
    pub check_value: Vec<u8>,
    /// True if a start does not need the key.
    pub is_retired: bool,
    /// True if a process of the last two minutes has it as its current key.
    pub is_used: bool,
}

impl Db {
    /// Returns the keys of the schema, the original one first.
    pub async fn stored_keys(&self) -> Result<Vec<StoredKey>> {
        let keys = sqlx::query_as!(
            StoredKey,
            r#"select check_value, retired_at is not null as "is_retired!",
                      exists (select from key_user where key_user.check_value = deployment_key.check_value
                              and seen_at > clock_timestamp() - interval '2 minutes') as "is_used!"
               from deployment_key order by created_at"#
        );
        Ok(keys.fetch_all(self.pool()).await?)
    }

    /// Records that this process still uses the key, and deletes the records of processes that have ended.
    pub async fn renew_key_use(&self, key: &Key) -> Result<()> {
        let mut connection = self.pools.get().writes.acquire().await?;
        self.record_use(&mut connection, key).await?;
        query!("delete from key_user where seen_at < clock_timestamp() - interval '1 hour'")
            .execute(&mut *connection)
            .await?;
        Ok(())
    }

    /// Stores the derived keys of previous secret keys on which data depends for ever.
    pub async fn retain_keys(&self, key: &Key) -> Result<()> {
        let sealing_keys = key.derive(RETAINED);
        let purposes: Vec<_> = self.retained_purposes().collect();
        self.write_as_system("key rotation", async |tx: &mut Tx| {
            for check_value in previous_keys(tx, key).await? {
                for purpose in &purposes {
                    let keys = key.derive(purpose);
                    retain(tx, &sealing_keys, &keys, purpose, check_value).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Retires all keys except the current one; later starts do not need them. Does nothing and returns false
    /// if a process uses another key, or has used one since `began_at`.
    pub async fn retire_previous_keys(
        &self,
        key: &Key,
        began_at: time::OffsetDateTime,
    ) -> Result<bool> {
        let current = key.check_value();
        self.write_as_system("key rotation", async |tx: &mut Tx| {
            lock_keys(tx.conn()).await?;
            let used = query_scalar!(
                r#"select exists (select from key_user where check_value <> $1
                                  and seen_at > clock_timestamp() - interval '2 minutes')
                       or exists (select from deployment_key where check_value <> $1 and used_at >= $2)
                   as "used!""#,
                &current[..],
                began_at
            );
            if used.fetch_one(tx.conn()).await? {
                return Ok(false);
            }
            query!(
                "update deployment_key set retired_at = clock_timestamp()
                 where check_value <> $1 and retired_at is null",
                &current[..]
            )
            .execute(tx.conn())
            .await?;
            Ok(true)
        })
        .await
    }
}

/// Returns the check values of needed keys other than the current one.
async fn previous_keys(tx: &mut Tx, key: &Key) -> Result<Vec<Secret>> {
    let current = key.check_value();
    let previous = query_scalar!(
        "select check_value from deployment_key where check_value <> $1 and retired_at is null",
        &current[..]
    );
    let previous = previous.fetch_all(tx.conn()).await?;
    Ok(previous.into_iter().filter_map(|it| it.try_into().ok()).collect())
}

async fn retain(
    tx: &mut Tx,
    sealing_keys: &DerivedKeys,
    keys: &DerivedKeys,
    purpose: &str,
    check_value: Secret,
) -> Result<()> {
    let Some(secret) = keys.with_check_value(&check_value) else {
        return Err(anyhow::anyhow!("the key {} is not in the file", key_id(&check_value)).into());
    };
    let context = [purpose.as_bytes(), &check_value].concat();
    query!(
        "insert into retained_key (purpose, check_value, sealed) values ($1, $2, $3)
         on conflict do nothing",
        purpose,
        &check_value[..],
        sealing_keys.seal(&context, &secret)
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
