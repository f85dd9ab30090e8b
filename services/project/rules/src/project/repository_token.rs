//! Access tokens of repositories that are not public. They are stored encrypted, and only the runner that
//! fetches the code receives them (P-05).

use api::project as pb;
use chassis::{ProjectId, Result, git_credential::GitCredential};

use super::{Project, Refused};
use crate::{
    connection::git::GitConnection,
    repository::{split_credential, token_scope},
    types::ProjectRef,
    variable::Vault,
};

/// User name that git sends with a token; the git servers that accept tokens ignore or accept it.
const DEFAULT_USERNAME: &str = "x-access-token";

/// An access token, or `user:password`. Has no `Debug`, so that it is in no log.
#[derive(Clone)]
pub struct RepositoryToken(String);

/// Requested change of the token of a project.
pub enum TokenChange {
    Set(RepositoryToken),
    Remove,
}

impl RepositoryToken {
    /// `None` for an empty text.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Encrypts the token for a project and the scheme, host and port of its URL. It cannot be decrypted for
    /// another project or host.
    pub(super) fn seal(
        &self,
        vault: &Vault,
        project: ProjectRef,
        url: &str,
    ) -> Result<Vec<u8>, Refused> {
        let scope = token_scope(url).ok_or(Refused::TokenWithoutHttps)?;
        Ok(vault.seal(project.org_id, &sealed_name(project.project_id, &scope), &self.0))
    }

    fn credential(&self, scope: String) -> pb::RepositoryCredential {
        let (username, password) = self.0.split_once(':').unwrap_or((DEFAULT_USERNAME, &self.0));
        pb::RepositoryCredential {
            scope,
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }
}

/// Name of the token in the vault.
fn sealed_name(project_id: ProjectId, scope: &str) -> String {
    format!("repository token of {project_id} for {scope}")
}

/// Returns the name of a token in the vault from the id of its project, a space, and the URL of the
/// repository; `None` if such a URL has no token.
pub fn stored_name(id_and_url: &str) -> Option<String> {
    let (id, url) = id_and_url.split_once(' ')?;
    let project_id = id.parse().ok()?;
    Some(sealed_name(project_id, &token_scope(url)?))
}

/// A repository with its credential, for a runner.
pub struct RepositoryAccess {
    pub url: String,
    pub credential: Option<GitCredential>,
}

impl RepositoryAccess {
    /// Decrypts the credential of the connection, or the token of a project. A credential in a URL of an
    /// older version is taken out of it.
    pub fn open(
        project: &Project,
        connection: Option<&GitConnection>,
        vault: &Vault,
    ) -> Result<Self> {
        if let Some(connection) = connection {
            let credential = Some(connection.credential(vault)?);
            return Ok(Self { url: project.repository_url.clone(), credential });
        }
        let (url, token) = match split_credential(&project.repository_url) {
            Some(split) => (split.url, split.credential.map(RepositoryToken)),
            None => (project.repository_url.clone(), open_token(project, vault)?),
        };
        let credential = token.zip(token_scope(&url)).map(|(token, scope)| token.credential(scope));
        Ok(Self { url, credential: credential.map(GitCredential::Password) })
    }
}

fn open_token(project: &Project, vault: &Vault) -> Result<Option<RepositoryToken>> {
    let Some(sealed) = &project.repository_token else { return Ok(None) };
    let Some(scope) = token_scope(&project.repository_url) else { return Ok(None) };
    let name = sealed_name(project.id, &scope);
    Ok(Some(RepositoryToken(vault.unseal(project.org_id, &name, sealed)?)))
}

/// Events of a changed token.
#[derive(Default)]
pub(super) struct TokenEvents {
    pub(super) set: Option<pb::ProjectRepositoryTokenSet>,
    pub(super) removed: Option<pb::ProjectRepositoryTokenRemoved>,
}

impl Project {
    /// Applies a change of the token; `None` keeps it.
    pub(super) fn apply_token_change(
        &mut self,
        change: Option<TokenChange>,
        vault: &Vault,
    ) -> Result<TokenEvents, Refused> {
        let project_id = String::from(self.id);
        match change {
            Some(TokenChange::Set(token)) => {
                let sealed = token.seal(vault, self.project_ref(), &self.repository_url)?;
                self.repository_token = Some(sealed);
                let set = Some(pb::ProjectRepositoryTokenSet { project_id });
                Ok(TokenEvents { set, removed: None })
            }
            Some(TokenChange::Remove) if self.repository_token.take().is_some() => {
                let removed = Some(pb::ProjectRepositoryTokenRemoved { project_id });
                Ok(TokenEvents { set: None, removed })
            }
            Some(TokenChange::Remove) | None => Ok(TokenEvents::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_user_name_for_basic_authentication() {
        for (token, username, password) in [
            ("t0ken", "x-access-token", "t0ken"),
            ("ann:a:b", "ann", "a:b"),
            ("t0ken:", "t0ken", ""),
        ] {
            let credential = RepositoryToken(token.to_owned()).credential(String::new());
            assert_eq!((&*credential.username, &*credential.password), (username, password));
        }
    }
}
