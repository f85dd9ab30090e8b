//! Sessions of accounts for operators: the part of the AdminService that this service provides.

use chassis::{Db, Error, Result, Tx, UserId, email};
use host::admin::{AccountSession, AccountSessions};
use identity_rules::session::Session;
use uuid::Uuid;

use super::{commands, store};
use crate::{credential::CredentialCache, user};

/// Sessions of accounts.
pub(crate) struct SupportSessions {
    pub(crate) db: Db,
    pub(crate) credentials: CredentialCache,
}

#[tonic::async_trait]
impl AccountSessions for SupportSessions {
    async fn find_accounts(&self, id_or_email: &str) -> Result<Vec<UserId>> {
        if let Ok(id) = Uuid::try_parse(id_or_email) {
            return Ok(user::store::find_active(&self.db, UserId(id)).await?.into_iter().collect());
        }
        let Some(address) = email::parse(id_or_email) else { return Ok(vec![]) };
        let logins = user::store::find_logins(&self.db, &address.canonical).await?;
        Ok(logins.into_iter().map(|it| it.user_id).collect())
    }

    async fn list(&self, account: UserId, limit: i64) -> Result<Vec<AccountSession>> {
        let sessions = store::list_newest(&self.db, account, limit).await?;
        Ok(sessions.into_iter().map(account_session).collect())
    }

    async fn end(&self, account: UserId, session_id: Uuid) -> Result<()> {
        let revoke = async |tx: &mut Tx| {
            let session = store::lock(tx, account, session_id).await?;
            let session = session.ok_or(Error::NotFound("session"))?;
            store::end(tx, session.revoke_as_operator()).await
        };
        self.db.write_as_operator("EndAccountSessions", revoke).await?;
        self.credentials.invalidate(&session_id);
        Ok(())
    }

    async fn end_all(&self, account: UserId) -> Result<i32> {
        let revoke = async |tx: &mut Tx| commands::revoke_all(tx, account).await;
        let ended = self.db.write_as_operator("EndAccountSessions", revoke).await?;
        self.credentials.invalidate_all();
        Ok(ended)
    }
}

fn account_session(session: Session) -> AccountSession {
    AccountSession {
        id: session.id,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at,
        address: session.address,
        user_agent: session.user_agent,
    }
}
