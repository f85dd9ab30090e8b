//! Push webhooks: a signed delivery of a git server deploys the environments with `auto_deploy` on the
//! branch (PE-46).

use api::project::PushFormat;
use chassis::{ProjectId, key};
use serde::Deserialize;

/// Maximum length of the name of a branch, in bytes: the limit of file names, in which git stores branches.
const BRANCH_BYTES_MAX: usize = 255;

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

/// Reason for which a delivery is ignored.
#[derive(Debug, PartialEq, Eq)]
pub struct Ignored(pub &'static str);

/// Fields of a delivery that GitHub, GitLab and Gitea have in common.
#[derive(Deserialize)]
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

#[derive(Deserialize)]
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

/// Parses the body of a delivery.
pub fn parse(event: &str, body: &[u8]) -> Result<Push, Ignored> {
    if !["push", "push hook"].contains(&event.to_lowercase().as_str()) {
        return Err(Ignored("the event is not a push; only pushes deploy"));
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| {
        Ignored("the body is not a push; set the content type of the webhook to application/json")
    })?;
    let Some(branch) = body.reference.strip_prefix("refs/heads/") else {
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
