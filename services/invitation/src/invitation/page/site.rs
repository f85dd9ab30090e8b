//! The pages by path.

use api::identity::{VerifyEmailRequest, user_service_client::UserServiceClient};
use chassis::{Db, Tx, channel::ServiceChannel};
use host::web::{Page, PageHandler, PageRequest};
use http::{Method, StatusCode};
use tonic::{Code, Status};

use super::{sentence, view::View};
use crate::recipient::{self, OptOut, OptOutLinks};

/// Path prefixes of the pages. The rest of the path is a token.
pub(in crate::invitation) const PATHS: &[&str] = &["/invitations/", "/verify/", "/opt-out/"];

/// The pages.
pub(in crate::invitation) struct Pages {
    pub(in crate::invitation) db: Db,
    pub(in crate::invitation) opt_out_links: OptOutLinks,
    pub(in crate::invitation) identity: ServiceChannel,
    pub(in crate::invitation) invitation: ServiceChannel,
}

#[tonic::async_trait]
impl PageHandler for Pages {
    async fn handle(&self, request: PageRequest) -> Page {
        if request.method != Method::GET && request.method != Method::POST {
            return View::alert("This page is for browsers.").page(StatusCode::METHOD_NOT_ALLOWED);
        }
        let path = request.path.trim_start_matches('/');
        let (prefix, token) = path.split_once('/').unwrap_or_default();
        match prefix {
            "invitations" => self.invitation(&request, token).await,
            "verify" => self.verify(&request, token).await,
            _ => self.opt_out(&request, token).await,
        }
    }
}

impl Pages {
    /// Confirms an e-mail address.
    async fn verify(&self, request: &PageRequest, token: &str) -> Page {
        if request.method == Method::GET {
            return View::verification(None).page(StatusCode::OK);
        }
        let message = VerifyEmailRequest {
            token: token.to_owned(),
            password: request.field("password").to_owned(),
            new_password: request.field("new-password").to_owned(),
        };
        let mut identity = UserServiceClient::new(self.identity.clone());
        match identity.verify_email(request.forward(message, None)).await {
            Ok(_) => View::done(
                "Your e-mail address is confirmed",
                "You can sign in now. If you came from an invitation, open its link again.",
            )
            .page(StatusCode::OK),
            // A wrong or weak password: the person tries again with the same link.
            Err(status)
                if matches!(status.code(), Code::Unauthenticated | Code::InvalidArgument) =>
            {
                View::verification(Some(sentence(status.message()))).page(http_status(&status))
            }
            Err(status) => refused(&status),
        }
    }

    /// Opts an e-mail address out of mails from organizations, or turns the mails of a category off for an
    /// account. Mail programs send the POST request themselves (RFC 8058).
    async fn opt_out(&self, request: &PageRequest, token: &str) -> Page {
        let Some(opt_out) = self.opt_out_links.open(token) else {
            let message = "This link is damaged. Copy the whole link from the mail.";
            return View::alert(message).page(StatusCode::NOT_FOUND);
        };
        if request.method == Method::GET {
            let text = match &opt_out {
                OptOut::Address(_) => {
                    "These are invitations to organizations, and mails that rules of an organization send \
                     to this address."
                }
                OptOut::Category { .. } => {
                    "These are notifications of one category. Your notification preferences turn them on \
                     again."
                }
            };
            let button = "Send me no more of these mails";
            return View::confirm("Unsubscribe from these mails", text, button)
                .page(StatusCode::OK);
        }
        let text = match &opt_out {
            OptOut::Address(_) => {
                "You will receive no more invitations and no more mails of mail rules. Mails about your own \
                 account, if you have one, are still sent."
            }
            OptOut::Category { .. } => {
                "You will receive no more mails of this category. Your notification preferences turn them \
                 on again. Mails about the security of your account are still sent."
            }
        };
        let store = async |tx: &mut Tx| match &opt_out {
            OptOut::Address(address) => recipient::store::opt_out(tx, address).await,
            OptOut::Category { user_id, category } => {
                recipient::store::turn_off(tx, *user_id, *category).await
            }
        };
        match self.db.write_as_system("opt-out", store).await {
            Ok(()) => View::done("You are unsubscribed", text).page(StatusCode::OK),
            Err(error) => refused(&error.into()),
        }
    }
}

/// The page of an error, with the message of the service.
pub(super) fn refused(status: &Status) -> Page {
    View::alert(&sentence(status.message())).page(http_status(status))
}

/// The HTTP status of an error.
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
