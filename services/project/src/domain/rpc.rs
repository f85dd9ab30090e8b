//! gRPC service of domains.

use std::sync::Arc;

use api::project::{self as pb, domain_service_server::DomainService};
use chassis::{Access, Call, Db, ProjectGrant, Reply, Result, Tx, page::Pager, reply};
use project_rules::{
    domain::{Domain, ReservedDomain, proof::ProofTargets, wire::domain_with_targets},
    environment::Kind,
    types::EnvironmentId,
};
use tonic::Request;

use super::{checker::DomainChecker, commands::Domains};
use crate::{environment::production_gate::ProductionGate, store};

/// Implementation of `DomainService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) checker: Arc<DomainChecker>,
    /// Host of the base URL of the suite.
    pub(crate) base_host: ReservedDomain,
}

impl Rpc {
    /// Returns the commands of a caller who may change the environment.
    async fn domains<'a, M>(
        &'a self,
        call: &Call<M>,
        grant: &'a ProjectGrant,
        id: EnvironmentId,
    ) -> Result<Domains<'a>> {
        let kind = store::environment::get(&self.db, grant, id).await?.kind;
        let (db, access) = (&self.db, &self.access);
        let gate = ProductionGate { db, access, context: call, grant };
        let right = gate.authorize(kind == Kind::Production).await?;
        Ok(Domains { db, grant, checker: &self.checker, right })
    }

    async fn targets(&self, grant: &ProjectGrant, id: EnvironmentId) -> Result<ProofTargets> {
        store::domain::targets(&self.db, grant.org_id(), id).await
    }
}

#[tonic::async_trait]
impl DomainService for Rpc {
    async fn create_domain(
        &self,
        request: Request<pb::CreateDomainRequest>,
    ) -> Reply<pb::CreateDomainResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let domains = self.domains(&call, &grant, id).await?;
        let targets = self.targets(&grant, id).await?;
        let create = async |tx: &mut Tx| {
            let domain = domains.create(tx, id, &message.hostname, &self.base_host).await?;
            Ok(pb::CreateDomainResponse { domain: Some(domain_with_targets(&domain, &targets)) })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn verify_domain(
        &self,
        request: Request<pb::VerifyDomainRequest>,
    ) -> Reply<pb::VerifyDomainResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let domain = store::domain::get(&self.db, &grant, message.domain_id.parse()?).await?;
        let domains = self.domains(&call, &grant, domain.environment_id).await?;
        let response = |it: &Domain, targets: &ProofTargets| pb::VerifyDomainResponse {
            domain: Some(domain_with_targets(it, targets)),
        };
        reply(domains.verify(&call, domain.id, response).await?)
    }

    async fn get_domain(
        &self,
        request: Request<pb::GetDomainRequest>,
    ) -> Reply<pb::GetDomainResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let domain = store::domain::get(&self.db, &grant, message.domain_id.parse()?).await?;
        let targets = self.targets(&grant, domain.environment_id).await?;
        reply(pb::GetDomainResponse { domain: Some(domain_with_targets(&domain, &targets)) })
    }

    async fn list_domains(
        &self,
        request: Request<pb::ListDomainsRequest>,
    ) -> Reply<pb::ListDomainsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let environment = store::environment::get(&self.db, &grant, id).await?;
        let filter = [&message.org_id, &message.project_id, &message.environment_id];
        let filter = filter.map(String::as_str);
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = store::domain::list(&self.db, &environment, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let targets = self.targets(&grant, id).await?;
        let domains = rows.iter().map(|it| domain_with_targets(it, &targets)).collect();
        reply(pb::ListDomainsResponse { domains, next_page_token })
    }

    async fn delete_domain(
        &self,
        request: Request<pb::DeleteDomainRequest>,
    ) -> Reply<pb::DeleteDomainResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        if let Some(first) = self.db.stored_response(&call).await? {
            return reply(first);
        }
        let domain = store::domain::get(&self.db, &grant, message.domain_id.parse()?).await?;
        let domains = self.domains(&call, &grant, domain.environment_id).await?;
        let delete = async |tx: &mut Tx| {
            domains.delete(tx, domain.id).await?;
            Ok(pb::DeleteDomainResponse {})
        };
        reply(self.db.write(&call, delete).await?)
    }
}
