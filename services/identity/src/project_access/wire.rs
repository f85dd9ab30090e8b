//! Conversions of the results of commands on grants.

use api::identity as pb;

use super::commands::{GrantChange, GrantWarning};

impl From<GrantChange> for pb::SetProjectAccessResponse {
    fn from(change: GrantChange) -> Self {
        Self {
            grant: Some((&change.grant).into()),
            consistency_token: change.token.encode(),
            warning: warning(&change).into(),
        }
    }
}

impl From<GrantChange> for pb::RemoveProjectAccessResponse {
    fn from(change: GrantChange) -> Self {
        let warning = warning(&change).into();
        Self { consistency_token: change.token.encode(), warning }
    }
}

fn warning(change: &GrantChange) -> pb::AccessWarning {
    match change.warning {
        None => pb::AccessWarning::Unspecified,
        Some(GrantWarning::LastExplicitAdmin) => pb::AccessWarning::LastExplicitAdmin,
        Some(GrantWarning::ViewerLimit) => pb::AccessWarning::ViewerLimit,
    }
}
