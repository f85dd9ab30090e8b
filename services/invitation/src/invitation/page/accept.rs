//! The page of an invitation: registration or sign-in, then acceptance or refusal.

use api::{
    identity::{
        CompleteLoginRequest, LoginRequest, LogoutRequest, RegisterRequest,
        session_service_client::SessionServiceClient, user_service_client::UserServiceClient,
    },
    invitation::{
        AcceptInvitationRequest, DeclineInvitationRequest, ExpiryReason, InvitationState,
        PreviewInvitationRequest, PreviewInvitationResponse, SignUpRequest,
        accept_invitation_request as accept, decline_invitation_request as decline,
        invitation_service_client::InvitationServiceClient,
    },
};
use chassis::datetime;
use host::web::{Page, PageRequest};
use http::{Method, StatusCode};
use tonic::{Code, Status};

use super::{
    sentence,
    site::{Pages, http_status, refused},
    view::{InvitationForm, LoginChallenge, View},
};
use crate::{invitation::refused::Refused, role::role_name};

/// Action of a visitor, executed once they are signed in.
#[derive(Clone, Copy)]
enum Action {
    Accept,
    Decline,
}

impl Action {
    /// Suffix of the value of the button in the form of a login challenge.
    fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Decline => "decline",
        }
    }
}

/// A request for the page of an invitation.
struct Visit<'a> {
    pages: &'a Pages,
    request: &'a PageRequest,
    /// Token of the link.
    token: &'a str,
    preview: &'a PreviewInvitationResponse,
}

impl Pages {
    /// Answers a request for the page of an invitation.
    pub(super) async fn invitation(&self, request: &PageRequest, token: &str) -> Page {
        let message = PreviewInvitationRequest { token: token.to_owned() };
        let mut invitation = InvitationServiceClient::new(self.invitation.clone());
        let preview = match invitation.preview_invitation(request.forward(message, None)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return refused(&status),
        };
        if let Some(ended) = reason_of_end(&preview) {
            return View::alert(&sentence(&ended.to_string())).page(StatusCode::GONE);
        }
        let visit = Visit { pages: self, request, token, preview: &preview };
        if request.method == Method::GET {
            return visit.form(None).page(StatusCode::OK);
        }
        match visit.submit().await {
            Ok(view) => view.page(StatusCode::OK),
            Err(status) => visit.form(Some(sentence(status.message()))).page(http_status(&status)),
        }
    }
}

impl Visit<'_> {
    /// Executes the button that the visitor pressed.
    async fn submit(&self) -> Result<View, Status> {
        match self.request.field("do") {
            "sign-up" if self.preview.proves_address => {
                let bearer = self.sign_up().await?;
                self.finish(&bearer, Action::Accept).await.map_err(|refused| {
                    let message = format!(
                        "your account was created, but you did not join: {}",
                        refused.message()
                    );
                    Status::new(refused.code(), message)
                })
            }
            "sign-up" => self.register().await,
            "accept" => self.sign_in(Action::Accept).await,
            "decline" => self.sign_in(Action::Decline).await,
            "code-accept" => self.complete_sign_in(Action::Accept).await,
            "code-decline" => self.complete_sign_in(Action::Decline).await,
            _ => Err(Status::invalid_argument("choose one of the buttons below")),
        }
    }

    /// Creates an account with the invited address, which the mailed link confirms. Returns the token of its
    /// session.
    async fn sign_up(&self) -> Result<String, Status> {
        let message = SignUpRequest {
            token: self.token.to_owned(),
            password: self.request.field("password").to_owned(),
            display_name: self.request.field("name").to_owned(),
            ..Default::default()
        };
        let mut invitation = InvitationServiceClient::new(self.pages.invitation.clone());
        let response = invitation.sign_up(self.request.forward(message, None)).await;
        let response = response.map_err(|status| match status.code() {
            Code::AlreadyExists => {
                Status::already_exists("this address has an account already; sign in below")
            }
            _ => status,
        })?;
        Ok(response.into_inner().token)
    }

    /// Creates an account whose address the visitor confirms by mail.
    async fn register(&self) -> Result<View, Status> {
        let message = RegisterRequest {
            email: self.request.field("email").to_owned(),
            password: self.request.field("password").to_owned(),
            display_name: self.request.field("name").to_owned(),
            ..Default::default()
        };
        let mut identity = UserServiceClient::new(self.pages.identity.clone());
        identity.register(self.request.forward(message, None)).await?;
        Ok(View::done(
            "Check your mailbox",
            "We sent you a mail with a link that confirms your address. Open it, then return to this page \
             and sign in.",
        ))
    }

    async fn sign_in(&self, action: Action) -> Result<View, Status> {
        let message = LoginRequest {
            email: self.request.field("email").to_owned(),
            password: self.request.field("password").to_owned(),
        };
        let mut identity = SessionServiceClient::new(self.pages.identity.clone());
        let response = identity.login(self.request.forward(message, None)).await?.into_inner();
        if response.token.is_empty() {
            return Ok(View {
                title: "Two-factor authentication".to_owned(),
                challenge: Some(LoginChallenge {
                    token: response.challenge,
                    action: action.name(),
                }),
                ..View::default()
            });
        }
        self.finish(&response.token, action).await
    }

    /// Completes a sign-in with a second factor.
    async fn complete_sign_in(&self, action: Action) -> Result<View, Status> {
        let message = CompleteLoginRequest {
            challenge: self.request.field("challenge").to_owned(),
            code: self.request.field("code").to_owned(),
        };
        let mut identity = SessionServiceClient::new(self.pages.identity.clone());
        let response = identity.complete_login(self.request.forward(message, None)).await?;
        self.finish(&response.into_inner().token, action).await
    }

    /// Executes the action, and ends the session, which exists only for it.
    async fn finish(&self, bearer: &str, action: Action) -> Result<View, Status> {
        let outcome = self.execute(bearer, action).await;
        let mut sessions = SessionServiceClient::new(self.pages.identity.clone());
        let logout = self.request.forward(LogoutRequest {}, Some(bearer));
        if let Err(error) = sessions.logout(logout).await {
            tracing::warn!(%error, "a session of the invitation page cannot be ended; it expires later");
        }
        outcome?;
        Ok(match action {
            Action::Accept => {
                let role = role_name(self.preview.role());
                View::done(
                    &format!("Welcome to {}", self.preview.org_name),
                    &format!(
                        "You are a member with the role {role}. You can close this page and sign in."
                    ),
                )
            }
            Action::Decline => View::done(
                "You declined the invitation",
                "The invitation can no longer be used. Nothing else changed.",
            ),
        })
    }

    async fn execute(&self, bearer: &str, action: Action) -> Result<(), Status> {
        let mut invitation = InvitationServiceClient::new(self.pages.invitation.clone());
        let token = self.token.to_owned();
        match action {
            Action::Accept => {
                let message = AcceptInvitationRequest {
                    invitation: Some(accept::Invitation::Token(token)),
                    ..Default::default()
                };
                let request = self.request.forward(message, Some(bearer));
                invitation.accept_invitation(request).await?;
            }
            Action::Decline => {
                let message = DeclineInvitationRequest {
                    invitation: Some(decline::Invitation::Token(token)),
                    ..Default::default()
                };
                let request = self.request.forward(message, Some(bearer));
                invitation.decline_invitation(request).await?;
            }
        }
        Ok(())
    }

    /// The page with both forms, and the error of the last submission.
    fn form(&self, alert: Option<String>) -> View {
        let preview = self.preview;
        let expires_at = preview.expire_time.and_then(datetime);
        let expires_at =
            expires_at.map(|it| format!("{} {:02}:{:02} UTC", it.date(), it.hour(), it.minute()));
        let is_for_anybody = preview.open_link;
        let invitation = InvitationForm {
            inviter: preview.inviter_name.clone(),
            org: preview.org_name.clone(),
            role: role_name(preview.role()),
            expires_at: expires_at.unwrap_or_default(),
            message: preview.message.clone(),
            projects: preview.project_count,
            masked_email: if is_for_anybody { String::new() } else { preview.masked_email.clone() },
            proves_address: preview.proves_address,
            typed_email: self.request.field("email").to_owned(),
            typed_name: self.request.field("name").to_owned(),
        };
        let title = format!("Join {}", preview.org_name);
        View { title, alert, invitation: Some(invitation), ..View::default() }
    }
}

/// The error of an invitation that is no longer pending.
fn reason_of_end(preview: &PreviewInvitationResponse) -> Option<Refused> {
    match (preview.state(), preview.expiry_reason()) {
        (InvitationState::Revoked, _) => Some(Refused::Revoked(preview.revoke_cause())),
        (InvitationState::Expired, ExpiryReason::MaxUses) => Some(Refused::Exhausted),
        (InvitationState::Expired, _) => Some(Refused::Expired),
        _ => None,
    }
}
