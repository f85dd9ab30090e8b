//! What a page shows. Everything is text until the template escapes it.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use chassis::web;
use data_encoding::BASE64;
use http::{HeaderValue, Response, StatusCode, header};
use minijinja::{Environment, context, value::Serde};
use serde::Serialize;

const STYLE: &str = include_str!("style.css");

/// The only style that the page may have: ours.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("a policy is ASCII")
});

/// A page.
#[derive(Debug, Default, Serialize)]
pub(super) struct View {
    pub(super) title: String,
    /// What went wrong, and what to do.
    pub(super) alert: Option<String>,
    /// What there is to say.
    pub(super) said: Option<String>,
    /// The one thing there is to do.
    pub(super) button: Option<&'static str>,
    /// The invitation that is open.
    pub(super) offer: Option<Offer>,
    /// A sign-in that waits for its code.
    pub(super) challenge: Option<Challenge>,
}

/// An invitation, and what its visitor typed so far.
#[derive(Debug, Default, Serialize)]
pub(super) struct Offer {
    pub(super) inviter: String,
    pub(super) org: String,
    pub(super) role: &'static str,
    pub(super) until: String,
    pub(super) message: String,
    pub(super) projects: i32,
    /// For whom it is; empty for an open link.
    pub(super) masked_email: String,
    /// Whether the link proves the address, so that none is asked for.
    pub(super) proves_address: bool,
    pub(super) typed_email: String,
    pub(super) typed_name: String,
}

/// A sign-in that waits for its code.
#[derive(Debug, Serialize)]
pub(super) struct Challenge {
    pub(super) token: String,
    pub(super) then: String,
}

impl View {
    /// Something cannot be done.
    pub(super) fn alert(alert: &str) -> Self {
        Self {
            title: "This does not work".to_owned(),
            alert: Some(alert.to_owned()),
            ..Self::default()
        }
    }

    /// Something was done.
    pub(super) fn done(title: &str, said: &str) -> Self {
        Self { title: title.to_owned(), said: Some(said.to_owned()), ..Self::default() }
    }

    /// Something is done by a button.
    pub(super) fn confirm(title: &str, button: &'static str) -> Self {
        Self { title: title.to_owned(), button: Some(button), ..Self::default() }
    }

    /// The answer to a browser.
    pub(super) fn page(&self, status: StatusCode) -> Response<String> {
        let mut templates = Environment::new();
        let html = templates
            .add_template("page.html", include_str!("page.html"))
            .and_then(|()| templates.get_template("page.html"))
            .and_then(|it| it.render(context! { view => Serde(self), style => STYLE }));
        let html = html.unwrap_or_else(|error| {
            tracing::error!(%error, "a page");
            String::new()
        });
        let mut answer = web::page(status, "text/html; charset=utf-8", html);
        answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-16: what people typed, and what organizations are called, stays text.
    #[test]
    fn nothing_that_people_write_becomes_html() {
        let evil = "<img src=x onerror=alert(1)>\"'";
        let offer = Offer {
            inviter: evil.to_owned(),
            org: evil.to_owned(),
            message: evil.to_owned(),
            typed_email: evil.to_owned(),
            typed_name: evil.to_owned(),
            ..Offer::default()
        };
        let view = View {
            title: evil.to_owned(),
            alert: Some(evil.to_owned()),
            offer: Some(offer),
            ..View::default()
        };
        let page = view.page(StatusCode::OK);
        assert!(!page.body().contains("<img"), "{}", page.body());
        assert!(!page.body().contains("<script"), "{}", page.body());
        assert!(!page.body().contains("http"), "nothing from elsewhere: {}", page.body());
    }
}
