//! The few pages for people who come from a mail: an invitation, the confirmation of an address, and "no more
//! mails". GET and HEAD change nothing, whatever scanners do; a button does (N-09). No scripts, nothing from
//! elsewhere. What a page does it does by calls, so it has no rights and no rules of its own.

mod accept;
pub(crate) mod site;
mod view;

/// A message as a sentence of its own.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string()).unwrap_or_default();
    let rest = letters.as_str();
    let end = if rest.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{rest}{end}")
}
