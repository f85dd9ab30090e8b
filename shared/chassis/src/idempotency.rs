//! A repeated call gets the first answer, which was stored with what the first call changed (AIP-155).

use api::{check::Check, error::Reason};
use prost::Message;
use tonic::Code;
use uuid::Uuid;

use crate::{
    Error, Result,
    call::Call,
    db::Tx,
    key::{Secret, hash},
};

/// What makes two calls the same: caller, method and request id; the hash tells whether they really are.
pub(crate) struct Key {
    caller: String,
    method: String,
    request_id: Uuid,
    body_hash: Secret,
}

impl Key {
    /// The key of a call, if it carries a request id.
    pub(crate) fn of<M: Message + Check>(call: &Call<M>) -> Result<Option<Self>> {
        let request_id = call.message.request_id();
        if request_id.is_empty() {
            return Ok(None);
        }
        let request_id = Uuid::try_parse(request_id);
        let request_id = request_id.map_err(|_| Error::invalid("request_id", "must be a UUID"))?;
        let (caller, method) = (call.idempotency_scope(), call.rule.method.clone());
        Ok(Some(Self {
            caller,
            method,
            request_id,
            body_hash: hash(&call.message.encode_to_vec()),
        }))
    }
}

/// Claims the key for this transaction. While another holds it, waits for its end. Answers what the
/// first call answered, if there was one.
pub(crate) async fn claim(tx: &mut Tx, key: &Key) -> Result<Option<Vec<u8>>> {
    let now = tx.now;
    let claimed = sqlx::query!(
        "insert into idempotency (caller, method, request_id, body_hash, created_at)
         values ($1, $2, $3, $4, $5) on conflict do nothing",
        key.caller,
        key.method,
        key.request_id,
        &key.body_hash,
        now,
    )
    .execute(tx.conn())
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(None);
    }
    let first = sqlx::query!(
        r#"select body_hash, response as "response!", event_ids from idempotency
           where caller = $1 and method = $2 and request_id = $3"#,
        key.caller,
        key.method,
        key.request_id,
    )
    .fetch_one(tx.conn())
    .await?;
    if first.body_hash != key.body_hash {
        return Err(Error::Refused {
            code: Code::InvalidArgument,
            reason: Reason::RequestIdReused,
            message: "this request_id was used for another request; use a new one".to_owned(),
            metadata: vec![("request_id", key.request_id.to_string())],
        });
    }
    tx.told = first.event_ids;
    Ok(Some(first.response))
}

/// Keeps the first answer.
pub(crate) async fn store(tx: &mut Tx, key: &Key, response: Vec<u8>) -> Result<()> {
    let told = tx.told.clone();
    sqlx::query!(
        "update idempotency set response = $4, event_ids = $5
         where caller = $1 and method = $2 and request_id = $3",
        key.caller,
        key.method,
        key.request_id,
        response,
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
    let gone = sqlx::query!("delete from idempotency where created_at < $1", before)
        .execute(tx.conn())
        .await?;
    Ok(gone.rows_affected())
}
