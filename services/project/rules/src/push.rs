//! Push webhooks: a signed delivery of a git server deploys the environments with `auto_deploy` on the
//! branch (PE-46).

use std::borrow::Cow;

use api::project::PushFormat;
use chassis::{ProjectId, key};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// Maximum length of the name of a branch, in bytes: the limit of file names, in which git stores branches.
const BRANCH_BYTES_MAX: usize = 255;

/// Prefix of the refs of branches.
const BRANCH_PREFIX: &str = "refs/heads/";

/// Maximum length of the name of a pusher, in characters.
const PUSHER_CHARS_MAX: usize = 100;

/// Delivery of a webhook.
pub struct Delivery<'a> {
    pub project_id: ProjectId,
    pub format: PushFormat,
    pub signature: &'a str,
    pub body: &'a [u8],
}

/// A push to a branch.
#[derive(Debug, PartialEq, Eq)]
pub struct Push {
    pub branch: String,
    pub commit: String,
    /// Name of the person who pushed, as the git server reports it; empty if it does not.
    pub pusher: String,
}

impl Push {
    /// Returns a delivery of this push only, in the format of Gitea, with its signature. The body of a git
    /// server lists all commits and files of the push, and can be larger than a gRPC message.
    pub fn condensed(&self, secret: &str) -> CondensedDelivery {
        let body = Body {
            reference: format!("{BRANCH_PREFIX}{}", self.branch),
            after: self.commit.clone(),
            pusher: None,
            user_username: Some(self.pusher.clone()),
        };
        // Strings are always serializable.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let signature = HEXLOWER.encode(&key::hmac_sha256(secret.as_bytes(), &body));
        CondensedDelivery { body, signature }
    }
}

/// A delivery with the fields of [`Push`] only.
pub struct CondensedDelivery {
    pub body: Vec<u8>,
    pub signature: String,
}

/// Reason for which a delivery is ignored.
#[derive(Debug, PartialEq, Eq)]
pub struct Ignored(pub &'static str);

/// Fields of a delivery that GitHub, GitLab and Gitea have in common.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(rename = "ref")]
    reference: String,
    after: String,
    #[serde(default)]
    pusher: Option<Pusher>,
    /// Pusher in deliveries of GitLab.
    #[serde(default)]
    user_username: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Pusher {
    #[serde(default, alias = "login", alias = "username")]
    name: Option<String>,
}

/// True if the signature of a delivery is valid: an HMAC-SHA-256 of the body (GitHub, Gitea), or the secret
/// itself (GitLab).
pub fn is_signed(format: PushFormat, secret: &str, signature: &str, body: &[u8]) -> bool {
    match format {
        PushFormat::Gitlab => key::equal(secret.as_bytes(), signature.as_bytes()),
        PushFormat::Github | PushFormat::Gitea => {
            let hex = signature.strip_prefix("sha256=").unwrap_or(signature);
            let received = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
            let mac = key::hmac_sha256(secret.as_bytes(), body);
            received.is_ok_and(|it| key::equal(&it, &mac))
        }
        PushFormat::Unspecified => false,
    }
}

/// Content types of deliveries.
const CONTENT_TYPES: [&str; 2] = ["application/json", "application/x-www-form-urlencoded"];

/// True if the body of a delivery with a content type can be parsed.
pub fn is_readable(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    CONTENT_TYPES.iter().any(|it| it.eq_ignore_ascii_case(media_type))
}

/// Returns the JSON of a body, which is the body itself, or the field `payload` of a form (the default of
/// GitHub).
fn payload(body: &[u8]) -> Cow<'_, [u8]> {
    if body.trim_ascii_start().starts_with(b"{") {
        return Cow::Borrowed(body);
    }
    let mut fields = url::form_urlencoded::parse(body);
    match fields.find(|(name, _)| name == "payload") {
        Some((_, json)) => Cow::Owned(json.into_owned().into_bytes()),
        None => Cow::Borrowed(body),
    }
}

/// Parses the body of a delivery.
pub fn parse(event: &str, body: &[u8]) -> Result<Push, Ignored> {
    if !["push", "push hook"].contains(&event.to_lowercase().as_str()) {
        return Err(Ignored("the event is not a push; only pushes deploy"));
    }
    let body: Body = serde_json::from_slice(&payload(body))
        .map_err(|_| Ignored("the body is not a push of GitHub, GitLab or Gitea"))?;
    let Some(branch) = body.reference.strip_prefix(BRANCH_PREFIX) else {
        return Err(Ignored("the push is to a tag or another ref; only pushes to branches deploy"));
    };
    if branch.is_empty() || branch.len() > BRANCH_BYTES_MAX || branch.contains(char::is_control) {
        return Err(Ignored(
            "the name of the branch is empty, too long, or contains control characters",
        ));
    }
    let commit = body.after.to_lowercase();
    if commit.bytes().all(|it| it == b'0') {
        return Err(Ignored("the branch was deleted"));
    }
    if !matches!(commit.len(), 40 | 64) || !commit.bytes().all(|it| it.is_ascii_hexdigit()) {
        return Err(Ignored("the push has no valid commit id"));
    }
    let pusher = body.user_username.or_else(|| body.pusher.and_then(|it| it.name));
    let is_printable = |it: &char| !it.is_control();
    let pusher = pusher.unwrap_or_default();
    let pusher = pusher.chars().filter(is_printable).take(PUSHER_CHARS_MAX).collect();
    Ok(Push { branch: branch.to_owned(), commit, pusher })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";

    /// PE-46: deliveries of GitHub, GitLab and Gitea.
    #[test]
    fn pushes_of_each_git_server_are_parsed() {
        let github =
            format!(r#"{{"ref":"refs/heads/main","after":"{COMMIT}","pusher":{{"name":"ann"}}}}"#);
        let push =
            Push { branch: "main".to_owned(), commit: COMMIT.to_owned(), pusher: "ann".to_owned() };
        assert_eq!(parse("push", github.as_bytes()).unwrap(), push);
        let form = github.replace('{', "%7B").replace('"', "%22");
        let form = format!("a=b&payload={form}");
        assert_eq!(parse("push", form.as_bytes()).unwrap(), push, "a form of GitHub");
        let condensed = push.condensed("secret");
        assert_eq!(parse("push", &condensed.body).unwrap(), push);
        assert!(is_signed(PushFormat::Gitea, "secret", &condensed.signature, &condensed.body));
        assert!(is_readable("application/json; charset=utf-8"));
        assert!(is_readable("application/x-www-form-urlencoded"));
        assert!(!is_readable("") && !is_readable("text/plain"));
        let gitlab =
            format!(r#"{{"ref":"refs/heads/main","after":"{COMMIT}","user_username":"ann"}}"#);
        assert_eq!(parse("Push Hook", gitlab.as_bytes()).unwrap(), push);
        let gitea =
            format!(r#"{{"ref":"refs/heads/main","after":"{COMMIT}","pusher":{{"login":"ann"}}}}"#);
        assert_eq!(parse("push", gitea.as_bytes()).unwrap(), push);

        let zero = format!(r#"{{"ref":"refs/heads/main","after":"{}"}}"#, "0".repeat(40));
        let tag = format!(r#"{{"ref":"refs/tags/v1","after":"{COMMIT}"}}"#);
        let long = format!(r#"{{"ref":"refs/heads/{}","after":"{COMMIT}"}}"#, "a".repeat(256));
        let control = format!(r#"{{"ref":"refs/heads/a\u0007","after":"{COMMIT}"}}"#);
        assert!(parse("push", long.as_bytes()).is_err());
        assert!(parse("push", control.as_bytes()).is_err());
        for (event, body) in [("ping", "{}"), ("push", &*zero), ("push", &*tag), ("push", "{")] {
            assert!(parse(event, body.as_bytes()).is_err(), "{event} {body}");
        }
    }

    /// The example in GitHub's documentation of webhook signatures.
    #[test]
    fn a_signature_needs_the_secret() {
        let (secret, body) = ("It's a Secret to Everybody", b"Hello, World!");
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let signed = |format, signature: &str| is_signed(format, secret, signature, body);
        assert!(signed(PushFormat::Github, &format!("sha256={hex}")));
        assert!(signed(PushFormat::Gitea, hex));
        assert!(!signed(PushFormat::Gitea, &hex.replace('7', "8")));
        assert!(!signed(PushFormat::Github, ""));
        assert!(signed(PushFormat::Gitlab, secret));
        assert!(!signed(PushFormat::Gitlab, "another"));
        assert!(!is_signed(PushFormat::Gitlab, secret, hex, body));
    }
}
