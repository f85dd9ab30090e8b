//! Conversion between messages of the contract and variables.

use api::project as pb;
use chassis::timestamp;

use super::{Change, NewVariable, Variable};

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
