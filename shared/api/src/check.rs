//! Checks of the rules that the contract declares with `buf.validate`: all violations at once, each with
//! the path of its field.

use regex::Regex;

/// A field that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, for example `project_access[2].role`.
    pub field: String,
    /// What the rule asks for.
    pub description: String,
}

/// What is wrong with a message; empty if nothing is.
pub type Violations = Vec<Violation>;

/// More violations than this are not collected: a list of two-byte items has millions of them, and they are
/// sent in the trailers of an answer.
pub const VIOLATIONS_MAX: usize = 25;

/// A message that knows its declared rules.
pub trait Check {
    /// Adds every violation in this message, which stands at `at`.
    fn check(&self, at: At<'_>, violations: &mut Violations);

    /// What makes a repeated call the same call; empty if the message has no such field.
    fn request_id(&self) -> &str {
        ""
    }

    /// Every violation in this message.
    fn violations(&self) -> Violations {
        let mut violations = vec![];
        self.check(At::Root, &mut violations);
        violations
    }
}

/// Where a value stands in its message. Built on the stack; turned into text only for a violation.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// The message itself.
    Root,
    /// A field of a message.
    Field(&'a At<'a>, &'static str),
    /// An item of a list.
    Item(&'a At<'a>, usize),
}

impl At<'_> {
    fn field(&self, name: &'static str) -> At<'_> {
        At::Field(self, name)
    }

    fn item(&self, index: usize) -> At<'_> {
        At::Item(self, index)
    }

    fn path(&self) -> String {
        match self {
            At::Root => String::new(),
            At::Field(At::Root, name) => (*name).to_owned(),
            At::Field(parent, name) => format!("{}.{name}", parent.path()),
            At::Item(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }

    fn say(&self, violations: &mut Violations, description: String) {
        if violations.len() < VIOLATIONS_MAX {
            violations.push(Violation { field: self.path(), description });
        }
    }

    fn required(&self, violations: &mut Violations) {
        self.say(violations, "is required".to_owned());
    }

    fn min_items(&self, length: usize, min: usize, violations: &mut Violations) {
        if length < min {
            self.say(violations, format!("must have at least {min} items"));
        }
    }

    fn max_items(&self, length: usize, max: usize, violations: &mut Violations) {
        if length > max {
            self.say(violations, format!("must have at most {max} items"));
        }
    }

    fn text_min_len(&self, text: &str, min: usize, violations: &mut Violations) {
        if text.is_empty() {
            self.required(violations);
        } else if text.chars().count() < min {
            self.say(violations, format!("must have at least {min} characters"));
        }
    }

    fn text_max_len(&self, text: &str, max: usize, violations: &mut Violations) {
        // Bytes first: no need to count the characters of a short text.
        if text.len() > max && text.chars().count() > max {
            self.say(violations, format!("must have at most {max} characters"));
        }
    }

    fn text_max_bytes(&self, text: &str, max: usize, violations: &mut Violations) {
        if text.len() > max {
            self.say(violations, format!("must have at most {max} bytes in UTF-8"));
        }
    }

    fn bytes_max_len(&self, bytes: &[u8], max: usize, violations: &mut Violations) {
        if bytes.len() > max {
            self.say(violations, format!("must have at most {max} bytes"));
        }
    }

    fn text_pattern(&self, text: &str, pattern: &Regex, violations: &mut Violations) {
        if !pattern.is_match(text) {
            self.say(violations, format!("must match {}", pattern.as_str()));
        }
    }

    fn text_uuid(&self, text: &str, violations: &mut Violations) {
        let shape = |(i, byte): (usize, u8)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        };
        if text.len() != 36 || !text.bytes().enumerate().all(shape) {
            self.say(violations, "must be a UUID".to_owned());
        }
    }

    fn number_gte(&self, number: i32, min: i32, violations: &mut Violations) {
        if number < min {
            self.say(violations, format!("must be at least {min}"));
        }
    }

    fn number_lte(&self, number: i32, max: i32, violations: &mut Violations) {
        if number > max {
            self.say(violations, format!("must be at most {max}"));
        }
    }

    fn enum_defined<E: TryFrom<i32>>(&self, number: i32, violations: &mut Violations) {
        if E::try_from(number).is_err() {
            self.say(violations, format!("has no value {number}"));
        }
    }

    fn enum_in(&self, number: i32, allowed: &[i32], names: &str, violations: &mut Violations) {
        if !allowed.contains(&number) {
            self.say(violations, format!("must be one of {names}"));
        }
    }

    fn enum_not_in(&self, number: i32, refused: &[i32], names: &str, violations: &mut Violations) {
        if refused.contains(&number) {
            self.say(violations, format!("must not be {names}"));
        }
    }
}

/// Decodes a message and checks it.
#[cfg(test)]
type Decode = fn(&[u8]) -> Option<Violations>;

#[cfg(test)]
fn decode<M: Check + prost::Message + Default>(bytes: &[u8]) -> Option<Violations> {
    Some(M::decode(bytes).ok()?.violations())
}

include!(concat!(env!("OUT_DIR"), "/checks.rs"));
