//! Deploy keys: key pairs for Git connections by SSH. A key is made before its connection, because its public
//! half must be installed on the server before the connection can be tested.

use api::project as pb;
use chassis::{
    Changed, EventTarget, Grant, OrgId, Result, UserId,
    clock::Duration,
    ssh_key::{SshKey, fingerprint},
    timestamp,
};
use time::OffsetDateTime;

use super::Refused;
use crate::{types::DeployKeyId, variable::Vault};

/// Time after which a key that no connection uses is deleted.
pub const UNUSED_MAX: Duration = Duration::days(7);

/// Maximum number of keys of an organization that no connection uses.
pub const UNUSED_KEYS_MAX: i64 = 20;

/// A deploy key that no connection uses yet.
#[derive(Clone)]
pub struct DeployKey {
    pub id: DeployKeyId,
    pub org_id: OrgId,
    /// Sealed private half.
    pub sealed: Vec<u8>,
    pub public_key: String,
    pub creator_id: UserId,
    pub created_at: OffsetDateTime,
}

/// A deploy key whose private half is decrypted. Has no `Debug`, so that it is in no log.
#[derive(Clone)]
pub struct OpenDeployKey {
    pub id: DeployKeyId,
    pub private_key: String,
    pub public_key: String,
}

/// Name of a private half in the vault.
pub(super) fn sealed_name(id: DeployKeyId) -> String {
    format!("deploy key {id}")
}

impl DeployKey {
    /// Makes a key. `unused`: number of keys of the organization that no connection uses.
    pub fn create(
        grant: &Grant,
        unused: i64,
        vault: &Vault,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if unused >= UNUSED_KEYS_MAX {
            return Err(Refused::DeployKeyLimit(UNUSED_KEYS_MAX));
        }
        let id = DeployKeyId::new();
        let SshKey { private_key, public_key } = SshKey::generate();
        let org_id = grant.org_id();
        let sealed = vault.seal(org_id, &sealed_name(id), &private_key);
        let creator_id = grant.account().user_id;
        let key = Self { id, org_id, sealed, public_key, creator_id, created_at: now };
        let event = pb::GitDeployKeyCreated { after: Some((&key).into()) };
        let name = fingerprint(&key.public_key);
        let target = EventTarget::object("git_deploy_key", id, name).in_org(org_id);
        Ok(Changed::new(key, &event, target))
    }

    /// Decrypts the private half.
    pub fn open(self, vault: &Vault) -> Result<OpenDeployKey> {
        let private_key = vault.unseal(self.org_id, &sealed_name(self.id), &self.sealed)?;
        Ok(OpenDeployKey { id: self.id, private_key, public_key: self.public_key })
    }
}

impl From<&DeployKey> for pb::DeployKey {
    fn from(it: &DeployKey) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            public_key: it.public_key.clone(),
            create_time: Some(timestamp(it.created_at)),
            expire_time: Some(timestamp(it.created_at + UNUSED_MAX)),
        }
    }
}
