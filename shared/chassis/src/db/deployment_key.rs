//! The secret key of the deployment that belongs to a schema. With another key, encrypted values could not be
//! decrypted, and new ones would be lost with the return of the right key.

use anyhow::{Context, bail};
use sqlx::{PgConnection, query, query_scalar};

use super::Db;
use crate::key::{Key, key_id};

impl Db {
    /// Fails if the schema was set up with another key.
    pub async fn require_key(&self, key: &Key) -> anyhow::Result<()> {
        let mut connection = self.pools.get().writes.acquire().await?;
        let known = known_check_values(&mut connection).await?;
        if known.is_empty() || known.iter().any(|it| it[..] == key.check_value()) {
            return Ok(());
        }
        let ids: Vec<_> = known.iter().map(|it| key_id(it)).collect();
        bail!(
            "the secret key has the id {}, but the schema {} was set up with the key {}; nothing was written",
            key_id(&key.check_value()),
            self.name,
            ids.join(" or ")
        );
    }

    /// Stores the check value of the key in a schema without one.
    pub async fn register_key(&self, key: &Key) -> anyhow::Result<()> {
        let mut connection = self.pools.get().writes.acquire().await?;
        let value = key.check_value();
        query!(
            "insert into deployment_key (check_value)
             select $1 where not exists (select from deployment_key)",
            &value[..]
        )
        .execute(&mut *connection)
        .await
        .context("the check value of the secret key cannot be stored")?;
        Ok(())
    }
}

async fn known_check_values(connection: &mut PgConnection) -> anyhow::Result<Vec<Vec<u8>>> {
    let values = query_scalar!("select check_value from deployment_key order by created_at");
    values.fetch_all(connection).await.context("the check value of the secret key cannot be read")
}
