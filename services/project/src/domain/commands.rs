//! Commands on domains. Proofs are looked up before the transaction.

use api::check::Check;
use chassis::{Call, Db, ProjectGrant, Result, Tx};
use project_rules::{
    domain::{
        Domain, Draft, ReservedDomain, State,
        proof::{Finding, Proof, ProofTargets},
    },
    environment::{Kind, production::ProductionRight},
    types::{DomainId, EnvironmentId, ProjectRef},
};
use prost::{Message, Name};

use super::{checker::DomainChecker, recheck};
use crate::{environment::commands::require_change_allowed, store};

/// Commands on the domains of a project.
pub(super) struct Domains<'a> {
    pub(super) db: &'a Db,
    pub(super) grant: &'a ProjectGrant,
    pub(super) checker: &'a DomainChecker,
    /// Right of the caller to change PRODUCTION.
    pub(super) right: ProductionRight,
}

impl Domains<'_> {
    /// Adds a domain to an environment.
    pub(super) async fn create(
        &self,
        tx: &mut Tx,
        id: EnvironmentId,
        hostname: &str,
        base_url: &ReservedDomain,
    ) -> Result<Domain> {
        let environment = store::environment::lock(tx, self.grant.into(), id).await?;
        let is_production = environment.kind == Kind::Production;
        require_change_allowed(tx, &environment, is_production, self.right).await?;
        let existing = store::domain::hostnames(tx, &environment).await?;
        let mut reserved = store::domain::apps_domains(tx, environment.org_id).await?;
        reserved.push(base_url.clone());
        let creator_id = self.grant.account().user_id;
        let draft = Draft { environment: &environment, hostname, creator_id };
        let created = Domain::create(&draft, &existing, &reserved, tx.now)?;
        store::domain::insert(tx, created).await
    }

    /// Makes a domain VERIFIED if a record proves it. The domain of another environment with the same host
    /// name becomes PENDING if its proof is absent or weaker.
    pub(super) async fn verify<M, R>(
        &self,
        call: &Call<M>,
        id: DomainId,
        response: impl FnOnce(&Domain, &ProofTargets) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let domain = store::domain::get(self.db, self.grant, id).await?;
        let targets = store::domain::targets(self.db, domain.org_id, domain.environment_id).await?;
        let proof = match self.checker.check(&domain, &targets).await {
            Finding::Proven(proof) => proof,
            absent @ (Finding::Absent(_) | Finding::Unknown(_)) => {
                return Err(self.refuse(&domain, absent).await);
            }
        };
        self.require_free(&domain, proof).await?;
        let verify = async |tx: &mut Tx| {
            let domain = self.lock(tx, id).await?;
            let domain = match domain.verify(proof, tx.now) {
                Ok(verified) => store::domain::update(tx, verified).await?,
                Err(unchanged) => {
                    store::domain::update_check(tx, &unchanged, true).await?;
                    *unchanged
                }
            };
            Ok(response(&domain, &targets))
        };
        self.db.write(call, verify).await
    }

    /// Records a check without a proof; returns the refusal.
    async fn refuse(&self, domain: &Domain, finding: Finding) -> chassis::Error {
        let (Finding::Absent(found) | Finding::Unknown(found)) = &finding else {
            return domain.taken().into();
        };
        let refusal = domain.not_verified(found).into();
        match recheck::record(self.db, domain, &finding).await {
            Ok(()) => refusal,
            Err(error) => error,
        }
    }

    /// Frees the host name if another environment has it without a proof, or with a weaker one. That is a
    /// transaction of its own and of the system: the events of an organization do not name the account of
    /// another one. A proof that cannot be looked up now counts as it was found last.
    async fn require_free(&self, domain: &Domain, proof: Proof) -> Result<()> {
        let Some(holder) = store::domain::holder(self.db, domain).await? else { return Ok(()) };
        let targets = store::domain::targets(self.db, holder.org_id, holder.environment_id).await?;
        let finding = self.checker.check(&holder, &targets).await;
        let is_kept = match &finding {
            Finding::Proven(held) => *held >= proof,
            Finding::Unknown(_) => holder.verified_by.is_none_or(|it| it >= proof),
            Finding::Absent(_) => false,
        };
        if is_kept {
            return Err(domain.taken().into());
        }
        let why =
            "another environment proved the domain, with a stronger record or without one here";
        let unverify = async |tx: &mut Tx| {
            let holder = store::domain::lock(tx, holder.project_ref(), holder.id).await?;
            if holder.state == State::Verified {
                store::domain::update(tx, holder.unverify(why, tx.now)).await?;
            }
            Ok(())
        };
        match self.db.write_as_system("domain verification", unverify).await {
            // It was removed meanwhile.
            Err(chassis::Error::NotFound(_)) => Ok(()),
            result => result,
        }
    }

    /// Removes a domain.
    pub(super) async fn delete(&self, tx: &mut Tx, id: DomainId) -> Result<()> {
        let domain = self.lock(tx, id).await?;
        store::domain::delete(tx, domain.delete()).await
    }

    /// Locks a domain of an environment that the caller may change.
    async fn lock(&self, tx: &mut Tx, id: DomainId) -> Result<Domain> {
        let project = ProjectRef::from(self.grant);
        let environment_id = store::domain::environment_id(tx, project, id).await?;
        let environment = store::environment::load(tx, project, environment_id).await?;
        let is_production = environment.kind == Kind::Production;
        require_change_allowed(tx, &environment, is_production, self.right).await?;
        store::domain::lock(tx, project, id).await
    }
}
