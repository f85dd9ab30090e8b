//! Between the contract and the rules.

use api::project as pb;
use chassis::{Error, timestamp};

use super::{Draft, Environment, Kind, State};
use crate::repository::wrong_branch;

impl From<&Environment> for pb::Environment {
    fn from(it: &Environment) -> Self {
        let kind = match it.kind {
            Kind::Development => pb::EnvironmentKind::Development,
            Kind::Staging => pb::EnvironmentKind::Staging,
            Kind::Production => pb::EnvironmentKind::Production,
        };
        let state = match it.state {
            State::Pending => pb::EnvironmentState::Pending,
            State::Deploying => pb::EnvironmentState::Deploying,
            State::Running => pb::EnvironmentState::Running,
            State::Error => pb::EnvironmentState::Error,
            State::Stopping => pb::EnvironmentState::Stopping,
            State::Stopped => pb::EnvironmentState::Stopped,
        };
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            name: it.name.clone(),
            kind: kind.into(),
            state: state.into(),
            branch: it.branch.clone(),
            commit: it.commit.clone(),
            url: it.url.clone(),
            last_error: it.last_error.clone(),
            create_time: Some(timestamp(it.created_at)),
        }
    }
}

impl TryFrom<&pb::CreateEnvironmentRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateEnvironmentRequest) -> Result<Self, Error> {
        let branch = Some(request.branch.clone()).filter(|it| !it.is_empty());
        if let Some(wrong) = branch.as_deref().and_then(wrong_branch) {
            return Err(Error::invalid("branch", wrong));
        }
        let kind = match request.kind() {
            pb::EnvironmentKind::Unspecified | pb::EnvironmentKind::Development => {
                Kind::Development
            }
            pb::EnvironmentKind::Staging => Kind::Staging,
            pb::EnvironmentKind::Production => Kind::Production,
        };
        Ok(Self { name: request.name.trim().to_owned(), kind, branch })
    }
}
