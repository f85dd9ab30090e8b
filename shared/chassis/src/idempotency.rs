//! A repeated call gets the first answer, which was stored with what the first call changed (AIP-155).
//!
//! Answers hold secrets that are shown once: API keys, agent tokens, webhook secrets. So an answer is sealed
//! (AES-256-GCM) under a key that follows from the deployment's secret, the caller, the method, the request
//! id and the body. The row holds none of these, only MACs: whoever reads the table learns nothing, and with
//! the deployment's secret they would still need the request id, 122 random bits.

use api::{check::Check, error::Reason};
use prost::Message;
use tonic::Code;
use uuid::Uuid;

use crate::{
    Error, Result,
    call::Call,
    db::Tx,
    key::{self, Secret},
    retention::BATCH,
};

/// One request that can be repeated.
pub(crate) struct Key {
    request_id: Uuid,
    request_mac: Secret,
    body_mac: Secret,
    seal: Secret,
}

impl Key {
    /// The key of a call, if it carries a request id.
    pub(crate) fn of<M: Message + Check>(secret: &Secret, call: &Call<M>) -> Result<Option<Self>> {
        let request_id = call.message.request_id();
        if request_id.is_empty() {
            return Ok(None);
        }
        let request_id = Uuid::try_parse(request_id);
        let request_id = request_id.map_err(|_| Error::invalid("request_id", "must be a UUID"))?;
        let (caller, method) = (call.idempotency_scope(), call.rule.method.as_str());
        let body = call.message.encode_to_vec();
        let request = [caller.as_bytes(), method.as_bytes(), request_id.as_bytes()];
        let mac = |purpose: &[u8], body: &[u8]| {
            key::mac(secret, &[purpose, request[0], request[1], request[2], body])
        };
        Ok(Some(Self {
            request_id,
            request_mac: mac(b"request", b""),
            body_mac: mac(b"body", &body),
            seal: mac(b"seal", &body),
        }))
    }
}

/// Claims the key for this transaction. While another holds it, waits for its end. Answers what the
/// first call answered, if there was one.
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
    let first = sqlx::query!(
        r#"select body_mac, response as "response!", event_ids from idempotency
           where request_mac = $1"#,
        &key.request_mac,
    )
    .fetch_one(tx.conn())
    .await?;
    if !key::equal(&first.body_mac, &key.body_mac) {
        return Err(Error::Refused {
            code: Code::InvalidArgument,
            reason: Reason::RequestIdReused,
            message: "this request_id was used for another request; use a new one".to_owned(),
            metadata: vec![("request_id", key.request_id.to_string())],
        });
    }
    tx.told = first.event_ids;
    let response = key::open(&key.seal, &key.request_mac, &first.response);
    Ok(Some(response.ok_or_else(|| anyhow::anyhow!("a first answer cannot be opened"))?))
}

/// Keeps the first answer.
pub(crate) async fn store(tx: &mut Tx, key: &Key, response: &[u8]) -> Result<()> {
    let told = tx.told.clone();
    let sealed = key::seal(&key.seal, &key.request_mac, response);
    sqlx::query!(
        "update idempotency set response = $2, event_ids = $3 where request_mac = $1",
        &key.request_mac,
        sealed,
        &told,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// How long a first answer is kept.
pub(crate) const KEPT: time::Duration = time::Duration::hours(24);

/// Forgets answers that are older than [`KEPT`].
pub(crate) async fn forget(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - KEPT;
    let gone = sqlx::query!(
        "delete from idempotency where request_mac in (
             select request_mac from idempotency where created_at < $1
             order by created_at limit $2)",
        before,
        BATCH,
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}
