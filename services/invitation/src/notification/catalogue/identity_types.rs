//! Notification types of accounts, members, API keys, subscriptions and access to projects.

use api::{
    event::Envelope,
    identity::{
        ApiKeyCreated, MemberJoined, MemberLeft, MemberRemoved, MemberRoleChanged,
        OrganizationOwnershipTransferred, ProjectAccessGranted, ProjectAccessRevoked, ProjectGrant,
        Subscription, SubscriptionChanged, User, UserEmailChanged, UserPasswordChanged,
        UserPasswordReset, UserTotpDisabled, principal::Principal,
    },
    notification::{
        NotificationCategory::{Access, Billing, Integration, Membership, Security},
        Severity::{Critical, Info, Warning},
    },
};

use prost::{Message, Name};

use super::{Audience, Content, NotificationType, actor_name};
use crate::role::role_name;

/// Permission of the members who are notified of changes of other members.
const MANAGE_MEMBERS: &str = "org.members.update_role";

pub(super) fn all() -> Vec<NotificationType> {
    let mut types = Vec::from(user_types());
    types.extend(member_types());
    types.extend(role_types());
    types.extend(access_types());
    types.extend([
        NotificationType::of(
            "api_key.created",
            Integration,
            Info,
            "An API key was created. To members who can list API keys.",
            |event: ApiKeyCreated, envelope| {
                let title = format!("API key {} was created", event.after?.name);
                let body = format!("{} created it.", actor_name(envelope));
                Some(Content::new(title, body, Audience::holders("org.api_keys.list")))
            },
        ),
        NotificationType::of(
            "subscription.changed",
            Billing,
            Critical,
            "The subscription is past due, blocked, active again, or has ended. To the Owner.",
            |event: SubscriptionChanged, _| {
                subscription(event.before?.subscription(), event.after?.subscription())
            },
        )
        // Admins manage webhooks and mail rules, and have no access to billing (PL-5).
        .personal(),
    ]);
    types
}

/// Types of changes to the credentials of an account.
fn user_types() -> [NotificationType; 4] {
    [
        credential_change(
            "user.email_changed",
            "The e-mail address of the account was changed. To its owner.",
            "The e-mail address of your account was changed",
            |event: UserEmailChanged| event.after,
        ),
        credential_change(
            "user.password_changed",
            "The password was changed. To the owner of the account.",
            "Your password was changed",
            |event: UserPasswordChanged| event.after,
        ),
        credential_change(
            "user.password_reset",
            "The password was reset by a mailed link. To the owner of the account.",
            "Your password was reset",
            |event: UserPasswordReset| event.after,
        ),
        credential_change(
            "user.totp_disabled",
            "The second factor was turned off. To the owner of the account.",
            "Your second factor was turned off",
            |event: UserTotpDisabled| event.after,
        ),
    ]
}

fn credential_change<E: Message + Name + Default + 'static>(
    name: &'static str,
    description: &'static str,
    title: &'static str,
    account: fn(E) -> Option<User>,
) -> NotificationType {
    let render = move |event: E, _: &Envelope| {
        let advice = "If this was not you, reset your password and end your other sessions.";
        let audience = Audience::user(account(event)?.id);
        Some(Content::new(title, format!("{title}. {advice}"), audience))
    };
    NotificationType::of(name, Security, Critical, description, render).personal()
}

/// Types of joins and departures of members.
fn member_types() -> [NotificationType; 4] {
    [
        NotificationType::of(
            "member.joined",
            Membership,
            Info,
            "A person became a member. To members who can change roles.",
            |event: MemberJoined, _| {
                let member = event.after?;
                let body = format!("They are a member with the role {}.", role_name(member.role()));
                Some(about_member(format!("{} joined", member.display_name), body))
            },
        ),
        NotificationType::of(
            "member.left",
            Membership,
            Info,
            "A member left. To members who can change roles.",
            |event: MemberLeft, _| {
                let title = format!("{} left", event.before?.display_name);
                Some(about_member(title, "Their access has ended.".to_owned()))
            },
        ),
        NotificationType::of(
            "member.removed",
            Membership,
            Info,
            "A member was removed. To members who can change roles.",
            |event: MemberRemoved, envelope| {
                let title = format!("{} was removed", event.before?.display_name);
                let body =
                    format!("{} removed them; their access has ended.", actor_name(envelope));
                Some(about_member(title, body))
            },
        ),
        NotificationType::of(
            "user.removed_from_organization",
            Security,
            Critical,
            "An organization removed the account. To its owner.",
            |event: MemberRemoved, envelope| {
                let body = format!("{} removed you; your access has ended.", actor_name(envelope));
                let audience = Audience::user(event.before?.user_id);
                Some(Content::new("You were removed from an organization", body, audience))
            },
        )
        .personal(),
    ]
}

/// Types of changed roles and ownership.
fn role_types() -> [NotificationType; 3] {
    [
        NotificationType::of(
            "member.role_changed",
            Membership,
            Info,
            "A member has another role. To members who can change roles.",
            |event: MemberRoleChanged, envelope| {
                let member = event.after?;
                let title = format!("{} is now {}", member.display_name, role_name(member.role()));
                Some(about_member(title, format!("{} changed their role.", actor_name(envelope))))
            },
        ),
        NotificationType::of(
            "organization.ownership_transferred",
            Security,
            Critical,
            "The organization has another Owner. To both Owners and members who can change roles.",
            |event: OrganizationOwnershipTransferred, _| {
                let former = event.from?;
                let owner = event.to?;
                let title = format!("{} is now the Owner", owner.display_name);
                let body = format!("{} is now an Admin.", former.display_name);
                let user_ids = vec![former.user_id, owner.user_id];
                let audience = Audience { user_ids, ..Audience::holders(MANAGE_MEMBERS) };
                Some(Content::new(title, body, audience))
            },
        ),
        NotificationType::of(
            "user.role_changed",
            Security,
            Critical,
            "The account has another role in an organization. To its owner.",
            |event: MemberRoleChanged, envelope| {
                let member = event.after?;
                let title = format!("You are now {}", role_name(member.role()));
                let body = format!("{} changed your role.", actor_name(envelope));
                Some(Content::new(title, body, Audience::user(member.user_id)))
            },
        )
        .personal(),
    ]
}

fn about_member(title: String, body: String) -> Content {
    Content::new(title, body, Audience::holders(MANAGE_MEMBERS))
}

/// Types of access to projects.
fn access_types() -> [NotificationType; 2] {
    [
        NotificationType::of(
            "project.access_granted",
            Access,
            Info,
            "A member got access to a project. To the member, or to the project's Admins if the member \
             granted it to themselves.",
            access_granted,
        ),
        NotificationType::of(
            "project.access_revoked",
            Access,
            Info,
            "A member lost access to a project. To the member.",
            |event: ProjectAccessRevoked, envelope| {
                let body = format!("{} revoked your access.", actor_name(envelope));
                let audience = Audience::user(grantee(event.before?)?);
                Some(Content::new("You lost access to a project", body, audience))
            },
        ),
    ]
}

fn access_granted(event: ProjectAccessGranted, envelope: &Envelope) -> Option<Content> {
    let actor = actor_name(envelope);
    if event.self_grant {
        let body = format!("{actor} granted themselves access to the project.");
        let audience = Audience::holders("project.access.manage");
        return Some(Content::new("An Admin got access to a project", body, audience));
    }
    let audience = Audience::user(grantee(event.after?)?);
    let body = format!("{actor} granted you access.");
    Some(Content::new("You have access to a project", body, audience))
}

/// The account of a grant; `None` if its holder is a team.
fn grantee(grant: ProjectGrant) -> Option<String> {
    match grant.principal?.principal {
        Some(Principal::UserId(user_id)) => Some(user_id),
        _ => None,
    }
}

/// A notification if the subscription is past due, blocked, active again after that, or has ended.
fn subscription(before: Subscription, after: Subscription) -> Option<Content> {
    let was_unpaid = [Subscription::PastDue, Subscription::Blocked].contains(&before);
    let (title, body, severity) = match after {
        Subscription::PastDue => (
            "The subscription is past due",
            "Pay the open invoice before the subscription is blocked.",
            Warning,
        ),
        Subscription::Blocked => (
            "The subscription is blocked",
            "Changes are refused, and pending invitations were revoked; reads are still possible. Pay the \
             open invoice.",
            Critical,
        ),
        Subscription::Canceled => (
            "The subscription has ended",
            "The plan is Free. Nothing was removed; new members, projects and environments are refused above \
             its limits.",
            Warning,
        ),
        Subscription::Active if was_unpaid => {
            ("The subscription is active again", "All functions are available again.", Info)
        }
        _ => return None,
    };
    let audience = Audience::holders("org.billing.view");
    Some(Content { severity: Some(severity), ..Content::new(title, body, audience) })
}
