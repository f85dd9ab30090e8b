//! SQL statements about variables.

use chassis::{Changed, Db, Result, Tx};
use project_rules::{
    environment::Environment,
    types::{EnvironmentId, ProjectRef},
    variable::{SealedChange, Variable},
};
use sqlx::{query, query_as, query_scalar};

/// Returns the variables of an environment, by name.
pub(crate) async fn list(db: &Db, environment: &Environment) -> Result<Vec<Variable>> {
    let variables = query_as!(
        Variable,
        r#"select name, value, sealed, updated_at from environment_variable
         where org_id = $1 and environment_id = $2 order by name collate "C""#,
        environment.org_id.0,
        environment.id.0
    );
    Ok(variables.fetch_all(db.pool()).await?)
}

/// Returns the variables of an environment in a transaction, by name.
pub(crate) async fn load(tx: &mut Tx, environment: &Environment) -> Result<Vec<Variable>> {
    let variables = query_as!(
        Variable,
        r#"select name, value, sealed, updated_at from environment_variable
         where org_id = $1 and environment_id = $2 order by name collate "C""#,
        environment.org_id.0,
        environment.id.0
    );
    Ok(variables.fetch_all(tx.conn()).await?)
}

/// Returns the names of at most ten environments of a project that have a variable.
pub(crate) async fn environments_with(
    tx: &mut Tx,
    project: ProjectRef,
    variable: &str,
) -> Result<Vec<String>> {
    let names = query_scalar!(
        "select environment.name from environment_variable
         join environment on environment.id = environment_id
             and environment.org_id = environment_variable.org_id
         where environment_variable.org_id = $1 and project_id = $2 and environment_variable.name = $3
         order by environment.name limit 10",
        project.org_id.0,
        project.project_id.0,
        variable
    );
    Ok(names.fetch_all(tx.conn()).await?)
}

/// Stores a change of variables and its events.
pub(crate) async fn apply(
    tx: &mut Tx,
    environment: &Environment,
    changed: Changed<SealedChange>,
) -> Result<()> {
    let change = changed.state();
    let now = tx.now;
    query!(
        "update environment set configured_at = $3 where org_id = $1 and id = $2",
        environment.org_id.0,
        environment.id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    query!(
        "delete from environment_variable where org_id = $1 and environment_id = $2 and name = any ($3)",
        environment.org_id.0,
        environment.id.0,
        &change.remove
    )
    .execute(tx.conn())
    .await?;
    for variable in &change.set {
        query!(
            "insert into environment_variable (org_id, environment_id, name, value, sealed, updated_at)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (environment_id, name) do update set value = excluded.value,
                 sealed = excluded.sealed, updated_at = excluded.updated_at",
            environment.org_id.0,
            environment.id.0,
            variable.name,
            variable.value,
            variable.sealed,
            variable.updated_at,
        )
        .execute(tx.conn())
        .await?;
    }
    tx.emit(changed);
    Ok(())
}

/// Copies the variables of an environment to a new one.
pub(crate) async fn copy(
    tx: &mut Tx,
    source: &Environment,
    target_id: EnvironmentId,
) -> Result<()> {
    query!(
        "insert into environment_variable (org_id, environment_id, name, value, sealed, updated_at)
         select org_id, $3, name, value, sealed, updated_at from environment_variable
         where org_id = $1 and environment_id = $2",
        source.org_id.0,
        source.id.0,
        target_id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
