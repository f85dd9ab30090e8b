//! Who a runner is: a connected server by its agent token, or a shared one, of the suite itself.

use api::project as pb;
use chassis::{Call, Db, Error, Result, call::Context};

use super::{Agent, heartbeat::TEXT_BYTES_MAX, store};
use crate::foreign_text::line;

/// The server whose runner calls.
pub(crate) async fn of<M>(db: &Db, call: &Call<M>, runner: &str) -> Result<Agent> {
    match token_of(db, call).await? {
        Some(agent) => Ok(agent),
        None => store::shared(db, runner).await?.ok_or(Error::NotFound("server")),
    }
}

/// The same, of a runner that says how it is: a shared server is known from then on.
pub(crate) async fn arriving<M>(
    db: &Db,
    call: &Call<M>,
    it: &pb::HeartbeatRequest,
) -> Result<Agent> {
    match token_of(db, call).await? {
        Some(agent) => Ok(agent),
        None => store::share(db, &it.runner, &line(&it.shared_address, TEXT_BYTES_MAX)).await,
    }
}

async fn token_of(db: &Db, context: &Context) -> Result<Option<Agent>> {
    let Some(token) = context.agent() else {
        // The server stack has let in either a service of the suite or a token of this kind.
        return if context.service.is_some() { Ok(None) } else { Err(Error::bad_credential()) };
    };
    let (server_id, hash) =
        store::by_token(db, token.id).await?.ok_or_else(Error::bad_credential)?;
    if !token.matches(&hash) {
        return Err(Error::bad_credential());
    }
    Ok(Some(Agent { server_id, shared: false }))
}
