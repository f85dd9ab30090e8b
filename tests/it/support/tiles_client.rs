//! HTTP client of the tiles of a log.

use reqwest::{Method, StatusCode, header::HeaderMap};
use testkit::{Person, Suite};

/// A log over HTTP, read with a credential.
#[derive(Clone)]
pub(crate) struct TilesClient {
    /// URL of the log, without a slash at its end.
    pub(crate) url: String,
    pub(crate) token: Option<String>,
}

/// A response with its complete body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Returns a header; empty if it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|it| it.to_str().unwrap()).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl TilesClient {
    /// Reads a log, the id of an organization or `suite`, as a person.
    pub(crate) fn new(suite: &Suite, person: &Person, log: &str) -> Self {
        let url = format!("http://{}/audit/{log}", suite.address);
        Self { url, token: Some(person.token.clone()) }
    }

    /// Sends a request.
    pub(crate) async fn get(&self, method: Method, path: &str) -> Answer {
        self.send(method, path, HeaderMap::new()).await
    }

    /// Sends a GET request with another header.
    pub(crate) async fn get_with(&self, path: &str, name: &'static str, value: &str) -> Answer {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        self.send(Method::GET, path, headers).await
    }

    /// Returns a resource, which must exist.
    pub(crate) async fn get_ok(&self, path: &str) -> Vec<u8> {
        let found = self.get(Method::GET, path).await;
        assert_eq!(found.status, StatusCode::OK, "{path}: {}", found.text());
        found.body
    }

    async fn send(&self, method: Method, path: &str, headers: HeaderMap) -> Answer {
        let url = format!("{}/{path}", self.url);
        let mut request = reqwest::Client::new().request(method, url).headers(headers);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }
}

/// Index of a tile in groups of three digits (C2SP tlog-tiles).
pub(crate) fn index_path(index: u64) -> String {
    match index {
        0..1_000 => format!("{index:03}"),
        _ => format!("x{:03}/{:03}", index / 1_000, index % 1_000),
    }
}
