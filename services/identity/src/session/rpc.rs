//! The gRPC surface of sessions.

use std::sync::Arc;

use api::identity::{self as pb, session_service_server::SessionService};
use chassis::{Call, Db, Error, Reply, Tx, page::Pager, reply};
use tonic::Request;

use super::{
    Session,
    sign_in::{Opened, SignIn},
    store,
};
use crate::{access::Proofs, provider::Provider, user};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) sign_in: Arc<SignIn>,
    pub(crate) provider: Provider,
    pub(crate) pager: Pager,
    pub(crate) proofs: Proofs,
}

#[tonic::async_trait]
impl SessionService for Rpc {
    async fn login(&self, request: Request<pb::LoginRequest>) -> Reply<pb::LoginResponse> {
        let call = Call::of(request)?;
        let proof = self.sign_in.login(&call).await?;
        let open = async |tx: &mut Tx| {
            let user = user::store::lock_proven(tx, &proof).await?;
            Ok(match self.sign_in.open(tx, &call, &user, "password").await? {
                Opened::Session(session, token) => pb::LoginResponse {
                    session: Some((&session).into()),
                    token,
                    ..Default::default()
                },
                Opened::Challenge(challenge) => {
                    pb::LoginResponse { challenge, ..Default::default() }
                }
            })
        };
        reply(self.db.write(&call, open).await?)
    }

    async fn complete_login(
        &self,
        request: Request<pb::CompleteLoginRequest>,
    ) -> Reply<pb::CompleteLoginResponse> {
        let call = Call::of(request)?;
        let challenge = self.sign_in.attempt(&call.message.challenge).await?;
        let complete = async |tx: &mut Tx| {
            let user = self.sign_in.complete(tx, &challenge, &call.message.code).await?;
            let method = format!("{}+code", challenge.method);
            let account = user.account(challenge.id);
            let (session, token) = self.sign_in.session(tx, &call, account, &method).await?;
            Ok(pb::CompleteLoginResponse { session: Some((&session).into()), token })
        };
        let outcome = self.db.write(&call, complete).await;
        if outcome.as_ref().is_err_and(|it| it.reason() == api::error::Reason::InvalidCode) {
            self.sign_in.tell_failure(&call, Some(challenge.user_id), "code").await?;
        }
        reply(outcome?)
    }

    async fn logout(&self, request: Request<pb::LogoutRequest>) -> Reply<pb::LogoutResponse> {
        let call = Call::of(request)?;
        let (user_id, id) = (call.account()?.user_id, call.account()?.credential_id);
        let end = async |tx: &mut Tx| {
            // Two calls with one token at once: the second finds it ended.
            let session = store::lock(tx, user_id, id).await?.ok_or_else(Error::bad_credential)?;
            store::end(tx, session.end()).await?;
            Ok(pb::LogoutResponse {})
        };
        let ended = self.db.write(&call, end).await?;
        // Other replicas forget within a second, this one at once.
        self.proofs.invalidate(&id);
        reply(ended)
    }

    async fn reauthenticate(
        &self,
        request: Request<pb::ReauthenticateRequest>,
    ) -> Reply<pb::ReauthenticateResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let proof = self.sign_in.prove_password(&call, account, &call.message.password).await?;
        let renew = async |tx: &mut Tx| {
            let user = user::store::lock_caller(tx, account).await?;
            user.require_current(&proof)?;
            let session = store::lock(tx, account.user_id, account.credential_id).await?;
            let session = session.ok_or_else(Error::bad_credential)?;
            if user.totp_enabled_at.is_some() {
                self.sign_in.count_code(account.user_id)?;
                self.sign_in.use_code(tx, account.user_id, &call.message.code).await?;
            }
            let session = store::renew(tx, session.renew(tx.now)).await?;
            Ok(pb::ReauthenticateResponse { session: Some(mine(&session, account.credential_id)) })
        };
        let outcome = self.db.write(&call, renew).await;
        if outcome.as_ref().is_err_and(|it| it.reason() == api::error::Reason::InvalidCode) {
            self.sign_in.tell_failure(&call, Some(account.user_id), "code").await?;
        }
        self.proofs.invalidate(&account.credential_id);
        reply(outcome?)
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Reply<pb::ListSessionsResponse> {
        let call = Call::of(request)?;
        let (it, account) = (&call.message, call.account()?);
        let page = self.pager.page(&call, it.page_size, &it.page_token, &[])?;
        let rows = store::list(&self.db, account.user_id, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        let sessions = rows.iter().map(|it| mine(it, account.credential_id)).collect();
        reply(pb::ListSessionsResponse { sessions, next_page_token })
    }

    async fn revoke_session(
        &self,
        request: Request<pb::RevokeSessionRequest>,
    ) -> Reply<pb::RevokeSessionResponse> {
        let call = Call::of(request)?;
        let user_id = call.account()?.user_id;
        let id = chassis::id::parse("session_id", &call.message.session_id)?;
        let revoke = async |tx: &mut Tx| {
            let session = store::lock(tx, user_id, id).await?.ok_or(Error::NotFound("session"))?;
            store::end(tx, session.revoke()).await?;
            Ok(pb::RevokeSessionResponse {})
        };
        let revoked = self.db.write(&call, revoke).await?;
        self.proofs.invalidate(&id);
        reply(revoked)
    }

    async fn revoke_other_sessions(
        &self,
        request: Request<pb::RevokeOtherSessionsRequest>,
    ) -> Reply<pb::RevokeOtherSessionsResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let revoke = async |tx: &mut Tx| {
            let user = user::store::lock_caller(tx, account).await?;
            let count = store::end_all(tx, user.id, Some(account.credential_id)).await?;
            let revoked_count = i32::try_from(count).unwrap_or(i32::MAX);
            let after = Some((&user).into());
            tx.emit(user.told(&pb::SessionsRevoked { after, count: revoked_count }));
            Ok(pb::RevokeOtherSessionsResponse { revoked_count })
        };
        let revoked = self.db.write(&call, revoke).await?;
        self.proofs.invalidate_all();
        reply(revoked)
    }

    async fn start_external_login(
        &self,
        request: Request<pb::StartExternalLoginRequest>,
    ) -> Reply<pb::StartExternalLoginResponse> {
        let call = Call::of(request)?;
        self.sign_in.count_source(&call)?;
        reply(self.provider.start(&call).await?)
    }

    async fn complete_external_login(
        &self,
        request: Request<pb::CompleteExternalLoginRequest>,
    ) -> Reply<pb::CompleteExternalLoginResponse> {
        let call = Call::of(request)?;
        self.sign_in.count_source(&call)?;
        reply(self.provider.complete(&call, &self.sign_in).await?)
    }
}

/// A session, as its owner sees it.
fn mine(it: &Session, current: uuid::Uuid) -> pb::Session {
    pb::Session { current: it.id == current, ..it.into() }
}
