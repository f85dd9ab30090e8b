//! Content of a mail, and its layout as plain text and HTML, which all mails of the suite share.

use anyhow::Context;
use lettre::{
    Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
};
use minijinja::{Environment, context, value::Serde};
use serde::Serialize;
use uuid::Uuid;

/// A rendered mail. All fields are plain text; the layout escapes them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EmailMessage {
    /// E-mail address of the recipient.
    #[serde(skip)]
    pub to: String,
    /// Subject line.
    pub subject: String,
    /// Paragraphs before the link.
    pub paragraphs: Vec<String>,
    /// Text that a person wrote, shown as a quotation.
    pub quote: Option<String>,
    /// The main link.
    pub action: Option<Action>,
    /// Entries of a digest.
    pub items: Vec<DigestItem>,
    /// Paragraphs after the link.
    pub notes: Vec<String>,
    /// URL for unsubscribing (RFC 8058).
    pub opt_out: Option<String>,
}

/// A link with a label.
#[derive(Clone, Debug, Serialize)]
pub struct Action {
    /// Label.
    pub label: String,
    /// URL.
    pub link: String,
}

/// An entry of a digest.
#[derive(Clone, Debug, Serialize)]
pub struct DigestItem {
    /// Title.
    pub title: String,
    /// One or two sentences.
    pub body: String,
}

/// Sanitizes a user-chosen name for a subject line or a sentence: replaces control characters, such as line
/// breaks, by spaces and URLs by `…`, so that nobody can send advertising through invitations (N-10).
pub fn sanitize(name: &str) -> String {
    let word = |it: &str| {
        let lower = it.to_lowercase();
        if lower.contains("://") || lower.contains("www.") {
            "…".to_owned()
        } else {
            it.to_owned()
        }
    };
    let printable: String = name.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    printable.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

impl EmailMessage {
    /// Encodes the mail (RFC 5322).
    pub(super) fn encode(&self, id: Uuid, from: &Mailbox) -> anyhow::Result<Message> {
        let to: Mailbox = self.to.parse().context("the recipient's address is not valid")?;
        let mut builder = Message::builder()
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            .from(from.clone())
            .to(to)
            .subject(sanitize(&self.subject))
            // Suppresses automatic replies (RFC 3834).
            .raw_header(header("Auto-Submitted", "auto-generated"));
        if let Some(link) = &self.opt_out {
            builder = builder
                .raw_header(header("List-Unsubscribe", &format!("<{link}>")))
                // RFC 8058.
                .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
        }
        Ok(builder.multipart(MultiPart::alternative_plain_html(self.text()?, self.html()?))?)
    }

    /// Renders the mail as plain text.
    pub fn text(&self) -> anyhow::Result<String> {
        self.render("message.txt")
    }

    /// Renders the mail as HTML without external resources.
    pub fn html(&self) -> anyhow::Result<String> {
        self.render("message.html")
    }

    fn render(&self, template: &str) -> anyhow::Result<String> {
        let mut layouts = Environment::new();
        layouts.add_template("message.txt", include_str!("message.txt"))?;
        // The extension .html enables escaping.
        layouts.add_template("message.html", include_str!("message.html"))?;
        Ok(layouts.get_template(template)?.render(context! { message => Serde(self) })?)
    }
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> EmailMessage {
        EmailMessage {
            to: "bob@example.com".to_owned(),
            subject: "Ann invites you\r\nBcc: eve@example.com".to_owned(),
            paragraphs: vec!["<b>Ann</b> invites you.".to_owned()],
            quote: Some("Hi <script>alert(1)</script>\nBob".to_owned()),
            action: Some(Action {
                label: "Accept".to_owned(),
                link: "https://x.example/i/tny_inv_1".to_owned(),
            }),
            opt_out: Some("https://x.example/opt-out/1".to_owned()),
            ..EmailMessage::default()
        }
    }

    /// N-10: user-chosen text becomes neither a header nor HTML.
    #[test]
    fn user_chosen_text_cannot_inject_headers_or_html() {
        let from: Mailbox = "Tenantry <tenantry@localhost>".parse().unwrap();
        let encoded = message().encode(Uuid::nil(), &from).unwrap().formatted();
        let encoded = String::from_utf8(encoded).unwrap();
        let (headers, _) = encoded.split_once("\r\n\r\n").unwrap();
        assert!(!headers.lines().any(|it| it.starts_with("Bcc")), "{headers}");
        assert!(headers.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"));
        let html = message().html().unwrap();
        assert!(!html.contains("<script") && !html.contains("<b>"), "{html}");
        assert!(html.contains("&lt;script&gt;"), "{html}");
        let text = message().text().unwrap();
        assert!(text.contains("> Bob\n") && text.contains("\nhttps://x.example/i/tny_inv_1\n"));
    }

    /// N-10.
    #[test]
    fn a_sanitized_name_has_no_line_break_and_no_url() {
        assert_eq!(sanitize("Acme\r\nBcc: x"), "Acme Bcc: x");
        assert_eq!(sanitize("Win at https://spam.example now"), "Win at … now");
        assert_eq!(sanitize("See WWW.spam.example"), "See …");
        assert_eq!(sanitize("Acme GmbH & Co."), "Acme GmbH & Co.");
    }
}
