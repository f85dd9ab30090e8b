//! The gRPC surface of accounts.

use std::sync::Arc;

use api::identity::{self as pb, user_service_server::UserService};
use chassis::{
    Account, Call, Db, Error, Reply, Result, Tx, reply,
    token::{Kind, Token},
};
use tonic::Request;

use super::{Draft, Links, Refused, User, VERIFY, Verification, store};
use crate::password::Passwords;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) passwords: Arc<Passwords>,
    pub(crate) links: Links,
}

#[tonic::async_trait]
impl UserService for Rpc {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Reply<pb::RegisterResponse> {
        let call = Call::of(request)?;
        let draft = Draft::try_from(&call.message)?;
        // Before the transaction, and also for an address that has an account: it must take as long.
        let hash = self.passwords.hash(call.message.password.clone().into()).await?;
        let register = async |tx: &mut Tx| {
            let canonical = draft.address.canonical.clone();
            let registered = User::register(draft, tx.now);
            tx.act_as(&account(registered.state(), uuid::Uuid::nil()));
            let user = store::insert(tx, registered, &canonical, &hash).await?;
            if let Some(user) = user {
                self.send_link(tx, &user, &canonical).await?;
            }
            Ok(pb::RegisterResponse {})
        };
        reply(self.db.write(&call, register).await?)
    }

    async fn verify_email(
        &self,
        request: Request<pb::VerifyEmailRequest>,
    ) -> Reply<pb::VerifyEmailResponse> {
        let call = Call::of(request)?;
        let token = Token::parse(Kind::Verification, &call.message.token);
        let token = token.ok_or(Refused::VerificationInvalid).map_err(Error::from)?;
        let verify = async |tx: &mut Tx| {
            let link = store::lock_verification(tx, token.id).await?;
            let link = link.ok_or(Refused::VerificationInvalid)?;
            let user = store::lock(tx, link.user_id).await?.ok_or(Refused::VerificationInvalid)?;
            let changed = user.verify(&link, &token, tx.now)?;
            tx.act_as(&account(changed.state(), link.id));
            store::use_verification(tx, link.id).await?;
            let user = store::update(tx, changed).await?;
            Ok(pb::VerifyEmailResponse { user: Some((&user).into()) })
        };
        reply(self.db.write(&call, verify).await?)
    }

    async fn resend_verification(
        &self,
        request: Request<pb::ResendVerificationRequest>,
    ) -> Reply<pb::ResendVerificationResponse> {
        let call = Call::of(request)?;
        let user_id = call.account()?.user_id;
        let resend = async |tx: &mut Tx| {
            let user = store::lock(tx, user_id).await?.ok_or(Error::NotFound("user"))?;
            let last = store::last_link_ends_at(tx, user_id).await?;
            let canonical = store::canonical_email(tx, user_id).await?;
            let user =
                store::update(tx, user.resend(last.map(|it| it - super::LINK_LIFETIME), tx.now)?)
                    .await?;
            self.send_link(tx, &user, &canonical).await?;
            Ok(pb::ResendVerificationResponse {})
        };
        reply(self.db.write(&call, resend).await?)
    }

    async fn get_me(&self, request: Request<pb::GetMeRequest>) -> Reply<pb::GetMeResponse> {
        let call = Call::of(request)?;
        let user = store::get(&self.db, call.account()?.user_id).await?;
        let user = user.ok_or(Error::NotFound("user"))?;
        reply(pb::GetMeResponse { user: Some((&user).into()) })
    }
}

impl Rpc {
    async fn send_link(&self, tx: &mut Tx, user: &User, canonical_email: &str) -> Result<()> {
        let link = Verification::new(&self.links, user.id, canonical_email, tx.now);
        store::insert_verification(tx, &link).await?;
        tx.mail(VERIFY, link.id).await
    }
}

/// The account as an actor of a call that proves it by itself.
fn account(user: &User, credential_id: uuid::Uuid) -> Account {
    Account {
        user_id: user.id,
        email: user.email.0.clone(),
        display_name: user.display_name.clone(),
        email_verified: user.email_verified_at.is_some(),
        credential_id,
        key: None,
        authenticated_at: None,
    }
}
