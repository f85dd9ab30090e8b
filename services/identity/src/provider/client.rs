//! What is asked of an identity provider, and how its answers are checked.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chassis::{Error, Result};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{Jwk, JwkSet},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::Refused;

/// How long an answer of the provider may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long its addresses and keys are remembered.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Between two questions for its keys, however many tokens name a key that is not known.
const KEYS_PAUSE: Duration = Duration::from_secs(1);

/// With which algorithms a token may be signed, whatever its header says. No symmetric ones, and no `none`.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Which provider, and who we are there.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: Option<SecretString>,
    pub(crate) redirect_url: String,
}

/// A provider.
pub(crate) struct Client {
    pub(crate) settings: Settings,
    http: reqwest::Client,
    known: Mutex<Option<Known>>,
}

/// What is remembered of a provider.
#[derive(Clone)]
struct Known {
    document: Document,
    keys: JwkSet,
    at: Instant,
}

/// The discovery document, as far as it is needed.
#[derive(Clone, Deserialize)]
pub(crate) struct Document {
    issuer: String,
    pub(crate) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
}

/// What a provider says about a person.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    pub(crate) email: Option<String>,
    #[serde(default)]
    pub(crate) email_verified: bool,
    pub(crate) name: Option<String>,
    nonce: Option<String>,
}

impl Client {
    pub(crate) fn new(settings: Settings) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(&settings.issuer);
        let url = url.with_context(|| format!("{} is no issuer", settings.issuer))?;
        let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        ensure!(
            url.scheme() == "https" || loopback,
            "the issuer {} must be reached by https",
            settings.issuer
        );
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { settings, http, known: Mutex::default() })
    }

    /// The provider's addresses.
    pub(crate) async fn document(&self) -> Result<Document> {
        Ok(self.known(|_| true).await?.document)
    }

    /// Exchanges the code of the provider's answer for its word about the person.
    pub(crate) async fn claims(&self, code: &str, verifier: &str, nonce: &str) -> Result<Claims> {
        let document = self.document().await?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.settings.redirect_url),
            ("client_id", &self.settings.client_id),
            ("code_verifier", verifier),
        ];
        let mut request = self.http.post(&document.token_endpoint).form(&form);
        if let Some(secret) = &self.settings.client_secret {
            request = request.basic_auth(&self.settings.client_id, Some(secret.expose_secret()));
        }
        let answer = request.send().await.map_err(silent)?;
        if answer.status().is_client_error() {
            return Err(rejected("it does not accept the code"));
        }
        let tokens: Tokens =
            answer.error_for_status().map_err(silent)?.json().await.map_err(silent)?;
        let claims = self.check(&tokens.id_token).await?;
        if claims.nonce.as_deref() != Some(nonce) {
            return Err(rejected("the nonce is another"));
        }
        Ok(claims)
    }

    /// Signature, algorithm, issuer, audience and time of a token.
    async fn check(&self, token: &str) -> Result<Claims> {
        let header = decode_header(token).map_err(|_| rejected("it is no token"))?;
        let allowed = ALGORITHMS.into_iter().find(|it| *it == header.alg);
        let algorithm = allowed.ok_or_else(|| rejected("its algorithm is not allowed"))?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&self.settings.client_id]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let verify = |keys: &JwkSet| {
            let key = key(keys, header.kid.as_deref()).ok_or(ErrorKind::InvalidSignature)?;
            decode::<Claims>(token, &DecodingKey::from_jwk(key)?, &validation).map(|it| it.claims)
        };
        // A key that is not known, or is another: perhaps the provider has changed its keys.
        let known = self.known(|it| !is_foreign(&verify(it))).await?;
        verify(&known.keys).map_err(|error| rejected(&error.to_string()))
    }

    /// The provider's addresses and keys; asked again when they are old, or when the keys are not the wanted
    /// ones because the provider has changed them.
    async fn known(&self, good: impl Fn(&JwkSet) -> bool) -> Result<Known> {
        let mut known = self.known.lock().await;
        if let Some(it) = known.as_ref() {
            let fresh = it.at.elapsed() < REMEMBERED && good(&it.keys);
            if fresh || it.at.elapsed() < KEYS_PAUSE {
                return Ok(it.clone());
            }
        }
        let issuer = self.settings.issuer.trim_end_matches('/');
        let document: Document =
            self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        if document.issuer != self.settings.issuer {
            return Err(rejected("its discovery document is of another issuer"));
        }
        let keys = self.get(&document.jwks_uri).await?;
        let it = Known { document, keys, at: Instant::now() };
        *known = Some(it.clone());
        Ok(it)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T> {
        let answer = self.http.get(url).send().await.map_err(silent)?;
        answer.error_for_status().map_err(silent)?.json().await.map_err(silent)
    }
}

/// The key that a token names; the only one, if it names none.
fn key<'a>(keys: &'a JwkSet, id: Option<&str>) -> Option<&'a Jwk> {
    match id {
        Some(id) => keys.find(id),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    }
}

fn is_foreign<T>(verified: &Result<T, jsonwebtoken::errors::Error>) -> bool {
    verified.as_ref().is_err_and(|it| matches!(it.kind(), ErrorKind::InvalidSignature))
}

fn rejected(why: &str) -> Error {
    Refused::Rejected(why.to_owned()).into()
}

fn silent(error: reqwest::Error) -> Error {
    tracing::warn!(
        error = format!("{:#}", anyhow::Error::from(error.without_url())),
        "identity provider"
    );
    Error::Unavailable("identity provider")
}
