//! Account of the runner at an ACME authority, and orders for certificates.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, anyhow};
use api::project::{ClearDnsChallengeRequest, SetDnsChallengeRequest};
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use primitives::foreign_text::clean_line;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::{
    certificate::write_private, client::TaskClient, driver::EnvironmentHostname, settings::AcmeDns,
};

/// Longest wait for the check of a challenge, and for a certificate.
const POLL_TIMEOUT: Duration = Duration::from_secs(90);

/// Maximum length of an authority's problem in an error message, in bytes.
const PROBLEM_BYTES_MAX: usize = 500;

/// Begin of the types of ACME's problems (RFC 8555, 6.7).
const PROBLEM_PREFIX: &str = "urn:ietf:params:acme:error:";

/// Failure of an order.
pub(super) struct OrderError {
    pub(super) error: anyhow::Error,
    /// True if the authority has refused the order, which counts for its rate limits.
    pub(super) is_refusal: bool,
}

impl From<anyhow::Error> for OrderError {
    fn from(error: anyhow::Error) -> Self {
        Self { error, is_refusal: false }
    }
}

impl From<instant_acme::Error> for OrderError {
    fn from(error: instant_acme::Error) -> Self {
        let is_refusal = matches!(&error, instant_acme::Error::Api(it) if !is_transient(it));
        let error = anyhow!(clean_line(&error.to_string(), PROBLEM_BYTES_MAX));
        Self { error: error.context("the ACME authority fails"), is_refusal }
    }
}

/// True if the next attempt may succeed, and this one does not count for rate limits: the authority did not
/// accept a nonce (RFC 8555, 6.5), or has an error of its own.
fn is_transient(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().and_then(|it| it.strip_prefix(PROBLEM_PREFIX));
    matches!(kind, Some("badNonce" | "serverInternal"))
        || problem.status.is_some_and(|it| it >= 500)
}

/// A certificate with its chain, and its key, as PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Publication of DNS-01 challenges for a host name.
pub(super) struct Proof<'a> {
    pub(super) client: &'a dyn TaskClient,
    /// Name of the runner.
    pub(super) runner: &'a str,
    pub(super) host: &'a EnvironmentHostname,
}

impl Proof<'_> {
    async fn publish(&self, value: String) -> anyhow::Result<()> {
        let request = SetDnsChallengeRequest {
            runner: self.runner.to_owned(),
            environment_id: self.host.environment_id.clone(),
            hostname: self.host.hostname.clone(),
            value,
        };
        let published = self.client.set_challenge(request).await;
        published.map_err(|it| {
            anyhow!("{:?}: {}", it.code(), it.message())
                .context("the challenge is not published on the DNS server")
        })
    }

    /// Removes the record. It would be removed after an hour in any case.
    async fn clear(&self) {
        let request = ClearDnsChallengeRequest {
            runner: self.runner.to_owned(),
            environment_id: self.host.environment_id.clone(),
            hostname: self.host.hostname.clone(),
        };
        if let Err(status) = self.client.clear_challenge(request).await {
            let (hostname, error) = (&self.host.hostname, status.message());
            tracing::warn!(hostname, error, "the challenge stays on the DNS server for an hour");
        }
    }
}

/// File of the account.
#[derive(Deserialize, Serialize)]
struct StoredAccount {
    directory: String,
    email: String,
    credentials: AccountCredentials,
}

/// An ACME authority, and the account of this runner.
pub(super) struct Authority {
    settings: AcmeDns,
    account_file: PathBuf,
    account: OnceCell<Account>,
}

impl Authority {
    pub(super) fn new(settings: AcmeDns, account_file: PathBuf) -> Self {
        Self { settings, account_file, account: OnceCell::new() }
    }

    /// Orders a certificate for a host name.
    pub(super) async fn order(&self, proof: &Proof<'_>) -> Result<Issued, OrderError> {
        let account = self.account.get_or_try_init(|| self.load_or_create_account()).await?;
        let identifiers = [Identifier::Dns(proof.host.hostname.clone())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let proved = prove(&mut order, proof).await;
        proof.clear().await;
        proved?;
        let policy = RetryPolicy::default().timeout(POLL_TIMEOUT);
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&policy).await?;
        Ok(Issued { chain, key })
    }

    async fn load_or_create_account(&self) -> Result<Account, OrderError> {
        let AcmeDns { email, directory, .. } = &self.settings;
        if let Some(stored) = self.stored_account()
            && stored.directory == *directory
            && stored.email == *email
        {
            return Ok(self.builder()?.from_credentials(stored.credentials).await?);
        }
        let contact = format!("mailto:{email}");
        let new = NewAccount {
            contact: &[&contact],
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = self.builder()?.create(&new, directory.clone(), None).await?;
        let (directory, email) = (directory.clone(), email.clone());
        let stored = StoredAccount { directory, email, credentials };
        let text = serde_json::to_vec(&stored).context("the account cannot be written")?;
        write_private(&self.account_file, &text)?;
        tracing::info!(directory = stored.directory, "account of the ACME authority created");
        Ok(account)
    }

    /// Returns the stored account; `None` if there is none, or if the file cannot be read.
    fn stored_account(&self) -> Option<StoredAccount> {
        serde_json::from_slice(&std::fs::read(&self.account_file).ok()?).ok()
    }

    fn builder(&self) -> Result<AccountBuilder, OrderError> {
        Ok(match &self.settings.ca {
            Some(ca) => Account::builder_with_root(ca)?,
            None => Account::builder()?,
        })
    }
}

/// Publishes the challenges of an order, and waits until the authority has checked them.
async fn prove(order: &mut Order, proof: &Proof<'_>) -> Result<(), OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::Dns01);
        let mut challenge = challenge.context("the ACME authority does not offer DNS-01")?;
        proof.publish(challenge.key_authorization().dns_value()).await?;
        challenge.set_ready().await?;
    }
    let status = order.poll_ready(&RetryPolicy::default().timeout(POLL_TIMEOUT)).await?;
    if status == OrderStatus::Ready {
        return Ok(());
    }
    let error =
        anyhow!("the ACME authority does not accept the challenge: {}", problem(order).await);
    Err(OrderError { error, is_refusal: true })
}

/// Returns the problem that the authority has found with a challenge of an order.
async fn problem(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        for challenge in &authorization.challenges {
            if let Some(problem) = &challenge.error {
                return clean_line(&problem.to_string(), PROBLEM_BYTES_MAX);
            }
        }
    }
    "no reason given".to_owned()
}
