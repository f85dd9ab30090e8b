//! Markdown of the reference.

use std::fmt::Write;

/// Appends a list item with several values; nothing without values.
pub(super) fn list(page: &mut String, name: &str, items: impl Iterator<Item = String>) {
    let items: Vec<_> = items.collect();
    if !items.is_empty() {
        let _ = writeln!(page, "* **{name}**: {}", items.join(", "));
    }
}

/// Escapes a text for a cell of a table.
pub(super) fn cell(text: &str) -> String {
    escape(text).replace('|', "\\|")
}

/// Wraps a paragraph at 110 columns.
pub(super) fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in escape(text).split(' ') {
        let line = lines.last().map_or(0, |it| it.chars().count());
        if line > 0 && line + 1 + word.chars().count() > 110 {
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines.join("\n")
}

/// Escapes angle brackets outside of code.
fn escape(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(position, part)| {
        let is_code = position % 2 == 1;
        if is_code { part.to_owned() } else { part.replace('<', "&lt;") }
    });
    parts.collect::<Vec<_>>().join("`")
}
