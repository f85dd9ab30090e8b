//! Pushes: what a git server says, checked by its signature, deploys the environments that follow the branch
//! (PE-46).

pub(crate) mod deploy;
pub(crate) mod hook;
pub(crate) mod secret;
pub(crate) mod store;

use api::project::PushFormat;
use chassis::key;
use serde::Deserialize;

/// The longest name of a branch, in bytes: what a file system takes.
const BRANCH_BYTES_MAX: usize = 255;

/// A push to a branch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) branch: String,
    pub(crate) commit: String,
    pub(crate) pusher: String,
}

/// Why nothing follows from what a git server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ignored(pub(crate) &'static str);

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "ref")]
    reference: String,
    after: String,
    #[serde(default)]
    pusher: Option<Name>,
    #[serde(default)]
    user_username: Option<String>,
}

#[derive(Deserialize)]
struct Name {
    #[serde(default, alias = "login", alias = "username")]
    name: Option<String>,
}

/// Whether a git server signed this with the secret: an HMAC of the body, or the secret itself (GitLab).
pub(crate) fn is_signed(format: PushFormat, secret: &str, signature: &str, body: &[u8]) -> bool {
    match format {
        PushFormat::Gitlab => key::equal(secret.as_bytes(), signature.as_bytes()),
        PushFormat::Github | PushFormat::Gitea => {
            let hex = signature.strip_prefix("sha256=").unwrap_or(signature);
            let said = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
            let mac = key::hmac_sha256(secret.as_bytes(), body);
            said.is_ok_and(|it| key::equal(&it, &mac))
        }
        PushFormat::Unspecified => false,
    }
}

/// The push that a signed body tells of, or why it is none.
pub(crate) fn read(event: &str, body: &[u8]) -> Result<Push, Ignored> {
    if !["push", "push hook"].contains(&event.to_lowercase().as_str()) {
        return Err(Ignored("only pushes deploy; this is another event"));
    }
    let body: Body = serde_json::from_slice(body)
        .map_err(|_| Ignored("the body is no push, or not sent as application/json"))?;
    let Some(branch) = body.reference.strip_prefix("refs/heads/") else {
        return Err(Ignored("only pushes to branches deploy; this is a tag or another ref"));
    };
    if branch.is_empty() || branch.len() > BRANCH_BYTES_MAX || branch.contains(char::is_control) {
        return Err(Ignored("the name of the branch is too long, or no text"));
    }
    let commit = body.after.to_lowercase();
    if commit.bytes().all(|it| it == b'0') {
        return Err(Ignored("the branch was deleted"));
    }
    if !matches!(commit.len(), 40 | 64) || !commit.bytes().all(|it| it.is_ascii_hexdigit()) {
        return Err(Ignored("the push names no commit"));
    }
    let pusher = body.user_username.or_else(|| body.pusher.and_then(|it| it.name));
    let plain = |it: &char| !it.is_control();
    let pusher = pusher.unwrap_or_default().chars().filter(plain).take(100).collect();
    Ok(Push { branch: branch.to_owned(), commit, pusher })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";

    /// PE-46: what GitHub, GitLab and Gitea say, and how each signs it.
    #[test]
    fn a_push_is_read_as_each_git_server_says_it() {
        let github =
            format!(r#"{{"ref":"refs/heads/main","after":"{COMMIT}","pusher":{{"name":"ann"}}}}"#);
        let push =
            Push { branch: "main".to_owned(), commit: COMMIT.to_owned(), pusher: "ann".to_owned() };
        assert_eq!(read("push", github.as_bytes()).unwrap(), push);
        let gitlab =
            format!(r#"{{"ref":"refs/heads/main","after":"{COMMIT}","user_username":"ann"}}"#);
        assert_eq!(read("Push Hook", gitlab.as_bytes()).unwrap(), push);
        let gitea =
            format!(r#"{{"ref":"refs/heads/main","after":"{COMMIT}","pusher":{{"login":"ann"}}}}"#);
        assert_eq!(read("push", gitea.as_bytes()).unwrap(), push);

        let zero = format!(r#"{{"ref":"refs/heads/main","after":"{}"}}"#, "0".repeat(40));
        let tag = format!(r#"{{"ref":"refs/tags/v1","after":"{COMMIT}"}}"#);
        let long = format!(r#"{{"ref":"refs/heads/{}","after":"{COMMIT}"}}"#, "a".repeat(256));
        let control = format!(r#"{{"ref":"refs/heads/a\u0007","after":"{COMMIT}"}}"#);
        assert!(read("push", long.as_bytes()).is_err());
        assert!(read("push", control.as_bytes()).is_err());
        for (event, body) in [("ping", "{}"), ("push", &*zero), ("push", &*tag), ("push", "{")] {
            assert!(read(event, body.as_bytes()).is_err(), "{event} {body}");
        }
    }

    /// The signature of GitHub's documentation.
    #[test]
    fn only_who_knows_the_secret_signs() {
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
