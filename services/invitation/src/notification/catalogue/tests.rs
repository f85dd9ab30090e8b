//! Tests of the notification types against the contract.

use api::event::{Actor, Envelope, Resource};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, Value};

use super::*;

/// Types for the affected account, of events that also have a type for other members. Only the name of the
/// other type is the audit action.
const SECOND_TYPES: [&str; 3] =
    ["user.invited", "user.removed_from_organization", "user.role_changed"];

pub(in crate::notification) fn descriptors() -> DescriptorPool {
    DescriptorPool::decode(api::DESCRIPTORS).unwrap()
}

/// A message with a recognizable value in every field.
fn filled_message(pool: &DescriptorPool, name: &str, depth: u8) -> DynamicMessage {
    let descriptor = pool.get_message_by_name(name).unwrap();
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        // Only the first field of a oneof.
        if field.containing_oneof().is_some_and(|it| it.fields().next() != Some(field.clone())) {
            continue;
        }
        let text = if field.name().ends_with("_id") || field.name() == "id" {
            Uuid::from_u128(7).to_string()
        } else {
            format!("the-{}", field.name().replace('_', "-"))
        };
        let value = match field.kind() {
            Kind::String => Value::String(text),
            Kind::Bool => Value::Bool(false),
            Kind::Int32 => Value::I32(1),
            Kind::Int64 => Value::I64(1),
            Kind::Enum(_) => Value::EnumNumber(2),
            Kind::Message(inner) if depth < 3 => {
                Value::Message(filled_message(pool, inner.full_name(), depth + 1))
            }
            _ => continue,
        };
        let value = if field.is_list() { Value::List(vec![value]) } else { value };
        message.set_field(&field, value);
    }
    message
}

/// An event whose fields have recognizable values.
pub(in crate::notification) fn envelope(pool: &DescriptorPool, event: &str) -> Envelope {
    let body = Message::encode_to_vec(&filled_message(pool, event, 0));
    let any = prost_types::Any { type_url: format!("/{event}"), value: body };
    Envelope {
        id: Uuid::from_u128(1).to_string(),
        org_id: Uuid::from_u128(2).to_string(),
        event: Some(any),
        actor: Some(Actor { name: "Ann".to_owned(), ..Actor::default() }),
        resource: Some(Resource { kind: "thing".to_owned(), ..Resource::default() }),
        ..Envelope::default()
    }
}

/// Every notification type has the name of its event's audit action, except for these.
#[test]
fn names_are_audit_actions() {
    let pool = descriptors();
    let option = pool.get_extension_by_name("tenantry.event.v1.action").unwrap();
    for notification_type in types() {
        let event = pool.get_message_by_name(&notification_type.event).unwrap();
        let options = event.options();
        let action = options.get_extension(&option);
        let name = notification_type.name;
        let is_action = action.as_str() == Some(name);
        assert_ne!(is_action, SECOND_TYPES.contains(&name), "{name} for {action:?}");
    }
    let names: Vec<_> = types().iter().map(|it| it.name).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "sorted and unique: {names:?}");
}

/// The event of every type renders a title and a body for somebody.
#[test]
fn every_type_renders_a_notification() {
    let pool = descriptors();
    for notification_type in types() {
        let name = notification_type.name;
        // Rendered only for some changes, which the next tests have.
        if ["invitation.revoked", "subscription.changed", "environment.state_corrected"]
            .contains(&name)
        {
            continue;
        }
        let rendered = render(&envelope(&pool, &notification_type.event));
        let notification = rendered.iter().find(|it| it.notification_type.name == name);
        let notification = notification.unwrap_or_else(|| panic!("{name} renders nothing"));
        let has_text = !notification.title.is_empty() && !notification.body.is_empty();
        assert!(has_text, "{notification:?}");
        assert_ne!(notification.audience, Audience::default(), "{notification:?}");
        assert!(notification.title.len() < 120, "{notification:?}");
    }
}

/// IN-29: the inviter of an invitation that another one has settled may change the role.
#[test]
fn an_inviter_is_notified_of_a_settled_invitation_only() {
    use api::invitation::{Invitation, InvitationRevoked, RevokeCause};
    let titles = |cause: RevokeCause| {
        let invitation = Invitation {
            email: "bob@example.com".to_owned(),
            inviter_id: Uuid::from_u128(7).to_string(),
            revoke_cause: cause.into(),
            ..Default::default()
        };
        let event = InvitationRevoked { after: Some(invitation), ..Default::default() };
        let mut envelope = envelope(&descriptors(), "tenantry.invitation.v1.InvitationRevoked");
        envelope.event.as_mut().unwrap().value = Message::encode_to_vec(&event);
        render(&envelope).into_iter().map(|it| it.title).collect::<Vec<_>>()
    };
    assert_eq!(
        titles(RevokeCause::RecipientJoined),
        ["bob@example[.]com joined by another invitation"]
    );
    assert_eq!(titles(RevokeCause::Manager), [""; 0]);
}

#[test]
fn a_subscription_is_reported_when_it_is_past_due_blocked_or_active_again() {
    use api::identity::{Organization, Subscription, SubscriptionChanged};
    let severity = |before: Subscription, after: Subscription| {
        let organization =
            |it: Subscription| Some(Organization { subscription: it.into(), ..Default::default() });
        let event =
            SubscriptionChanged { before: organization(before), after: organization(after) };
        let mut envelope = envelope(&descriptors(), "tenantry.identity.v1.SubscriptionChanged");
        envelope.event.as_mut().unwrap().value = Message::encode_to_vec(&event);
        render(&envelope).pop().map(|it| it.severity)
    };
    assert_eq!(severity(Subscription::Active, Subscription::PastDue), Some(Severity::Warning));
    assert_eq!(severity(Subscription::PastDue, Subscription::Blocked), Some(Severity::Critical));
    assert_eq!(severity(Subscription::Blocked, Subscription::Active), Some(Severity::Info));
    assert_eq!(severity(Subscription::Active, Subscription::Canceled), Some(Severity::Warning));
    assert_eq!(severity(Subscription::Trialing, Subscription::Active), None);
}

/// Other corrections, for example of the URL, need nobody's attention.
#[test]
fn only_an_ended_program_is_reported() {
    use api::project::{Environment, EnvironmentStateCorrected, Observed};
    let is_reported = |observed: Observed| {
        let environment = Environment { observed: observed.into(), ..Default::default() };
        let event = EnvironmentStateCorrected { after: Some(environment), ..Default::default() };
        let mut envelope =
            envelope(&descriptors(), "tenantry.project.v1.EnvironmentStateCorrected");
        envelope.event.as_mut().unwrap().value = Message::encode_to_vec(&event);
        !render(&envelope).is_empty()
    };
    assert!(is_reported(Observed::Failed));
    assert!(is_reported(Observed::Unspecified), "an event of an earlier version");
    assert!(!is_reported(Observed::Running) && !is_reported(Observed::Stopped));
}
