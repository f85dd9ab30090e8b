//! Fuzz target: decoding and validation of every message of the contract from untrusted bytes.

#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses a part of it")]
mod input;

use std::sync::LazyLock;

use bolero::check;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};

use self::input::Input;
use crate::check::{MESSAGES, VIOLATIONS_MAX};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(crate::DESCRIPTORS).unwrap();
    pool.decode_file_descriptor_set(crate::ADMIN_DESCRIPTORS).unwrap();
    pool
});

/// Nesting depth of generated messages.
const DEPTH_MAX: usize = 4;
/// Items of a generated list.
const ITEMS_MAX: u8 = 4;

/// Texts that pass some rules and break others.
const SAMPLE_TEXTS: [&str; 8] = [
    "",
    "a",
    "0193c2d5-7a3e-7b1f-8c4d-5e6f7a8b9c0d",
    "ann@example.com",
    "https://example.com/",
    "\u{202e}\u{0}\u{1f469}\u{200d}\u{1f4bb}",
    "main",
    "--upload-pack=x",
];

/// Generates a message with values of the declared types, chosen by `numbers`. Fields are left out at random,
/// and when `numbers` ends.
fn random_message(
    descriptor: &MessageDescriptor,
    numbers: &mut dyn Iterator<Item = u8>,
    depth: usize,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let Some(choice) = numbers.next().filter(|it| it % 2 == 1) else { continue };
        if field.is_list() {
            let items =
                (0..(choice / 2) % ITEMS_MAX).filter_map(|_| random_value(&field, numbers, depth));
            let items: Vec<_> = items.collect();
            message.set_field(&field, Value::List(items));
        } else if !field.is_map()
            && let Some(value) = random_value(&field, numbers, depth)
        {
            message.set_field(&field, value);
        }
    }
    message
}

fn random_value(
    field: &FieldDescriptor,
    numbers: &mut dyn Iterator<Item = u8>,
    depth: usize,
) -> Option<Value> {
    let number = numbers.next()?;
    Some(match field.kind() {
        Kind::Message(_) if depth == DEPTH_MAX => return None,
        Kind::Message(it) => Value::Message(random_message(&it, numbers, depth + 1)),
        Kind::String => {
            Value::String(SAMPLE_TEXTS[usize::from(number) % SAMPLE_TEXTS.len()].to_owned())
        }
        Kind::Bytes => Value::Bytes(vec![number; 3].into()),
        Kind::Bool => Value::Bool(number > 127),
        Kind::Enum(_) => Value::EnumNumber(i32::from(number) - 2),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::from(number) - 3),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::from(number) - 3),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number.into()),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number.into()),
        Kind::Float => Value::F32(number.into()),
        Kind::Double => Value::F64(number.into()),
    })
}

/// No input makes validation panic or report more than [`VIOLATIONS_MAX`] violations.
#[test]
fn every_message_is_decoded_and_checked_with_bounded_work() {
    check!().with_type::<(u16, Input)>().for_each(|(choice, input)| {
        let (name, decode_and_check) = MESSAGES[usize::from(*choice) % MESSAGES.len()];
        let descriptor = POOL.get_message_by_name(name).unwrap();
        let sample = random_message(&descriptor, &mut input.numbers(), 0).encode_to_vec();
        let bytes = input.bytes(&[sample.clone(), sample]);
        if let Some(violations) = decode_and_check(&bytes) {
            assert!(violations.len() <= VIOLATIONS_MAX, "{name}: {}", violations.len());
            for violation in violations {
                let field = violation.field;
                assert!(!field.is_empty() && field.len() < 200, "{name}: {field}");
                let description = violation.description;
                assert!(description.len() < 2_000, "{name}: {description}");
            }
        }
    });
}

/// The number of violations is bounded, however long a list of invalid items is.
#[test]
fn a_long_list_of_invalid_items_has_a_bounded_number_of_violations() {
    use crate::check::Check;
    let notification_ids = vec![String::new(); 1_000_000];
    let request = crate::notification::MarkNotificationsReadRequest {
        notification_ids,
        ..Default::default()
    };
    assert_eq!(request.violations().len(), VIOLATIONS_MAX);
}
