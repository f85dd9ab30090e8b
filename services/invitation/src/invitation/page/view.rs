//! Content of pages. The template escapes all of it.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use host::web::{self, Page};
use http::{HeaderValue, StatusCode, header};
use minijinja::{Environment, context, value::Serde};
use serde::Serialize;

const STYLE: &str = include_str!("style.css");

/// Content security policy: only the style of this service, and no scripts.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("the policy is ASCII")
});

/// A page.
#[derive(Debug, Default, Serialize)]
pub(super) struct View {
    pub(super) title: String,
    /// Error message.
    pub(super) alert: Option<String>,
    /// Text above the button, or of a page without a form.
    pub(super) text: Option<String>,
    /// Label of the only button of a page.
    pub(super) button: Option<&'static str>,
    /// True for the forms that confirm an address.
    pub(super) verification: bool,
    /// The invitation and its forms.
    pub(super) invitation: Option<InvitationForm>,
    /// The form for the code of a second factor.
    pub(super) challenge: Option<LoginChallenge>,
}

/// An invitation, and the values that the visitor typed into the last form.
#[derive(Debug, Default, Serialize)]
pub(super) struct InvitationForm {
    pub(super) inviter: String,
    pub(super) org: String,
    pub(super) role: &'static str,
    /// Date and time with time zone.
    pub(super) expires_at: String,
    pub(super) message: String,
    /// Number of projects that come with the membership.
    pub(super) projects: i32,
    /// Masked address of the invited person; empty for an invitation for anybody with the link.
    pub(super) masked_email: String,
    /// True if the link confirms the address, so that the form contains no field for it.
    pub(super) proves_address: bool,
    pub(super) typed_email: String,
    pub(super) typed_name: String,
}

/// A sign-in that needs the code of a second factor.
#[derive(Debug, Serialize)]
pub(super) struct LoginChallenge {
    /// Challenge of the first step of the sign-in.
    pub(super) token: String,
    /// Action after the sign-in: `accept` or `decline`.
    pub(super) action: &'static str,
}

impl View {
    /// A page with an error message.
    pub(super) fn alert(alert: &str) -> Self {
        Self {
            title: "This link cannot be used".to_owned(),
            alert: Some(alert.to_owned()),
            ..Self::default()
        }
    }

    /// A page about a completed action.
    pub(super) fn done(title: &str, text: &str) -> Self {
        Self { title: title.to_owned(), text: Some(text.to_owned()), ..Self::default() }
    }

    /// The page that confirms an address, and the error of the last submission.
    pub(super) fn verification(alert: Option<String>) -> Self {
        let title = "Confirm your e-mail address".to_owned();
        Self { title, alert, verification: true, ..Self::default() }
    }

    /// A page with one button that executes an action.
    pub(super) fn confirm(title: &str, text: &str, button: &'static str) -> Self {
        Self { button: Some(button), ..Self::done(title, text) }
    }

    /// Renders the page as a response.
    pub(super) fn page(&self, status: StatusCode) -> Page {
        let mut templates = Environment::new();
        let html = templates
            .add_template("page.html", include_str!("page.html"))
            .and_then(|()| templates.get_template("page.html"))
            .and_then(|it| it.render(context! { view => Serde(self), style => STYLE }));
        let html = html.unwrap_or_else(|error| {
            tracing::error!(%error, "a page cannot be rendered");
            String::new()
        });
        let mut response = web::page(status, "text/html; charset=utf-8", html);
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-16: form values and names are escaped.
    #[test]
    fn text_of_people_is_escaped() {
        let evil = "<img src=x onerror=alert(1)>\"'";
        let invitation = InvitationForm {
            inviter: evil.to_owned(),
            org: evil.to_owned(),
            message: evil.to_owned(),
            typed_email: evil.to_owned(),
            typed_name: evil.to_owned(),
            ..InvitationForm::default()
        };
        let view = View {
            title: evil.to_owned(),
            alert: Some(evil.to_owned()),
            invitation: Some(invitation),
            ..View::default()
        };
        let page = view.page(StatusCode::OK).into_body();
        let text = std::str::from_utf8(&page).unwrap();
        assert!(!text.contains("<img"), "{text}");
        assert!(!text.contains("<script"), "{text}");
        assert!(!text.contains("http"), "content of another origin: {text}");
    }
}
