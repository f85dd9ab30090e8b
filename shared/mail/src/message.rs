//! Content of a mail, and its layout as plain text and HTML, which all mails of the suite share.

use std::sync::LazyLock;

use anyhow::Context;
use chassis::email;
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

use super::links::{neutralize_links, sanitize};

/// The layouts, parsed once.
static LAYOUTS: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut layouts = Environment::new();
    // The extension .html enables escaping.
    let files = [
        ("message.txt", include_str!("message.txt")),
        ("message.html", include_str!("message.html")),
    ];
    for (name, text) in files {
        layouts.add_template(name, text).expect("the layout is a valid template");
    }
    layouts
});

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

impl EmailMessage {
    /// Encodes the mail (RFC 5322).
    pub(super) fn encode(&self, id: Uuid, from: &Mailbox) -> anyhow::Result<Message> {
        let to = wire_form(&self.to).context("the recipient's address is not valid")?;
        let to: Mailbox = to.parse().context("the recipient's address is not valid")?;
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

    /// The mail with every text but the links of the suite neutralized (N-10): names, notes and messages are
    /// typed by people.
    fn without_links(&self) -> Self {
        let all = |texts: &[String]| texts.iter().map(|it| neutralize_links(it)).collect();
        let item = |it: &DigestItem| DigestItem {
            title: neutralize_links(&it.title),
            body: neutralize_links(&it.body),
        };
        Self {
            to: self.to.clone(),
            subject: sanitize(&self.subject),
            paragraphs: all(&self.paragraphs),
            quote: self.quote.as_deref().map(neutralize_links),
            action: self.action.clone(),
            items: self.items.iter().map(item).collect(),
            notes: all(&self.notes),
            opt_out: self.opt_out.clone(),
        }
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
        let message = self.without_links();
        Ok(LAYOUTS.get_template(template)?.render(context! { message => Serde(&message) })?)
    }
}

/// The sender of all mails, from the setting.
pub(super) fn sender(setting: &str) -> anyhow::Result<Mailbox> {
    let typed: Mailbox = setting.parse()?;
    // A host name without a dot, such as `localhost`, stays as it is.
    let address = wire_form(typed.email.as_ref()).unwrap_or_else(|| typed.email.to_string());
    Ok(Mailbox { name: typed.name, email: address.parse()? })
}

/// The form of an address in headers and SMTP commands: the domain as A-labels (IDNA), which every mail
/// server accepts; `None` if the address is not valid.
fn wire_form(typed: &str) -> Option<String> {
    let canonical = email::parse(typed)?.canonical;
    let (local, _) = typed.split_once('@')?;
    let (_, domain) = canonical.split_once('@')?;
    Some(format!("{local}@{domain}"))
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

    /// Lines of a person's text have the direction of their script, and a long word is broken.
    #[test]
    fn texts_of_every_direction_and_length_fit_into_the_layout() {
        let quote = Some("سلام!\nHello".to_owned());
        let html = EmailMessage { quote, ..message() }.html().unwrap();
        assert!(html.contains("overflow-wrap:anywhere"), "{html}");
        let lines: Vec<_> = html.lines().filter(|it| it.starts_with("<div dir=\"auto\"")).collect();
        assert_eq!(lines.len(), 2, "{html}");
    }

    /// The quoted end of a log keeps its lines in both parts.
    #[test]
    fn lines_of_a_text_stay_lines() {
        let log = "The deployment failed: its last output:\none <b>\n  two".to_owned();
        let item = DigestItem { title: "live".to_owned(), body: log.clone() };
        let mail = EmailMessage {
            paragraphs: vec![log.clone()],
            items: vec![item],
            notes: vec![log],
            ..message()
        };
        let html = mail.html().unwrap();
        assert_eq!(html.matches("output:<br>one &lt;b&gt;<br>  two</").count(), 3, "{html}");
        assert!(html.starts_with("<!doctype html>"), "{html}");
        let text = mail.text().unwrap();
        assert!(
            text.contains("* live\n  The deployment failed: its last output:\n  one <b>\n"),
            "{text}"
        );
    }

    /// N-10: in no part of a mail is text of a person a link.
    #[test]
    fn only_the_links_of_the_suite_are_links() {
        let spam = "Win at https://spam.example, spam.example and bit.ly/x".to_owned();
        let item = DigestItem { title: spam.clone(), body: spam.clone() };
        let mail = EmailMessage {
            subject: spam.clone(),
            paragraphs: vec![spam.clone()],
            quote: Some(spam.clone()),
            items: vec![item],
            notes: vec![spam],
            ..message()
        };
        let from: Mailbox = "Tenantry <tenantry@localhost>".parse().unwrap();
        let encoded = String::from_utf8(mail.encode(Uuid::nil(), &from).unwrap().formatted());
        for part in [mail.text().unwrap(), mail.html().unwrap(), encoded.unwrap()] {
            assert!(!part.contains("spam.example") && !part.contains("bit.ly"), "{part}");
        }
        assert!(mail.text().unwrap().contains("https://x.example/i/tny_inv_1"));
    }

    /// An international domain is written in its ASCII form, in header and envelope.
    #[test]
    fn international_domains_are_a_labels() {
        let from = sender("Tenantry <post@bücher.example>").unwrap();
        let mail = EmailMessage { to: "Ann@Bücher.example".to_owned(), ..message() };
        let encoded = mail.encode(Uuid::nil(), &from).unwrap();
        let recipient = encoded.envelope().to()[0].to_string();
        assert_eq!(recipient, "Ann@xn--bcher-kva.example");
        let text = String::from_utf8(encoded.formatted()).unwrap();
        assert!(text.contains("To: Ann@xn--bcher-kva.example"), "{text}");
        assert!(text.contains("<post@xn--bcher-kva.example>") && text.is_ascii(), "{text}");
    }
}
