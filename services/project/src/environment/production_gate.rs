//! Permission to deploy to PRODUCTION (PE-45). It is checked before the transaction of an operation, because
//! the check can be a call to identity; the transaction compares the result with the project's setting again.

use chassis::{Access, Db, ProjectGrant, Result, call::Context};
use project_rules::{
    environment::{
        CloneSpec, CloneTarget, Kind,
        production::{DeployRole, ProductionRight},
    },
    task::TaskSpec,
    types::EnvironmentId,
};

use crate::store;

/// Check of the permission of a caller.
pub(crate) struct ProductionGate<'a> {
    pub(crate) db: &'a Db,
    pub(crate) access: &'a Access,
    pub(crate) context: &'a Context,
    pub(crate) grant: &'a ProjectGrant,
}

impl ProductionGate<'_> {
    /// Refuses a caller without the permission, if the project requires it for an operation.
    pub(crate) async fn authorize(&self, affects_production: bool) -> Result<ProductionRight> {
        if !affects_production {
            return Ok(ProductionRight::NotRequired);
        }
        let project = store::project::get(self.db, self.grant).await?;
        self.require_permission(project.production_deploy_min_role == DeployRole::Admin).await
    }

    /// Refuses a caller without the permission, if the project requires it for a task of an environment.
    pub(crate) async fn authorize_task(
        &self,
        id: EnvironmentId,
        spec: &TaskSpec,
    ) -> Result<ProductionRight> {
        let facts = store::admission::production_facts(self.db, self.grant, id, spec).await?;
        self.require_permission(facts.requires_right(spec.kind)).await
    }

    /// Refuses a caller without the permission, if the project requires it for a clone, whose source and
    /// target may both be PRODUCTION.
    pub(crate) async fn authorize_clone(&self, clone: &CloneSpec) -> Result<ProductionRight> {
        let source_kind = store::environment::get(self.db, self.grant, clone.source_id).await?.kind;
        let target_kind = match clone.target {
            CloneTarget::Existing { id, .. } => {
                store::environment::get(self.db, self.grant, id).await?.kind
            }
            CloneTarget::New { kind, .. } => kind,
        };
        self.authorize([source_kind, target_kind].contains(&Kind::Production)).await
    }

    async fn require_permission(&self, is_required: bool) -> Result<ProductionRight> {
        if !is_required {
            return Ok(ProductionRight::NotRequired);
        }
        let permission = "project.production.deploy";
        self.access.require_additional(self.context, self.grant, permission).await?;
        Ok(ProductionRight::Granted)
    }
}
