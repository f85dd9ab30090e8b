//! What people, webhooks and e-mail rules can be told of: one table of kinds, and how each event of the suite
//! is told. Nothing that is told holds a secret, a token, or the words of an invitation (NO-16).

mod operations;
mod story;
#[cfg(test)]
mod tests;

use api::invitation::{NotificationCategory as C, Severity as S};
use chassis::{Error, OrgId, ProjectId, Result};
use time::OffsetDateTime;
use uuid::Uuid;

pub(crate) use story::tell;

/// An entry of the catalogue.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) category: C,
    pub(crate) severity: S,
    /// Whether webhooks and e-mail rules can have it.
    pub(crate) for_hooks: bool,
    /// The full name of the event; several kinds can come from one.
    pub(crate) event: &'static str,
    /// When it happens, and who is told.
    pub(crate) about: &'static str,
}

const fn kind(
    name: &'static str,
    (category, severity): (C, S),
    for_hooks: bool,
    event: &'static str,
    about: &'static str,
) -> Kind {
    Kind { name, category, severity, for_hooks, event, about }
}

const HOOKS: bool = true;
const PEOPLE: bool = false;

/// The whole catalogue, by name.
pub(crate) const KINDS: &[Kind] = &[
    kind(
        "account.email_changed",
        (C::Security, S::Critical),
        PEOPLE,
        "tenantry.identity.v1.EmailChanged",
        "The account moved to another address. Its owner.",
    ),
    kind(
        "account.password_changed",
        (C::Security, S::Critical),
        PEOPLE,
        "tenantry.identity.v1.PasswordChanged",
        "The password was changed. The account's owner.",
    ),
    kind(
        "account.password_reset",
        (C::Security, S::Critical),
        PEOPLE,
        "tenantry.identity.v1.PasswordReset",
        "The password was set anew by a mailed link. The account's owner.",
    ),
    kind(
        "account.second_factor_off",
        (C::Security, S::Critical),
        PEOPLE,
        "tenantry.identity.v1.TotpDisabled",
        "The second factor was switched off. The account's owner.",
    ),
    kind(
        "api_key.created",
        (C::Integration, S::Info),
        HOOKS,
        "tenantry.identity.v1.ApiKeyCreated",
        "An API key was made. Who manages them.",
    ),
    kind(
        "deploy.cancelled",
        (C::Deployment, S::Info),
        HOOKS,
        "tenantry.project.v1.TaskCancelled",
        "A deployment, or something else that waited, was cancelled. Who sees the project.",
    ),
    kind(
        "deploy.completed",
        (C::Deployment, S::Info),
        HOOKS,
        "tenantry.project.v1.DeploymentCompleted",
        "A deployment serves. Who sees the project.",
    ),
    kind(
        "deploy.failed",
        (C::Deployment, S::Critical),
        HOOKS,
        "tenantry.project.v1.DeploymentFailed",
        "A deployment failed. Who sees the project.",
    ),
    kind(
        "deploy.started",
        (C::Deployment, S::Info),
        HOOKS,
        "tenantry.project.v1.DeploymentStarted",
        "A runner took a deployment. Who sees the project.",
    ),
    kind(
        "environment.action_failed",
        (C::Environment, S::Warning),
        HOOKS,
        "tenantry.project.v1.EnvironmentActionFailed",
        "Starting, stopping, copying or destroying an environment failed. Who sees the project.",
    ),
    kind(
        "environment.created",
        (C::Environment, S::Info),
        HOOKS,
        "tenantry.project.v1.EnvironmentCreated",
        "A project has one more environment. Who sees the project.",
    ),
    kind(
        "environment.deleted",
        (C::Environment, S::Warning),
        HOOKS,
        "tenantry.project.v1.EnvironmentDeleted",
        "An environment is gone. Who sees the project.",
    ),
    kind(
        "environment.failed",
        (C::Environment, S::Critical),
        HOOKS,
        "tenantry.project.v1.EnvironmentStateCorrected",
        "The program of an environment ended by itself. Who sees the project.",
    ),
    kind(
        "environment.status_changed",
        (C::Environment, S::Info),
        HOOKS,
        "tenantry.project.v1.EnvironmentActionCompleted",
        "An environment was started, stopped, paused, copied. Who sees the project.",
    ),
    kind(
        "invitation.accepted",
        (C::Membership, S::Info),
        HOOKS,
        "tenantry.invitation.v1.InvitationAccepted",
        "An invitation was accepted. The inviter.",
    ),
    kind(
        "invitation.bounced",
        (C::Membership, S::Warning),
        HOOKS,
        "tenantry.invitation.v1.InvitationBounced",
        "The mail of an invitation was refused for good. The inviter.",
    ),
    kind(
        "invitation.declined",
        (C::Membership, S::Info),
        HOOKS,
        "tenantry.invitation.v1.InvitationDeclined",
        "An invited person said no. The inviter.",
    ),
    kind(
        "invitation.received",
        (C::Membership, S::Info),
        PEOPLE,
        "tenantry.invitation.v1.InvitationCreated",
        "An organization invites. The invited person, if they have an account.",
    ),
    kind(
        "member.joined",
        (C::Membership, S::Info),
        HOOKS,
        "tenantry.identity.v1.MemberJoined",
        "Somebody became a member. Who manages members.",
    ),
    kind(
        "member.left",
        (C::Membership, S::Info),
        HOOKS,
        "tenantry.identity.v1.MemberLeft",
        "Somebody left. Who manages members.",
    ),
    kind(
        "member.removed",
        (C::Membership, S::Info),
        HOOKS,
        "tenantry.identity.v1.MemberRemoved",
        "Somebody was removed. Who manages members.",
    ),
    kind(
        "member.role_changed",
        (C::Membership, S::Info),
        HOOKS,
        "tenantry.identity.v1.MemberRoleChanged",
        "Somebody has another role. Who manages members.",
    ),
    kind(
        "monitoring.alert",
        (C::Monitoring, S::Warning),
        HOOKS,
        "tenantry.invitation.v1.AlertOpened",
        "Something is wrong; as bad as it is. Who sees the project, or manages servers.",
    ),
    kind(
        "monitoring.alert_changed",
        (C::Monitoring, S::Warning),
        HOOKS,
        "tenantry.invitation.v1.AlertChanged",
        "What is wrong is worse, or better. Who sees the project, or manages servers.",
    ),
    kind(
        "monitoring.recovered",
        (C::Monitoring, S::Info),
        HOOKS,
        "tenantry.invitation.v1.AlertClosed",
        "What was wrong is well again. Who sees the project, or manages servers.",
    ),
    kind(
        "organization.owner_changed",
        (C::Security, S::Critical),
        HOOKS,
        "tenantry.identity.v1.OwnershipTransferred",
        "The organization has another Owner. The old and the new one, and who manages members.",
    ),
    kind(
        "project.access_granted",
        (C::Access, S::Info),
        HOOKS,
        "tenantry.identity.v1.ProjectAccessGranted",
        "Somebody may enter a project. They; and the project's Admins, if somebody gave it to themselves.",
    ),
    kind(
        "project.access_revoked",
        (C::Access, S::Info),
        HOOKS,
        "tenantry.identity.v1.ProjectAccessRevoked",
        "Somebody may enter a project no more. They.",
    ),
    kind(
        "project.deleted",
        (C::Access, S::Warning),
        HOOKS,
        "tenantry.project.v1.ProjectDeleted",
        "A project is gone, with all that belonged to it. Who manages access to projects.",
    ),
    kind(
        "security.removed",
        (C::Security, S::Critical),
        PEOPLE,
        "tenantry.identity.v1.MemberRemoved",
        "An organization removed you. You.",
    ),
    kind(
        "security.role_changed",
        (C::Security, S::Critical),
        PEOPLE,
        "tenantry.identity.v1.MemberRoleChanged",
        "You have another role. You.",
    ),
    kind(
        "server.health_changed",
        (C::Monitoring, S::Warning),
        HOOKS,
        "tenantry.project.v1.ServerHealthChanged",
        "A server went silent, or came back. Who manages servers.",
    ),
    kind(
        "subscription.changed",
        (C::Billing, S::Critical),
        HOOKS,
        "tenantry.identity.v1.SubscriptionChanged",
        "The subscription is past due, blocked, or well again. The Owner.",
    ),
    kind(
        "webhook.disabled",
        (C::Integration, S::Critical),
        HOOKS,
        "tenantry.invitation.v1.WebhookAutoDisabled",
        "The suite gave a receiver up. Who manages webhooks.",
    ),
];

/// An event, told.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) kind: &'static Kind,
    /// As bad as this time.
    pub(crate) severity: S,
    pub(crate) event_id: Uuid,
    pub(crate) time: OffsetDateTime,
    pub(crate) org_id: Option<OrgId>,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) actor_id: String,
    pub(crate) actor_name: String,
    /// Kind, id and name of what it happened to.
    pub(crate) resource: (String, String, String),
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) audience: Audience,
}

/// Whom an event is told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Audience {
    /// Whoever has this permission at that time; but not who did it.
    pub(crate) holders: Option<&'static str>,
    /// These accounts, for what happened to themselves.
    pub(crate) users: Vec<String>,
    /// The account of this address, if there is one.
    pub(crate) address: Option<String>,
}

/// The entry of a name.
pub(crate) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|it| it.name == name)
}

/// The types that a webhook or a rule asks for, if there are all of them.
pub(crate) fn for_hooks(names: &[String]) -> Result<Vec<String>> {
    let known = |name: &String| find(name).is_some_and(|it| it.for_hooks);
    match names.iter().find(|it| !known(it)) {
        Some(name) => Err(Error::invalid(
            "event_types",
            format!("must be of the catalogue, which has no {name:?}; see ListEventTypes"),
        )),
        None => Ok(names.to_vec()),
    }
}

/// The events of which something can be told.
pub(crate) fn events() -> impl Iterator<Item = String> {
    let mut names: Vec<_> = KINDS.iter().map(|it| it.event.to_owned()).collect();
    names.sort();
    names.dedup();
    names.into_iter()
}
