//! The gRPC surface of sessions.

use std::sync::Arc;

use api::identity::{self as pb, session_service_server::SessionService};
use chassis::{
    Account, Call, Db, Error, Reply, Tx, email, reply,
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use tonic::Request;

use super::{InvalidLogin, Session, store};
use crate::{access::Proofs, password::Passwords};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) passwords: Arc<Passwords>,
    pub(crate) proofs: Proofs,
}

#[tonic::async_trait]
impl SessionService for Rpc {
    async fn login(&self, request: Request<pb::LoginRequest>) -> Reply<pb::LoginResponse> {
        let call = Call::of(request)?;
        let account = self.account(&call.message).await?;
        let open = async |tx: &mut Tx| {
            let opened = Session::open(account.user_id, tx.now);
            let token = Token::random(opened.state().id);
            tx.act_as(&Account { credential_id: token.id, ..account });
            let session = store::insert(tx, opened, &token.hash()).await?;
            let token = token.reveal(Kind::Session).expose_secret().to_owned();
            Ok(pb::LoginResponse { session: Some((&session).into()), token })
        };
        reply(self.db.write(&call, open).await?)
    }

    async fn logout(&self, request: Request<pb::LogoutRequest>) -> Reply<pb::LogoutResponse> {
        let call = Call::of(request)?;
        let session_id = call.account()?.credential_id;
        let end = async |tx: &mut Tx| {
            // Two calls with one token at once: the second finds it ended.
            let session = store::lock(tx, session_id).await?.ok_or_else(Error::bad_credential)?;
            store::end(tx, session.end()).await?;
            Ok(pb::LogoutResponse {})
        };
        let ended = self.db.write(&call, end).await?;
        // Other replicas forget within a second, this one at once.
        self.proofs.invalidate(&session_id);
        reply(ended)
    }
}

impl Rpc {
    /// The account whose address and password these are. An unknown address costs the same work.
    async fn account(&self, request: &pb::LoginRequest) -> Result<Account, Error> {
        let login = match email::parse(&request.email) {
            Some(address) => store::login(&self.db, &address.canonical).await?,
            None => None,
        };
        let stored = login.as_ref().map(|it| it.password_hash.clone());
        let right = self.passwords.verify(request.password.clone().into(), stored).await?;
        let login = login.filter(|_| right).ok_or(InvalidLogin)?;
        Ok(Account {
            user_id: login.user_id,
            email: login.email,
            display_name: login.display_name,
            email_verified: login.email_verified,
            credential_id: uuid::Uuid::nil(),
            key: None,
            authenticated_at: None,
        })
    }
}
