//! Commands on variables.

use chassis::{Result, Tx};

use super::{Change, Variable, Vault, apply, store};
use crate::environment::{
    Environment, Kind, commands::require_change_allowed, production::ProductionRight,
};

/// Changes the variables of a locked environment. Returns all of them.
pub(crate) async fn set(
    tx: &mut Tx,
    environment: &Environment,
    change: &Change,
    right: ProductionRight,
    vault: &Vault,
) -> Result<Vec<Variable>> {
    let affects_production = environment.kind == Kind::Production;
    require_change_allowed(tx, environment, affects_production, right).await?;
    let existing = store::load(tx, environment).await?;
    let existing: Vec<_> = existing.into_iter().map(|it| it.name).collect();
    let changed = apply(environment, change, &existing, vault, tx.now)?;
    store::apply(tx, environment, changed).await?;
    store::load(tx, environment).await
}
