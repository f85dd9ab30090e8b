//! The secret of a project's push webhook: kept sealed, shown once.

use api::project as pb;
use chassis::{
    About, Changed, Db, Error, OrgId, ProjectGrant, ProjectId, Result,
    key::{self, Secret},
};
use data_encoding::BASE64URL_NOPAD;

use super::{is_signed, store};

/// A new secret, and how it is kept.
pub(crate) fn make(seal: &Secret, id: ProjectId) -> (String, Vec<u8>) {
    let secret = BASE64URL_NOPAD.encode(&key::random());
    let sealed = key::seal(seal, id.0.as_bytes(), secret.as_bytes());
    (secret, sealed)
}

/// It has another one.
pub(crate) fn rotated(grant: &ProjectGrant) -> Changed<()> {
    let (org_id, id) = (grant.org_id(), grant.project_id());
    let event = pb::PushSecretRotated { project_id: id.into() };
    Changed::new((), &event, About::object("project", id, "").of(org_id).in_project(id))
}

/// Whose project it is, if what came is signed with its secret. A project that is not there, one without a
/// push webhook and a wrong signature look the same.
pub(crate) async fn check(db: &Db, seal: &Secret, it: &pb::ReceivePushRequest) -> Result<OrgId> {
    let id: ProjectId = it.project_id.parse()?;
    let known = store::secret(db, id).await?;
    let opened = known.and_then(|(org_id, sealed)| {
        let secret = key::open(seal, id.0.as_bytes(), &sealed)?;
        Some((org_id, String::from_utf8(secret).ok()?))
    });
    match opened {
        Some((org_id, secret)) if is_signed(it.format(), &secret, &it.signature, &it.body) => {
            Ok(org_id)
        }
        _ => Err(Error::bad_credential()),
    }
}
