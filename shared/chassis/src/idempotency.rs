//! Idempotency keys (AIP-155): a repeated call gets the response of the first one, which was stored in the
//! same transaction as its changes.
//!
//! Responses contain secrets that are shown once: API keys, agent tokens, webhook secrets. So they are
//! encrypted (AES-256-GCM) with a key that is derived from the deployment's secret, the caller, the method,
//! the request id and the body. The row has only MACs of these. A reader of the table cannot decrypt it, and
//! somebody with the deployment's secret would also need the request id, which has 122 random bits.

use api::{check::Check, error::Reason};
use prost::Message;
use sqlx::PgConnection;
use tonic::Code;
use uuid::Uuid;

use crate::{
    Error, Result,
    call::Call,
    db::Tx,
    key::{self, Secret},
};

/// Idempotency key of a call, with the values that are derived from it.
pub(crate) struct Key {
    request_id: Uuid,
    request_mac: Secret,
    body_mac: Secret,
    /// Key that encrypts the response.
    response_key: Secret,
}

impl Key {
    /// Returns the key of a call; `None` if its message has no request id.
    pub(crate) fn of<M: Message + Check>(secret: &Secret, call: &Call<M>) -> Result<Option<Self>> {
        let request_id = call.message.request_id();
        if request_id.is_empty() {
            return Ok(None);
        }
        let request_id = Uuid::try_parse(request_id);
        let request_id = request_id.map_err(|_| Error::invalid("request_id", "must be a UUID"))?;
        let caller = call.idempotency_scope();
        let method = call.rule.method.as_bytes();
        let body = call.message.encode_to_vec();
        let mac = |purpose: &[u8], body: &[u8]| {
            key::mac(secret, &[purpose, caller.as_bytes(), method, request_id.as_bytes(), body])
        };
        Ok(Some(Self {
            request_id,
            request_mac: mac(b"request", b""),
            body_mac: mac(b"body", &body),
            response_key: mac(b"seal", &body),
        }))
    }
}

/// Inserts the key. If a running transaction has inserted it, waits for its end. Returns the stored response
/// if the key was used before; fails if it was used for another body.
pub(crate) async fn claim(tx: &mut Tx, key: &Key) -> Result<Option<Vec<u8>>> {
    let now = tx.now;
    let claimed = sqlx::query!(
        "insert into idempotency (request_mac, body_mac, created_at)
         values ($1, $2, $3) on conflict do nothing",
        &key.request_mac,
        &key.body_mac,
        now,
    )
    .execute(tx.conn())
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(None);
    }
    let first = find(tx.conn(), key).await?;
    let first = first.ok_or_else(|| anyhow::anyhow!("a claimed request_id has no response"))?;
    tx.emitted_ids = first.event_ids;
    Ok(Some(first.response))
}

/// The response of the first call with a key.
pub(crate) struct StoredResponse {
    pub(crate) response: Vec<u8>,
    pub(crate) event_ids: Vec<Uuid>,
}

/// Returns the stored response, if the key was used before; fails if it was used for another body.
pub(crate) async fn find(conn: &mut PgConnection, key: &Key) -> Result<Option<StoredResponse>> {
    let first = sqlx::query!(
        r#"select body_mac, response as "response!", event_ids from idempotency
           where request_mac = $1"#,
        &key.request_mac,
    );
    let Some(first) = first.fetch_optional(conn).await? else { return Ok(None) };
    if !key::equal(&first.body_mac, &key.body_mac) {
        return Err(Error::Refused {
            code: Code::InvalidArgument,
            reason: Reason::RequestIdReused,
            message: "this request_id was used for a request with other fields; use a new UUID"
                .to_owned(),
            metadata: vec![("request_id", key.request_id.to_string())],
        });
    }
    let response = key::open(&key.response_key, &key.request_mac, &first.response);
    let response =
        response.ok_or_else(|| anyhow::anyhow!("a stored response cannot be decrypted"))?;
    Ok(Some(StoredResponse { response, event_ids: first.event_ids }))
}

/// Stores the response.
pub(crate) async fn store(tx: &mut Tx, key: &Key, response: &[u8]) -> Result<()> {
    let emitted_ids = tx.emitted_ids.clone();
    let sealed = key::seal(&key.response_key, &key.request_mac, response);
    sqlx::query!(
        "update idempotency set response = $2, event_ids = $3 where request_mac = $1",
        &key.request_mac,
        sealed,
        &emitted_ids,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Largest number of rows that are deleted in one transaction.
const BATCH: i64 = 1_000;

/// Time for which a response is stored.
const RETENTION: time::Duration = time::Duration::hours(24);

/// Deletes stored responses after 24 hours; returns their number.
pub async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - RETENTION;
    let expired = sqlx::query!(
        "delete from idempotency where request_mac in (
             select request_mac from idempotency where created_at < $1
             order by created_at limit $2)",
        before,
        BATCH,
    );
    Ok(expired.execute(tx.conn()).await?.rows_affected())
}
