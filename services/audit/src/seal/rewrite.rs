//! Replacement of personal texts in an encoded envelope. All other bytes are copied unchanged, including
//! fields that this version does not know.

use super::{
    personal_fields::{ENVELOPE, FieldRule, PersonalFields, TextSubject},
    wire::{take_field, text_at, write_field},
};

/// Most levels of nested messages. Deeper messages are copied unchanged.
const DEPTH_MAX: usize = 32;

/// Field numbers of `google.protobuf.Any`.
const ANY_TYPE_URL_FIELD: u32 = 1;
const ANY_VALUE_FIELD: u32 = 2;

/// A text in a field that is marked as personal.
pub(super) struct PersonalText<'l> {
    pub(super) subject: TextSubject<'l>,
    pub(super) text: &'l str,
}

/// Copies an envelope and replaces each personal text for which `replace` returns a new one. `None` if the
/// bytes are not a protobuf message.
pub(super) fn rewrite(
    fields: &PersonalFields,
    envelope: &[u8],
    replace: &mut dyn FnMut(PersonalText<'_>) -> Option<String>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(envelope.len() + 256);
    Rewriter { fields, envelope, replace }.message(envelope, ENVELOPE, 0, &mut out)?;
    Some(out)
}

struct Rewriter<'r> {
    fields: &'r PersonalFields,
    envelope: &'r [u8],
    replace: &'r mut dyn FnMut(PersonalText<'_>) -> Option<String>,
}

impl Rewriter<'_> {
    /// Copies one message of the type `name`.
    fn message(&mut self, bytes: &[u8], name: &str, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        let rules = self.fields.rules_of(name).filter(|_| depth < DEPTH_MAX);
        let mut rest = bytes;
        while !rest.is_empty() {
            let field = take_field(&mut rest)?;
            let rule = rules.and_then(|it| it.get(&field.number));
            let (Some(rule), Some(payload)) = (rule, field.payload) else {
                out.extend_from_slice(field.bytes);
                continue;
            };
            match rule {
                FieldRule::Personal(subject_rule) => {
                    let subject = subject_rule.find_subject(bytes, self.envelope);
                    let text = str::from_utf8(payload).ok()?;
                    match (self.replace)(PersonalText { subject, text }) {
                        Some(text) => write_field(field.number, text.as_bytes(), out),
                        None => out.extend_from_slice(field.bytes),
                    }
                }
                FieldRule::Message(name) => {
                    let mut inner = Vec::with_capacity(payload.len() + 128);
                    self.message(payload, name, depth + 1, &mut inner)?;
                    write_field(field.number, &inner, out);
                }
                FieldRule::Any => {
                    let mut inner = Vec::with_capacity(payload.len() + 128);
                    self.any(payload, depth + 1, &mut inner)?;
                    write_field(field.number, &inner, out);
                }
            }
        }
        Some(())
    }

    /// Copies a `google.protobuf.Any`.
    fn any(&mut self, bytes: &[u8], depth: usize, out: &mut Vec<u8>) -> Option<()> {
        let type_url = text_at(bytes, &[ANY_TYPE_URL_FIELD]).unwrap_or("");
        let message_name = type_url.rsplit('/').next().unwrap_or("").to_owned();
        let mut rest = bytes;
        while !rest.is_empty() {
            let field = take_field(&mut rest)?;
            match field.payload.filter(|_| field.number == ANY_VALUE_FIELD) {
                Some(payload) => {
                    let mut inner = Vec::with_capacity(payload.len() + 128);
                    self.message(payload, &message_name, depth, &mut inner)?;
                    write_field(ANY_VALUE_FIELD, &inner, out);
                }
                None => out.extend_from_slice(field.bytes),
            }
        }
        Some(())
    }
}
