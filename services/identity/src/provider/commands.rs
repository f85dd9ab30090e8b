//! The steps of a sign-in with the identity provider: start, exchange of the code, link to an account.

use std::sync::Arc;

use api::identity as pb;
use chassis::{
    Changed, Db, Error, EventTarget, Result, Tx, email,
    email::Address,
    foreign_text,
    key::{self, DerivedKeys, Key},
    token::{Kind, Token},
};
use data_encoding::BASE64URL_NOPAD;
use identity_rules::{
    provider::Refused,
    user::{Draft, User},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use time::Duration;
use uuid::Uuid;

use super::{
    client::{Claims, OidcClient, Settings},
    store,
};
use crate::user;

/// Time in which a person must authenticate at the provider.
const LOGIN_LIFETIME: Duration = Duration::minutes(10);

/// Longest issuer, in bytes; the contract limits the field of the events.
const ISSUER_BYTES_MAX: usize = 255;

/// Longest display name that is taken from the provider, in characters.
const DISPLAY_NAME_CHARS_MAX: usize = 100;

/// The configured identity provider; every method refuses if there is none.
#[derive(Clone)]
pub(crate) struct Provider {
    db: Db,
    /// Encrypts [`LoginSecrets`].
    sealer: DerivedKeys,
    client: Option<Arc<OidcClient>>,
}

/// The secrets with which the provider's response is verified. Stored encrypted until it arrives.
#[derive(Serialize, Deserialize)]
struct LoginSecrets {
    /// Hash of the `state` parameter.
    secret_hash: Vec<u8>,
    /// PKCE code verifier.
    verifier: String,
    nonce: String,
}

/// A sign-in that is ready to be stored: preparing it calls the provider, which no transaction may wait for.
pub(crate) struct PreparedLogin {
    id: Uuid,
    sealed_secrets: Vec<u8>,
    issuer: String,
    started: StartedLogin,
}

/// A started sign-in, as the client needs it.
pub(crate) struct StartedLogin {
    /// The page of the provider where the person authenticates.
    pub(super) authorization_url: String,
    /// The `state` parameter that the provider's response must contain.
    pub(super) state: String,
}

impl Provider {
    /// Creates the provider; `settings` is `None` if none is configured.
    pub(crate) fn new(db: Db, key: &Key, settings: Option<Settings>) -> anyhow::Result<Self> {
        if settings.as_ref().is_some_and(|it| it.issuer.len() > ISSUER_BYTES_MAX) {
            anyhow::bail!("--oidc-issuer must have at most {ISSUER_BYTES_MAX} bytes");
        }
        let client = settings.map(OidcClient::new).transpose()?.map(Arc::new);
        Ok(Self { db, sealer: key.derive("external logins"), client })
    }

    fn client(&self) -> Result<&OidcClient> {
        self.client.as_deref().ok_or_else(|| Refused::NoProvider.into())
    }

    /// Prepares a sign-in: generates its secrets and the URL of the provider's page.
    pub(crate) async fn prepare(&self) -> Result<PreparedLogin> {
        let client = self.client()?;
        let document = client.discovery_document().await?;
        let token = Token::random(chassis::id::new());
        let random = || BASE64URL_NOPAD.encode(&key::random());
        let secrets =
            LoginSecrets { secret_hash: token.hash(), verifier: random(), nonce: random() };
        let challenge = BASE64URL_NOPAD.encode(&key::hash(secrets.verifier.as_bytes()));
        let state = token.reveal(Kind::External).expose_secret().to_owned();
        let url = reqwest::Url::parse_with_params(
            &document.authorization_endpoint,
            [
                ("response_type", "code"),
                ("client_id", &client.settings.client_id),
                ("redirect_uri", &client.settings.redirect_url),
                ("scope", "openid email profile"),
                ("state", &state),
                ("nonce", &secrets.nonce),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ],
        );
        let authorization_url = url.map_err(anyhow::Error::from)?.into();
        let plain = serde_json::to_vec(&secrets).map_err(anyhow::Error::from)?;
        Ok(PreparedLogin {
            id: token.id,
            sealed_secrets: self.sealer.seal(token.id.as_bytes(), &plain),
            issuer: client.settings.issuer.clone(),
            started: StartedLogin { authorization_url, state },
        })
    }

    /// Stores a prepared sign-in.
    pub(crate) async fn start(&self, tx: &mut Tx, login: PreparedLogin) -> Result<StartedLogin> {
        let PreparedLogin { id, sealed_secrets, issuer, started } = login;
        store::insert(tx, id, &sealed_secrets, tx.now + LOGIN_LIFETIME).await?;
        let target = EventTarget::object("external_login", id.to_string(), "");
        tx.emit(Changed::new((), &pb::UserExternalLoginStarted { issuer }, target));
        Ok(started)
    }

    /// Exchanges the code of the provider's response for the verified claims about the person.
    pub(crate) async fn exchange(&self, state: &str, code: &str) -> Result<Claims> {
        let client = self.client()?;
        let secrets = self.consume_login(state).await?;
        client.exchange_code(code, &secrets.verifier, &secrets.nonce).await
    }

    /// Returns the secrets of a started sign-in. Marks it as used before the code is exchanged, so that it
    /// can be completed only once.
    async fn consume_login(&self, state: &str) -> Result<LoginSecrets> {
        let unknown = || Error::from(Refused::Unknown);
        let token = Token::parse(Kind::External, state).ok_or_else(unknown)?;
        let consume = async |tx: &mut Tx| store::consume(tx, token.id).await;
        let sealed = self.db.write_as_system("external login", consume).await?;
        let plain = self.sealer.open(token.id.as_bytes(), &sealed.ok_or_else(unknown)?);
        let secrets: LoginSecrets =
            serde_json::from_slice(&plain.ok_or_else(unknown)?).map_err(anyhow::Error::from)?;
        if token.matches(&secrets.secret_hash) { Ok(secrets) } else { Err(unknown()) }
    }

    /// Returns the account of a person, locked: the linked one, or the one with the same address if both
    /// sides have verified it, or a new one. Links the identity if it was not linked.
    pub(crate) async fn link_account(&self, tx: &mut Tx, claims: &Claims) -> Result<User> {
        let issuer = &self.client()?.settings.issuer;
        if let Some(id) = store::find_linked_account(tx, issuer, &claims.sub).await? {
            return user::store::lock(tx, id).await?.ok_or_else(|| Refused::Unknown.into());
        }
        let address = claims.email.as_deref().filter(|_| claims.email_verified);
        let address = address.and_then(email::parse).ok_or(Refused::Unverified)?;
        user::store::claims::lock_address(tx, &address.canonical).await?;
        let user = match user::store::lock_by_email(tx, &address.canonical).await? {
            Some(user) => user,
            // Claims of others to the address end: the provider has verified that it is this person's.
            None => register(tx, address, claims).await?,
        };
        tx.act_as(&user.account(Uuid::nil()));
        let mut linked = user;
        linked.issuers.push(issuer.to_owned());
        let after = Some((&linked).into());
        let event = pb::UserIdentityLinked { after, issuer: issuer.to_owned() };
        store::link(tx, linked.with_event(&event), issuer, &claims.sub).await
    }
}

/// Creates an account without a password. The provider has verified its address.
async fn register(tx: &mut Tx, address: Address, claims: &Claims) -> Result<User> {
    let name = foreign_text::clean_name(claims.name.as_deref().unwrap_or_default());
    let name: String = name.chars().take(DISPLAY_NAME_CHARS_MAX).collect();
    let draft = Draft::new(address, &name);
    let registered = User::register(draft, Some(tx.now), tx.now);
    tx.act_as(&registered.state().account(Uuid::nil()));
    let user = user::store::insert(tx, registered, None).await?;
    let user = user
        .ok_or_else(|| Error::conflict("this account is being created by another call; retry"))?;
    user::commands::claims::end_others(tx, &user).await?;
    Ok(user)
}
