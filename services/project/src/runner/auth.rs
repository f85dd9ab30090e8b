//! Authentication of runners: by the agent token of a connected server, or as a service of the suite for a
//! shared server.

use chassis::{Db, Error, Result, call::Context};
use project_rules::runner::AuthenticatedRunner;

use crate::store;

/// Returns the runner that makes a call. A shared server has the name of its runner.
pub(crate) async fn authenticate(
    db: &Db,
    context: &Context,
    runner_name: &str,
) -> Result<AuthenticatedRunner> {
    match by_agent_token(db, context).await? {
        Some(runner) => Ok(runner),
        None => store::server::find_shared(db, runner_name).await?.ok_or(Error::NotFound("server")),
    }
}

/// [`authenticate`] for a heartbeat: a shared server is created if it is unknown.
pub(crate) async fn authenticate_or_register(
    db: &Db,
    context: &Context,
    runner_name: &str,
    address: &str,
) -> Result<AuthenticatedRunner> {
    match by_agent_token(db, context).await? {
        Some(runner) => Ok(runner),
        None => store::server::get_or_create_shared(db, runner_name, address).await,
    }
}

/// Returns the runner of the agent token; `None` if the caller is a service of the suite.
async fn by_agent_token(db: &Db, context: &Context) -> Result<Option<AuthenticatedRunner>> {
    let Some(token) = context.agent() else {
        // Without an agent token, the method is open to services of the suite only.
        return if context.service.is_some() { Ok(None) } else { Err(Error::invalid_credential()) };
    };
    let stored =
        store::server::token_hash(db, token.id).await?.ok_or_else(Error::invalid_credential)?;
    if !token.matches(&stored.token_hash) {
        return Err(Error::invalid_credential());
    }
    Ok(Some(AuthenticatedRunner { server_id: stored.server_id, shared: false }))
}
