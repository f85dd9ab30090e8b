//! gRPC methods of sessions.

use std::sync::Arc;

use api::identity::{self as pb, session_service_server::SessionService};
use chassis::{Call, Db, Reply, Tx, page::Pager, reply};
use tonic::Request;

use super::{
    commands::{self, SignIn},
    store, wire,
};
use crate::{credential::CredentialCache, provider::commands::Provider, user};

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) sign_in: Arc<SignIn>,
    pub(crate) provider: Provider,
    pub(crate) pager: Pager,
    /// An ended session is removed from this replica's cache at once. Other replicas keep it for up to a
    /// second, for callers who allow a state of that age.
    pub(crate) credentials: CredentialCache,
}

#[tonic::async_trait]
impl SessionService for Rpc {
    async fn login(&self, request: Request<pb::LoginRequest>) -> Reply<pb::LoginResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let verified = self.sign_in.verify_login(&call, &message.email, &message.password).await?;
        let finish = async |tx: &mut Tx| {
            let user = user::store::lock_verified(tx, &verified).await?;
            Ok(self.sign_in.finish_first_step(tx, &call, &user, "password").await?.into())
        };
        reply(self.db.write(&call, finish).await?)
    }

    async fn complete_login(
        &self,
        request: Request<pb::CompleteLoginRequest>,
    ) -> Reply<pb::CompleteLoginResponse> {
        let call = Call::of(request)?;
        let challenge = self.sign_in.begin_attempt(&call.message.challenge).await?;
        let complete = async |tx: &mut Tx| {
            Ok(self
                .sign_in
                .complete_challenge(tx, &call, &challenge, &call.message.code)
                .await?
                .into())
        };
        let outcome = self.db.write(&call, complete).await;
        reply(self.sign_in.record_wrong_code(&call, challenge.user_id, outcome).await?)
    }

    async fn logout(&self, request: Request<pb::LogoutRequest>) -> Reply<pb::LogoutResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let log_out = async |tx: &mut Tx| {
            commands::log_out(tx, account).await?;
            Ok(pb::LogoutResponse {})
        };
        let ended = self.db.write(&call, log_out).await?;
        self.credentials.invalidate(&account.credential_id);
        reply(ended)
    }

    async fn reauthenticate(
        &self,
        request: Request<pb::ReauthenticateRequest>,
    ) -> Reply<pb::ReauthenticateResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let account = call.account()?;
        let verified =
            self.sign_in.verify_password(&call, account.user_id, &message.password).await?;
        let reauthenticate = async |tx: &mut Tx| {
            let session =
                self.sign_in.reauthenticate(tx, account, &verified, &message.code).await?;
            let session = Some(wire::owned(&session, account.credential_id));
            Ok(pb::ReauthenticateResponse { session })
        };
        let outcome = self.db.write(&call, reauthenticate).await;
        let outcome = self.sign_in.record_wrong_code(&call, account.user_id, outcome).await;
        self.credentials.invalidate(&account.credential_id);
        reply(outcome?)
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Reply<pb::ListSessionsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let account = call.account()?;
        let page = self.pager.page(&call, message.page_size, &message.page_token, &[])?;
        let rows = store::list(&self.db, account.user_id, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let sessions = rows.iter().map(|it| wire::owned(it, account.credential_id)).collect();
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
            commands::revoke(tx, user_id, id).await?;
            Ok(pb::RevokeSessionResponse {})
        };
        let revoked = self.db.write(&call, revoke).await?;
        self.credentials.invalidate(&id);
        reply(revoked)
    }

    async fn revoke_other_sessions(
        &self,
        request: Request<pb::RevokeOtherSessionsRequest>,
    ) -> Reply<pb::RevokeOtherSessionsResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let revoke = async |tx: &mut Tx| {
            let revoked_count = commands::revoke_others(tx, account).await?;
            Ok(pb::RevokeOtherSessionsResponse { revoked_count })
        };
        let revoked = self.db.write(&call, revoke).await?;
        self.credentials.invalidate_all();
        reply(revoked)
    }

    async fn start_external_login(
        &self,
        request: Request<pb::StartExternalLoginRequest>,
    ) -> Reply<pb::StartExternalLoginResponse> {
        let call = Call::of(request)?;
        self.sign_in.throttle_client(&call).await?;
        let prepared = self.provider.prepare().await?;
        let start = async |tx: &mut Tx| Ok(self.provider.start(tx, prepared).await?.into());
        reply(self.db.write(&call, start).await?)
    }

    async fn complete_external_login(
        &self,
        request: Request<pb::CompleteExternalLoginRequest>,
    ) -> Reply<pb::CompleteExternalLoginResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        self.sign_in.throttle_client(&call).await?;
        let claims = self.provider.exchange(&message.state, &message.code).await?;
        let complete = async |tx: &mut Tx| {
            let user = self.provider.link_account(tx, &claims).await?;
            Ok(self.sign_in.finish_first_step(tx, &call, &user, "oidc").await?.into())
        };
        reply(self.db.write(&call, complete).await?)
    }
}
