//! Variables of an environment. Secret values are sealed for their organization and never leave, but to the
//! runner that starts the program (P-05).

pub(crate) mod rpc;
pub(crate) mod store;

use api::project as pb;
use chassis::{
    Changed, Error, OrgId, Result,
    key::{self, Key},
    timestamp,
};
use time::OffsetDateTime;

use crate::environment::Environment;

/// An environment has so many at most.
const VARIABLES_MAX: usize = 200;

/// What the runner sets itself.
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

/// A variable as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) sealed: Option<Vec<u8>>,
    pub(crate) updated_at: OffsetDateTime,
}

/// Seals and opens the values of secret variables.
#[derive(Clone)]
pub(crate) struct Vault(Key);

impl Vault {
    pub(crate) fn new(key: &Key) -> Self {
        Self(key.clone())
    }

    fn secret(&self, org_id: OrgId) -> key::Secret {
        self.0.derive(&format!("variables of {org_id}"))
    }

    /// A value as it is kept.
    pub(crate) fn seal(&self, org_id: OrgId, name: &str, value: &str) -> Vec<u8> {
        key::seal(&self.secret(org_id), name.as_bytes(), value.as_bytes())
    }

    /// Tells whether two values are the same, and nothing else of them.
    fn fingerprint(&self, org_id: OrgId, value: &str) -> String {
        let key = self.0.derive(&format!("fingerprints of variables of {org_id}"));
        let mac = key::mac(&key, &[value.as_bytes()]);
        mac[..8].iter().map(|it| format!("{it:02x}")).collect()
    }

    /// A value as it was.
    pub(crate) fn unseal(&self, org_id: OrgId, name: &str, sealed: &[u8]) -> Result<String> {
        let opened = key::open(&self.secret(org_id), name.as_bytes(), sealed);
        let opened = opened.and_then(|it| String::from_utf8(it).ok());
        Ok(opened.ok_or_else(|| anyhow::anyhow!("the value of {name} does not open"))?)
    }

    /// A variable with its value, for the program.
    pub(crate) fn open(&self, org_id: OrgId, it: Variable) -> Result<pb::Variable> {
        let value = match (it.value, it.sealed) {
            (Some(value), _) => value,
            (None, sealed) => self.unseal(org_id, &it.name, &sealed.unwrap_or_default())?,
        };
        Ok(pb::Variable { name: it.name, value })
    }
}

impl From<&Variable> for pb::VariableEntry {
    fn from(it: &Variable) -> Self {
        Self {
            name: it.name.clone(),
            value: it.value.clone().unwrap_or_default(),
            secret: it.sealed.is_some(),
            update_time: Some(timestamp(it.updated_at)),
        }
    }
}

/// What changes.
pub(crate) struct Patch {
    pub(crate) set: Vec<Variable>,
    pub(crate) remove: Vec<String>,
}

/// Takes a change of variables, sealed; the event tells names and fingerprints (P-05). `known` are the
/// names that there are.
pub(crate) fn change(
    environment: &Environment,
    it: &pb::SetVariablesRequest,
    known: &[String],
    vault: &Vault,
    now: OffsetDateTime,
) -> Result<Changed<Patch>> {
    let org_id = environment.org_id;
    if let Some(index) = it.set.iter().position(|it| RESERVED.contains(&it.name.as_str())) {
        let description = format!("is set by the runner; so are {}", RESERVED.join(", "));
        return Err(Error::invalid(format!("set[{index}].name"), description));
    }
    if it.set.is_empty() && it.remove.is_empty() {
        return Err(Error::invalid("set", "must name a variable, or `remove` must"));
    }
    let stays = known.iter().filter(|it_name| !it.remove.contains(it_name));
    let new = it.set.iter().map(|it| &it.name);
    let names: std::collections::BTreeSet<_> = stays.chain(new).collect();
    if names.len() > VARIABLES_MAX {
        let description = format!("an environment has {VARIABLES_MAX} variables at most");
        return Err(Error::invalid("set", description));
    }
    let set = it.set.iter().map(|it| Variable {
        name: it.name.clone(),
        value: (!it.secret).then(|| it.value.clone()),
        sealed: it.secret.then(|| vault.seal(org_id, &it.name, &it.value)),
        updated_at: now,
    });
    let patch = Patch { set: set.collect(), remove: it.remove.clone() };
    let fingerprints = it.set.iter().map(|it| pb::VariableFingerprint {
        name: it.name.clone(),
        secret: it.secret,
        fingerprint: vault.fingerprint(org_id, &it.value),
    });
    let fingerprints: Vec<_> = fingerprints.collect();
    let mut events = events(environment, &fingerprints, &it.remove);
    let first = events.next().unwrap_or_default();
    Ok(Changed::new(patch, &first, environment.about()).followed_by(events))
}

/// How many variables an event lists as set, and as removed.
const LISTED_MAX: usize = 100;

/// The events that list a change, in as many parts as needed.
fn events<'c>(
    environment: &Environment,
    set: &'c [pb::VariableFingerprint],
    removed: &'c [String],
) -> impl Iterator<Item = pb::VariablesChanged> + use<'c> {
    let environment_id = String::from(environment.id);
    let count = set.len().max(removed.len()).div_ceil(LISTED_MAX);
    (0..count).map(move |part| pb::VariablesChanged {
        environment_id: environment_id.clone(),
        set: set.iter().skip(part * LISTED_MAX).take(LISTED_MAX).cloned().collect(),
        removed: removed.iter().skip(part * LISTED_MAX).take(LISTED_MAX).cloned().collect(),
    })
}
