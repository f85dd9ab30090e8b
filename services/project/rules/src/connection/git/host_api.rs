//! HTTP APIs of GitHub, GitLab and Gitea: base URLs, and the fields of responses that are used.

use api::{error::Reason, project as pb};
use chassis::{Code, Refusal, foreign_text::clean_line};
use serde::Deserialize;

use super::{Provider, Settings, settings::Secret};
use crate::repository::Endpoint;

/// Longest text of a server in an error message, in bytes.
const MESSAGE_BYTES_MAX: usize = 300;

/// Longest URL of a listed repository, in bytes; repositories with a longer one are left out.
const URL_BYTES_MAX: usize = 2_048;

/// Longest name of a listed repository or branch, in bytes; those with a longer one are left out.
const NAME_BYTES_MAX: usize = 500;

/// An API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// REST API, version 2022-11-28.
    GitHub,
    /// REST API v4.
    GitLab,
    /// API v1 of Gitea and Forgejo.
    Gitea,
}

impl Api {
    /// Base URL on a server, without a slash at its end.
    fn base_url(self, server: &Endpoint) -> String {
        match self {
            Self::GitHub if server.to_string() == "https://github.com" => {
                "https://api.github.com".to_owned()
            }
            Self::GitHub => format!("{server}/api/v3"),
            Self::GitLab => format!("{server}/api/v4"),
            Self::Gitea => format!("{server}/api/v1"),
        }
    }

    /// Format in which the server signs its webhooks.
    pub fn push_format(self) -> pb::PushFormat {
        match self {
            Self::GitHub => pb::PushFormat::Github,
            Self::GitLab => pb::PushFormat::Gitlab,
            Self::Gitea => pb::PushFormat::Gitea,
        }
    }
}

/// Access to the API of a server. Has no `Debug`, so that the token is in no log.
pub struct ApiAccess {
    pub api: Api,
    pub base_url: String,
    pub token: String,
}

impl Settings {
    /// Returns the access to the API of the server; fails without an access token or a known API.
    pub fn api_access(&self) -> Result<ApiAccess, ApiFailure> {
        let api = match self.provider {
            Provider::GitHub => Api::GitHub,
            Provider::GitLab => Api::GitLab,
            Provider::Gitea => Api::Gitea,
            Provider::Other => return Err(ApiFailure::NoApi),
        };
        let Secret::Token(token) = &self.secret else { return Err(ApiFailure::NoApi) };
        let base_url = api.base_url(&self.endpoint);
        Ok(ApiAccess { api, base_url, token: token.clone() })
    }
}

/// Failure of a request to an API.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiFailure {
    #[error(
        "the connection has no API for this; it needs the provider GitHub, GitLab or Gitea, and an access \
         token instead of a deploy key"
    )]
    NoApi,
    #[error(
        "the Git server refused the request with HTTP status {status}: {message}; give the access token the \
         required rights, or store another one with UpdateGitConnection"
    )]
    Refused { status: u16, message: String },
    #[error("the Git server did not answer the request: {0}; repeat the call later")]
    NoResponse(String),
    #[error(
        "the response of the Git server cannot be parsed: {0}; check the provider of the connection"
    )]
    Malformed(String),
    #[error("the URL of the repository has no path of an owner and a name")]
    NoRepositoryPath,
    /// Text of git, cleaned and without secrets.
    #[error("git cannot list the branches: {0}; correct the URL, or the access on the Git server")]
    Git(String),
}

impl ApiFailure {
    /// Failure of a response with an error status.
    pub fn from_response(status: u16, body: &[u8]) -> Self {
        let error: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
        let detail = error.errors.first().and_then(|it| it.message.clone());
        let texts = [error.message.map(|it| text_of(&it)), error.error, detail];
        let texts: Vec<String> = texts.into_iter().flatten().filter(|it| !it.is_empty()).collect();
        let message = if texts.is_empty() { "no message".to_owned() } else { texts.join(": ") };
        Self::Refused { status, message: clean_line(&message, MESSAGE_BYTES_MAX) }
    }
}

impl Refusal for ApiFailure {
    fn code(&self) -> Code {
        match self {
            Self::NoResponse(_) => Code::Unavailable,
            _ => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NoApi | Self::NoRepositoryPath => Reason::GitApiUnavailable,
            _ => Reason::GitApiFailed,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Refused { status, .. } => vec![("http_status", status.to_string())],
            _ => vec![],
        }
    }
}

/// Fields of an error response. GitLab's `message` can be an object.
#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: Option<serde_json::Value>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    errors: Vec<ErrorDetail>,
}

#[derive(Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    message: Option<String>,
}

fn text_of(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A repository in a list of an API.
#[derive(Deserialize)]
struct Repository {
    #[serde(alias = "path_with_namespace")]
    full_name: String,
    #[serde(alias = "http_url_to_repo")]
    clone_url: String,
    /// `null` for a repository without commits (GitLab).
    #[serde(default)]
    default_branch: Option<String>,
    #[serde(default)]
    private: bool,
    /// `private`, `internal` or `public`.
    #[serde(default)]
    visibility: Option<String>,
}

/// Parses a list of repositories.
pub fn parse_repositories(body: &[u8]) -> Result<Vec<pb::RemoteRepository>, ApiFailure> {
    let entries: Vec<Repository> = parse(body)?;
    let repository = |it: Repository| pb::RemoteRepository {
        name: it.full_name,
        repository_url: it.clone_url,
        default_branch: it.default_branch.unwrap_or_default(),
        private: it.private || it.visibility.is_some_and(|it| it != "public"),
    };
    Ok(entries.into_iter().map(repository).collect())
}

/// True unless a text of the repository is too long or has control characters.
pub fn is_usable(it: &pb::RemoteRepository) -> bool {
    let is_text =
        |text: &str, bytes_max| text.len() <= bytes_max && !text.contains(char::is_control);
    is_text(&it.name, NAME_BYTES_MAX)
        && is_text(&it.repository_url, URL_BYTES_MAX)
        && is_text(&it.default_branch, NAME_BYTES_MAX)
}

/// A webhook in a list of an API.
#[derive(Deserialize)]
struct Webhook {
    id: u64,
    /// Target in GitLab; URL in the API in GitHub.
    #[serde(default)]
    url: String,
    /// Settings of a webhook of GitHub and Gitea.
    #[serde(default)]
    config: Option<WebhookConfig>,
}

#[derive(Deserialize)]
struct WebhookConfig {
    #[serde(default)]
    url: String,
}

/// Returns the id of the webhook with a target from a list of webhooks.
pub fn find_webhook(body: &[u8], target: &str) -> Result<Option<u64>, ApiFailure> {
    let webhooks: Vec<Webhook> = parse(body)?;
    let has_target = |it: &&Webhook| match &it.config {
        Some(config) => config.url == target,
        None => it.url == target,
    };
    Ok(webhooks.iter().find(has_target).map(|it| it.id))
}

/// Returns the path of a repository, `owner/name` or `group/…/name`, from its URL.
pub fn repository_path(repository_url: &str) -> Result<String, ApiFailure> {
    let url = url::Url::parse(repository_url).map_err(|_| ApiFailure::NoRepositoryPath)?;
    let path = url.path().trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let is_segment = |it: &str| !it.is_empty() && !it.contains('%') && it != "." && it != "..";
    let is_path = path.split('/').count() >= 2 && path.split('/').all(is_segment);
    if is_path { Ok(path.to_owned()) } else { Err(ApiFailure::NoRepositoryPath) }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiFailure> {
    let malformed = |it: serde_json::Error| ApiFailure::Malformed(it.to_string());
    serde_json::from_slice(body).map_err(malformed)
}

/// Parses the output of `git ls-remote --symref <url> HEAD refs/heads/*`, ordered by name.
pub fn parse_branches(output: &str) -> Vec<pb::RemoteBranch> {
    let lines = || output.lines().filter_map(|it| it.split_once('\t'));
    let symref = |(value, name): (&str, &str)| {
        let target = value.strip_prefix("ref: refs/heads/")?;
        (name == "HEAD").then(|| target.to_owned())
    };
    let default = lines().find_map(symref).unwrap_or_default();
    let branch = |(commit, name): (&str, &str)| {
        let name = name.strip_prefix("refs/heads/")?;
        let is_usable = name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
        let is_commit = matches!(commit.len(), 40 | 64);
        (is_usable && is_commit).then(|| pb::RemoteBranch {
            name: name.to_owned(),
            commit: commit.to_owned(),
            default: name == default,
        })
    };
    let mut branches: Vec<_> = lines().filter_map(branch).collect();
    branches.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    branches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Excerpts of the examples in the documentation of the three APIs.
    #[test]
    fn repositories_of_each_api_are_parsed() {
        let github = r#"[{"id": 1296269, "full_name": "octocat/Hello-World", "private": false,
            "clone_url": "https://github.com/octocat/Hello-World.git", "default_branch": "master",
            "visibility": "public"}]"#;
        let gitlab = r#"[{"id": 4, "path_with_namespace": "diaspora/diaspora-client",
            "http_url_to_repo": "http://example.com/diaspora/diaspora-client.git",
            "default_branch": null, "visibility": "internal"}]"#;
        let gitea = r#"[{"id": 1, "full_name": "gitea/tea", "private": true,
            "clone_url": "https://gitea.example.com/gitea/tea.git", "default_branch": "main"}]"#;
        let first = |body: &str| parse_repositories(body.as_bytes()).unwrap().remove(0);
        let repository = first(github);
        assert_eq!(repository.name, "octocat/Hello-World");
        assert_eq!(repository.repository_url, "https://github.com/octocat/Hello-World.git");
        assert_eq!((repository.default_branch.as_str(), repository.private), ("master", false));
        let repository = first(gitlab);
        assert_eq!(repository.name, "diaspora/diaspora-client");
        assert_eq!((repository.default_branch.as_str(), repository.private), ("", true));
        assert!(first(gitea).private);
        assert!(matches!(parse_repositories(b"<html>"), Err(ApiFailure::Malformed(_))));
        let long = github.replace("octocat/", &"a".repeat(URL_BYTES_MAX));
        assert!(!is_usable(&first(&long)) && is_usable(&first(github)));
    }

    #[test]
    fn a_webhook_is_found_by_its_target() {
        let github = r#"[{"type": "Repository", "id": 12345678, "name": "web", "active": true,
            "config": {"content_type": "json", "url": "https://example.com/webhook"},
            "url": "https://api.github.com/repos/octocat/Hello-World/hooks/12345678"}]"#;
        let gitlab = r#"[{"id": 1, "url": "http://example.com/hook", "push_events": true}]"#;
        let find = |body: &str, target| find_webhook(body.as_bytes(), target).unwrap();
        assert_eq!(find(github, "https://example.com/webhook"), Some(12_345_678));
        assert_eq!(find(github, "https://example.com/other"), None);
        assert_eq!(find(gitlab, "http://example.com/hook"), Some(1));
    }

    #[test]
    fn an_error_response_has_the_text_of_the_server() {
        let refused =
            |status, body: &str| ApiFailure::from_response(status, body.as_bytes()).to_string();
        let github = r#"{"message": "Validation Failed", "errors": [{"resource": "Hook",
            "code": "custom", "message": "Hook already exists on this repository"}]}"#;
        assert!(refused(422, github).contains("422: Validation Failed: Hook already exists"));
        assert!(refused(401, r#"{"message": "401 Unauthorized"}"#).contains("401 Unauthorized"));
        let gitlab = r#"{"message": {"url": ["is blocked"]}}"#;
        assert!(refused(422, gitlab).contains("is blocked"));
        assert!(refused(403, r#"{"error": "insufficient_scope"}"#).contains("insufficient_scope"));
        assert!(refused(502, "<html>").contains("no message"));
    }

    #[test]
    fn a_repository_has_a_path() {
        for (url, path) in [
            ("https://github.com/octocat/hello.git", "octocat/hello"),
            ("https://gitlab.com/group/sub/name/", "group/sub/name"),
        ] {
            assert_eq!(repository_path(url).unwrap(), path);
        }
        for url in ["https://a.example/x.git", "https://a.example/x%2f../y", "/srv/git"] {
            assert_eq!(repository_path(url), Err(ApiFailure::NoRepositoryPath), "{url}");
        }
    }

    #[test]
    fn branches_are_parsed() {
        let commit = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";
        let output = format!(
            "ref: refs/heads/main\tHEAD\n{commit}\tHEAD\n{commit}\trefs/heads/main\n\
             {commit}\trefs/heads/a\nbroken\trefs/heads/b\n{commit}\trefs/tags/v1\n"
        );
        let branches = parse_branches(&output);
        let names: Vec<_> = branches.iter().map(|it| (it.name.as_str(), it.default)).collect();
        assert_eq!(names, [("a", false), ("main", true)]);
    }
}
