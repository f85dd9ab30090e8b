//! Authentication of callers, and decisions about their permissions. Snapshots are cached, decisions never.
//! The rules are in [`identity_rules::access`].

mod audience;
pub(crate) mod reader;
pub(crate) mod rpc;
mod snapshot_cache;
mod store;
mod wire;

use std::sync::atomic::Ordering;

use chassis::{
    Account, Db, Error, Grant, OrgId, ProjectGrant, ProjectId, Result, Tx,
    access::{AccessCheck, Authority, Decision, Verification},
    call::Context,
    token::{Kind, Token},
};
use identity_rules::{
    access::{decide, freshness::Freshness, known_permission, subject},
    organization::Organization,
    snapshot::AccessQuery,
    types::ConsistencyToken,
};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

pub(crate) use self::snapshot_cache::SnapshotCache;
use crate::{
    api_key,
    credential::{CredentialCache, StoredCredential},
    organization, session,
};

/// Shortest time between two records of a credential's use.
const USE_RECORD_INTERVAL: time::Duration = time::Duration::minutes(1);

/// The authority that authenticates callers and decides for every service, backed by this service's
/// database.
pub(crate) struct LocalAuthority {
    db: Db,
    credentials: CredentialCache,
    snapshots: SnapshotCache,
}

impl LocalAuthority {
    /// Creates the authority.
    pub(crate) fn new(db: Db, credentials: CredentialCache, snapshots: SnapshotCache) -> Self {
        Self { db, credentials, snapshots }
    }

    /// Returns the credential with an id; from the cache if a decision verifies it later. The caller must
    /// compare the secret.
    async fn credential(
        &self,
        kind: Kind,
        id: Uuid,
        verification: Verification,
    ) -> Result<Option<StoredCredential>> {
        let is_valid = |it: &StoredCredential| !it.is_expired(self.db.now());
        if verification == Verification::WithDecision
            && let Some(credential) = self.credentials.get(&id).filter(is_valid)
        {
            return Ok(Some(credential));
        }
        // Callers authenticate with API keys and sessions only.
        let credential = match kind {
            Kind::ApiKey => api_key::store::credential(&self.db, id).await?,
            _ => session::store::credential(&self.db, id).await?,
        };
        match &credential {
            Some(credential) => self.credentials.insert(id, credential.clone()),
            None => self.credentials.invalidate(&id),
        }
        Ok(credential)
    }

    /// Records the use of an authenticated credential, at most once a minute.
    async fn record_use(&self, kind: Kind, id: Uuid, credential: &StoredCredential) -> Result<()> {
        let now = self.db.now();
        // The cached copy shares the flag `use_recorded`, which prevents more records until it is read again.
        let is_recent = credential.last_used_at.is_some_and(|it| it + USE_RECORD_INTERVAL >= now);
        if is_recent || credential.use_recorded.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match kind {
            Kind::ApiKey => api_key::store::record_use(&self.db, id, now).await,
            _ => session::store::record_use(&self.db, id, now).await,
        }
    }
}

#[tonic::async_trait]
impl Authority for LocalAuthority {
    async fn authenticate(
        &self,
        bearer: &SecretString,
        verification: Verification,
    ) -> Result<Account> {
        let parse = |kind| Some((kind, Token::parse(kind, bearer.expose_secret())?));
        let token = parse(Kind::Session).or_else(|| parse(Kind::ApiKey));
        let (kind, token) = token.ok_or_else(Error::invalid_credential)?;
        let credential = self.credential(kind, token.id, verification).await?;
        let credential = credential.ok_or_else(Error::invalid_credential)?;
        if credential.is_expired(self.db.now()) || !token.matches(&credential.secret_hash) {
            return Err(Error::invalid_credential());
        }
        self.record_use(kind, token.id, &credential).await?;
        Ok(credential.account)
    }

    async fn decide(&self, context: &Context, check: &AccessCheck<'_>) -> Result<Decision> {
        let query = AccessQuery {
            permission: known_permission(check.permission)?,
            project_id: check.project_id,
            write: check.write,
        };
        // The newest version, which must include the one of the caller's token.
        let freshness = Freshness::newest(context.consistency_token.as_deref())?;
        let account = context.account()?;
        let snapshot =
            self.snapshots.get_for_decision(check.org_id, freshness, account, &query).await?;
        decide(snapshot.as_deref(), subject(account), &query, freshness)
    }
}

/// Locks the organization of an authorization (the proof of a permission), and decides again if access has
/// changed since. While the lock is held, access cannot change, so nobody acts on a permission that they have
/// lost.
pub(crate) async fn lock(tx: &mut Tx, authorization: &Grant) -> Result<Organization> {
    lock_and_decide(tx, authorization, None).await
}

/// Like [`lock`], for an authorization on a project.
pub(crate) async fn lock_project(
    tx: &mut Tx,
    authorization: &ProjectGrant,
) -> Result<Organization> {
    lock_and_decide(tx, authorization, Some(authorization.project_id())).await
}

async fn lock_and_decide(
    tx: &mut Tx,
    authorization: &Grant,
    project_id: Option<ProjectId>,
) -> Result<Organization> {
    let organization = organization::store::lock(tx, authorization.org_id()).await?;
    let decided_at = ConsistencyToken::parse(authorization.consistency_token());
    if decided_at != Some(organization.token()) {
        let account = authorization.account();
        let permission = authorization.permission();
        require(tx, &organization, account, permission, project_id).await?;
    }
    Ok(organization)
}

/// Refuses a write without the permission. The transaction must hold the organization's lock.
pub(crate) async fn require(
    tx: &mut Tx,
    organization: &Organization,
    account: &Account,
    permission: &str,
    project_id: Option<ProjectId>,
) -> Result<()> {
    let org_id = organization.id;
    let check = AccessCheck { permission, org_id, project_id, write: true };
    let permission = known_permission(permission)?;
    let query = AccessQuery { permission, project_id, write: true };
    let snapshot = store::load_part(tx.conn(), org_id, account.user_id, project_id).await?;
    let snapshot = snapshot.ok_or(Error::NotFound(OrgId::NOUN))?;
    // `check` returns the caller's error unless the decision allows.
    snapshot.verdict(subject(account), &query).into_decision(None).check(&check)
}
