//! Credential of a repository for git commands that fetch from it. git gets it from a credential helper
//! (gitcredentials(7)) that is defined for the scheme, host and port of the repository only, so after a
//! redirect no other host gets it. The helper prints environment variables of the command: the credential is
//! in no argument, URL or file, and builds and programs do not have the variables.

use api::project::RepositoryCredential;
use data_encoding::BASE64;

/// Environment variables of the helper.
const USERNAME: &str = "TENANTRY_GIT_USERNAME";
const PASSWORD: &str = "TENANTRY_GIT_PASSWORD";

/// Shell function that git calls with `get`, `store` or `erase`. `printf` is built into the shell, so its
/// arguments are not in the process table.
const HELPER: &str = "!f() { test \"$1\" != get || printf 'username=%s\\npassword=%s\\n' \
     \"$TENANTRY_GIT_USERNAME\" \"$TENANTRY_GIT_PASSWORD\"; }; f";

/// Returns the arguments of git that define the helper. Helpers of configuration files are not used.
pub(super) fn arguments(credential: &RepositoryCredential) -> [String; 4] {
    let helper = format!("credential.{}.helper={HELPER}", credential.scope);
    ["-c".to_owned(), "credential.helper=".to_owned(), "-c".to_owned(), helper]
}

/// Returns the environment variables that the helper prints.
pub(super) fn variables(credential: &RepositoryCredential) -> [(&'static str, &str); 2] {
    [(USERNAME, &credential.username), (PASSWORD, &credential.password)]
}

/// Masks the credential in the output of git, which contains messages of the git server.
pub(super) fn mask(credential: &RepositoryCredential, text: &str) -> String {
    let RepositoryCredential { username, password, .. } = credential;
    let header = BASE64.encode(format!("{username}:{password}").as_bytes());
    // Without a password, the user name is the token.
    let secret = if password.is_empty() { username } else { password };
    let mut masked = text.to_owned();
    for secret in [&header, secret] {
        if !secret.is_empty() {
            masked = masked.replace(secret.as_str(), "***");
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_masked_in_plain_and_in_base64() {
        let credential = |username: &str, password: &str| RepositoryCredential {
            scope: "https://git.example.com".to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
        };
        let text = "denied for s3cret (Basic YW5uOnMzY3JldA==)";
        assert_eq!(mask(&credential("ann", "s3cret"), text), "denied for *** (Basic ***)");
        assert_eq!(mask(&credential("s3cret", ""), "s3cret: no"), "***: no");
    }
}
