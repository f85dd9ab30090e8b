//! HTTP endpoint of the webhooks of Stripe. It verifies the signature of a delivery, stores the event once,
//! and responds; the background job reads the subscription from the API, so the order of deliveries is
//! irrelevant.

use std::sync::Arc;

use chassis::{Db, Result, Tx};
use host::web::{Page, PageHandler, PageRequest, page};
use http::{Method, StatusCode};
use identity_rules::billing::webhook::{self, Rejected};
use secrecy::ExposeSecret;

use super::{provider::Stripe, store};

/// Prefix of the path; the name of the provider follows.
pub(crate) const PATHS: &[&str] = &["/hooks/billing/"];

/// Largest body, in bytes. Events of Stripe have some kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Handler of the endpoint.
pub(crate) struct Hook {
    pub(crate) db: Db,
    pub(crate) stripe: Arc<Stripe>,
}

/// Result of a delivery.
enum Receipt {
    Stored,
    /// Stored by an earlier delivery.
    Repeated,
    /// Of no account of this deployment.
    UnknownAccount,
}

impl Hook {
    /// Verifies and parses a delivery.
    fn verify(&self, request: &PageRequest) -> Result<webhook::Event, Rejected> {
        let secrets = &self.stripe.settings().webhook_secrets;
        let secrets: Vec<_> = secrets.iter().map(|it| it.expose_secret().as_bytes()).collect();
        let signature = request.header("stripe-signature");
        webhook::verify(signature, &request.body, &secrets, self.db.now())?;
        webhook::parse(&request.body, self.stripe.livemode())
    }

    /// Stores an event, once.
    async fn store(&self, event: &webhook::Event) -> Result<Receipt> {
        let Some(org_id) = store::find_customer(&self.db, &event.customer_id).await? else {
            return Ok(Receipt::UnknownAccount);
        };
        let insert = async |tx: &mut Tx| {
            let is_new = store::insert_event(tx, org_id, event).await?;
            tx.wake();
            Ok(if is_new { Receipt::Stored } else { Receipt::Repeated })
        };
        self.db.write_as_system("billing webhook", insert).await
    }
}

#[tonic::async_trait]
impl PageHandler for Hook {
    async fn handle(&self, request: PageRequest) -> Page {
        if request.path.trim_start_matches(PATHS[0]) != "stripe" {
            return text_page(StatusCode::NOT_FOUND, "no billing provider has this path");
        }
        if request.method != Method::POST {
            let text = "this is the endpoint of billing webhooks; send a POST request";
            return text_page(StatusCode::METHOD_NOT_ALLOWED, text);
        }
        let event = match self.verify(&request) {
            Ok(event) => event,
            Err(rejected) => return rejection(&rejected),
        };
        match self.store(&event).await {
            Ok(Receipt::Stored) => text_page(StatusCode::OK, "stored"),
            Ok(Receipt::Repeated) => text_page(StatusCode::OK, "stored before"),
            Ok(Receipt::UnknownAccount) => {
                text_page(StatusCode::NOT_FOUND, "no organization has this customer")
            }
            Err(error) => {
                tracing::error!(?error, "a webhook of the billing provider could not be stored");
                text_page(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the event was not stored; send it again",
                )
            }
        }
    }

    fn raw_body_bytes_max(&self) -> Option<usize> {
        Some(BODY_BYTES_MAX)
    }
}

/// Response to a delivery that is not accepted. An event about no customer is not an error.
fn rejection(rejected: &Rejected) -> Page {
    let (status, text) = match rejected {
        Rejected::NoCustomer => (StatusCode::OK, "ignored: the event is about no customer"),
        Rejected::Signature => (StatusCode::BAD_REQUEST, "the signature is not valid"),
        Rejected::Time => {
            (StatusCode::BAD_REQUEST, "the signature is more than 300 seconds old or in the future")
        }
        Rejected::Malformed => (StatusCode::BAD_REQUEST, "the body is no event"),
        Rejected::OtherAccount => {
            (StatusCode::BAD_REQUEST, "the event is of another mode or of a connected account")
        }
    };
    if status != StatusCode::OK {
        tracing::warn!(?rejected, "a webhook of the billing provider was refused");
    }
    text_page(status, text)
}

fn text_page(status: StatusCode, text: &str) -> Page {
    page(status, "text/plain; charset=utf-8", format!("{text}\n"))
}
