//! Environment variables of programs. Secret values are stored sealed: encrypted with a key of their
//! organization. Only the runner that starts the program receives them (P-05).

pub mod wire;

use std::collections::BTreeMap;

use api::{check::Violation, project as pb};
use chassis::{
    Changed, Error, OrgId, Result,
    key::{self, DerivedKeys, Key},
};
use time::OffsetDateTime;

use crate::environment::Environment;

/// Maximum number of variables of an environment.
const VARIABLES_MAX: usize = 200;

/// Maximum size of the names and values of an environment's variables together, in bytes. The kernel limits
/// the variables of a program, and a message the variables of a lease.
pub const VARIABLES_BYTES_MAX: usize = 256 << 10;

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

impl Variable {
    /// Size of name and value, in bytes.
    fn size(&self) -> usize {
        let sealed = self.sealed.as_ref().map(|it| it.len().saturating_sub(key::SEAL_BYTES));
        let value = self.value.as_ref().map(String::len).or(sealed);
        self.name.len() + value.unwrap_or_default()
    }
}

/// Variable that an add-on of the project sets.
#[derive(Clone, Debug)]
pub struct AddonVariable {
    pub name: String,
    pub addon_key: String,
    /// Time at which the add-on was attached.
    pub attached_at: OffsetDateTime,
}

/// Encrypts and decrypts the values of secret variables, and the passwords of add-ons.
#[derive(Clone)]
pub struct Vault(Key);

impl Vault {
    pub fn new(key: &Key) -> Self {
        Self(key.clone())
    }

    fn org_keys(&self, org_id: OrgId) -> DerivedKeys {
        self.0.derive(&format!("variables of {org_id}"))
    }

    /// Encrypts a value. The organization and the name are authenticated with it, so that a sealed value
    /// cannot be copied to another variable.
    pub fn seal(&self, org_id: OrgId, name: &str, value: &str) -> Vec<u8> {
        self.org_keys(org_id).seal(name.as_bytes(), value.as_bytes())
    }

    /// Fingerprint of a value, for events: equal values of an organization have equal fingerprints until the
    /// secret key of the deployment is rotated.
    fn fingerprint(&self, org_id: OrgId, value: &str) -> String {
        let keys = self.0.derive(&format!("fingerprints of variables of {org_id}"));
        let mac = keys.mac(&[value.as_bytes()]);
        mac[..8].iter().map(|it| format!("{it:02x}")).collect()
    }

    /// Decrypts a value.
    pub fn unseal(&self, org_id: OrgId, name: &str, sealed: &[u8]) -> Result<String> {
        let opened = self.org_keys(org_id).open(name.as_bytes(), sealed);
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
/// `existing`: the stored variables.
pub fn apply(
    environment: &Environment,
    change: &Change,
    existing: &[Variable],
    of_addons: &[AddonVariable],
    vault: &Vault,
    now: OffsetDateTime,
) -> Result<Changed<SealedChange>> {
    require_valid(change, existing, of_addons)?;
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

fn require_valid(
    change: &Change,
    existing: &[Variable],
    of_addons: &[AddonVariable],
) -> Result<()> {
    if change.set.is_empty() && change.remove.is_empty() {
        let description = "must contain a variable, unless `remove` contains a name";
        return Err(Error::invalid("set", description));
    }
    let names = change.set.iter().enumerate().filter_map(|(index, it)| {
        let description = name_violation(&it.name, of_addons)?;
        Some(Violation { field: format!("set[{index}].name"), description })
    });
    let mut violations: Vec<_> = names.collect();
    let set = change.set.iter().map(|it| (it.name.as_str(), it.name.len() + it.value.len()));
    let removed = |it: &&Variable| !change.remove.contains(&it.name);
    let remaining = existing.iter().filter(removed).map(|it| (it.name.as_str(), it.size()));
    // A variable that is set replaces the stored one of the same name.
    let sizes: BTreeMap<_, _> = remaining.chain(set).collect();
    let mut refuse = |description| {
        violations.push(Violation { field: "set".to_owned(), description });
    };
    if sizes.len() > VARIABLES_MAX {
        refuse(format!("must not lead to more than {VARIABLES_MAX} variables of the environment"));
    }
    let size = sizes.values().sum::<usize>();
    if size > VARIABLES_BYTES_MAX {
        refuse(format!(
            "must not lead to more than {VARIABLES_BYTES_MAX} bytes in the names and values of all \
             variables of the environment, not {size}; store large texts in files"
        ));
    }
    if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
}

/// Returns the description of a name that cannot be set.
fn name_violation(name: &str, of_addons: &[AddonVariable]) -> Option<String> {
    if RESERVED.contains(&name) {
        let names = RESERVED.join(", ");
        return Some(format!("must not be one of the names that the runner sets: {names}"));
    }
    let addon = of_addons.iter().find(|it| it.name == name)?;
    Some(format!(
        "must not be {name}, which the add-on {} of the project sets; choose another name, or detach \
         the add-on",
        addon.addon_key
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, length: usize) -> Variable {
        Variable {
            name: name.to_owned(),
            value: Some("x".repeat(length)),
            sealed: None,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn change(name: &str, length: usize, remove: &[&str]) -> Change {
        let set = NewVariable { name: name.to_owned(), value: "x".repeat(length), secret: true };
        Change { set: vec![set], remove: remove.iter().map(|it| (*it).to_owned()).collect() }
    }

    #[test]
    fn the_size_of_all_variables_is_limited() {
        let existing: Vec<_> = (0..8).map(|it| stored(&format!("V{it}"), 32_000)).collect();
        let is_valid = |change: &Change| require_valid(change, &existing, &[]).is_ok();
        assert!(is_valid(&change("NEW", 6_000, &[])));
        assert!(!is_valid(&change("NEW", 7_000, &[])));
        assert!(is_valid(&change("NEW", 7_000, &["V0"])), "another one is removed");
        assert!(is_valid(&change("V0", 32_768, &[])), "it replaces the stored one");
    }

    #[test]
    fn a_variable_of_an_addon_cannot_be_set() {
        let addon = AddonVariable {
            name: "DATABASE_URL".to_owned(),
            addon_key: "postgresql".to_owned(),
            attached_at: OffsetDateTime::UNIX_EPOCH,
        };
        let refused =
            require_valid(&change("DATABASE_URL", 1, &[]), &[], std::slice::from_ref(&addon));
        assert!(refused.unwrap_err().to_string().contains("add-on postgresql"));
        assert!(require_valid(&change("DATABASE_URL", 1, &[]), &[], &[]).is_ok());
        let remove = Change { set: vec![], remove: vec!["DATABASE_URL".to_owned()] };
        assert!(require_valid(&remove, &[], &[addon]).is_ok(), "a variable from before the add-on");
    }
}
