//! Pages that the proxy serves instead of a program.

use serde_json::{Value, json};

/// State of an environment without a program that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// Its first deployment has not completed.
    NotDeployed,
    Stopped,
    /// Paused by a person, or suspended by the platform.
    Paused,
    /// The program ended too often, or exceeded its disk limit.
    Failed,
    /// The program does not accept connections.
    NoConnection,
}

impl Unavailable {
    fn title(self) -> &'static str {
        match self {
            Self::NotDeployed => "This site is not deployed yet",
            Self::Stopped => "This site is stopped",
            Self::Paused => "This site is paused",
            Self::Failed => "This site has failed",
            Self::NoConnection => "This site does not respond",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotDeployed => "It is available after its first deployment.",
            Self::Stopped => "Its operator can start it again.",
            Self::Paused => {
                "It continues when the pause or the suspension of its environment ends."
            }
            Self::Failed => {
                "Its program has ended. Its operator finds the cause in the environment."
            }
            Self::NoConnection => {
                "Its program does not accept connections. Please try again later."
            }
        }
    }

    /// Returns the Caddy handler of the page, with the status 503.
    pub(super) fn handler(self) -> Value {
        page(503, self.title(), self.text())
    }
}

/// Returns the Caddy handler of the page for unknown hosts, with the status 404.
pub(super) fn unknown_host() -> Value {
    page(404, "Unknown site", "There is no site with this host name.")
}

/// The texts must not contain the placeholders of Caddy (`{…}`), which it replaces.
fn page(status: u16, title: &'static str, text: &'static str) -> Value {
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<p>{text}</p>\n</html>\n"
    );
    json!({
        "handler": "static_response",
        "status_code": status,
        "headers": {
            "Cache-Control": ["no-store"],
            "Content-Type": ["text/html; charset=utf-8"],
            "X-Robots-Tag": ["noindex"],
        },
        "body": body,
    })
}
