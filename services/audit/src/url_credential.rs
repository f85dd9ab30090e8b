//! Credentials in URLs of old events. Earlier versions recorded the URL of a repository, and messages of git,
//! with the credential in them. The bytes of a leaf never change; a reader gets the event with the credential
//! masked, and no proof or bundle has the bytes of such a leaf.
//!
//! Only fields that services have masked since are affected, so nobody can hide a new event in this way.

use api::event::Envelope;
use chassis::credential_mask::{mask_credentials, mask_url};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use prost_types::Any;

/// Package of the events with such fields.
const PACKAGE: &str = "tenantry.project.";

/// Masks the credentials in an event; `None` if it has none.
pub(crate) fn mask_event(pool: &DescriptorPool, event: &Any) -> Option<Any> {
    let message_name = event.type_url.rsplit('/').next().unwrap_or_default();
    let may_have_url = event.value.windows(3).any(|it| it == b"://");
    if !may_have_url || !message_name.starts_with(PACKAGE) {
        return None;
    }
    let descriptor = pool.get_message_by_name(message_name)?;
    let mut message = DynamicMessage::decode(descriptor, &*event.value).ok()?;
    mask_message(&mut message)
        .then(|| Any { type_url: event.type_url.clone(), value: message.encode_to_vec() })
}

/// True if a leaf contains a credential in a URL.
pub(crate) fn is_in_leaf(pool: &DescriptorPool, leaf: &[u8]) -> bool {
    let Ok(envelope) = Envelope::decode(leaf) else { return false };
    envelope.event.is_some_and(|it| mask_event(pool, &it).is_some())
}

/// Masks the fields of a message and of the messages in it. Returns true if that changed a field.
fn mask_message(message: &mut DynamicMessage) -> bool {
    let mut is_changed = false;
    for (field, value) in message.fields_mut() {
        match value {
            Value::String(text) => {
                let masked = match field.name() {
                    "repository_url" => mask_url(text),
                    "error_message" | "last_error" => mask_credentials(text),
                    _ => continue,
                };
                is_changed |= masked != *text;
                *text = masked;
            }
            Value::Message(inner) => is_changed |= mask_message(inner),
            _ => {}
        }
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use api::project as pb;
    use prost::Name;

    use super::*;

    fn event(url: &str, description: &str) -> Any {
        let project = pb::Project {
            repository_url: url.to_owned(),
            description: description.to_owned(),
            ..Default::default()
        };
        let event = pb::ProjectCreated { after: Some(project) };
        Any { type_url: pb::ProjectCreated::type_url(), value: event.encode_to_vec() }
    }

    #[test]
    fn only_fields_that_services_mask_are_masked() {
        let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
        let masked = mask_event(&pool, &event("https://ann:s3cret@x.example/a?t=s3cret", "d"));
        assert_eq!(masked, Some(event("https://***@x.example/a?***", "d")));
        for url in ["https://***@x.example/a", "https://x.example/a", "ssh://git@x.example/a"] {
            assert_eq!(mask_event(&pool, &event(url, "https://a:b@c")), None, "{url}");
        }
    }
}
