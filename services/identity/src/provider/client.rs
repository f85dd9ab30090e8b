//! HTTP client of an OpenID Connect provider: discovery, exchange of the authorization code, and
//! verification of the ID token.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chassis::{Error, Result};
use identity_rules::provider::Refused;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{Jwk, JwkSet},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

/// Timeout of a request to the provider.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Lifetime of the cached metadata.
const METADATA_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// Shortest time between two fetches of the metadata, so that tokens with unknown keys cannot cause a flood.
const METADATA_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Accepted signature algorithms, whatever the header of a token names. Excludes symmetric ones and `none`.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// The provider, and the registration of this deployment with it.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: Option<SecretString>,
    pub(crate) redirect_url: String,
}

/// A client of one provider.
pub(crate) struct OidcClient {
    pub(crate) settings: Settings,
    http: reqwest::Client,
    metadata: Mutex<Option<Metadata>>,
}

/// The discovery document and the keys of a provider.
#[derive(Clone)]
struct Metadata {
    document: DiscoveryDocument,
    keys: JwkSet,
    fetched_at: Instant,
}

/// The fields of a discovery document that are used (OpenID Connect Discovery 1.0, section 3).
#[derive(Clone, Deserialize)]
pub(crate) struct DiscoveryDocument {
    issuer: String,
    pub(crate) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct TokenResponse {
    id_token: String,
}

/// The claims of an ID token.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    pub(crate) email: Option<String>,
    #[serde(default)]
    pub(crate) email_verified: bool,
    pub(crate) name: Option<String>,
    nonce: Option<String>,
}

impl OidcClient {
    /// Creates a client. The issuer must use https, except on the loopback interface.
    pub(crate) fn new(settings: Settings) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(&settings.issuer);
        let url = url.with_context(|| format!("the issuer {} is not a URL", settings.issuer))?;
        let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        ensure!(
            url.scheme() == "https" || is_loopback,
            "the issuer {} must use https",
            settings.issuer
        );
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { settings, http, metadata: Mutex::default() })
    }

    /// Returns the discovery document.
    pub(crate) async fn discovery_document(&self) -> Result<DiscoveryDocument> {
        Ok(self.metadata(|_| true).await?.document)
    }

    /// Exchanges an authorization code for an ID token, and returns its verified claims.
    pub(crate) async fn exchange_code(
        &self,
        code: &str,
        verifier: &str,
        nonce: &str,
    ) -> Result<Claims> {
        let document = self.discovery_document().await?;
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
        let response = request.send().await.map_err(unavailable)?;
        if response.status().is_client_error() {
            return Err(rejected("the authorization code was not accepted"));
        }
        let response = response.error_for_status().map_err(unavailable)?;
        let tokens: TokenResponse = response.json().await.map_err(unavailable)?;
        let claims = self.verify_id_token(&tokens.id_token).await?;
        if claims.nonce.as_deref() != Some(nonce) {
            return Err(rejected("the nonce does not match"));
        }
        Ok(claims)
    }

    /// Verifies signature, algorithm, issuer, audience and expiry of an ID token.
    async fn verify_id_token(&self, token: &str) -> Result<Claims> {
        let header = decode_header(token).map_err(|_| rejected("the ID token is malformed"))?;
        let algorithm = ALGORITHMS.into_iter().find(|it| *it == header.alg);
        let algorithm =
            algorithm.ok_or_else(|| rejected("the signature algorithm is not allowed"))?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&self.settings.client_id]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let verify = |keys: &JwkSet| {
            let key = find_key(keys, header.kid.as_deref()).ok_or(ErrorKind::InvalidSignature)?;
            decode::<Claims>(token, &DecodingKey::from_jwk(key)?, &validation).map(|it| it.claims)
        };
        // An invalid signature may mean that the provider has rotated its keys: fetch them again.
        let metadata = self.metadata(|keys| !has_invalid_signature(&verify(keys))).await?;
        verify(&metadata.keys).map_err(|error| rejected(&error.to_string()))
    }

    /// Returns the metadata; fetches them again if they are older than [`METADATA_LIFETIME`], or if the
    /// keys are not `sufficient` for a token.
    async fn metadata(&self, sufficient: impl Fn(&JwkSet) -> bool) -> Result<Metadata> {
        let mut cached = self.metadata.lock().await;
        if let Some(metadata) = cached.as_ref() {
            let age = metadata.fetched_at.elapsed();
            let is_usable = age < METADATA_LIFETIME && sufficient(&metadata.keys);
            if is_usable || age < METADATA_INTERVAL_MIN {
                return Ok(metadata.clone());
            }
        }
        let issuer = self.settings.issuer.trim_end_matches('/');
        let document: DiscoveryDocument =
            self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        if document.issuer != self.settings.issuer {
            return Err(rejected("the discovery document names another issuer"));
        }
        let keys = self.get(&document.jwks_uri).await?;
        let metadata = Metadata { document, keys, fetched_at: Instant::now() };
        *cached = Some(metadata.clone());
        Ok(metadata)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T> {
        let response = self.http.get(url).send().await.map_err(unavailable)?;
        response.error_for_status().map_err(unavailable)?.json().await.map_err(unavailable)
    }
}

/// Returns the key with an id; without an id, the only key of the set.
fn find_key<'a>(keys: &'a JwkSet, id: Option<&str>) -> Option<&'a Jwk> {
    match id {
        Some(id) => keys.find(id),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    }
}

fn has_invalid_signature<T>(verified: &Result<T, jsonwebtoken::errors::Error>) -> bool {
    verified.as_ref().is_err_and(|it| matches!(it.kind(), ErrorKind::InvalidSignature))
}

fn rejected(reason: &str) -> Error {
    Refused::Rejected(reason.to_owned()).into()
}

/// Logs a failed request, without its URL, and returns the error that the client of the RPC gets.
fn unavailable(error: reqwest::Error) -> Error {
    tracing::warn!(
        error = format!("{:#}", anyhow::Error::from(error.without_url())),
        "request to the identity provider failed"
    );
    Error::Unavailable("identity provider")
}
