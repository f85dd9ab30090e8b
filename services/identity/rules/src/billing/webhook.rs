//! Webhooks of Stripe: verification of their signatures, and the fields that are used. The object in an event
//! is not trusted: it may be older than another event's, so the subscription is read from the API instead.

use chassis::key;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

/// Largest difference between the time of a signature and the present.
const TOLERANCE: Duration = Duration::seconds(300);

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    /// Type, for example `invoice.paid`.
    pub kind: String,
    /// Id of the object that it is about.
    pub object_id: String,
    /// Id of the customer.
    pub customer_id: String,
}

/// Reason for which a delivery is refused or ignored.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The signature is malformed, or of no secret.
    Signature,
    /// The signature is older than [`TOLERANCE`], or from the future.
    Time,
    /// The body is no event.
    Malformed,
    /// The event is of another mode (live or test) or of a connected account.
    OtherAccount,
    /// The event is about no customer.
    NoCustomer,
}

/// Verifies the header `Stripe-Signature` of a body: `t=<time>,v1=<HMAC-SHA-256 of "<time>.<body>">`. Several
/// secrets are valid while one is replaced, and a header can have several signatures.
pub fn verify(
    header: &str,
    body: &[u8],
    secrets: &[&[u8]],
    now: OffsetDateTime,
) -> Result<(), Rejected> {
    let fields = || header.split(',').filter_map(|it| it.trim().split_once('='));
    let time = fields().find(|(name, _)| *name == "t").ok_or(Rejected::Signature)?.1;
    let signed_at: i64 = time.parse().map_err(|_| Rejected::Signature)?;
    let signed = [time.as_bytes(), b".", body].concat();
    let signatures = fields().filter(|(name, _)| *name == "v1");
    let mut received =
        signatures.filter_map(|(_, it)| HEXLOWER_PERMISSIVE.decode(it.as_bytes()).ok());
    let macs: Vec<_> = secrets.iter().map(|it| key::hmac_sha256(it, &signed)).collect();
    if !received.any(|it| macs.iter().any(|mac| key::equal(&it, mac))) {
        return Err(Rejected::Signature);
    }
    let age = now.unix_timestamp().saturating_sub(signed_at);
    if age.unsigned_abs() > TOLERANCE.whole_seconds().unsigned_abs() {
        return Err(Rejected::Time);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Body {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    livemode: bool,
    account: Option<String>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    id: String,
    #[serde(default)]
    object: String,
    customer: Option<Customer>,
}

/// A customer: its id, or the expanded object.
#[derive(Deserialize)]
#[serde(untagged)]
enum Customer {
    Id(String),
    Object { id: String },
}

/// Parses the body of a verified delivery. `livemode` is the mode of the secret key.
pub fn parse(body: &[u8], livemode: bool) -> Result<Event, Rejected> {
    let body: Body = serde_json::from_slice(body).map_err(|_| Rejected::Malformed)?;
    let is_id = |it: &str| {
        (1..=255).contains(&it.len())
            && it.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    if !is_id(&body.id) || !is_id(&body.kind) {
        return Err(Rejected::Malformed);
    }
    if body.livemode != livemode || body.account.is_some() {
        return Err(Rejected::OtherAccount);
    }
    let Object { id: object_id, object, customer } = body.data.object;
    let customer_id = match customer {
        Some(Customer::Id(id) | Customer::Object { id }) => id,
        None if object == "customer" => object_id.clone(),
        None => return Err(Rejected::NoCustomer),
    };
    if !is_id(&customer_id) || !is_id(&object_id) {
        return Err(Rejected::Malformed);
    }
    Ok(Event { id: body.id, kind: body.kind, object_id, customer_id })
}

#[cfg(test)]
mod fuzz;
