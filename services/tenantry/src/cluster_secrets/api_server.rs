//! Client of the Kubernetes API server for the Secrets of one namespace, with the account of the pod.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use reqwest::{Certificate, Client, Method, Response, StatusCode};
use serde_json::{Value, json};

/// Directory that Kubernetes mounts into a pod with a service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Time-out of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Secrets of one namespace.
pub(super) struct ApiServer {
    client: Client,
    /// URL of the list of Secrets.
    url: String,
    token: String,
}

/// Result of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    /// The Secret is new.
    New,
    /// There is a Secret with this name; it was not changed.
    Existed,
}

/// A Secret (`v1`).
pub(super) struct Secret(Value);

impl Secret {
    pub(super) fn opaque<const N: usize>(name: &str, files: [(&str, Vec<u8>); N]) -> Self {
        Self::new(name, "Opaque", files, &BTreeMap::new())
    }

    /// A Secret of the type that cert-manager writes, with PEM files.
    pub(super) fn tls<const N: usize>(
        name: &str,
        files: [(&str, String); N],
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        let files = files.map(|(file, pem)| (file, pem.into_bytes()));
        Self::new(name, "kubernetes.io/tls", files, annotations)
    }

    fn new<const N: usize>(
        name: &str,
        secret_type: &str,
        files: [(&str, Vec<u8>); N],
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        let data: BTreeMap<_, _> =
            files.into_iter().map(|(file, bytes)| (file, BASE64.encode(&bytes))).collect();
        Self(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/part-of": "tenantry" },
                "annotations": annotations,
            },
            "type": secret_type,
            "data": data,
        }))
    }

    fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Returns a file with text, for example PEM.
    pub(super) fn text(&self, file: &str) -> Result<String> {
        let name = self.name();
        let encoded = self.0["data"][file].as_str();
        let encoded = encoded.with_context(|| format!("the Secret `{name}` has no {file}"))?;
        let bytes = BASE64.decode(encoded.as_bytes());
        let text = bytes.ok().and_then(|it| String::from_utf8(it).ok());
        text.with_context(|| format!("{file} of the Secret `{name}` is not text"))
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.0["metadata"]["annotations"][key].as_str()
    }
}

impl ApiServer {
    /// Returns the API server of the cluster in which this process is a pod, and the namespace of the pod.
    #[expect(clippy::disallowed_methods, reason = "variables of Kubernetes, which are no settings")]
    pub(super) fn of_the_pod() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| {
                format!("{name} is not set; run this command in a pod of a Kubernetes cluster")
            })
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        // IPv6 addresses have brackets in URLs.
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let namespace = read("namespace")?;
        let authorities = Certificate::from_pem_bundle(read("ca.crt")?.as_bytes())
            .context("the certificates of the API server's authority cannot be used")?;
        let client = Client::builder().tls_certs_only(authorities).timeout(TIMEOUT).no_proxy();
        Ok(Self {
            client: client.build()?,
            url: format!("https://{host}:{port}/api/v1/namespaces/{}/secrets", namespace.trim()),
            token: read("token")?.trim().to_owned(),
        })
    }

    /// Returns a Secret; `None` if it does not exist.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Secret>> {
        let response = self.send(Method::GET, &format!("{}/{name}", self.url), None).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => Ok(Some(Secret(response.json().await?))),
            _ => fail("read", name, response).await,
        }
    }

    /// Creates a Secret, unless it exists.
    pub(super) async fn create(&self, secret: &Secret) -> Result<Created> {
        let response = self.send(Method::POST, &self.url, Some(secret)).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Created::New),
            StatusCode::CONFLICT => Ok(Created::Existed),
            _ => fail("create", secret.name(), response).await,
        }
    }

    /// Replaces an existing Secret.
    pub(super) async fn replace(&self, secret: &Secret) -> Result<()> {
        let url = format!("{}/{}", self.url, secret.name());
        let response = self.send(Method::PUT, &url, Some(secret)).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            _ => fail("replace", secret.name(), response).await,
        }
    }

    async fn send(&self, method: Method, url: &str, body: Option<&Secret>) -> Result<Response> {
        let mut request = self.client.request(method, url).bearer_auth(&self.token);
        if let Some(Secret(body)) = body {
            request = request.json(body);
        }
        request.send().await.context("the Kubernetes API server does not respond")
    }
}

/// Fails with the message of the API server, which contains no data of Secrets.
async fn fail<T>(action: &str, name: &str, response: Response) -> Result<T> {
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    let message = body["message"].as_str().unwrap_or_default();
    bail!("cannot {action} the Secret `{name}`: {status} {message}")
}

fn read(file: &str) -> Result<String> {
    let path = Path::new(ACCOUNT).join(file);
    fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}; the pod must have a service account", path.display())
    })
}
