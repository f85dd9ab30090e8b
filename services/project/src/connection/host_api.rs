//! HTTP client of the APIs of GitHub, GitLab and Gitea. It connects only to addresses that were checked, and
//! follows no redirects.

use std::time::Duration;

use anyhow::Context;
use chassis::{Result, assert_no_transaction};
use project_rules::{
    connection::{
        TestFailure,
        git::host_api::{
            Api, ApiAccess, ApiFailure, find_webhook, parse_repositories, repository_path,
        },
    },
    repository::Endpoint,
};
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use url::Url;

use super::probe::Prober;

/// Time-out of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest response, in bytes.
const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// Number of repositories on a page of the API: the maximum of Gitea.
pub(crate) const API_PAGE_SIZE: usize = 50;

/// Largest number of webhooks of a repository that are searched: the maximum of a page of GitHub and GitLab.
const WEBHOOKS_MAX: usize = 100;

/// A page of repositories.
pub(super) struct RepositoryPage {
    pub(super) repositories: Vec<api::project::RemoteRepository>,
    pub(super) has_next: bool,
}

/// A webhook for pushes, as the suite installs it.
pub(crate) struct PushWebhook<'a> {
    pub(crate) repository_url: &'a str,
    pub(crate) target: &'a str,
    pub(crate) secret: &'a str,
}

/// A client of the API of one server.
pub(crate) struct HostApi {
    http: reqwest::Client,
    access: ApiAccess,
}

/// A successful response.
struct ApiResponse {
    body: Vec<u8>,
    /// True if the header `link` has a next page (RFC 8288).
    has_next: bool,
}

impl HostApi {
    /// Resolves the host of the API and checks its addresses.
    pub(crate) async fn connect(prober: &Prober, access: ApiAccess) -> Result<Self> {
        let endpoint = Endpoint::of(&access.base_url);
        let endpoint = endpoint.ok_or(TestFailure::UnknownHost(access.base_url.clone()))?;
        let http = prober.addresses().http_client(&endpoint).await?.build();
        Ok(Self { http: http.context("the HTTP client cannot be built")?, access })
    }

    /// Returns a page of the repositories that the access token reads. `page`: from 1 on.
    pub(super) async fn repositories(&self, page: usize) -> Result<RepositoryPage> {
        let path = match self.access.api {
            Api::GitHub => &["user", "repos"][..],
            Api::GitLab => &["projects"],
            Api::Gitea => &["user", "repos"],
        };
        let page = page.to_string();
        let size = API_PAGE_SIZE.to_string();
        let query = match self.access.api {
            Api::GitHub => vec![("per_page", &*size), ("page", &*page), ("sort", "full_name")],
            Api::GitLab => vec![
                ("per_page", &*size),
                ("page", &*page),
                ("membership", "true"),
                ("order_by", "id"),
            ],
            Api::Gitea => vec![("limit", &*size), ("page", &*page)],
        };
        let request = self.request(Method::GET, path)?.query(&query);
        let response = self.send(request).await?;
        let repositories = parse_repositories(&response.body)?;
        Ok(RepositoryPage { repositories, has_next: response.has_next })
    }

    /// Installs a webhook for pushes, or replaces the secret of the one with the same target.
    pub(crate) async fn install_push_webhook(&self, webhook: &PushWebhook<'_>) -> Result<()> {
        let repository = repository_path(webhook.repository_url)?;
        let hooks = match self.access.api {
            Api::GitHub | Api::Gitea => {
                let segments = ["repos"].into_iter().chain(repository.split('/'));
                segments.chain(["hooks"]).collect()
            }
            // One segment: the URL client escapes the slashes, as GitLab requires.
            Api::GitLab => vec!["projects", &repository, "hooks"],
        };
        let limit = WEBHOOKS_MAX.to_string();
        let size_name = if self.access.api == Api::Gitea { "limit" } else { "per_page" };
        let list = self.request(Method::GET, &hooks)?.query(&[(size_name, &limit)]);
        let found = find_webhook(&self.send(list).await?.body, webhook.target)?;
        let body = self.webhook_body(webhook);
        let request = match found {
            None => self.request(Method::POST, &hooks)?,
            Some(id) => {
                let id = id.to_string();
                let hook = [&hooks[..], &[&*id]].concat();
                let is_gitlab = self.access.api == Api::GitLab;
                self.request(if is_gitlab { Method::PUT } else { Method::PATCH }, &hook)?
            }
        };
        self.send(request.json(&body)).await?;
        Ok(())
    }

    fn webhook_body(&self, webhook: &PushWebhook<'_>) -> Value {
        let PushWebhook { target, secret, .. } = webhook;
        let config = json!({ "url": target, "content_type": "json", "secret": secret });
        match self.access.api {
            Api::GitHub => {
                json!({ "name": "web", "active": true, "events": ["push"], "config": config })
            }
            Api::Gitea => {
                json!({ "type": "gitea", "active": true, "events": ["push"], "config": config })
            }
            Api::GitLab => json!({
                "url": target,
                "token": secret,
                "push_events": true,
                "enable_ssl_verification": true,
            }),
        }
    }

    /// Returns a request to a path below the base URL, with the access token.
    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        let mut url = Url::parse(&self.access.base_url).map_err(anyhow::Error::from)?;
        let segments = url.path_segments_mut();
        segments.map_err(|()| anyhow::anyhow!("the base URL has no path"))?.extend(path);
        let request = self.http.request(method, url);
        let token = &self.access.token;
        Ok(match self.access.api {
            Api::GitHub => request
                .bearer_auth(token)
                .header(header::ACCEPT, "application/vnd.github+json")
                .header("x-github-api-version", "2022-11-28"),
            Api::GitLab => request.bearer_auth(token),
            Api::Gitea => request.header(header::AUTHORIZATION, format!("token {token}")),
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<ApiResponse, ApiFailure> {
        assert_no_transaction();
        let failed = |it: reqwest::Error| ApiFailure::NoResponse(error_text(&it.without_url()));
        let mut response = request.timeout(REQUEST_TIMEOUT).send().await.map_err(failed)?;
        let status = response.status();
        let links = response.headers().get_all(header::LINK).iter();
        let has_next =
            links.filter_map(|it| it.to_str().ok()).any(|it| it.contains("rel=\"next\""));
        let mut body = vec![];
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > RESPONSE_BYTES_MAX {
                let message = format!("it is larger than {RESPONSE_BYTES_MAX} bytes");
                return Err(ApiFailure::Malformed(message));
            }
        }
        if status.is_success() {
            Ok(ApiResponse { body, has_next })
        } else {
            Err(ApiFailure::from_response(status.as_u16(), &body))
        }
    }
}

/// Text of an error with its causes.
fn error_text(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |it| it.source());
    let texts = std::iter::once(error.to_string()).chain(causes.map(ToString::to_string));
    texts.collect::<Vec<_>>().join(": ")
}
