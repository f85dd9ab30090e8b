//! How each event is told: in a few words, in a sentence or two, and to whom.

use api::{
    event::Envelope,
    identity::{self as id, Subscription},
    invitation::{self as inv, Severity},
};
use chassis::moment;
use prost::Message;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Audience, KINDS, Kind, Story, operations};

/// Who manages members, and is told of them.
const MANAGERS: &str = "org.members.update_role";

/// What is told: title, body, to whom, and how bad it is, if not as usual.
pub(super) struct Words {
    title: String,
    body: String,
    audience: Audience,
    severity: Option<Severity>,
}

/// Everything that is told about an event; nothing if nobody needs to know.
pub(crate) fn tell(envelope: &Envelope) -> Vec<Story> {
    let Some(event) = &envelope.event else { return vec![] };
    let name = event.type_url.trim_start_matches('/');
    let kinds = KINDS.iter().filter(|it| it.event == name);
    kinds.filter_map(|kind| story(kind, envelope, &event.value)).collect()
}

fn story(kind: &'static Kind, envelope: &Envelope, body: &[u8]) -> Option<Story> {
    let words = match kind.name.split('.').next()? {
        "account" => account(kind, envelope),
        "deploy" | "environment" | "server" => operations::tell(kind, body)?,
        "invitation" => invitation(kind, body)?,
        "member" | "security" | "organization" => member(kind, envelope, body)?,
        "monitoring" => alert(kind, body)?,
        "project" if kind.name == "project.deleted" => operations::tell(kind, body)?,
        "project" => access(kind, envelope, body)?,
        _ => other(kind, envelope, body)?,
    };
    let actor = envelope.actor.clone().unwrap_or_default();
    let resource = envelope.resource.clone().unwrap_or_default();
    Some(Story {
        kind,
        severity: words.severity.unwrap_or(kind.severity),
        event_id: Uuid::try_parse(&envelope.id).ok()?,
        time: envelope.occur_time.and_then(moment).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        org_id: envelope.org_id.parse().ok(),
        project_id: envelope.project_id.parse().ok(),
        actor_id: actor.id,
        actor_name: actor.name,
        resource: (resource.kind, resource.id, resource.name),
        title: words.title,
        body: words.body,
        audience: words.audience,
    })
}

pub(super) fn to_holders(permission: &'static str) -> Audience {
    Audience { holders: Some(permission), ..Audience::default() }
}

fn to(user_id: &str) -> Audience {
    Audience { users: vec![user_id.to_owned()], ..Audience::default() }
}

pub(super) fn words(
    title: impl Into<String>,
    body: impl Into<String>,
    audience: Audience,
) -> Words {
    Words { title: title.into(), body: body.into(), audience, severity: None }
}

fn who(envelope: &Envelope) -> String {
    let name = envelope.actor.as_ref().map(|it| it.name.clone()).unwrap_or_default();
    if name.is_empty() { "somebody".to_owned() } else { name }
}

fn role(role: i32) -> String {
    let role = id::OrgRole::try_from(role).unwrap_or_default();
    let word = role.as_str_name().trim_start_matches("ORG_ROLE_");
    word[..1].to_owned() + &word[1..].to_lowercase()
}

fn account(kind: &Kind, envelope: &Envelope) -> Words {
    let (title, said) = match kind.name {
        "account.email_changed" => {
            ("Your account moved to another address", "Your account has another address.")
        }
        "account.second_factor_off" => {
            ("Your second factor is off", "Your account is no longer guarded by a second factor.")
        }
        _ => ("Your password was changed", "Your account has another password."),
    };
    let body = format!(
        "{said} If it was not you, set a new password at once, and end your other sessions."
    );
    let subject = envelope.resource.as_ref().map(|it| it.id.clone()).unwrap_or_default();
    words(title, body, to(&subject))
}

fn invitation(kind: &Kind, body: &[u8]) -> Option<Words> {
    // Each of these events has the invitation in its field `after`, the second or the first.
    let it = match kind.name {
        "invitation.received" => inv::InvitationCreated::decode(body).ok()?.after?,
        "invitation.bounced" => inv::InvitationBounced::decode(body).ok()?.after?,
        "invitation.declined" => inv::InvitationDeclined::decode(body).ok()?.after?,
        _ => inv::InvitationAccepted::decode(body).ok()?.after?,
    };
    let (address, inviter) = (&it.email, to(&it.inviter_id));
    Some(match kind.name {
        "invitation.received" => words(
            "You are invited to an organization",
            format!("You are offered the role {}. Look into your invitations.", role(it.role)),
            Audience { address: Some(it.email.clone()), ..Audience::default() },
        ),
        "invitation.bounced" => words(
            format!("The invitation to {address} could not be delivered"),
            "The recipient's server refuses the mail. Check the address, or copy the link.",
            inviter,
        ),
        "invitation.declined" => words(
            format!("{address} declined your invitation"),
            "The invitation cannot be used any more.",
            inviter,
        ),
        _ => words(
            format!("Your invitation to {address} was accepted"),
            format!("It was used {} of {} times.", it.use_count, it.max_uses),
            inviter,
        ),
    })
}

fn member(kind: &Kind, envelope: &Envelope, body: &[u8]) -> Option<Words> {
    if kind.name == "organization.owner_changed" {
        let it = id::OwnershipTransferred::decode(body).ok()?;
        let (from, to) = (it.from?, it.to?);
        let title = format!("{} owns the organization now", to.display_name);
        let body = format!("{} is an Admin from now on.", from.display_name);
        let users = vec![from.user_id, to.user_id];
        let audience = Audience { users, ..to_holders(MANAGERS) };
        return Some(words(title, body, audience));
    }
    let actor = who(envelope);
    let it = match kind.name {
        "member.joined" => id::MemberJoined::decode(body).ok()?.after?,
        "member.left" => id::MemberLeft::decode(body).ok()?.before?,
        "member.removed" | "security.removed" => id::MemberRemoved::decode(body).ok()?.before?,
        _ => id::MemberRoleChanged::decode(body).ok()?.after?,
    };
    let (name, role) = (&it.display_name, role(it.role));
    Some(match kind.name {
        "member.joined" => words(
            format!("{name} joined"),
            format!("They are a member as {role}."),
            to_holders(MANAGERS),
        ),
        "member.left" => words(format!("{name} left"), "Their access ended.", to_holders(MANAGERS)),
        "member.removed" => words(
            format!("{name} was removed"),
            format!("{actor} removed them; their access ended."),
            to_holders(MANAGERS),
        ),
        "member.role_changed" => words(
            format!("{name} is {role} now"),
            format!("{actor} changed their role."),
            to_holders(MANAGERS),
        ),
        "security.removed" => words(
            "You were removed from an organization",
            format!("{actor} removed you; your access ended."),
            to(&it.user_id),
        ),
        _ => words(
            format!("You are {role} now"),
            format!("{actor} changed your role."),
            to(&it.user_id),
        ),
    })
}

fn alert(kind: &Kind, body: &[u8]) -> Option<Words> {
    let it = match kind.name {
        "monitoring.alert_changed" => inv::AlertChanged::decode(body).ok()?.after?,
        _ => inv::AlertOpened::decode(body).ok()?.after?,
    };
    let what = match it.kind() {
        inv::AlertKind::HighCpu => "the processor is busy",
        inv::AlertKind::HighMemory => "memory is full",
        inv::AlertKind::LowDisk => "the disk is full",
        inv::AlertKind::ProcessDown => "a process is down",
        inv::AlertKind::ServerUnreachable => "it does not answer",
        inv::AlertKind::Unspecified => "something is wrong",
    };
    let (name, value) = (&it.target_name, &it.value);
    let permission = if it.project_id.is_empty() { "org.servers.list" } else { "project.view" };
    let told = if kind.name == "monitoring.recovered" {
        words(format!("{name} recovered"), format!("It was: {what}."), to_holders(permission))
    } else {
        let body = if value.is_empty() { format!("{what}.") } else { format!("{what}: {value}.") };
        words(format!("{name}: {what}"), body, to_holders(permission))
    };
    let recovered = kind.name == "monitoring.recovered";
    Some(Words { severity: (!recovered).then_some(it.severity()), ..told })
}

fn access(kind: &Kind, envelope: &Envelope, body: &[u8]) -> Option<Words> {
    let granted = kind.name == "project.access_granted";
    let (grant, self_grant) = if granted {
        let it = id::ProjectAccessGranted::decode(body).ok()?;
        (it.after?, it.self_grant)
    } else {
        (id::ProjectAccessRevoked::decode(body).ok()?.before?, false)
    };
    let actor = who(envelope);
    if self_grant {
        let body = format!("{actor} gave themselves access to the project.");
        return Some(words(
            "An Admin entered a project",
            body,
            to_holders("project.access.manage"),
        ));
    }
    let Some(id::principal::Principal::UserId(user_id)) = grant.principal?.principal else {
        return None;
    };
    Some(if granted {
        words("You may enter a project", format!("{actor} gave you access."), to(&user_id))
    } else {
        words("You may enter a project no more", format!("{actor} took your access."), to(&user_id))
    })
}

fn other(kind: &Kind, envelope: &Envelope, body: &[u8]) -> Option<Words> {
    match kind.name {
        "api_key.created" => {
            let it = id::ApiKeyCreated::decode(body).ok()?.after?;
            let title = format!("The API key {} was made", it.name);
            let body = format!("{} made it.", who(envelope));
            Some(words(title, body, to_holders("org.api_keys.list")))
        }
        "webhook.disabled" => {
            let it = inv::WebhookAutoDisabled::decode(body).ok()?;
            let name = envelope.resource.as_ref().map(|it| it.name.clone()).unwrap_or_default();
            let title = format!("The webhook to {name} was disabled");
            let body = format!("Because {}. Mend the receiver, then enable it again.", it.reason);
            let audience = if envelope.project_id.is_empty() {
                to_holders("org.webhooks.manage")
            } else {
                to_holders("project.webhooks.manage")
            };
            Some(words(title, body, audience))
        }
        _ => {
            let it = id::SubscriptionChanged::decode(body).ok()?;
            let (before, after) = (it.before?.subscription(), it.after?.subscription());
            subscription(before, after)
        }
    }
}

fn subscription(before: Subscription, after: Subscription) -> Option<Words> {
    let (title, body, severity) = match after {
        Subscription::PastDue => (
            "The subscription is past due",
            "Pay the open invoice, so that nothing is blocked.",
            Severity::Warning,
        ),
        Subscription::Blocked => (
            "The subscription is blocked",
            "Reads go on, changes do not, and pending invitations were withdrawn. Pay the open invoice.",
            Severity::Critical,
        ),
        Subscription::Active
            if [Subscription::PastDue, Subscription::Blocked].contains(&before) =>
        {
            ("The subscription is well again", "Everything works.", Severity::Info)
        }
        _ => return None,
    };
    let told = words(title, body, to_holders("org.billing.view"));
    Some(Words { severity: Some(severity), ..told })
}
