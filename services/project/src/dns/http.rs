//! JSON over HTTP for the APIs of DNS servers.

use std::{net::IpAddr, time::Duration};

use project_rules::connection::dns::record::DnsFailure;
use reqwest::{Method, StatusCode, header::HeaderValue};
use serde_json::Value;

use super::dns_client::failure;

/// Time limit of connecting to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a response, in bytes.
const BODY_BYTES_MAX: usize = 8 << 20;

/// A client for one API.
pub(super) struct Api {
    client: reqwest::Client,
    /// URL before the paths.
    base_url: String,
    /// Name and value of the header that authenticates requests.
    credential: (&'static str, HeaderValue),
}

/// A response.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Null if the body is no JSON.
    pub(super) body: Value,
    text: String,
}

impl Api {
    /// Creates a client. `resolved`: host of the URL, and the address to which it connects instead of those
    /// that a name server returns.
    pub(super) fn new(
        base_url: String,
        credential: (&'static str, &str),
        resolved: Option<(&str, IpAddr)>,
    ) -> anyhow::Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some((host, address)) = resolved {
            // Port 0 stands for the one of the URL.
            builder = builder.resolve(host, (address, 0).into());
        }
        let mut value = HeaderValue::from_str(credential.1)?;
        value.set_sensitive(true);
        Ok(Self { client: builder.build()?, base_url, credential: (credential.0, value) })
    }

    /// Sends a request.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, DnsFailure> {
        let request = self.client.request(method, format!("{}{path}", self.base_url)).query(query);
        let request = request.header(self.credential.0, self.credential.1.clone());
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let mut response = request.send().await.map_err(|it| failure(innermost_cause(&it)))?;
        let status = response.status();
        let mut bytes = vec![];
        while let Some(chunk) =
            response.chunk().await.map_err(|it| failure(innermost_cause(&it)))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > BODY_BYTES_MAX {
                return Err(failure("the response has more than 8 MiB"));
            }
        }
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Answer { status, body, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

impl Answer {
    /// Refusal with the status and a text of the server.
    pub(super) fn refusal(&self, text: Option<&str>) -> DnsFailure {
        let text = text.unwrap_or(&self.text);
        let hint = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; check the secret, and its rights"
            }
            StatusCode::NOT_FOUND => "; check that the server has the zone",
            status if status.is_redirection() => "; redirects are not followed",
            _ => "",
        };
        failure(format!("the server answered {}: {text}{hint}", self.status))
    }
}

/// Message of the innermost cause: the outer ones have the URL and no cause.
fn innermost_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no response in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
