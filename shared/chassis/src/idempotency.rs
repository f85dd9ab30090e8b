//! Idempotency keys (AIP-155): a repeated call gets the response of the first one, which was stored in the
//! same transaction as its changes.
//!
//! Responses contain secrets that are shown once: API keys, agent tokens, webhook secrets. So they are
//! encrypted (AES-256-GCM) with a key that is derived from the deployment's secret, the caller, the method,
//! the request id and the body. The row has only MACs of these. A reader of the table cannot decrypt it, and
//! somebody with the deployment's secret would also need the request id, which has 122 random bits.
//!
//! With several secret keys a call has a row under each of them, because replicas with another current key
//! must find it, too.

use api::{check::Check, error::Reason};
use prost::Message;
use sqlx::PgConnection;
use tonic::Code;
use uuid::Uuid;

use crate::{
    Error, Result,
    call::Call,
    db::Tx,
    key::{self, DerivedKeys, Secret},
};

/// Idempotency key of a call, with the values that are derived from it.
pub(crate) struct Key {
    request_id: Uuid,
    /// Values under the secret keys of the file. A call inserts a row for each.
    stored: Vec<Values>,
    /// Values under the secret keys that were removed from the file.
    retained: Vec<Values>,
}

/// Values that are derived from the idempotency key of a call with one secret key.
struct Values {
    request_mac: Secret,
    body_mac: Secret,
    /// Key that encrypts the response.
    response_key: Secret,
}

impl Key {
    /// Returns the key of a call; `None` if its message has no request id.
    pub(crate) fn of<M: Message + Check>(
        secrets: &DerivedKeys,
        call: &Call<M>,
    ) -> Result<Option<Self>> {
        let request_id = call.message.request_id();
        if request_id.is_empty() {
            return Ok(None);
        }
        let request_id = Uuid::try_parse(request_id);
        let request_id = request_id.map_err(|_| Error::invalid("request_id", "must be a UUID"))?;
        let caller = call.idempotency_scope();
        let method = call.rule.method.as_bytes();
        let body = call.message.encode_to_vec();
        let values = |secret: Secret| {
            let mac = |purpose: &[u8], body: &[u8]| {
                let parts = [purpose, caller.as_bytes(), method, request_id.as_bytes(), body];
                key::mac(&secret, &parts)
            };
            Values {
                request_mac: mac(b"request", b""),
                body_mac: mac(b"body", &body),
                response_key: mac(b"seal", &body),
            }
        };
        let mut stored: Vec<_> = secrets.in_file().map(values).collect();
        let retained = secrets.secrets().skip(stored.len()).map(values).collect();
        // All replicas insert in one order, so that concurrent calls with a key do not lock each other out.
        stored.sort_by_key(|it| it.request_mac);
        Ok(Some(Self { request_id, stored, retained }))
    }
}

/// Inserts the key. If a running transaction has inserted it, waits for its end. Returns the stored response
/// if the key was used before; fails if it was used for another body.
pub(crate) async fn claim(tx: &mut Tx, key: &Key) -> Result<Option<Vec<u8>>> {
    let now = tx.now;
    let (mut inserted, mut is_repeated) = (0, false);
    for values in &key.stored {
        let claimed = sqlx::query!(
            "insert into idempotency (request_mac, body_mac, created_at)
             values ($1, $2, $3) on conflict do nothing",
            &values.request_mac,
            &values.body_mac,
            now,
        )
        .execute(tx.conn())
        .await?;
        if claimed.rows_affected() == 0 {
            is_repeated = true;
            break;
        }
        inserted += 1;
    }
    if !is_repeated && key.retained.is_empty() {
        return Ok(None);
    }
    let Some(first) = find(tx.conn(), key).await? else {
        if is_repeated {
            return Err(anyhow::anyhow!("the response of a used key is missing").into());
        }
        return Ok(None);
    };
    tx.emitted_ids.clone_from(&first.event_ids);
    if inserted > 0 {
        // Rows under the keys of the file that the first call did not have.
        store(tx, key, &first.response).await?;
    }
    Ok(Some(first.response))
}

/// The outcome of the first call with a key.
pub(crate) struct StoredResponse {
    /// The encoded message.
    pub(crate) response: Vec<u8>,
    /// Ids of the events that the call has written.
    pub(crate) event_ids: Vec<Uuid>,
}

/// Returns the stored response if the key was used before; fails if it was used for another body.
pub(crate) async fn find(
    connection: &mut PgConnection,
    key: &Key,
) -> Result<Option<StoredResponse>> {
    for values in key.stored.iter().chain(&key.retained) {
        let first = sqlx::query!(
            "select body_mac, response, event_ids from idempotency
             where request_mac = $1 and response is not null",
            &values.request_mac,
        )
        .fetch_optional(&mut *connection)
        .await?;
        let Some(first) = first else { continue };
        if !key::equal(&first.body_mac, &values.body_mac) {
            return Err(Error::Refused {
                code: Code::InvalidArgument,
                reason: Reason::RequestIdReused,
                message: "this request_id was used for a request with other fields; use a new UUID"
                    .to_owned(),
                metadata: vec![("request_id", key.request_id.to_string())],
            });
        }
        let sealed = first.response.unwrap_or_default();
        let response = key::open(&values.response_key, &values.request_mac, &sealed);
        let response =
            response.ok_or_else(|| anyhow::anyhow!("a stored response cannot be decrypted"))?;
        return Ok(Some(StoredResponse { response, event_ids: first.event_ids }));
    }
    Ok(None)
}

/// Stores the response under each secret key of the file.
pub(crate) async fn store(tx: &mut Tx, key: &Key, response: &[u8]) -> Result<()> {
    let emitted_ids = tx.emitted_ids.clone();
    for values in &key.stored {
        let sealed = key::seal(&values.response_key, &values.request_mac, response);
        sqlx::query!(
            "update idempotency set response = $2, event_ids = $3
             where request_mac = $1 and response is null",
            &values.request_mac,
            sealed,
            &emitted_ids,
        )
        .execute(tx.conn())
        .await?;
    }
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
