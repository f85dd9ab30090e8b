//! Signing in: first the proof, with as much work for an address without an account; then, if it is on, the
//! second factor; then a session.

use std::sync::Arc;

use api::identity as pb;
use chassis::{
    Account, Call, Clock, Db, Error, Result, Tx, UserId,
    call::Context,
    email,
    email::Address,
    key,
    throttle::{Throttle, place},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use time::Duration;
use uuid::Uuid;

use super::{
    InvalidLogin, Session, failed,
    store::{self, Challenge},
};
use crate::{
    password::Passwords,
    second_factor,
    user::{self, PasswordProof, User, store::Login},
};

/// How long a sign-in waits for its second factor.
const CHALLENGE_LIFETIME: Duration = Duration::minutes(5);

/// Tries of one account in a minute, and as many at once (I-06).
const TRIES_MAX: u32 = 5;

/// Codes that may be tried for one challenge, on all replicas together.
const ATTEMPTS_MAX: i32 = 5;

/// Who tries, how often, and whether they are right.
pub(crate) struct SignIn {
    db: Db,
    passwords: Arc<Passwords>,
    sealer: key::Secret,
    sources: Throttle<String>,
    /// By address of the account; by account and place for places that are known.
    accounts: Throttle<String>,
    codes: Throttle<UserId>,
}

/// What a right first proof gives.
pub(crate) enum Opened {
    /// A session, and its token.
    Session(Session, String),
    /// The token of a challenge: the second factor is asked for.
    Challenge(String),
}

const TOO_OFTEN: &str = "too many tries; retry later";

impl SignIn {
    pub(crate) fn new(
        db: Db,
        passwords: Arc<Passwords>,
        key: &key::Key,
        clock: &Clock,
        source_max: u32,
    ) -> Self {
        // Without a limit by source there is none by account either: for tests and closed networks.
        let account_max = if source_max == 0 { 0 } else { TRIES_MAX };
        Self {
            db,
            passwords,
            sealer: key.derive("second factors"),
            sources: Throttle::per_minute(source_max, clock),
            accounts: Throttle::per_minute(account_max, clock),
            codes: Throttle::per_minute(TRIES_MAX, clock),
        }
    }

    /// What seals the secrets of authenticators.
    pub(crate) fn sealer(&self) -> &key::Secret {
        &self.sealer
    }

    /// Counts a try of the place that a call comes from.
    pub(crate) fn count_source(&self, context: &Context) -> Result<()> {
        self.sources.check(&place(&context.origin.address), TOO_OFTEN)
    }

    /// Counts a code that is tried for an account.
    pub(crate) fn count_code(&self, user_id: UserId) -> Result<()> {
        self.codes.check(&user_id, TOO_OFTEN)
    }

    /// Compares address and password. An unknown address costs the same work.
    pub(crate) async fn login(&self, call: &Call<pb::LoginRequest>) -> Result<PasswordProof> {
        self.count_source(call)?;
        self.passwords.check_place()?;
        let address = email::parse(&call.message.email);
        let login = match &address {
            Some(address) => user::store::login(&self.db, &address.canonical).await?,
            None => None,
        };
        self.count_account(call, address.as_ref(), login.as_ref()).await?;
        let stored = login.as_ref().and_then(|it| it.password_hash.clone());
        let password = call.message.password.clone();
        let right = self.passwords.verify(password.clone().into(), stored.clone()).await?;
        let user_id = login.as_ref().map(|it| it.user_id);
        let Some(login) = login.filter(|_| right) else {
            self.tell_failure(call, user_id, "password").await?;
            return Err(InvalidLogin.into());
        };
        if let Some(old) = stored.filter(|it| self.passwords.is_old(it)) {
            self.rehash(login.user_id, &old, password).await?;
        }
        let Login { user_id, password_version, .. } = login;
        Ok(PasswordProof { user_id, password_version })
    }

    /// A place that the account knows is not locked out by what others try.
    async fn count_account(
        &self,
        context: &Context,
        address: Option<&Address>,
        login: Option<&Login>,
    ) -> Result<()> {
        let Some(address) = address else { return Ok(()) };
        let Err(refused) = self.accounts.check(&address.canonical, TOO_OFTEN) else {
            return Ok(());
        };
        let from = &context.origin.address;
        let known = match login {
            Some(it) => store::knows(&self.db, it.user_id, from).await?,
            None => false,
        };
        if !known {
            return Err(refused);
        }
        self.accounts.check(&format!("{} {from}", address.canonical), TOO_OFTEN)
    }

    /// A password of an older making becomes one of today's (I-02).
    async fn rehash(&self, user_id: UserId, old: &str, password: String) -> Result<()> {
        let new = self.passwords.hash(password.into()).await?;
        let rehash = async |tx: &mut Tx| user::store::rehash(tx, user_id, old, &new).await;
        self.db.write_as_system("rehash", rehash).await
    }

    /// Whoever is signed in shows their password again.
    pub(crate) async fn prove_password<M>(
        &self,
        call: &Call<M>,
        account: &Account,
        password: &str,
    ) -> Result<PasswordProof>
    where
        M: prost::Message + api::check::Check,
    {
        self.accounts.check(&format!("again {}", account.user_id), TOO_OFTEN)?;
        let user_id = account.user_id;
        let (stored, password_version) =
            user::store::password(&self.db, user_id).await?.unwrap_or_default();
        if self.passwords.verify(password.to_owned().into(), stored).await? {
            return Ok(PasswordProof { user_id, password_version });
        }
        self.tell_failure(call, Some(user_id), "password").await?;
        Err(InvalidLogin.into())
    }

    /// Tells the log that somebody did not sign in.
    pub(crate) async fn tell_failure<M>(
        &self,
        call: &Call<M>,
        user_id: Option<UserId>,
        reason: &str,
    ) -> Result<()>
    where
        M: prost::Message + api::check::Check,
    {
        let tell = async |tx: &mut Tx| {
            tx.emit(failed(user_id, reason));
            Ok(pb::LogoutResponse {})
        };
        self.db.write(call, tell).await.map(|_| ())
    }

    /// A session, or the challenge for a second factor, after a right first proof. The account is locked.
    pub(crate) async fn open(
        &self,
        tx: &mut Tx,
        context: &Context,
        user: &User,
        method: &str,
    ) -> Result<Opened> {
        if user.totp_enabled_at.is_some() {
            let token = Token::random(chassis::id::new());
            let challenge = Challenge {
                id: token.id,
                user_id: user.id,
                secret_hash: token.hash(),
                method: method.to_owned(),
                password_version: user.password_version,
                expires_at: tx.now + CHALLENGE_LIFETIME,
            };
            store::insert_challenge(tx, &challenge).await?;
            return Ok(Opened::Challenge(shown(&token, Kind::Challenge)));
        }
        let account = user.account(Uuid::nil());
        let (session, token) = self.session(tx, context, account, method).await?;
        Ok(Opened::Session(session, token))
    }

    /// The challenge of a token, one of whose attempts this call takes. Counted in a transaction of its own:
    /// a wrong code takes back what its call wrote.
    pub(crate) async fn attempt(&self, token: &str) -> Result<Challenge> {
        let token = Token::parse(Kind::Challenge, token).ok_or_else(no_challenge)?;
        let found = store::challenge(&self.db, token.id).await?;
        let challenge =
            found.filter(|it| token.matches(&it.secret_hash)).ok_or_else(no_challenge)?;
        self.count_code(challenge.user_id)?;
        let count = async |tx: &mut Tx| store::count_attempt(tx, token.id, ATTEMPTS_MAX).await;
        let counted = self.db.write_as_system("code", count).await?;
        if counted { Ok(challenge) } else { Err(no_challenge()) }
    }

    /// The account of a challenge, locked, once the challenge is used and a code was right.
    pub(crate) async fn complete(
        &self,
        tx: &mut Tx,
        challenge: &Challenge,
        code: &str,
    ) -> Result<User> {
        let user = user::store::lock(tx, challenge.user_id).await?.ok_or_else(no_challenge)?;
        let current = user.password_version == challenge.password_version;
        if !current || !store::use_challenge(tx, challenge.id).await? {
            return Err(no_challenge());
        }
        self.use_code(tx, user.id, code).await?;
        Ok(user)
    }

    /// Refuses a wrong code of the authenticator, or recovery code. A right one works once.
    pub(crate) async fn use_code(&self, tx: &mut Tx, user_id: UserId, code: &str) -> Result<()> {
        if second_factor::store::use_code(tx, &self.sealer, user_id, code, false).await? {
            return Ok(());
        }
        Err(second_factor::Refused::Code.into())
    }

    /// A session, and its token.
    pub(crate) async fn session(
        &self,
        tx: &mut Tx,
        context: &Context,
        account: Account,
        method: &str,
    ) -> Result<(Session, String)> {
        let opened = Session::open(account.user_id, method, &context.origin, tx.now);
        let token = Token::random(opened.state().id);
        tx.act_as(&Account { credential_id: token.id, ..account });
        let session = store::insert(tx, opened, &token.hash()).await?;
        Ok((session, shown(&token, Kind::Session)))
    }
}

fn shown(token: &Token, kind: Kind) -> String {
    token.reveal(kind).expose_secret().to_owned()
}

/// A challenge that cannot be used is like a wrong code.
fn no_challenge() -> Error {
    second_factor::Refused::Code.into()
}
