//! Turns the `buf.validate` rules of the contract into plain Rust. Covers the rules that the contract
//! uses and stops the build at any other, so that a rule is never declared and silently not checked.

use std::{collections::BTreeMap, error::Error, fmt::Write};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    Value,
};

type Patterns = BTreeMap<String, usize>;

/// One `impl Check` for each message of the contract.
pub fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let rules = pool.get_extension_by_name("buf.validate.field").ok_or("no buf.validate.field")?;
    let (mut code, mut patterns, mut messages) = (String::new(), Patterns::new(), String::new());
    for message in pool.all_messages() {
        if message.package_name().starts_with("tenantry.") && !message.is_map_entry() {
            code += &check(&message, &rules, &mut patterns)?;
            let name = message.full_name();
            write!(messages, "({name:?}, decode::<crate::{}>), ", path(name))?;
        }
    }
    writeln!(code, "#[cfg(test)] pub(crate) const MESSAGES: &[(&str, Decode)] = &[{messages}];")?;
    for (pattern, number) in patterns {
        writeln!(
            code,
            "static P{number}: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| \
             regex::Regex::new({pattern:?}).expect(\"a pattern that buf lint has checked\"));"
        )?;
    }
    Ok(code)
}

fn check(
    message: &MessageDescriptor,
    rules: &ExtensionDescriptor,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let mut body = String::new();
    for field in message.fields() {
        let options = field.options();
        let rule = options.get_extension(rules);
        let rule = rule.as_message().ok_or("a message")?;
        let checked = match field.containing_oneof().filter(|it| !it.is_synthetic()) {
            Some(oneof) => choice_check(message, oneof.name(), &field, rule, patterns),
            None => field_check(&field, rule, patterns),
        };
        body += &checked.map_err(|error| format!("{}: {error}", field.full_name()))?;
    }
    let request_id = match message.get_field_by_name("request_id") {
        Some(_) => "    fn request_id(&self) -> &str { &self.request_id }\n",
        None => "",
    };
    Ok(format!(
        "impl Check for crate::{} {{\n{request_id}    #[allow(unused_variables)]\n    \
         fn check(&self, at: At<'_>, violations: &mut Violations) {{\n{body}    }}\n}}\n",
        path(message.full_name())
    ))
}

/// The check of a field of a `oneof`, if it is the one that is set.
fn choice_check(
    message: &MessageDescriptor,
    oneof: &str,
    field: &FieldDescriptor,
    rule: &DynamicMessage,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let one = value_check(field, rule, patterns)?;
    if one.is_empty() {
        return Ok(one);
    }
    let (package, module) = (path(message.package_name()), words(message.name()).join("_"));
    let (choice, variant) = (camel(oneof), camel(field.name()));
    Ok(format!(
        "        if let Some(crate::{package}::{module}::{choice}::{variant}(it)) = &self.{oneof} \
         {{ let at = at.field({:?}); {one} }}\n",
        field.name()
    ))
}

/// `AccessChange` as its words in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![];
    for letter in name.chars() {
        match words.last_mut() {
            Some(word) if !letter.is_uppercase() => word.push(letter),
            _ => words.push(letter.to_lowercase().to_string()),
        }
    }
    words
}

/// `remove_member` as prost names it.
fn camel(name: &str) -> String {
    let word = |it: &str| it[..1].to_uppercase() + &it[1..];
    name.split('_').map(word).collect()
}

fn field_check(
    field: &FieldDescriptor,
    rule: &DynamicMessage,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let name = field.name();
    let body = if field.is_list() {
        let repeated = set(rule, "repeated");
        let mut body = String::new();
        if let Some(repeated) = &repeated {
            for (rule, value) in fields(repeated) {
                match rule.as_str() {
                    "min_items" => {
                        write!(body, "at.min_items(self.{name}.len(), {value}, violations);")?
                    }
                    "max_items" => {
                        write!(body, "at.max_items(self.{name}.len(), {value}, violations);")?
                    }
                    "items" => {}
                    other => return Err(format!("rule {other} is not supported").into()),
                }
            }
        }
        let items = repeated.and_then(|it| set(&it, "items"));
        let each = match items {
            Some(items) => value_check(field, &items, patterns)?,
            None => value_check(field, rule, patterns)?,
        };
        if !each.is_empty() {
            // What is found wrong before is enough: no more of a long list is looked at.
            write!(
                body,
                "for (i, it) in self.{name}.iter().enumerate() {{ \
                 if violations.len() >= VIOLATIONS_MAX {{ break; }} let at = at.item(i); {each} }}"
            )?;
        }
        body
    } else {
        let one = value_check(field, rule, patterns)?;
        let required = set_bool(rule, "required");
        let skip_zero =
            matches!(rule.get_field_by_name("ignore").as_deref(), Some(Value::EnumNumber(1)));
        match (&field.kind(), one.is_empty()) {
            (Kind::Message(_), _) if required => {
                format!(
                    "match &self.{name} {{ Some(it) => {{ {one} }} None => at.required(violations) }}"
                )
            }
            (_, true) => String::new(),
            (Kind::Message(_), _) => format!("if let Some(it) = &self.{name} {{ {one} }}"),
            _ if field.supports_presence() => format!("if let Some(it) = &self.{name} {{ {one} }}"),
            _ if skip_zero => {
                let given =
                    if field.kind() == Kind::String { "!it.is_empty()" } else { "*it != 0" };
                format!("let it = &self.{name}; if {given} {{ {one} }}")
            }
            _ => format!("let it = &self.{name}; {one}"),
        }
    };
    Ok(if body.is_empty() {
        body
    } else {
        format!("        {{ let at = at.field({name:?}); {body} }}\n")
    })
}

/// The check of one value `it` of `field`.
fn value_check(
    field: &FieldDescriptor,
    rule: &DynamicMessage,
    patterns: &mut Patterns,
) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    let (kind, prefix) = match field.kind() {
        Kind::Message(it) if it.package_name().starts_with("tenantry.") => {
            return Ok("it.check(at, violations);".to_owned());
        }
        Kind::String => ("string", "text"),
        Kind::Bytes => ("bytes", "bytes"),
        Kind::Int32 => ("int32", "number"),
        Kind::Enum(_) => ("enum", "number"),
        _ => return Ok(code),
    };
    let Some(rules) = set(rule, kind) else { return Ok(code) };
    for (rule, value) in fields(&rules) {
        match (rule.as_str(), &field.kind()) {
            ("pattern", _) => {
                let text: String = value.parse_text()?;
                let next = patterns.len();
                let number = *patterns.entry(text).or_insert(next);
                write!(code, "at.text_pattern(it, &P{number}, violations);")?;
            }
            ("uuid", _) => write!(code, "at.text_uuid(it, violations);")?,
            ("min_len" | "max_len" | "max_bytes", _) => {
                write!(code, "at.{prefix}_{rule}(it, {value}, violations);")?
            }
            ("gte" | "lte", _) => write!(code, "at.{prefix}_{rule}(*it, {value}, violations);")?,
            ("in" | "not_in", Kind::Enum(it)) => {
                let names = it.values().filter(|it| value.lists(it.number()));
                let names: Vec<_> = names.map(|it| it.name().to_owned()).collect();
                write!(code, "at.enum_{rule}(*it, &{value}, {:?}, violations);", names.join(", "))?;
            }
            ("defined_only", Kind::Enum(it)) => {
                write!(
                    code,
                    "at.enum_defined::<crate::{}>(*it, violations);",
                    path(it.full_name())
                )?;
            }
            (other, _) => return Err(format!("rule {other} is not supported").into()),
        }
    }
    Ok(code)
}

fn path(full_name: &str) -> String {
    full_name.replace('.', "::")
}

/// The fields of a rule message that are set, each with its value as Rust source.
fn fields(rules: &DynamicMessage) -> Vec<(String, Source)> {
    rules.fields().map(|(field, value)| (field.name().to_owned(), Source(value.clone()))).collect()
}

fn set(rule: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    rule.has_field_by_name(name)
        .then(|| rule.get_field_by_name(name)?.as_message().cloned())
        .flatten()
}

fn set_bool(rule: &DynamicMessage, name: &str) -> bool {
    rule.get_field_by_name(name).and_then(|it| it.as_bool()).unwrap_or_default()
}

/// A rule's value, printed as Rust source.
struct Source(Value);

impl Source {
    fn lists(&self, number: i32) -> bool {
        let list = self.0.as_list().unwrap_or_default();
        list.iter().any(|it| matches!(it, Value::I32(it) if *it == number))
    }

    fn parse_text(&self) -> Result<String, Box<dyn Error>> {
        Ok(self.0.as_str().ok_or("a string")?.to_owned())
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Value::I32(it) => write!(f, "{it}"),
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
