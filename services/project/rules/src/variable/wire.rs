//! Conversion between messages of the contract and variables.

use api::project as pb;
use chassis::timestamp;

use super::{AddonVariable, Change, NewVariable, Variable};

impl From<&Variable> for pb::VariableEntry {
    fn from(it: &Variable) -> Self {
        Self {
            name: it.name.clone(),
            value: it.value.clone().unwrap_or_default(),
            secret: it.sealed.is_some(),
            update_time: Some(timestamp(it.updated_at)),
            addon_key: String::new(),
        }
    }
}

/// Add-on variables are secret: they contain passwords.
impl From<&AddonVariable> for pb::VariableEntry {
    fn from(it: &AddonVariable) -> Self {
        Self {
            name: it.name.clone(),
            value: String::new(),
            secret: true,
            update_time: Some(timestamp(it.attached_at)),
            addon_key: it.addon_key.clone(),
        }
    }
}

/// Converts the variables that take effect, sorted by name. That of an add-on replaces a variable of the
/// environment that was set before.
pub fn effective_variables(
    variables: &[Variable],
    of_addons: &[AddonVariable],
) -> Vec<pb::VariableEntry> {
    let is_replaced = |name: &str| of_addons.iter().any(|it| it.name == name);
    let own = variables.iter().filter(|it| !is_replaced(&it.name)).map(Into::into);
    let mut entries: Vec<pb::VariableEntry> = own.chain(of_addons.iter().map(Into::into)).collect();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    entries
}

impl From<&pb::SetVariablesRequest> for Change {
    fn from(request: &pb::SetVariablesRequest) -> Self {
        let set = request.set.iter().map(|it| NewVariable {
            name: it.name.clone(),
            value: it.value.clone(),
            secret: it.secret,
        });
        Self { set: set.collect(), remove: request.remove.clone() }
    }
}
