//! What a mail says, as text and as HTML: one layout for every mail of the suite.

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

/// A mail, ready to be sent. Every part is plain text; the layout escapes it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Letter {
    /// Address of the recipient.
    #[serde(skip)]
    pub to: String,
    /// Subject line.
    pub subject: String,
    /// What it says, before the link.
    pub paragraphs: Vec<String>,
    /// Words of a person, told as theirs.
    pub quote: Option<String>,
    /// What there is to do.
    pub action: Option<Action>,
    /// What happened, if it tells of several things.
    pub items: Vec<Item>,
    /// What it says after the link.
    pub notes: Vec<String>,
    /// Where its recipient says that they want no more of these.
    pub opt_out: Option<String>,
}

/// A link with a name.
#[derive(Clone, Debug, Serialize)]
pub struct Action {
    /// The name.
    pub label: String,
    /// The address.
    pub link: String,
}

/// One of several things that a mail tells.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// In a few words.
    pub title: String,
    /// In a sentence or two.
    pub body: String,
}

/// A name that somebody chose, made harmless for a subject line or a sentence: no line breaks or other
/// control characters, and no addresses, so that nobody mails advertising in our name (N-10).
pub fn plain(name: &str) -> String {
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

impl Letter {
    /// The mail as it is sent.
    pub(super) fn message(&self, id: Uuid, from: &Mailbox) -> anyhow::Result<Message> {
        let to: Mailbox = self.to.parse().context("the recipient's address")?;
        let mut builder = Message::builder()
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            .from(from.clone())
            .to(to)
            .subject(plain(&self.subject))
            // No vacation notice comes back (RFC 3834).
            .raw_header(header("Auto-Submitted", "auto-generated"));
        if let Some(link) = &self.opt_out {
            builder = builder
                .raw_header(header("List-Unsubscribe", &format!("<{link}>")))
                // RFC 8058.
                .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
        }
        Ok(builder.multipart(MultiPart::alternative_plain_html(self.text()?, self.html()?))?)
    }

    /// As plain text.
    pub fn text(&self) -> anyhow::Result<String> {
        self.render("letter.txt")
    }

    /// As HTML, without anything from elsewhere.
    pub fn html(&self) -> anyhow::Result<String> {
        self.render("letter.html")
    }

    fn render(&self, template: &str) -> anyhow::Result<String> {
        let mut layouts = Environment::new();
        layouts.add_template("letter.txt", include_str!("letter.txt"))?;
        // By its name it escapes what it is given.
        layouts.add_template("letter.html", include_str!("letter.html"))?;
        Ok(layouts.get_template(template)?.render(context! { letter => Serde(self) })?)
    }
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            to: "bob@example.com".to_owned(),
            subject: "Ann invites you\r\nBcc: eve@example.com".to_owned(),
            paragraphs: vec!["<b>Ann</b> invites you.".to_owned()],
            quote: Some("Hi <script>alert(1)</script>\nBob".to_owned()),
            action: Some(Action {
                label: "Accept".to_owned(),
                link: "https://x.example/i/tny_inv_1".to_owned(),
            }),
            opt_out: Some("https://x.example/opt-out/1".to_owned()),
            ..Letter::default()
        }
    }

    /// N-10: what people choose never becomes a header or HTML.
    #[test]
    fn nobody_else_writes_our_headers_or_our_html() {
        let from: Mailbox = "Tenantry <tenantry@localhost>".parse().unwrap();
        let message = letter().message(Uuid::nil(), &from).unwrap().formatted();
        let message = String::from_utf8(message).unwrap();
        let (headers, _) = message.split_once("\r\n\r\n").unwrap();
        assert!(!headers.lines().any(|it| it.starts_with("Bcc")), "{headers}");
        assert!(headers.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"));
        let html = letter().html().unwrap();
        assert!(!html.contains("<script") && !html.contains("<b>"), "{html}");
        assert!(html.contains("&lt;script&gt;"), "{html}");
        let text = letter().text().unwrap();
        assert!(text.contains("> Bob\n") && text.contains("\nhttps://x.example/i/tny_inv_1\n"));
    }

    /// N-10.
    #[test]
    fn a_name_carries_no_line_break_and_no_address() {
        assert_eq!(plain("Acme\r\nBcc: x"), "Acme Bcc: x");
        assert_eq!(plain("Win at https://spam.example now"), "Win at … now");
        assert_eq!(plain("See WWW.spam.example"), "See …");
        assert_eq!(plain("Acme GmbH & Co."), "Acme GmbH & Co.");
    }
}
