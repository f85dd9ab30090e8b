//! Credentials of image registries, in a file of the server's operator in the format of `docker login`
//! (`config.json`). They are sent to the engine only.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};
use bollard::auth::DockerCredentials;
use data_encoding::BASE64;
use serde::Deserialize;

/// Registry of names without a host, as `config.json` names it.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Credentials by registry.
#[derive(Default)]
pub(super) struct Credentials(HashMap<String, DockerCredentials>);

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    /// Base64 of `user:password`.
    auth: String,
}

impl Credentials {
    /// Reads the file; none without one.
    pub(super) fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let failed = || format!("the registry credentials in {} cannot be read", path.display());
        let text = std::fs::read(path).with_context(failed)?;
        Self::parse(&text).with_context(failed)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        // The error of the parser would quote a part of the file.
        let file: ConfigFile =
            serde_json::from_slice(text).ok().context("it must be JSON with `auths`")?;
        let mut all = HashMap::new();
        for (registry, auth) in file.auths {
            let decoded = BASE64.decode(auth.auth.as_bytes()).ok();
            let pair = decoded.and_then(|it| String::from_utf8(it).ok());
            let pair = pair.as_deref().and_then(|it| it.split_once(':'));
            let (user, password) = pair
                .with_context(|| format!("`auth` of {registry} must be base64 of user:password"))?;
            let credentials = DockerCredentials {
                username: Some(user.to_owned()),
                password: Some(password.to_owned()),
                serveraddress: Some(registry.clone()),
                ..DockerCredentials::default()
            };
            all.insert(registry, credentials);
        }
        Ok(Self(all))
    }

    /// Credentials for a build, which may pull images of any registry.
    pub(super) fn all(&self) -> Option<HashMap<String, DockerCredentials>> {
        (!self.0.is_empty()).then(|| self.0.clone())
    }

    /// Credentials for an image; `None` if its registry has none.
    pub(super) fn of_image(&self, image: &str) -> Option<DockerCredentials> {
        let host = image.split_once('/').map(|(host, _)| host);
        let host = host.filter(|it| it.contains(['.', ':']) || *it == "localhost");
        self.0.get(host.unwrap_or(DOCKER_HUB)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_the_registry_of_an_image() {
        let text = r#"{ "auths": {
            "registry.example.com:5000": { "auth": "YW5uOnMzY3JldDp4" },
            "https://index.docker.io/v1/": { "auth": "aHViOmtleQ==" } } }"#;
        let credentials = Credentials::parse(text.as_bytes()).unwrap();
        let user = |image: &str| credentials.of_image(image).and_then(|it| it.username);
        assert_eq!(user("registry.example.com:5000/shop:1").as_deref(), Some("ann"));
        assert_eq!(user("other.example.com/shop:1"), None);
        assert_eq!(user("alpine:3").as_deref(), Some("hub"));
        assert_eq!(user("team/shop:3").as_deref(), Some("hub"));
        let password = credentials.of_image("registry.example.com:5000/x").unwrap().password;
        assert_eq!(password.as_deref(), Some("s3cret:x"));
    }

    #[test]
    fn an_error_quotes_no_credential() {
        for text in
            [r#"{"auths": {"x": {"auth": "c2VjcmV0"}}}"#, r#"{"auths": "s3cret"}"#, "s3cret"]
        {
            let error = format!("{:#}", Credentials::parse(text.as_bytes()).err().unwrap());
            assert!(!error.contains("s3cret") && !error.contains("c2VjcmV0"), "{error}");
        }
    }
}
