//! Admission of tasks: conditions other than the state of the environment.

use chassis::{ProjectGrant, Result, UserId};
use time::OffsetDateTime;

use super::{
    Environment, Refused,
    production::{ProductionFacts, ProductionRight},
};
use crate::{
    organization::Status,
    server,
    task::{Cause, Kind, TaskOrigin},
};

/// Initiator of a task.
#[derive(Clone, Copy, Debug)]
pub enum Initiator {
    /// A person with the permission. Identity has also checked the status of the organization.
    Person { user_id: UserId, right: ProductionRight },
    /// A push webhook with a valid signature.
    Push,
    /// This service, as a consequence of an operation of the person `user_id`, or on its own.
    System { user_id: Option<UserId> },
    /// The billing system of the platform (`SuspendEnvironments`, `LiftSuspensions`). Its calls are newer
    /// than this service's copy of the organization's status.
    Platform,
}

/// User id of tasks that no person starts.
const NOBODY: UserId = UserId(uuid::Uuid::nil());

impl Initiator {
    /// The person of a grant.
    pub fn person(grant: &ProjectGrant, right: ProductionRight) -> Self {
        Self::Person { user_id: grant.account().user_id, right }
    }

    pub fn task_origin(self) -> TaskOrigin {
        match self {
            Self::Person { user_id, .. } => TaskOrigin { user_id, cause: Cause::User },
            Self::Push => TaskOrigin { user_id: NOBODY, cause: Cause::Push },
            Self::System { user_id } => {
                TaskOrigin { user_id: user_id.unwrap_or(NOBODY), cause: Cause::System }
            }
            Self::Platform => TaskOrigin { user_id: NOBODY, cause: Cause::System },
        }
    }

    /// Right to deploy to PRODUCTION; `None`: no right is required.
    fn production_right(self) -> Option<ProductionRight> {
        match self {
            Self::Person { right, .. } => Some(right),
            Self::Push => Some(ProductionRight::Push),
            Self::System { .. } | Self::Platform => None,
        }
    }
}

/// Stored data on which the admission of a task depends.
pub struct AdmissionFacts {
    pub is_project_deleting: bool,
    pub production: ProductionFacts,
    pub organization: Status,
    /// Last heartbeat of the server of the environment, or of any shared server if it has none.
    pub server_last_seen_at: Option<OffsetDateTime>,
}

impl AdmissionFacts {
    /// Refuses a task if the project is being deleted, the initiator may not deploy to PRODUCTION, the
    /// organization is blocked or deleted, or the server sends no heartbeats.
    pub fn admit(
        &self,
        environment: &Environment,
        kind: Kind,
        initiator: Initiator,
        now: OffsetDateTime,
    ) -> Result<()> {
        if self.is_project_deleting && !kind.is_shutdown() {
            return Err(Refused::ProjectDeleting.into());
        }
        if let Some(right) = initiator.production_right() {
            self.production.require_right(kind, right)?;
        }
        match initiator {
            // Identity has checked the status together with the permission of the person.
            Initiator::Person { .. } | Initiator::System { user_id: Some(_) } => {}
            // A suspension is lifted before the event about the new subscription arrives. So only tasks in a
            // deleted organization are refused. The others wait for a server that is unreachable.
            Initiator::Platform if self.organization != Status::Deleted => return Ok(()),
            Initiator::Push | Initiator::System { user_id: None } | Initiator::Platform => {
                self.organization.require_task_allowed(kind)?;
            }
        }
        Ok(server::require_reachable(environment.server_id, self.server_last_seen_at, now)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lifecycle::tests::environment, *};
    use crate::environment::{Kind as EnvironmentKind, State, production::DeployRole};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const PERSON: Initiator =
        Initiator::Person { user_id: NOBODY, right: ProductionRight::NotRequired };

    fn facts() -> AdmissionFacts {
        AdmissionFacts {
            is_project_deleting: false,
            production: ProductionFacts {
                kind: EnvironmentKind::Production,
                min_role: DeployRole::Developer,
                copies_production: false,
                is_reconfigured: false,
            },
            organization: Status::Active,
            server_last_seen_at: Some(NOW),
        }
    }

    fn is_admitted(facts: &AdmissionFacts, kind: Kind, initiator: Initiator) -> bool {
        facts.admit(&environment(State::Running), kind, initiator, NOW).is_ok()
    }

    #[test]
    fn a_project_that_is_being_deleted_admits_only_shutdowns() {
        let deleting = AdmissionFacts { is_project_deleting: true, ..facts() };
        assert!(!is_admitted(&deleting, Kind::Deploy, PERSON));
        assert!(is_admitted(&deleting, Kind::Destroy, PERSON));
    }

    /// PE-45.
    #[test]
    fn a_push_is_refused_where_only_admins_deploy() {
        let mut protected = facts();
        protected.production.min_role = DeployRole::Admin;
        assert!(is_admitted(&facts(), Kind::Deploy, Initiator::Push));
        assert!(!is_admitted(&protected, Kind::Deploy, Initiator::Push));
        assert!(!is_admitted(&protected, Kind::Deploy, PERSON));
        assert!(is_admitted(&protected, Kind::Deploy, Initiator::System { user_id: None }));
    }

    /// PL-4: the status is checked for everybody but persons; the platform resumes in a blocked organization.
    #[test]
    fn a_blocked_organization_admits_tasks_of_persons_and_the_platform() {
        let blocked = AdmissionFacts { organization: Status::Blocked, ..facts() };
        assert!(!is_admitted(&blocked, Kind::Deploy, Initiator::Push));
        assert!(!is_admitted(&blocked, Kind::Provision, Initiator::System { user_id: None }));
        assert!(is_admitted(
            &blocked,
            Kind::Provision,
            Initiator::System { user_id: Some(NOBODY) }
        ));
        assert!(is_admitted(&blocked, Kind::Resume, Initiator::Platform));
        let deleted = AdmissionFacts { organization: Status::Deleted, ..facts() };
        assert!(!is_admitted(&deleted, Kind::Resume, Initiator::Platform));
        assert!(is_admitted(&deleted, Kind::Pause, Initiator::Platform));
    }

    /// PE-21.
    #[test]
    fn an_unreachable_server_admits_tasks_of_the_platform_only() {
        let unreachable = AdmissionFacts { server_last_seen_at: None, ..facts() };
        assert!(!is_admitted(&unreachable, Kind::Deploy, PERSON));
        assert!(is_admitted(&unreachable, Kind::Resume, Initiator::Platform));
    }
}
