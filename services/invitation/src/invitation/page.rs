//! Pages for people who open a link from a mail: an invitation, the confirmation of an e-mail address, and
//! the opt-out from mails. GET and HEAD change nothing, because mail scanners follow links; only a button
//! does (N-09). No scripts, and no content of other origins. Pages call RPCs, which check permissions and
//! rules.

mod accept;
pub(super) mod site;
mod view;

/// A message as a sentence with a capital letter and a full stop.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string()).unwrap_or_default();
    let rest = letters.as_str();
    let end = if rest.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{rest}{end}")
}
