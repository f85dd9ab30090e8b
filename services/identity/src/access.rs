//! Decisions: reads the facts in one statement, asks the policy. No decision is ever remembered.

pub(crate) mod rpc;
mod store;

use std::time::Duration;

use chassis::{
    Account, Db, Error, OrgId, ProjectId, Result, UserId,
    access::{Authority, Decision},
    call::Context,
    token::{Kind, Token},
};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::{
    organization::wire::consistency_token,
    policy::Facts,
    session::{self, store::Proof},
};

/// How long a read may rest on what a session proved a moment ago (G-06).
const PROOF_LIFETIME: Duration = Duration::from_secs(1);

/// Proofs kept at the same time; each is below 500 bytes.
const PROOFS_MAX: u64 = 50_000;

/// Identifies callers and decides what they may do.
pub(crate) struct Decider {
    db: Db,
    proofs: Proofs,
}

/// What sessions proved a moment ago, by session.
pub(crate) type Proofs = Cache<Uuid, Proof>;

/// An empty memory of proofs.
pub(crate) fn proofs() -> Proofs {
    Cache::builder().max_capacity(PROOFS_MAX).time_to_live(PROOF_LIFETIME).build()
}

impl Decider {
    pub(crate) fn new(db: Db, proofs: Proofs) -> Self {
        Self { db, proofs }
    }

    async fn proof(&self, id: Uuid, fresh: bool) -> Result<Option<Proof>> {
        if !fresh && let Some(proof) = self.proofs.get(&id) {
            return Ok(Some(proof));
        }
        let proof = session::store::proof(&self.db, id).await?;
        match &proof {
            Some(proof) => self.proofs.insert(id, proof.clone()),
            None => self.proofs.invalidate(&id),
        }
        Ok(proof)
    }
}

#[tonic::async_trait]
impl Authority for Decider {
    async fn authenticate(&self, bearer: &SecretString, fresh: bool) -> Result<Account> {
        let token = Token::parse(Kind::Session, bearer.expose_secret())
            .ok_or_else(Error::bad_credential)?;
        let proof = self.proof(token.id, fresh).await?.ok_or_else(Error::bad_credential)?;
        if !token.matches(&proof.secret_hash) || proof.expires_at <= self.db.now() {
            return Err(Error::bad_credential());
        }
        Ok(proof.account)
    }

    async fn decide(
        &self,
        context: &Context,
        permission: &str,
        org_id: OrgId,
        project_id: Option<ProjectId>,
    ) -> Result<Decision> {
        let user_id = context.account()?.user_id;
        let (facts, token) = facts(&self.db, org_id, user_id, project_id).await?;
        let verdict = facts.verdict(permission);
        let verdict =
            verdict.ok_or_else(|| anyhow::anyhow!("there is no permission {permission}"))?;
        Ok(Decision { allowed: verdict.allowed, visible: verdict.visible, token })
    }
}

/// What is known about a person in an organization and, if named, on a project, at one moment.
pub(crate) async fn facts(
    db: &Db,
    org_id: OrgId,
    user_id: UserId,
    project_id: Option<ProjectId>,
) -> Result<(Facts, String)> {
    let read = store::facts(db, org_id, user_id, project_id).await?;
    Ok(match read {
        Some((facts, version)) => (facts, consistency_token(org_id, version)),
        None => (Facts::default(), String::new()),
    })
}
