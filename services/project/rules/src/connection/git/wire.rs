//! Conversion between messages of the contract and Git connections.

use api::{check::Violation, project as pb};
use chassis::{Error, Result, mask, ssh_key::fingerprint, timestamp};

use super::{Draft, GitConnection, Patch, Probe, Provider, Settings};
use crate::{
    repository::{CredentialInUrl, Endpoint, Scheme, has_credential, url_violation},
    types::parse_optional_id,
};

/// Name of the field of the URL.
const URL_FIELD: &str = "test_repository_url";

impl From<Provider> for pb::GitProvider {
    fn from(it: Provider) -> Self {
        match it {
            Provider::Other => Self::Other,
            Provider::GitHub => Self::Github,
            Provider::GitLab => Self::Gitlab,
            Provider::Gitea => Self::Gitea,
        }
    }
}

/// UNSPECIFIED means OTHER.
impl From<pb::GitProvider> for Provider {
    fn from(it: pb::GitProvider) -> Self {
        match it {
            pb::GitProvider::Unspecified | pb::GitProvider::Other => Self::Other,
            pb::GitProvider::Github => Self::GitHub,
            pb::GitProvider::Gitlab => Self::GitLab,
            pb::GitProvider::Gitea => Self::Gitea,
        }
    }
}

impl From<&GitConnection> for pb::GitConnection {
    fn from(it: &GitConnection) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            name: it.name.clone(),
            provider: pb::GitProvider::from(it.provider).into(),
            server_url: it.server_url.clone(),
            test_repository_url: it.test_repository_url.clone(),
            username: it.username.clone(),
            public_key: it.public_key.clone(),
            host_key: it.host_key.clone(),
            host_key_fingerprint: fingerprint(&it.host_key),
            default: it.is_default,
            last_test_time: Some(timestamp(it.tested_at)),
            last_test_error: it.test_error.clone(),
            secret_update_time: Some(timestamp(it.secret_updated_at)),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
        }
    }
}

/// Returns the server of a URL in a field. A URL with a credential is refused before other violations.
/// `allow_local`: the URL may begin with `http://` and a loopback address.
fn endpoint(field: &'static str, url: &str, allow_local: bool) -> Result<Endpoint> {
    if has_credential(url) {
        return Err(CredentialInUrl(field).into());
    }
    if let Some(description) = url_violation(url, allow_local) {
        return Err(Error::invalid(field, description));
    }
    let Some(endpoint) = Endpoint::of(url) else {
        let description = "must begin with https://, ssh:// or git@host:";
        return Err(Error::invalid(field, description));
    };
    if endpoint.resolvable_host().is_none() {
        let description =
            "must have a host name without a dot at its end, or an IP address in its usual form";
        return Err(Error::invalid(field, description));
    }
    Ok(endpoint)
}

impl Settings {
    /// Returns the access to a repository on the server of the connection. `allow_local`: see [`endpoint`].
    pub fn probe_of(&self, repository_url: &str, allow_local: bool) -> Result<Probe> {
        const FIELD: &str = "repository_url";
        if endpoint(FIELD, repository_url, allow_local)? != self.endpoint {
            let description = format!("must be on {}, the server of the connection", self.endpoint);
            return Err(Error::invalid(FIELD, description));
        }
        Ok(Probe { url: repository_url.to_owned(), ..self.probe() })
    }
}

impl Draft {
    /// Converts a request. `allow_local`: see [`endpoint`].
    pub fn from_request(it: &pb::CreateGitConnectionRequest, allow_local: bool) -> Result<Self> {
        let endpoint = endpoint(URL_FIELD, &it.test_repository_url, allow_local)?;
        let checks = if endpoint.scheme == Scheme::Ssh {
            let must_be_empty = "must be empty, because test_repository_url is for SSH";
            [
                ("token", it.token.is_empty(), must_be_empty),
                ("username", it.username.is_empty(), must_be_empty),
                (
                    "deploy_key_id",
                    !it.deploy_key_id.is_empty(),
                    "must be the id of a key of CreateDeployKey",
                ),
            ]
        } else {
            let must_be_empty = "must be empty, because test_repository_url is for HTTPS";
            [
                ("deploy_key_id", it.deploy_key_id.is_empty(), must_be_empty),
                ("host_key", it.host_key.is_empty(), must_be_empty),
                ("token", !it.token.is_empty(), "must be an access token or a password"),
            ]
        };
        let violations = checks.iter().filter(|(_, is_valid, _)| !is_valid);
        let violations = violations.map(|(field, _, description)| Violation {
            field: (*field).to_owned(),
            description: (*description).to_owned(),
        });
        let violations: Vec<_> = violations.collect();
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        Ok(Self {
            name: it.name.trim().to_owned(),
            provider: it.provider().into(),
            test_repository_url: it.test_repository_url.clone(),
            endpoint,
            username: it.username.clone(),
            token: it.token.clone(),
            deploy_key_id: parse_optional_id(&it.deploy_key_id)?,
            host_key: it.host_key.clone(),
        })
    }
}

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 7] =
    ["name", "provider", URL_FIELD, "username", "token", "deploy_key_id", "host_key"];

impl Patch {
    /// Converts a request. `allow_local`: see [`endpoint`].
    pub fn from_request(it: &pb::UpdateGitConnectionRequest, allow_local: bool) -> Result<Self> {
        let paths = mask::paths(it.update_mask.as_ref(), &UPDATABLE_FIELDS)?;
        let is_named = |path: &str| paths.contains(&path);
        if is_named("name") && it.name.trim().is_empty() {
            return Err(Error::invalid("name", "must not be empty"));
        }
        let url = &it.test_repository_url;
        let test_repository = is_named(URL_FIELD)
            .then(|| endpoint(URL_FIELD, url, allow_local).map(|endpoint| (url.clone(), endpoint)))
            .transpose()?;
        let deploy_key_id = parse_optional_id(&it.deploy_key_id)?;
        Ok(Self {
            name: is_named("name").then(|| it.name.trim().to_owned()),
            provider: is_named("provider").then(|| it.provider().into()),
            test_repository,
            username: is_named("username").then(|| it.username.clone()),
            token: (is_named("token") && !it.token.is_empty()).then(|| it.token.clone()),
            deploy_key_id: deploy_key_id.filter(|_| is_named("deploy_key_id")),
            host_key: is_named("host_key").then(|| it.host_key.clone()),
        })
    }
}
