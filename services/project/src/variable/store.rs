//! Every SQL statement about variables.

use chassis::{Changed, Db, Result, Tx};
use sqlx::{query, query_as};

use super::{Patch, Variable};
use crate::environment::{Environment, EnvironmentId};

/// All variables of an environment, by name.
pub(crate) async fn list(db: &Db, it: &Environment) -> Result<Vec<Variable>> {
    let variables = query_as!(
        Variable,
        "select name, value, sealed, updated_at from environment_variable
         where org_id = $1 and environment_id = $2 order by name",
        it.org_id.0,
        it.id.0
    );
    Ok(variables.fetch_all(db.pool()).await?)
}

/// The same, inside a transaction.
pub(crate) async fn load(tx: &mut Tx, it: &Environment) -> Result<Vec<Variable>> {
    let variables = query_as!(
        Variable,
        "select name, value, sealed, updated_at from environment_variable
         where org_id = $1 and environment_id = $2 order by name",
        it.org_id.0,
        it.id.0
    );
    Ok(variables.fetch_all(tx.conn()).await?)
}

/// Stores a change of variables and its event.
pub(crate) async fn apply(tx: &mut Tx, it: &Environment, changed: Changed<Patch>) -> Result<()> {
    let (patch, now) = (changed.state(), tx.now);
    query!(
        "update environment set configured_at = $3 where org_id = $1 and id = $2",
        it.org_id.0,
        it.id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    query!(
        "delete from environment_variable where org_id = $1 and environment_id = $2 and name = any ($3)",
        it.org_id.0,
        it.id.0,
        &patch.remove
    )
    .execute(tx.conn())
    .await?;
    for variable in &patch.set {
        query!(
            "insert into environment_variable (org_id, environment_id, name, value, sealed, updated_at)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (environment_id, name) do update set value = excluded.value,
             sealed = excluded.sealed,
                 updated_at = excluded.updated_at",
            it.org_id.0,
            it.id.0,
            variable.name,
            variable.value,
            variable.sealed,
            variable.updated_at,
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(tx.emit(changed)).map(|_| ())
}

/// Gives an environment the variables of another one of its organization.
pub(crate) async fn copy(tx: &mut Tx, from: &Environment, to: EnvironmentId) -> Result<()> {
    query!(
        "insert into environment_variable (org_id, environment_id, name, value, sealed, updated_at)
         select org_id, $3, name, value, sealed, updated_at from environment_variable
         where org_id = $1 and environment_id = $2",
        from.org_id.0,
        from.id.0,
        to.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
