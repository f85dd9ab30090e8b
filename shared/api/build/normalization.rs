//! Code generator of the normalization of requests: texts with the option `tenantry.policy.v1.text` are
//! converted before they are checked.

use std::error::Error;

use prost_reflect::{
    DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
};

use super::checks::oneof_variant;

/// `tenantry.policy.v1.TextKind`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    Name,
    Line,
    Block,
}

impl TextKind {
    /// Finds the option in the contract.
    pub fn option(pool: &DescriptorPool) -> Result<ExtensionDescriptor, Box<dyn Error>> {
        let option = pool.get_extension_by_name("tenantry.policy.v1.text");
        option.ok_or_else(|| {
            "the descriptors do not contain the option tenantry.policy.v1.text".into()
        })
    }

    /// Reads the option of a field.
    pub fn of(
        field: &FieldDescriptor,
        option: &ExtensionDescriptor,
    ) -> Result<Option<Self>, Box<dyn Error>> {
        let kind = match field.options().get_extension(option).as_enum_number() {
            None | Some(0) => return Ok(None),
            Some(1) => Self::Name,
            Some(2) => Self::Line,
            Some(3) => Self::Block,
            Some(other) => return Err(format!("text kind {other} is not supported").into()),
        };
        match field.kind() {
            Kind::String => Ok(Some(kind)),
            _ => Err(format!("{} is not a string", field.full_name()).into()),
        }
    }

    /// Name of the method of `FieldPath` that checks a text.
    pub fn check(self) -> &'static str {
        match self {
            Self::Name => "text_name",
            Self::Line => "text_line",
            Self::Block => "text_block",
        }
    }
}

/// Generates the normalization of a field; empty if it has none.
pub fn of_field(
    message: &MessageDescriptor,
    field: &FieldDescriptor,
    text: Option<TextKind>,
) -> String {
    let is_message =
        matches!(field.kind(), Kind::Message(it) if it.package_name().starts_with("tenantry."));
    let normalize = match text {
        Some(TextKind::Name) => "crate::text::normalize_name(it);",
        Some(TextKind::Block) => "crate::text::normalize_block(it);",
        None if is_message && !field.is_map() => "it.normalize();",
        Some(TextKind::Line) | None => return String::new(),
    };
    let name = field.name();
    match field.containing_oneof().filter(|it| !it.is_synthetic()) {
        Some(oneof) => {
            let (variant, oneof) = (oneof_variant(message, oneof.name(), field), oneof.name());
            format!("        if let Some({variant}(it)) = &mut self.{oneof} {{ {normalize} }}\n")
        }
        None if field.is_list() => {
            format!("        for it in &mut self.{name} {{ {normalize} }}\n")
        }
        None if is_message || field.supports_presence() => {
            format!("        if let Some(it) = &mut self.{name} {{ {normalize} }}\n")
        }
        None => format!("        {{ let it = &mut self.{name}; {normalize} }}\n"),
    }
}
