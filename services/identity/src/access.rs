//! Decisions: facts of one version, asked of the policy. Facts are remembered, decisions never.

mod audience;
pub(crate) mod explain;
pub(crate) mod rpc;
mod simulate;
mod snapshots;
mod store;
mod wire;

use std::{sync::atomic::Ordering, time::Duration};

use chassis::{
    Account, Db, Error, Grant, OrgId, ProjectGrant, ProjectId, Result, Tx,
    access::{Authority, Decision, Question},
    call::Context,
    token::{Kind, Token},
};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

pub(crate) use self::snapshots::{Freshness, Snapshots};
use crate::{
    api_key,
    organization::{
        self, Organization,
        wire::{consistency_token, parse_consistency_token},
    },
    policy::Permission,
    session::{self, store::Proof},
    snapshot::{Snapshot, Subject, Verdict, Wish},
};

/// How long a read may rest on what a credential proved a moment ago (G-06).
const PROOF_LIFETIME: Duration = Duration::from_secs(1);

/// How often the time of a credential's last use is stored.
const USE_RECORDED_EVERY: time::Duration = time::Duration::minutes(1);

/// Proofs kept at the same time; each is below 500 bytes.
const PROOFS_MAX: u64 = 50_000;

/// Identifies callers and decides what they may do.
pub(crate) struct Decider {
    db: Db,
    proofs: Proofs,
    snapshots: Snapshots,
}

/// What sessions and keys proved a moment ago, by their id.
pub(crate) type Proofs = Cache<Uuid, Proof>;

/// An empty memory of proofs.
pub(crate) fn proofs() -> Proofs {
    Cache::builder().max_capacity(PROOFS_MAX).time_to_live(PROOF_LIFETIME).build()
}

impl Decider {
    pub(crate) fn new(db: Db, proofs: Proofs, snapshots: Snapshots) -> Self {
        Self { db, proofs, snapshots }
    }

    /// The account of a credential's id; [`Self::authenticate`] compares the secret.
    async fn proof(&self, kind: Kind, id: Uuid, fresh: bool) -> Result<Option<Proof>> {
        let living = |it: &Proof| it.expires_at.is_none_or(|it| it > self.db.now());
        if !fresh && let Some(proof) = self.proofs.get(&id).filter(living) {
            return Ok(Some(proof));
        }
        let proof = match kind {
            Kind::ApiKey => api_key::store::proof(&self.db, id).await?,
            _ => session::store::proof(&self.db, id).await?,
        };
        match &proof {
            Some(proof) => self.proofs.insert(id, proof.clone()),
            None => self.proofs.invalidate(&id),
        }
        Ok(proof)
    }

    /// Records the use of a credential that was proven, at most once a minute.
    async fn record_use(&self, kind: Kind, id: Uuid, proof: &Proof) -> Result<()> {
        let now = self.db.now();
        let recent = proof.last_used_at.is_some_and(|it| it + USE_RECORDED_EVERY >= now);
        if recent || proof.use_recorded.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match kind {
            Kind::ApiKey => api_key::store::used(&self.db, id, now).await,
            _ => session::store::used(&self.db, id, now).await,
        }
    }
}

#[tonic::async_trait]
impl Authority for Decider {
    async fn authenticate(&self, bearer: &SecretString, fresh: bool) -> Result<Account> {
        let parse = |kind| Some((kind, Token::parse(kind, bearer.expose_secret())?));
        let token = parse(Kind::Session).or_else(|| parse(Kind::ApiKey));
        let (kind, token) = token.ok_or_else(Error::bad_credential)?;
        let proof = self.proof(kind, token.id, fresh).await?.ok_or_else(Error::bad_credential)?;
        let over = proof.expires_at.is_some_and(|it| it <= self.db.now());
        if over || !token.matches(&proof.secret_hash) {
            return Err(Error::bad_credential());
        }
        self.record_use(kind, token.id, &proof).await?;
        Ok(proof.account)
    }

    async fn decide(&self, context: &Context, question: &Question<'_>) -> Result<Decision> {
        let permission = Permission::parse(question.permission);
        let permission = permission
            .ok_or_else(|| anyhow::anyhow!("there is no permission {}", question.permission))?;
        let wish = Wish { permission, project_id: question.project_id, write: question.write };
        let freshness = Freshness::newest(context.known.as_deref())?;
        let snapshot = self.snapshots.get(question.org_id, freshness).await?;
        decision(snapshot.as_deref(), subject(context.account()?), &wish, freshness)
    }
}

/// The decision from these facts, for whom it hides what they may not know before anything else is said.
fn decision(
    facts: Option<&Snapshot>,
    subject: Subject<'_>,
    wish: &Wish,
    freshness: Freshness,
) -> Result<Decision> {
    let Some(facts) = facts else { return Ok(Decision::default()) };
    let token = consistency_token(facts.org_id, facts.version);
    let decision = facts.verdict(subject, wish).decision(token);
    if decision.visible {
        freshness.check(facts)?;
    }
    Ok(decision)
}

/// Who asks.
pub(crate) fn subject(account: &Account) -> Subject<'_> {
    Subject { user_id: account.user_id, key: account.key.as_ref() }
}

impl Verdict {
    fn decision(self, token: String) -> Decision {
        match self {
            Self::Allowed => {
                Decision { allowed: true, visible: true, token, ..Decision::default() }
            }
            Self::Denied(reason) => {
                Decision { visible: true, reason, token, ..Decision::default() }
            }
            // Who may not know learns nothing, not even a version.
            Self::Hidden => Decision::default(),
        }
    }
}

/// Locks the organization of a grant. If access has changed since the grant was given, decides again, so
/// that under the lock nobody acts on a right that they lost.
pub(crate) async fn lock(tx: &mut Tx, grant: &Grant) -> Result<Organization> {
    lock_and_decide(tx, grant, None).await
}

/// The same for a grant on a project.
pub(crate) async fn lock_project(tx: &mut Tx, grant: &ProjectGrant) -> Result<Organization> {
    lock_and_decide(tx, grant, Some(grant.project_id())).await
}

async fn lock_and_decide(
    tx: &mut Tx,
    grant: &Grant,
    project_id: Option<ProjectId>,
) -> Result<Organization> {
    let organization = organization::store::lock(tx, grant.org_id()).await?;
    let decided_at = parse_consistency_token(grant.consistency_token());
    if decided_at != Some((organization.id, organization.access_version)) {
        require(tx, &organization, grant.account(), grant.permission(), project_id).await?;
    }
    Ok(organization)
}

/// Decides about a change inside a transaction that holds the organization's lock.
pub(crate) async fn require(
    tx: &mut Tx,
    organization: &Organization,
    account: &Account,
    permission: &str,
    project_id: Option<ProjectId>,
) -> Result<()> {
    let org_id: OrgId = organization.id;
    let question = Question { permission, org_id, project_id, write: true };
    let permission = Permission::parse(permission);
    let permission = permission.ok_or_else(|| anyhow::anyhow!("no such permission"))?;
    let snapshot = store::load(tx.conn(), org_id).await?;
    let snapshot = snapshot.ok_or(Error::NotFound(OrgId::NOUN))?;
    let wish = Wish { permission, project_id, write: true };
    snapshot.verdict(subject(account), &wish).decision(String::new()).check(&question)
}
