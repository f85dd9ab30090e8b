//! Credentials of repositories for git commands that connect to them. git gets a password from a credential
//! helper (gitcredentials(7)), and a private key through ssh-agent(1). Both read environment variables of the
//! git command: no secret is in an argument, a URL or a file, and builds and programs do not have the
//! variables.

use api::project::{RepositoryCredential, SshCredential};
use data_encoding::BASE64;

/// Environment variables of the credential helper.
const USERNAME: &str = "TENANTRY_GIT_USERNAME";
const PASSWORD: &str = "TENANTRY_GIT_PASSWORD";

/// Shell function that git calls with `get`, `store` or `erase`. `printf` is built into the shell, so its
/// arguments are not in the process table.
const HELPER: &str = "!f() { test \"$1\" != get || printf 'username=%s\\npassword=%s\\n' \
     \"$TENANTRY_GIT_USERNAME\" \"$TENANTRY_GIT_PASSWORD\"; }; f";

/// Environment variables of [`SSH_COMMAND`].
const SSH_KEY: &str = "TENANTRY_SSH_KEY";
const SSH_HOST_KEY: &str = "TENANTRY_SSH_HOST_KEY";
const SSH_ADDRESS: &str = "TENANTRY_SSH_ADDRESS";

/// Name of the file, in the directory `HOME`, in which ssh finds or stores the key of the host.
pub const KNOWN_HOSTS: &str = "known_hosts";

/// Shell command that git calls instead of ssh. The private key is loaded into an agent of this command only.
/// Without a known host key, ssh accepts the one of the server and stores it. `HOME` is a private directory.
const SSH_COMMAND: &str = r#"f() {
    check=accept-new
    if test -n "$TENANTRY_SSH_HOST_KEY"; then
        check=yes
        printf 'repository %s\n' "$TENANTRY_SSH_HOST_KEY" > "$HOME/known_hosts"
    fi
    exec ssh-agent sh -c '
        printf "%s\n" "$TENANTRY_SSH_KEY" | ssh-add -q - && unset TENANTRY_SSH_KEY && ssh "$@"
        status=$?; kill "$SSH_AGENT_PID"; exit $status' ssh \
        -F /dev/null -o BatchMode=yes -o IdentityFile=none -o PreferredAuthentications=publickey \
        -o StrictHostKeyChecking=$check -o UserKnownHostsFile="$HOME/known_hosts" \
        -o GlobalKnownHostsFile=/dev/null -o HostKeyAlias=repository -o CheckHostIP=no \
        -o HashKnownHosts=no -o UpdateHostKeys=no -o ForwardAgent=no -o ControlMaster=no \
        -o ConnectTimeout=10 -o ServerAliveInterval=10 -o ServerAliveCountMax=3 -o LogLevel=ERROR \
        ${TENANTRY_SSH_ADDRESS:+-o HostName="$TENANTRY_SSH_ADDRESS"} "$@"
}; f"#;

/// Text of ssh for a server whose host key is not the known one.
pub const HOST_KEY_REFUSED: &str = "Host key verification failed";

/// Credential of a git command.
#[derive(Clone)]
pub enum GitCredential {
    /// User name and password, for HTTP basic authentication.
    Password(RepositoryCredential),
    /// Private key.
    Ssh(SshCredential),
}

impl GitCredential {
    /// Returns the arguments of git that define the credential helper. It is defined for the scheme, host and
    /// port of the repository only, so after a redirect no other host gets the password. Helpers of
    /// configuration files are not used.
    pub fn arguments(&self) -> Vec<String> {
        let Self::Password(credential) = self else { return vec![] };
        let helper = format!("credential.{}.helper={HELPER}", credential.scope);
        vec!["-c".to_owned(), "credential.helper=".to_owned(), "-c".to_owned(), helper]
    }

    /// Returns the environment variables of git.
    pub fn variables(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Password(it) => vec![(USERNAME, &it.username), (PASSWORD, &it.password)],
            Self::Ssh(it) => vec![
                ("GIT_SSH_COMMAND", SSH_COMMAND),
                ("GIT_SSH_VARIANT", "ssh"),
                (SSH_KEY, &it.private_key),
                (SSH_HOST_KEY, &it.host_key),
            ],
        }
    }

    /// Returns the environment variable by which ssh connects to this address instead of the one that it
    /// resolves.
    pub fn ssh_address(address: std::net::IpAddr) -> (&'static str, String) {
        (SSH_ADDRESS, address.to_string())
    }

    /// Masks the credential in the output of git, which contains messages of the git server.
    pub fn mask(&self, text: &str) -> String {
        match self {
            Self::Password(credential) => mask_password(credential, text),
            Self::Ssh(credential) => {
                let lines = credential.private_key.lines().filter(|it| !it.starts_with('-'));
                lines.fold(text.to_owned(), |text, line| text.replace(line, "***"))
            }
        }
    }
}

fn mask_password(credential: &RepositoryCredential, text: &str) -> String {
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
        let credential = |username: &str, password: &str| {
            GitCredential::Password(RepositoryCredential {
                scope: "https://git.example.com".to_owned(),
                username: username.to_owned(),
                password: password.to_owned(),
            })
        };
        let text = "denied for s3cret (Basic YW5uOnMzY3JldA==)";
        assert_eq!(credential("ann", "s3cret").mask(text), "denied for *** (Basic ***)");
        assert_eq!(credential("s3cret", "").mask("s3cret: no"), "***: no");
        let private_key = "-----BEGIN-----\nS3CRET\n-----END-----\n".to_owned();
        let key = GitCredential::Ssh(SshCredential { private_key, host_key: String::new() });
        assert_eq!(key.mask("bad key S3CRET"), "bad key ***");
    }
}
