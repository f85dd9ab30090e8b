//! A sign-in from its start, through the provider, to an account.

use std::sync::Arc;

use api::identity as pb;
use chassis::{
    About, Call, Changed, Db, Error, Result, Tx, email,
    key::{self, Key, Secret},
    token::{Kind, Token},
};
use data_encoding::BASE64URL_NOPAD;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use time::Duration;

use super::{
    Refused,
    client::{Claims, Client, Settings},
    store,
};
use crate::{
    session::sign_in::{Opened, SignIn},
    user::{self, Draft, User},
};

/// How long a person may take at their provider.
const LIFETIME: Duration = Duration::minutes(10);

/// The longest issuer that events carry, as the contract declares.
const ISSUER_BYTES_MAX: usize = 255;

/// The configured identity provider, if there is one.
#[derive(Clone)]
pub(crate) struct Provider {
    db: Db,
    sealer: Secret,
    client: Option<Arc<Client>>,
}

/// What the provider's answer must match. Sealed while the person is away.
#[derive(Serialize, Deserialize)]
struct Expected {
    secret_hash: Vec<u8>,
    verifier: String,
    nonce: String,
}

impl Provider {
    pub(crate) fn new(db: Db, key: &Key, settings: Option<Settings>) -> anyhow::Result<Self> {
        if settings.as_ref().is_some_and(|it| it.issuer.len() > ISSUER_BYTES_MAX) {
            anyhow::bail!("--oidc-issuer is longer than {ISSUER_BYTES_MAX} bytes");
        }
        let client = settings.map(Client::new).transpose()?.map(Arc::new);
        Ok(Self { db, sealer: key.derive("external logins"), client })
    }

    fn client(&self) -> Result<&Client> {
        self.client.as_deref().ok_or_else(|| Refused::NoProvider.into())
    }

    /// Where the person signs in, and what the answer must bring back.
    pub(crate) async fn start(
        &self,
        call: &Call<pb::StartExternalLoginRequest>,
    ) -> Result<pb::StartExternalLoginResponse> {
        let client = self.client()?;
        let document = client.document().await?;
        let state = Token::random(chassis::id::new());
        let random = || BASE64URL_NOPAD.encode(&key::random());
        let expected = Expected { secret_hash: state.hash(), verifier: random(), nonce: random() };
        let challenge = BASE64URL_NOPAD.encode(&key::hash(expected.verifier.as_bytes()));
        let shown = state.reveal(Kind::External).expose_secret().to_owned();
        let url = reqwest::Url::parse_with_params(
            &document.authorization_endpoint,
            [
                ("response_type", "code"),
                ("client_id", &client.settings.client_id),
                ("redirect_uri", &client.settings.redirect_url),
                ("scope", "openid email profile"),
                ("state", &shown),
                ("nonce", &expected.nonce),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ],
        );
        let url = url.map_err(anyhow::Error::from)?;
        let plain = serde_json::to_vec(&expected).map_err(anyhow::Error::from)?;
        let sealed = key::seal(&self.sealer, state.id.as_bytes(), &plain);
        let issuer = client.settings.issuer.clone();
        let start = async |tx: &mut Tx| {
            store::insert(tx, state.id, &sealed, tx.now + LIFETIME).await?;
            let about = About::object("external_login", state.id.to_string(), "");
            tx.emit(Changed::new((), &pb::ExternalLoginStarted { issuer }, about));
            Ok(pb::StartExternalLoginResponse { authorization_url: url.into(), state: shown })
        };
        self.db.write(call, start).await
    }

    /// A session, or a challenge, for the person that the provider names.
    pub(crate) async fn complete(
        &self,
        call: &Call<pb::CompleteExternalLoginRequest>,
        sign_in: &SignIn,
    ) -> Result<pb::CompleteExternalLoginResponse> {
        let client = self.client()?;
        let expected = self.take(&call.message.state).await?;
        let code = &call.message.code;
        let claims = client.claims(code, &expected.verifier, &expected.nonce).await?;
        let issuer = &client.settings.issuer;
        let complete = async |tx: &mut Tx| {
            let user = account(tx, issuer, &claims).await?;
            Ok(match sign_in.open(tx, call, &user, "oidc").await? {
                Opened::Session(session, token) => pb::CompleteExternalLoginResponse {
                    session: Some((&session).into()),
                    token,
                    ..Default::default()
                },
                Opened::Challenge(challenge) => {
                    pb::CompleteExternalLoginResponse { challenge, ..Default::default() }
                }
            })
        };
        self.db.write(call, complete).await
    }

    /// What the answer must match. Taken before the code is exchanged, so that it serves once.
    async fn take(&self, state: &str) -> Result<Expected> {
        let unknown = || Error::from(Refused::Unknown);
        let state = Token::parse(Kind::External, state).ok_or_else(unknown)?;
        let take = async |tx: &mut Tx| store::take(tx, state.id).await;
        let sealed = self.db.write_as_system("external login", take).await?;
        let plain = key::open(&self.sealer, state.id.as_bytes(), &sealed.ok_or_else(unknown)?);
        let expected: Expected =
            serde_json::from_slice(&plain.ok_or_else(unknown)?).map_err(anyhow::Error::from)?;
        if state.matches(&expected.secret_hash) { Ok(expected) } else { Err(unknown()) }
    }
}

/// The account of a person: by an earlier link, by an address that both sides verified, or a new one.
async fn account(tx: &mut Tx, issuer: &str, claims: &Claims) -> Result<User> {
    if let Some(id) = store::linked(tx, issuer, &claims.sub).await? {
        return user::store::lock(tx, id).await?.ok_or_else(|| Refused::Unknown.into());
    }
    let address = claims.email.as_deref().filter(|_| claims.email_verified);
    let address = address.and_then(email::parse).ok_or(Refused::Unverified)?;
    let user = match user::store::lock_by_email(tx, &address.canonical).await? {
        // Whoever opened it has not shown that the address is theirs: the account may be a trap.
        Some(user) if user.email_verified_at.is_none() => return Err(Refused::EmailTaken.into()),
        Some(user) => user,
        None => {
            let name = claims.name.as_deref().unwrap_or_default().trim();
            let local = address.typed.0.split('@').next().unwrap_or_default().to_owned();
            let name: String = name.chars().filter(|it| !it.is_control()).take(100).collect();
            let display_name = if name.is_empty() { local } else { name };
            let registered = User::register(Draft { address, display_name }, Some(tx.now), tx.now);
            tx.act_as(&registered.state().account(uuid::Uuid::nil()));
            let user = user::store::insert(tx, registered, None).await?;
            user.ok_or_else(|| Error::conflict("someone else is opening this account; retry"))?
        }
    };
    tx.act_as(&user.account(uuid::Uuid::nil()));
    let mut linked = user;
    linked.issuers.push(issuer.to_owned());
    let event = pb::IdentityLinked { after: Some((&linked).into()), issuer: issuer.to_owned() };
    store::link(tx, linked.told(&event), issuer, &claims.sub).await
}
