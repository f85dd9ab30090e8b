//! What the gRPC surface of environments does with variables.

use api::project as pb;
use chassis::{Db, ProjectGrant, Result, Tx};

use super::{Vault, change, store};
use crate::{environment, project::production::Right};

/// All variables of an environment.
pub(crate) async fn list(
    db: &Db,
    grant: &ProjectGrant,
    it: &pb::ListVariablesRequest,
) -> Result<pb::ListVariablesResponse> {
    let environment = environment::store::get(db, grant, it.environment_id.parse()?).await?;
    let all = store::list(db, &environment).await?;
    Ok(pb::ListVariablesResponse { variables: all.iter().map(Into::into).collect() })
}

/// Sets and removes variables; answers all of them.
pub(crate) async fn set(
    tx: &mut Tx,
    grant: &ProjectGrant,
    it: &pb::SetVariablesRequest,
    right: Right,
    vault: &Vault,
) -> Result<pb::SetVariablesResponse> {
    let place = (grant.org_id(), grant.project_id());
    let environment = environment::store::lock(tx, place, it.environment_id.parse()?).await?;
    let is_production = environment.kind == environment::Kind::Production;
    environment::admission::change(tx, &environment, is_production, right).await?;
    let known = store::load(tx, &environment).await?;
    let known: Vec<_> = known.into_iter().map(|it| it.name).collect();
    let changed = change(&environment, it, &known, vault, tx.now)?;
    store::apply(tx, &environment, changed).await?;
    let all = store::load(tx, &environment).await?;
    Ok(pb::SetVariablesResponse { variables: all.iter().map(Into::into).collect() })
}
