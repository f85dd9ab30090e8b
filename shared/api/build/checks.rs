//! Code generator of request validation: turns the `buf.validate` rules of the contract into plain Rust
//! (`impl Check`). An unsupported rule fails the build, so every declared rule is checked at run time.

use std::{collections::BTreeMap, error::Error, fmt::Write};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    Value,
};

use super::normalization::{self, TextKind};

/// Regular expressions of the contract, each with the number of its generated static.
type Patterns = BTreeMap<String, usize>;

/// Violation texts of regular expressions that are hard to read. The text of any other quotes the expression.
const PATTERN_TEXTS: [(&str, &str); 10] = [
    (r"^[^\x00]*$", "must not contain NUL characters"),
    (r"^[^\x00-\x09\x0b-\x1f\x7f]*$", "must not contain control characters except line feeds"),
    (r"^[^\\]*$", "must not contain backslashes"),
    (r"^[^\\ ]*$", "must not contain spaces and backslashes"),
    (r"^[ -~]*$", "must consist of printable ASCII characters"),
    (r"^[0-9a-f]*$", "must consist of lowercase hexadecimal digits"),
    (r"^#[0-9A-Fa-f]{6}$", "must be a color of the form #RRGGBB"),
    (r"^[a-z_]*$", "must consist of lowercase letters and underscores"),
    (r"^[a-z_.]*$", "must consist of lowercase letters, underscores and dots"),
    (r"^[A-Za-z0-9-]*$", "must consist of letters, digits and hyphens"),
];

/// Rules of a field, or of the items of a list.
struct FieldRule<'a> {
    /// Value of the option `buf.validate.field`.
    rule: &'a DynamicMessage,
    text: Option<TextKind>,
}

/// Generates one `impl Check` for each message of the contract.
pub fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let rules = pool.get_extension_by_name("buf.validate.field");
    let rules = rules.ok_or("the descriptors do not contain the option buf.validate.field")?;
    let text_kind = TextKind::option(pool)?;
    let mut code = String::new();
    let mut patterns = Patterns::new();
    let mut messages = String::new();
    for message in pool.all_messages() {
        if message.package_name().starts_with("tenantry.") && !message.is_map_entry() {
            code += &impl_check(&message, &rules, &text_kind, &mut patterns)?;
            let name = message.full_name();
            let rust_type = rust_path(name);
            write!(messages, "({name:?}, decode_and_check::<crate::{rust_type}>), ")?;
        }
    }
    writeln!(
        code,
        "#[cfg(test)] pub(crate) const MESSAGES: &[(&str, DecodeAndCheck)] = &[{messages}];"
    )?;
    for (pattern, number) in patterns {
        writeln!(
            code,
            "static PATTERN_{number}: std::sync::LazyLock<regex::Regex> = \
             std::sync::LazyLock::new(|| \
             regex::Regex::new({pattern:?}).expect(\"a pattern that buf lint has checked\"));"
        )?;
    }
    Ok(code)
}

/// Generates the `impl Check` of one message.
fn impl_check(
    message: &MessageDescriptor,
    rules: &ExtensionDescriptor,
    text_kind: &ExtensionDescriptor,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let mut body = String::new();
    let mut normalization = String::new();
    for field in message.fields() {
        let options = field.options();
        let rule = options.get_extension(rules);
        let rule = rule.as_message().ok_or("buf.validate.field is not a message")?;
        let rule = FieldRule { rule, text: TextKind::of(&field, text_kind)? };
        let checked = match field.containing_oneof().filter(|it| !it.is_synthetic()) {
            Some(oneof) => oneof_field_check(message, oneof.name(), &field, &rule, patterns),
            None => field_check(&field, &rule, patterns),
        };
        body += &checked.map_err(|error| format!("{}: {error}", field.full_name()))?;
        normalization += &normalization::of_field(message, &field, rule.text);
    }
    let request_id = match message.get_field_by_name("request_id") {
        Some(_) => "    fn request_id(&self) -> &str { &self.request_id }\n",
        None => "",
    };
    Ok(format!(
        "impl Check for crate::{} {{\n{request_id}    #[allow(unused_variables)]\n    \
         fn check(&self, path: FieldPath<'_>, violations: &mut Violations) {{\n{body}    }}\n    \
         fn normalize(&mut self) {{\n{normalization}    }}\n}}\n",
        rust_path(message.full_name())
    ))
}

/// Generates the check of a field of a `oneof`, which applies only while the field is set.
fn oneof_field_check(
    message: &MessageDescriptor,
    oneof: &str,
    field: &FieldDescriptor,
    rule: &FieldRule<'_>,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let check = value_check(field, rule, patterns)?;
    if check.is_empty() {
        return Ok(check);
    }
    Ok(format!(
        "        if let Some({}(it)) = &self.{oneof} {{ let path = path.field({:?}); {check} }}\n",
        oneof_variant(message, oneof, field),
        field.name()
    ))
}

/// Rust path of a variant of a `oneof`: `crate::…::at::EnvironmentId`.
pub(super) fn oneof_variant(
    message: &MessageDescriptor,
    oneof: &str,
    field: &FieldDescriptor,
) -> String {
    let package = rust_path(message.package_name());
    let module = snake_case(message.name());
    let oneof_type = upper_camel_case(oneof);
    let variant = upper_camel_case(field.name());
    format!("crate::{package}::{module}::{oneof_type}::{variant}")
}

/// Converts `AccessChange` to `access_change`, as prost names the module of a message.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// Converts `remove_member` to `RemoveMember`, as prost names a variant.
fn upper_camel_case(name: &str) -> String {
    let capitalize = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(capitalize).collect()
}

/// Generates the check of a field outside a `oneof`.
fn field_check(
    field: &FieldDescriptor,
    rule: &FieldRule<'_>,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let name = field.name();
    let body = if field.is_list() {
        list_check(field, rule, patterns)?
    } else {
        singular_check(field, rule, patterns)?
    };
    Ok(if body.is_empty() {
        body
    } else {
        format!("        {{ let path = path.field({name:?}); {body} }}\n")
    })
}

/// Generates the check of a repeated field: its number of items, then each item.
fn list_check(
    field: &FieldDescriptor,
    rule: &FieldRule<'_>,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let name = field.name();
    let list_rules = message_field(rule.rule, "repeated");
    let mut body = String::new();
    for (rule, value) in list_rules.iter().flat_map(declared_rules) {
        match rule.as_str() {
            "min_items" | "max_items" => {
                write!(body, "path.{rule}(self.{name}.len(), {value}, violations);")?;
            }
            "items" => {}
            other => return Err(format!("rule {other} is not supported").into()),
        }
    }
    let item_check = match list_rules.and_then(|it| message_field(&it, "items")) {
        Some(item_rules) => {
            value_check(field, &FieldRule { rule: &item_rules, text: rule.text }, patterns)?
        }
        None => value_check(field, rule, patterns)?,
    };
    if !item_check.is_empty() {
        // The loop ends at the maximum of violations, which bounds the work on a long list of invalid items.
        write!(
            body,
            "for (i, it) in self.{name}.iter().enumerate() {{ \
             if violations.len() >= VIOLATIONS_MAX {{ break; }} let path = path.item(i); {item_check} }}"
        )?;
    }
    Ok(body)
}

/// Generates the check of a field that is not repeated.
fn singular_check(
    field: &FieldDescriptor,
    rule: &FieldRule<'_>,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    /// Value of the enum `buf.validate.Ignore`.
    const IGNORE_IF_ZERO_VALUE: i32 = 1;

    let name = field.name();
    let check = value_check(field, rule, patterns)?;
    let required = bool_field(rule.rule, "required");
    let ignores_zero = matches!(
        rule.rule.get_field_by_name("ignore").as_deref(),
        Some(Value::EnumNumber(IGNORE_IF_ZERO_VALUE))
    );
    Ok(match (&field.kind(), check.is_empty()) {
        (Kind::Message(_), _) if required => {
            format!(
                "match &self.{name} {{ Some(it) => {{ {check} }} None => path.required(violations) }}"
            )
        }
        (_, true) => String::new(),
        (Kind::Message(_), _) => format!("if let Some(it) = &self.{name} {{ {check} }}"),
        _ if field.supports_presence() => format!("if let Some(it) = &self.{name} {{ {check} }}"),
        _ if ignores_zero => {
            let is_set = if field.kind() == Kind::String { "!it.is_empty()" } else { "*it != 0" };
            format!("let it = &self.{name}; if {is_set} {{ {check} }}")
        }
        _ => format!("let it = &self.{name}; {check}"),
    })
}

/// Generates the check of one value of `field`, which the generated code calls `it`.
fn value_check(
    field: &FieldDescriptor,
    rule: &FieldRule<'_>,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    let (rules_name, prefix) = match field.kind() {
        Kind::Message(it) if it.package_name().starts_with("tenantry.") => {
            return Ok("it.check(path, violations);".to_owned());
        }
        Kind::String => ("string", "text"),
        Kind::Bytes => ("bytes", "bytes"),
        Kind::Int32 => ("int32", "number"),
        Kind::Int64 => ("int64", "number"),
        Kind::Double => ("double", "number"),
        Kind::Enum(_) => ("enum", "number"),
        _ => return refuse_value_rules(rule.rule).map(|()| code),
    };
    if let Some(check) = rule.text.map(TextKind::check) {
        write!(code, "path.{check}(it, violations);")?;
    }
    let Some(rules) = message_field(rule.rule, rules_name) else { return Ok(code) };
    for (rule, value) in declared_rules(&rules) {
        match (rule.as_str(), &field.kind()) {
            ("pattern", _) => {
                let pattern = value.as_text()?;
                let text = pattern_text(&pattern);
                let next = patterns.len();
                let number = *patterns.entry(pattern).or_insert(next);
                write!(code, "path.text_pattern(it, &PATTERN_{number}, {text:?}, violations);")?;
            }
            ("uuid", _) => write!(code, "path.text_uuid(it, violations);")?,
            ("min_len" | "max_len" | "max_bytes", _) => {
                write!(code, "path.{prefix}_{rule}(it, {value}, violations);")?;
            }
            ("gte" | "lte", _) => write!(code, "path.{prefix}_{rule}(*it, {value}, violations);")?,
            ("in" | "not_in", Kind::Enum(it)) => {
                let names = it.values().filter(|it| value.contains_number(it.number()));
                let names: Vec<_> = names.map(|it| it.name().to_owned()).collect();
                let names = names.join(", ");
                write!(code, "path.enum_{rule}(*it, &{value}, {names:?}, violations);")?;
            }
            ("defined_only", Kind::Enum(it)) => {
                write!(
                    code,
                    "path.enum_defined::<crate::{}>(*it, violations);",
                    rust_path(it.full_name())
                )?;
            }
            (other, _) => return Err(format!("rule {other} is not supported").into()),
        }
    }
    Ok(code)
}

/// Fails if a field whose type has no supported rules declares one.
fn refuse_value_rules(rule: &DynamicMessage) -> Result<(), Box<dyn Error>> {
    let is_value_rule = |name: &str| !["required", "ignore", "repeated"].contains(&name);
    match declared_rules(rule).into_iter().find(|(name, _)| is_value_rule(name)) {
        Some((name, _)) => Err(format!("rule {name} is not supported for this type").into()),
        None => Ok(()),
    }
}

/// Returns the violation text of a pattern.
fn pattern_text(pattern: &str) -> String {
    let text = PATTERN_TEXTS.iter().find(|it| it.0 == pattern);
    text.map_or_else(|| format!("must match the pattern {pattern}"), |it| it.1.to_owned())
}

/// Converts a proto name to a Rust path.
fn rust_path(full_name: &str) -> String {
    full_name.replace('.', "::")
}

/// Returns the fields of a rule message that the contract sets, each with its value.
fn declared_rules(rules: &DynamicMessage) -> Vec<(String, RustLiteral)> {
    let rule = |(field, value): (FieldDescriptor, &Value)| {
        (field.name().to_owned(), RustLiteral(value.clone()))
    };
    rules.fields().map(rule).collect()
}

/// Returns a message field of a rule message, if it is set.
fn message_field(rule: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    rule.has_field_by_name(name)
        .then(|| rule.get_field_by_name(name)?.as_message().cloned())
        .flatten()
}

/// Returns a boolean field of a rule message; false if it is not set.
fn bool_field(rule: &DynamicMessage, name: &str) -> bool {
    rule.get_field_by_name(name).and_then(|it| it.as_bool()).unwrap_or_default()
}

/// The value of a rule, displayed as Rust source code.
struct RustLiteral(Value);

impl RustLiteral {
    fn contains_number(&self, number: i32) -> bool {
        let list = self.0.as_list().unwrap_or_default();
        list.iter().any(|it| matches!(it, Value::I32(it) if *it == number))
    }

    fn as_text(&self) -> Result<String, Box<dyn Error>> {
        Ok(self.0.as_str().ok_or("the rule is not a string")?.to_owned())
    }
}

impl std::fmt::Display for RustLiteral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Value::I32(it) => write!(f, "{it}"),
            Value::I64(it) => write!(f, "{it}"),
            Value::F64(it) => write!(f, "{it:?}"),
            Value::U64(it) => write!(f, "{it}"),
            Value::EnumNumber(it) => write!(f, "{it}"),
            Value::List(items) => {
                write!(f, "[")?;
                for item in items {
                    write!(f, "{},", Self(item.clone()))?;
                }
                write!(f, "]")
            }
            other => write!(f, "{other:?}"),
        }
    }
}
