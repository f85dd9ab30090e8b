//! Environment variables of programs. Secret values are stored sealed: encrypted with a key of their
//! organization. Only the runner that starts the program receives them (P-05).

mod wire;

use api::project as pb;
use chassis::{
    Changed, Error, OrgId, Result,
    key::{self, Key},
};
use time::OffsetDateTime;

use crate::environment::Environment;

/// Maximum number of variables of an environment.
const VARIABLES_MAX: usize = 200;

/// Names of variables that the runner sets, and that requests cannot set.
const RESERVED: [&str; 8] = [
    "PORT",
    "HOST",
    "HOME",
    "DATA_DIR",
    "ENVIRONMENT",
    "ENVIRONMENT_NAME",
    "ODOO_VERSION",
    "MODULES",
];

/// A stored variable.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    /// Value of a variable that is not secret.
    pub value: Option<String>,
    /// Sealed value of a secret variable.
    pub sealed: Option<Vec<u8>>,
    pub updated_at: OffsetDateTime,
}

/// Encrypts and decrypts the values of secret variables, and the passwords of add-ons.
#[derive(Clone)]
pub struct Vault(Key);

impl Vault {
    pub fn new(key: &Key) -> Self {
        Self(key.clone())
    }

    fn org_key(&self, org_id: OrgId) -> key::Secret {
        self.0.derive(&format!("variables of {org_id}"))
    }

    /// Encrypts a value. The organization and the name are authenticated with it, so that a sealed value
    /// cannot be copied to another variable.
    pub fn seal(&self, org_id: OrgId, name: &str, value: &str) -> Vec<u8> {
        key::seal(&self.org_key(org_id), name.as_bytes(), value.as_bytes())
    }

    /// Fingerprint of a value, for events: equal values of an organization have equal fingerprints.
    fn fingerprint(&self, org_id: OrgId, value: &str) -> String {
        let key = self.0.derive(&format!("fingerprints of variables of {org_id}"));
        let mac = key::mac(&key, &[value.as_bytes()]);
        mac[..8].iter().map(|it| format!("{it:02x}")).collect()
    }

    /// Decrypts a value.
    pub fn unseal(&self, org_id: OrgId, name: &str, sealed: &[u8]) -> Result<String> {
        let opened = key::open(&self.org_key(org_id), name.as_bytes(), sealed);
        let opened = opened.and_then(|it| String::from_utf8(it).ok());
        Ok(opened.ok_or_else(|| anyhow::anyhow!("the sealed value of {name} cannot be opened"))?)
    }

    /// Returns a variable with its value, decrypted if it is secret.
    pub fn open(&self, org_id: OrgId, variable: Variable) -> Result<pb::Variable> {
        let Variable { name, value, sealed, .. } = variable;
        let secret = sealed.is_some();
        let value = match value {
            Some(value) => value,
            None => self.unseal(org_id, &name, &sealed.unwrap_or_default())?,
        };
        Ok(pb::Variable { name, value, secret })
    }
}

/// Requested change of the variables of an environment.
pub struct Change {
    pub set: Vec<NewVariable>,
    /// Names.
    pub remove: Vec<String>,
}

/// Variable to be set.
pub struct NewVariable {
    pub name: String,
    pub value: String,
    pub secret: bool,
}

/// Change of variables whose secret values are encrypted.
pub struct SealedChange {
    pub set: Vec<Variable>,
    /// Names.
    pub remove: Vec<String>,
}

/// Checks a change and encrypts its secrets. Its events contain names and fingerprints, but no values (P-05).
/// `existing`: names of the stored variables.
pub fn apply(
    environment: &Environment,
    change: &Change,
    existing: &[String],
    vault: &Vault,
    now: OffsetDateTime,
) -> Result<Changed<SealedChange>> {
    require_valid(change, existing)?;
    let org_id = environment.org_id;
    let set = change.set.iter().map(|it| Variable {
        name: it.name.clone(),
        value: (!it.secret).then(|| it.value.clone()),
        sealed: it.secret.then(|| vault.seal(org_id, &it.name, &it.value)),
        updated_at: now,
    });
    let sealed_change = SealedChange { set: set.collect(), remove: change.remove.clone() };
    let fingerprints = change.set.iter().map(|it| pb::VariableFingerprint {
        name: it.name.clone(),
        secret: it.secret,
        fingerprint: vault.fingerprint(org_id, &it.value),
    });
    let fingerprints: Vec<_> = fingerprints.collect();
    let mut events = events(environment, &fingerprints, &change.remove);
    let first = events.next().unwrap_or_default();
    Ok(Changed::new(sealed_change, &first, environment.event_target()).followed_by(events))
}

fn require_valid(change: &Change, existing: &[String]) -> Result<()> {
    let is_reserved = |it: &NewVariable| RESERVED.contains(&it.name.as_str());
    if let Some(index) = change.set.iter().position(is_reserved) {
        let description =
            format!("must not be one of the names that the runner sets: {}", RESERVED.join(", "));
        return Err(Error::invalid(format!("set[{index}].name"), description));
    }
    if change.set.is_empty() && change.remove.is_empty() {
        let description = "must contain a variable, unless `remove` contains a name";
        return Err(Error::invalid("set", description));
    }
    let remaining = existing.iter().filter(|it| !change.remove.contains(it));
    let new = change.set.iter().map(|it| &it.name);
    let names: std::collections::BTreeSet<_> = remaining.chain(new).collect();
    if names.len() > VARIABLES_MAX {
        let description =
            format!("must not lead to more than {VARIABLES_MAX} variables of the environment");
        return Err(Error::invalid("set", description));
    }
    Ok(())
}

/// Largest number of variables that an event lists as set, and as removed.
const LISTED_MAX: usize = 100;

/// Events of a change: more than one if a list is longer than [`LISTED_MAX`].
fn events<'c>(
    environment: &Environment,
    set: &'c [pb::VariableFingerprint],
    removed: &'c [String],
) -> impl Iterator<Item = pb::EnvironmentVariablesChanged> + use<'c> {
    let environment_id = String::from(environment.id);
    let count = set.len().max(removed.len()).div_ceil(LISTED_MAX);
    (0..count).map(move |part| pb::EnvironmentVariablesChanged {
        environment_id: environment_id.clone(),
        set: set.iter().skip(part * LISTED_MAX).take(LISTED_MAX).cloned().collect(),
        removed: removed.iter().skip(part * LISTED_MAX).take(LISTED_MAX).cloned().collect(),
    })
}
