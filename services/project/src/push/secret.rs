//! Secret of a project's push webhook. It is stored sealed, and shown once.

use api::project as pb;
use chassis::{
    Changed, Db, Error, OrgId, ProjectId, Result,
    key::{self, DerivedKeys},
};
use data_encoding::BASE64URL_NOPAD;
use project_rules::{
    push::{Delivery, is_signed},
    types::ProjectRef,
};

use crate::store;

/// A new secret.
pub(crate) struct PushSecret {
    pub(crate) plain: String,
    pub(crate) sealed: Vec<u8>,
}

impl PushSecret {
    /// Generates a secret, sealed for a project.
    pub(crate) fn generate(seal_keys: &DerivedKeys, project_id: ProjectId) -> Self {
        let plain = BASE64URL_NOPAD.encode(&key::random());
        let sealed = seal_keys.seal(project_id.0.as_bytes(), plain.as_bytes());
        Self { plain, sealed }
    }
}

/// Decrypts the secret of a project.
pub(crate) fn open(
    seal_keys: &DerivedKeys,
    project_id: ProjectId,
    sealed: &[u8],
) -> Option<String> {
    let secret = seal_keys.open(project_id.0.as_bytes(), sealed)?;
    String::from_utf8(secret).ok()
}

/// Event of the rotation of a secret.
pub(crate) fn rotated(project: ProjectRef) -> Changed<()> {
    let event = pb::ProjectPushSecretRotated { project_id: project.project_id.into() };
    Changed::new((), &event, project.event_target(""))
}

/// A project whose secret signed a delivery.
pub(crate) struct AuthenticatedProject {
    pub(crate) org_id: OrgId,
    /// Secret of its push webhook.
    pub(crate) secret: String,
}

/// Checks the signature of a delivery and returns the project. An unknown project, a
/// project without a push webhook, and a wrong signature get the same refusal, which reveals no project
/// ids.
pub(crate) async fn authenticate(
    db: &Db,
    seal_keys: &DerivedKeys,
    delivery: &Delivery<'_>,
) -> Result<AuthenticatedProject> {
    let id = delivery.project_id;
    let stored = store::push::sealed_secret(db, id).await?.ok_or_else(Error::invalid_credential)?;
    let secret = open(seal_keys, id, &stored.sealed).ok_or_else(Error::invalid_credential)?;
    if is_signed(delivery.format, &secret, delivery.signature, delivery.body) {
        Ok(AuthenticatedProject { org_id: stored.org_id, secret })
    } else {
        Err(Error::invalid_credential())
    }
}
