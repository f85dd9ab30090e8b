//! Notification types of accounts, members, API keys, subscriptions and access to projects.

use api::{
    event::Envelope,
    identity::{
        ApiKeyCreated, Member, MemberJoined, MemberLeft, MemberRemoved, MemberRoleChanged, OrgRole,
        OrganizationOwnershipTransferred, ProjectAccessGranted, ProjectAccessRevoked, ProjectGrant,
        Subscription, SubscriptionChanged, User, UserEmailChanged, UserPasswordChanged,
        UserPasswordReset, UserTotpDisabled, principal::Principal,
    },
    notification::{
        NotificationCategory::{Access, Billing, Integration, Membership, Security},
        Severity::{Critical, Info, Warning},
    },
};

use super::{Audience, Content, NotificationType, actor_name};

/// Permission of the members who are notified of other members.
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
            "The subscription is past due, blocked, or active again. To the Owner.",
            |event: SubscriptionChanged, _| {
                subscription(event.before?.subscription(), event.after?.subscription())
            },
        ),
    ]);
    types
}

/// Types of changes to the credentials of an account.
fn user_types() -> [NotificationType; 4] {
    [
        NotificationType::of(
            "user.email_changed",
            Security,
            Critical,
            "The e-mail address of the account was changed. To its owner.",
            |event: UserEmailChanged, _| {
                account_change(event.after, "The e-mail address of your account was changed")
            },
        )
        .personal(),
        NotificationType::of(
            "user.password_changed",
            Security,
            Critical,
            "The password was changed. To the owner of the account.",
            |event: UserPasswordChanged, _| {
                account_change(event.after, "Your password was changed")
            },
        )
        .personal(),
        NotificationType::of(
            "user.password_reset",
            Security,
            Critical,
            "The password was reset by a mailed link. To the owner of the account.",
            |event: UserPasswordReset, _| account_change(event.after, "Your password was reset"),
        )
        .personal(),
        NotificationType::of(
            "user.totp_disabled",
            Security,
            Critical,
            "The second factor was turned off. To the owner of the account.",
            |event: UserTotpDisabled, _| {
                account_change(event.after, "Your second factor was turned off")
            },
        )
        .personal(),
    ]
}

fn account_change(account: Option<User>, title: &str) -> Option<Content> {
    let body =
        format!("{title}. If this was not you, reset your password and end your other sessions.");
    Some(Content::new(title, body, Audience::user(account?.id)))
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
                let body = format!("They are a member with the role {}.", role_name(&member));
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
                let title = format!("{} is now {}", member.display_name, role_name(&member));
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
                let title = format!("You are now {}", role_name(&member));
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

fn role_name(member: &Member) -> &'static str {
    match member.role() {
        OrgRole::Viewer => "Viewer",
        OrgRole::Developer => "Developer",
        OrgRole::Admin => "Admin",
        OrgRole::Owner => "Owner",
        OrgRole::Unspecified => "Unspecified",
    }
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

/// A notification if the subscription got into trouble, or out of it.
fn subscription(before: Subscription, after: Subscription) -> Option<Content> {
    let was_in_trouble = [Subscription::PastDue, Subscription::Blocked].contains(&before);
    let (title, body, severity) = match after {
        Subscription::PastDue => (
            "The subscription is past due",
            "Pay the open invoice before the subscription is blocked.",
            Warning,
        ),
        Subscription::Blocked => (
            "The subscription is blocked",
            "Reads still work, changes are refused, and pending invitations were revoked. Pay the open \
             invoice.",
            Critical,
        ),
        Subscription::Active if was_in_trouble => {
            ("The subscription is active again", "Everything works again.", Info)
        }
        _ => return None,
    };
    let audience = Audience::holders("org.billing.view");
    Some(Content { severity: Some(severity), ..Content::new(title, body, audience) })
}
