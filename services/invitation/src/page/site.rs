//! Which page a path is.

use api::identity::{VerifyEmailRequest, user_service_client::UserServiceClient};
use chassis::{
    Db, Tx,
    link::Link,
    web::{Site, Visit},
};
use http::{Method, Response, StatusCode};
use tonic::{Code, Status};

use super::{sentence, view::View};
use crate::{link::Links, recipient};

/// Where the pages are.
pub(crate) const PATHS: &[&str] = &["/invitations/", "/verify/", "/opt-out/"];

/// The pages.
pub(crate) struct Pages {
    pub(crate) db: Db,
    pub(crate) links: Links,
    pub(crate) identity: Link,
    pub(crate) invitation: Link,
}

#[tonic::async_trait]
impl Site for Pages {
    async fn visit(&self, visit: Visit) -> Response<String> {
        if visit.method != Method::GET && visit.method != Method::POST {
            return View::alert("This page is for browsers.").page(StatusCode::METHOD_NOT_ALLOWED);
        }
        let (place, token) = visit.path.trim_start_matches('/').split_once('/').unwrap_or_default();
        match place {
            "invitations" => self.invitation(&visit, token).await,
            "verify" => self.verify(&visit, token).await,
            _ => self.opt_out(&visit, token).await,
        }
    }
}

impl Pages {
    /// Confirms an address.
    async fn verify(&self, visit: &Visit, token: &str) -> Response<String> {
        if visit.method == Method::GET {
            return View::confirm("Confirm your address", "Confirm this address")
                .page(StatusCode::OK);
        }
        let request = VerifyEmailRequest { token: token.to_owned() };
        let mut identity = UserServiceClient::new(self.identity.clone());
        match identity.verify_email(visit.ask(request, None)).await {
            Ok(_) => View::done(
                "Your address is confirmed",
                "You can sign in now. If you came from an invitation, open its link again.",
            )
            .page(StatusCode::OK),
            Err(status) => refused(&status),
        }
    }

    /// No more mails from strangers.
    async fn opt_out(&self, visit: &Visit, sealed: &str) -> Response<String> {
        let Some(address) = self.links.opting_out(sealed) else {
            let unknown = "This link is damaged. Copy the whole link from the mail.";
            return View::alert(unknown).page(StatusCode::NOT_FOUND);
        };
        if visit.method == Method::GET {
            return View::confirm("No more of these mails", "Send me no more of these mails")
                .page(StatusCode::OK);
        }
        let opt_out = async |tx: &mut Tx| recipient::store::opt_out(tx, &address).await;
        match self.db.write_as_system("opt-out", opt_out).await {
            Ok(()) => View::done(
                "No more of these mails",
                "You get no more invitations and no more notices of team inboxes by mail. Mails about \
                 your own account, if you have one, still come.",
            )
            .page(StatusCode::OK),
            Err(error) => refused(&error.into()),
        }
    }
}

/// What was refused, in the words of the service that refused it.
pub(super) fn refused(status: &Status) -> Response<String> {
    View::alert(&sentence(status.message())).page(http_status(status))
}

pub(super) fn http_status(status: &Status) -> StatusCode {
    match status.code() {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unauthenticated | Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unavailable | Code::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
