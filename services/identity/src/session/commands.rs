//! Sign-ins, repeated authentication, and the end of sessions.
//!
//! A sign-in has two steps: the password (or the identity provider) first, then a code of the second factor
//! if the account has one. It takes as long for an unknown address as for a known one.

use std::sync::Arc;

use api::{check::Check, error::Reason, identity as pb};
use chassis::{
    Account, Call, Db, Error, Result, Tx, UserId,
    call::Context,
    email,
    email::Address,
    key,
    rate_limit::RateLimit,
    throttle::network_of,
    token::{Kind, Token},
};
use identity_rules::{
    password::{InvalidLogin, Password},
    second_factor::{CodeKind, Refused},
    session::{Session, login_failed},
    user::{User, VerifiedPassword},
};
use prost::Message;
use secrecy::ExposeSecret;
use time::Duration;
use uuid::Uuid;

use super::store::{self, Challenge};
use crate::{
    credential::StoredCredential,
    password::{Match, PasswordHasher},
    second_factor,
    user::{self, store::Login},
};

/// Time in which a sign-in can be completed with a code of the second factor.
const CHALLENGE_LIFETIME: Duration = Duration::minutes(5);

/// Attempts per account and minute, and in one burst.
const ACCOUNT_ATTEMPTS_MAX: u32 = 5;

/// Codes that may be tried for one challenge, on all replicas together.
const CHALLENGE_ATTEMPTS_MAX: i32 = 5;

const TOO_MANY_ATTEMPTS: &str = "too many attempts; retry later";

/// The steps of signing in, with the limits of attempts for clients and accounts.
pub(crate) struct SignIn {
    db: Db,
    passwords: Arc<PasswordHasher>,
    /// Encrypts the secrets of authenticators.
    sealer: key::DerivedKeys,
    /// Attempts by network of the client.
    clients: RateLimit,
    /// Attempts by e-mail address; for networks from which the account signed in recently, by both.
    accounts: RateLimit,
    /// Codes of the second factor, by account.
    codes: RateLimit,
}

/// A new session, and its token, which is shown only once.
pub(crate) struct NewSession {
    pub(crate) session: Session,
    pub(crate) token: String,
}

/// The result of a successful first step of a sign-in.
pub(crate) enum SignInOutcome {
    /// The account has no second factor: the session has started.
    Session(NewSession),
    /// The account has a second factor: the token of the challenge that a code must complete.
    Challenge(String),
}

impl SignIn {
    /// Creates a sign-in that allows `client_attempts_max` attempts per network and minute; 0 means no limit.
    pub(crate) fn new(
        db: Db,
        passwords: Arc<PasswordHasher>,
        key: &key::Key,
        client_attempts_max: u32,
    ) -> Self {
        // Without a limit for clients there is none for accounts either: for tests and closed networks.
        let account_attempts_max = if client_attempts_max == 0 { 0 } else { ACCOUNT_ATTEMPTS_MAX };
        let limit = |name, count| RateLimit::per_minute(&db, name, count, TOO_MANY_ATTEMPTS);
        Self {
            clients: limit("sign-ins of a network", client_attempts_max),
            accounts: limit("sign-ins of an account", account_attempts_max),
            codes: limit("codes of an account", ACCOUNT_ATTEMPTS_MAX),
            sealer: key.derive("second factors"),
            db,
            passwords,
        }
    }

    /// Returns the keys that encrypt the secrets of authenticators.
    pub(crate) fn sealer(&self) -> &key::DerivedKeys {
        &self.sealer
    }

    /// Counts an attempt of the client's network, or refuses it.
    pub(crate) async fn throttle_client(&self, context: &Context) -> Result<()> {
        self.clients.check(&network_of(&context.origin.address)).await
    }

    /// Counts a code that is tried for an account, or refuses it.
    pub(crate) async fn throttle_codes(&self, user_id: UserId) -> Result<()> {
        self.codes.check(&user_id).await
    }

    /// Verifies e-mail address and password. Replaces the stored hash if its parameters are outdated.
    pub(crate) async fn verify_login<M: Message + Check>(
        &self,
        call: &Call<M>,
        email: &str,
        password: &str,
    ) -> Result<VerifiedPassword> {
        self.throttle_client(call).await?;
        self.passwords.require_capacity()?;
        let address = email::parse(email);
        let logins = match &address {
            Some(address) => user::store::find_logins(&self.db, &address.canonical).await?,
            None => vec![],
        };
        self.throttle_account(call, address.as_ref(), &logins).await?;
        let user_id = logins.first().map(|it| it.user_id);
        let password = Password::new(password);
        let Some((login, matched)) = self.find_match(logins, &password).await? else {
            self.record_failure(call, user_id, "password").await?;
            return Err(InvalidLogin.into());
        };
        let Login { user_id, password_version, password_hash } = login;
        let is_outdated = |it: &String| matched == Match::Former || self.passwords.is_outdated(it);
        if let Some(old) = password_hash.filter(is_outdated) {
            self.replace_hash(user_id, &old, &password).await?;
        }
        Ok(VerifiedPassword { user_id, password_version })
    }

    /// Returns the login with a password. Without a login, compares the password with a decoy, so that the
    /// reply takes as long. There is more than one for an address that nobody has confirmed.
    async fn find_match(
        &self,
        logins: Vec<Login>,
        password: &Password,
    ) -> Result<Option<(Login, Match)>> {
        if logins.is_empty() {
            self.passwords.verify(password, None).await?;
        }
        for login in logins {
            let stored = login.password_hash.clone();
            let matched = self.passwords.verify(password, stored).await?;
            if matched != Match::None {
                return Ok(Some((login, matched)));
            }
        }
        Ok(None)
    }

    /// Counts an attempt for an account, or refuses it. Attempts of others cannot lock out a person on a
    /// network from which the account signed in recently: such networks have a limit of their own (I-06).
    async fn throttle_account(
        &self,
        context: &Context,
        address: Option<&Address>,
        logins: &[Login],
    ) -> Result<()> {
        let Some(address) = address else { return Ok(()) };
        let refused = match self.accounts.check(&address.canonical).await {
            Err(refused @ Error::Limited { .. }) => refused,
            other => return other,
        };
        let client = &context.origin.address;
        let is_known = match logins.first() {
            Some(login) => store::signed_in_recently_from(&self.db, login.user_id, client).await?,
            None => false,
        };
        if !is_known {
            return Err(refused);
        }
        self.accounts.check(&format!("{} {client}", address.canonical)).await
    }

    /// Stores a hash of the same password with the current parameters.
    async fn replace_hash(&self, user_id: UserId, old: &str, password: &Password) -> Result<()> {
        let new = self.passwords.rehash(password).await?;
        let replace = async |tx: &mut Tx| user::store::replace_hash(tx, user_id, old, &new).await;
        self.db.write_as_system("rehash", replace).await
    }

    /// Returns the account of the session that a public method was called with, if there is one.
    pub(crate) async fn session_account(&self, context: &Context) -> Result<Option<Account>> {
        let Some(token) = context.session() else { return Ok(None) };
        let found = store::credential(&self.db, token.id).await?;
        let is_valid =
            |it: &StoredCredential| !it.is_expired(self.db.now()) && token.matches(&it.secret_hash);
        Ok(found.filter(is_valid).map(|it| it.account))
    }

    /// Verifies the password of an account that is known by its session or by a mailed link.
    pub(crate) async fn verify_password<M: Message + Check>(
        &self,
        call: &Call<M>,
        user_id: UserId,
        password: &str,
    ) -> Result<VerifiedPassword> {
        // Separate from sign-ins, which are counted by address: they cannot lock out a signed-in person.
        self.accounts.check(&format!("again {user_id}")).await?;
        let stored = user::store::find_password(&self.db, user_id).await?.unwrap_or_default();
        let password_version = stored.version;
        let matched = self.passwords.verify(&Password::new(password), stored.hash).await?;
        if matched != Match::None {
            return Ok(VerifiedPassword { user_id, password_version });
        }
        self.record_failure(call, Some(user_id), "password").await?;
        Err(InvalidLogin.into())
    }

    /// Emits the event of a failed sign-in, in a transaction of its own.
    pub(crate) async fn record_failure<M: Message + Check>(
        &self,
        call: &Call<M>,
        user_id: Option<UserId>,
        reason: &str,
    ) -> Result<()> {
        let record = async |tx: &mut Tx| {
            tx.emit(login_failed(user_id, reason));
            Ok(())
        };
        self.db.write_refusal(call, record).await
    }

    /// Emits the event of a failed sign-in if `outcome` is a wrong code; returns the outcome.
    pub(crate) async fn record_wrong_code<M: Message + Check, T>(
        &self,
        call: &Call<M>,
        user_id: UserId,
        outcome: Result<T>,
    ) -> Result<T> {
        if outcome.as_ref().is_err_and(|it| it.reason() == Reason::InvalidCode) {
            self.record_failure(call, Some(user_id), "code").await?;
        }
        outcome
    }

    /// Starts a session after the first step, or a challenge if the account has a second factor. The
    /// transaction must hold the account's lock.
    pub(crate) async fn finish_first_step(
        &self,
        tx: &mut Tx,
        context: &Context,
        user: &User,
        method: &str,
    ) -> Result<SignInOutcome> {
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
            return Ok(SignInOutcome::Challenge(reveal(&token, Kind::Challenge)));
        }
        let account = user.account(Uuid::nil());
        Ok(SignInOutcome::Session(self.start_session(tx, context, account, method).await?))
    }

    /// Returns the challenge of a token, and counts an attempt at it. The attempt is committed before the
    /// code is verified: a wrong code rolls back its own transaction.
    pub(crate) async fn begin_attempt(&self, token: &str) -> Result<Challenge> {
        let token = Token::parse(Kind::Challenge, token).ok_or_else(invalid_challenge)?;
        let challenge = store::find_challenge(&self.db, token.id).await?;
        let challenge = challenge.filter(|it| token.matches(&it.secret_hash));
        let challenge = challenge.ok_or_else(invalid_challenge)?;
        self.throttle_codes(challenge.user_id).await?;
        let count =
            async |tx: &mut Tx| store::count_attempt(tx, token.id, CHALLENGE_ATTEMPTS_MAX).await;
        let is_allowed = self.db.write_as_system("code", count).await?;
        if is_allowed { Ok(challenge) } else { Err(invalid_challenge()) }
    }

    /// Completes a challenge with a code, and starts the session.
    pub(crate) async fn complete_challenge(
        &self,
        tx: &mut Tx,
        context: &Context,
        challenge: &Challenge,
        code: &str,
    ) -> Result<NewSession> {
        let user = user::store::lock(tx, challenge.user_id).await?;
        let user = user.ok_or_else(invalid_challenge)?;
        let is_current = user.password_version == challenge.password_version;
        if !is_current || !store::consume_challenge(tx, challenge.id).await? {
            return Err(invalid_challenge());
        }
        self.require_code(tx, user.id, code).await?;
        let method = format!("{}+code", challenge.method);
        let account = user.account(challenge.id);
        self.start_session(tx, context, account, &method).await
    }

    /// Refuses a wrong code of the authenticator, or a wrong recovery code. A correct one works once.
    async fn require_code(&self, tx: &mut Tx, user_id: UserId, code: &str) -> Result<()> {
        let accepted = CodeKind::AuthenticatorOrRecovery;
        if second_factor::store::consume_code(tx, &self.sealer, user_id, code, accepted).await? {
            return Ok(());
        }
        Err(Refused::Code.into())
    }

    /// Starts a session; the account is the actor of the transaction from then on.
    pub(crate) async fn start_session(
        &self,
        tx: &mut Tx,
        context: &Context,
        account: Account,
        method: &str,
    ) -> Result<NewSession> {
        let started = Session::start(account.user_id, method, &context.origin, tx.now);
        let token = Token::random(started.state().id);
        tx.act_as(&Account { credential_id: token.id, ..account });
        let session = store::insert(tx, started, &token.hash()).await?;
        Ok(NewSession { session, token: reveal(&token, Kind::Session) })
    }

    /// Records that a signed-in person has authenticated again, with password and, if enabled, second factor.
    pub(super) async fn reauthenticate(
        &self,
        tx: &mut Tx,
        account: &Account,
        verified: &VerifiedPassword,
        code: &str,
    ) -> Result<Session> {
        let user = user::store::lock_caller(tx, account).await?;
        user.require_current(verified)?;
        let session = store::lock(tx, account.user_id, account.credential_id).await?;
        let session = session.ok_or_else(Error::invalid_credential)?;
        if user.totp_enabled_at.is_some() {
            self.throttle_codes(account.user_id).await?;
            self.require_code(tx, account.user_id, code).await?;
        }
        store::update_proved_at(tx, session.reauthenticate(tx.now)).await
    }
}

/// Ends the session with which the account calls.
pub(super) async fn log_out(tx: &mut Tx, account: &Account) -> Result<()> {
    let session = store::lock(tx, account.user_id, account.credential_id).await?;
    // `None` if a concurrent call with the same token has ended it.
    let session = session.ok_or_else(Error::invalid_credential)?;
    store::end(tx, session.log_out()).await?;
    Ok(())
}

/// Ends one of the account's sessions.
pub(super) async fn revoke(tx: &mut Tx, user_id: UserId, id: Uuid) -> Result<()> {
    let session = store::lock(tx, user_id, id).await?.ok_or(Error::NotFound("session"))?;
    store::end(tx, session.revoke()).await?;
    Ok(())
}

/// Ends every session of the account except the one with which it calls. Returns their number.
pub(super) async fn revoke_others(tx: &mut Tx, account: &Account) -> Result<i32> {
    let user = user::store::lock_caller(tx, account).await?;
    end_all(tx, user, Some(account.credential_id)).await
}

/// Ends every session of an account for an operator. Returns their number.
pub(super) async fn revoke_all(tx: &mut Tx, user_id: UserId) -> Result<i32> {
    let user = user::store::lock(tx, user_id).await?.ok_or(Error::NotFound("account"))?;
    end_all(tx, user, None).await
}

async fn end_all(tx: &mut Tx, user: User, kept: Option<Uuid>) -> Result<i32> {
    let ended = store::end_all(tx, user.id, kept).await?;
    let count = i32::try_from(ended).unwrap_or(i32::MAX);
    let event = pb::UserSessionsRevoked { after: Some((&user).into()), count };
    tx.emit(user.with_event(&event));
    Ok(count)
}

fn reveal(token: &Token, kind: Kind) -> String {
    token.reveal(kind).expose_secret().to_owned()
}

/// The refusal of an unknown, used or expired challenge; the same as for a wrong code.
fn invalid_challenge() -> Error {
    Refused::Code.into()
}
