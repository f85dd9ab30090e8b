//! The page of an invitation: from its link to membership.

use api::{
    identity::{
        CompleteLoginRequest, LoginRequest, LogoutRequest, RegisterRequest,
        session_service_client::SessionServiceClient, user_service_client::UserServiceClient,
    },
    invitation::{
        self as pb, AcceptInvitationRequest, DeclineInvitationRequest, PreviewInvitationRequest,
        PreviewInvitationResponse, SignUpRequest, accept_invitation_request as accept,
        decline_invitation_request as decline, invitation_service_client::InvitationServiceClient,
    },
};
use chassis::{moment, web::Visit};
use http::{Method, Response, StatusCode};
use tonic::{Code, Status};

use super::{
    sentence,
    site::{Pages, http_status, refused},
    view::{Challenge, Offer, View},
};
use crate::invitation::{Refused, mail::role};

/// What a visitor wants once they are signed in.
#[derive(Clone, Copy)]
enum Deed {
    Accept,
    Decline,
}

impl Pages {
    pub(super) async fn invitation(&self, visit: &Visit, token: &str) -> Response<String> {
        let request = PreviewInvitationRequest { token: token.to_owned() };
        let mut invitation = InvitationServiceClient::new(self.invitation.clone());
        let it = match invitation.preview_invitation(visit.ask(request, None)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return refused(&status),
        };
        if let Some(over) = over(&it) {
            return View::alert(&sentence(&over.to_string())).page(StatusCode::GONE);
        }
        if visit.method == Method::GET {
            return View::of(&it, visit, None).page(StatusCode::OK);
        }
        match self.act(visit, token, &it).await {
            Ok(view) => view.page(StatusCode::OK),
            Err(status) => {
                let alert = Some(sentence(status.message()));
                View::of(&it, visit, alert).page(http_status(&status))
            }
        }
    }

    async fn act(
        &self,
        visit: &Visit,
        token: &str,
        it: &PreviewInvitationResponse,
    ) -> Result<View, Status> {
        match visit.field("do") {
            "sign-up" if it.proves_address => {
                let bearer = self.sign_up(visit, token).await?;
                self.finish(visit, token, it, (&bearer, Deed::Accept)).await.map_err(|refused| {
                    let but = format!("your account was created, but: {}", refused.message());
                    Status::new(refused.code(), but)
                })
            }
            "sign-up" => self.register(visit).await,
            "accept" => self.sign_in(visit, token, it, Deed::Accept).await,
            "decline" => self.sign_in(visit, token, it, Deed::Decline).await,
            "code-accept" => self.complete(visit, token, it, Deed::Accept).await,
            "code-decline" => self.complete(visit, token, it, Deed::Decline).await,
            _ => Err(Status::invalid_argument("choose one of the buttons below")),
        }
    }

    /// Opens an account whose address the link proves; answers its session.
    async fn sign_up(&self, visit: &Visit, token: &str) -> Result<String, Status> {
        let request = SignUpRequest {
            token: token.to_owned(),
            password: visit.field("password").to_owned(),
            display_name: visit.field("name").to_owned(),
            ..Default::default()
        };
        let mut invitation = InvitationServiceClient::new(self.invitation.clone());
        let answer = invitation.sign_up(visit.ask(request, None)).await;
        let answer = answer.map_err(|status| match status.code() {
            Code::AlreadyExists => {
                Status::already_exists("this address has an account already; sign in below")
            }
            _ => status,
        })?;
        Ok(answer.into_inner().token)
    }

    /// Opens an account whose address a mail must prove.
    async fn register(&self, visit: &Visit) -> Result<View, Status> {
        let request = RegisterRequest {
            email: visit.field("email").to_owned(),
            password: visit.field("password").to_owned(),
            display_name: visit.field("name").to_owned(),
            ..Default::default()
        };
        let mut identity = UserServiceClient::new(self.identity.clone());
        identity.register(visit.ask(request, None)).await?;
        Ok(View::done(
            "Look into your mailbox",
            "We sent a mail with a link that confirms your address. Open it, then come back to this page \
             and sign in.",
        ))
    }

    async fn sign_in(
        &self,
        visit: &Visit,
        token: &str,
        it: &PreviewInvitationResponse,
        deed: Deed,
    ) -> Result<View, Status> {
        let request = LoginRequest {
            email: visit.field("email").to_owned(),
            password: visit.field("password").to_owned(),
        };
        let mut identity = SessionServiceClient::new(self.identity.clone());
        let answer = identity.login(visit.ask(request, None)).await?.into_inner();
        if answer.token.is_empty() {
            return Ok(View {
                title: "One more step".to_owned(),
                challenge: Some(Challenge {
                    token: answer.challenge,
                    then: deed.word().to_owned(),
                }),
                ..View::default()
            });
        }
        self.finish(visit, token, it, (&answer.token, deed)).await
    }

    async fn complete(
        &self,
        visit: &Visit,
        token: &str,
        it: &PreviewInvitationResponse,
        deed: Deed,
    ) -> Result<View, Status> {
        let request = CompleteLoginRequest {
            challenge: visit.field("challenge").to_owned(),
            code: visit.field("code").to_owned(),
        };
        let mut identity = SessionServiceClient::new(self.identity.clone());
        let answer = identity.complete_login(visit.ask(request, None)).await?.into_inner();
        self.finish(visit, token, it, (&answer.token, deed)).await
    }

    /// Answers the invitation, and ends the session, which was for nothing else.
    async fn finish(
        &self,
        visit: &Visit,
        token: &str,
        it: &PreviewInvitationResponse,
        (bearer, deed): (&str, Deed),
    ) -> Result<View, Status> {
        let outcome = self.answer(visit, token, (bearer, deed)).await;
        let mut sessions = SessionServiceClient::new(self.identity.clone());
        if let Err(error) = sessions.logout(visit.ask(LogoutRequest {}, Some(bearer))).await {
            tracing::warn!(%error, "the session of an invitation's page lives on until its time is over");
        }
        outcome?;
        Ok(match deed {
            Deed::Accept => View::done(
                &format!("Welcome to {}", it.org_name),
                &format!(
                    "You are a member now, as {}. You can close this page and sign in.",
                    role(it.role)
                ),
            ),
            Deed::Decline => View::done(
                "You declined",
                "The invitation cannot be used any more. Nothing else changed.",
            ),
        })
    }

    async fn answer(
        &self,
        visit: &Visit,
        token: &str,
        (bearer, deed): (&str, Deed),
    ) -> Result<(), Status> {
        let mut invitation = InvitationServiceClient::new(self.invitation.clone());
        let token = token.to_owned();
        match deed {
            Deed::Accept => {
                let which = Some(accept::Invitation::Token(token));
                let request = AcceptInvitationRequest { invitation: which, ..Default::default() };
                invitation.accept_invitation(visit.ask(request, Some(bearer))).await?;
            }
            Deed::Decline => {
                let which = Some(decline::Invitation::Token(token));
                let request = DeclineInvitationRequest { invitation: which, ..Default::default() };
                invitation.decline_invitation(visit.ask(request, Some(bearer))).await?;
            }
        }
        Ok(())
    }
}

impl Deed {
    fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Decline => "decline",
        }
    }
}

/// Why it is over, if it is.
fn over(it: &PreviewInvitationResponse) -> Option<Refused> {
    Some(match (it.state(), it.expiry_reason()) {
        (pb::InvitationState::Revoked, _) => Refused::Revoked(it.revoke_cause),
        (pb::InvitationState::Expired, pb::ExpiryReason::MaxUses) => Refused::Exhausted,
        (pb::InvitationState::Expired, _) => Refused::Expired,
        _ => return None,
    })
}

impl View {
    fn of(it: &PreviewInvitationResponse, visit: &Visit, alert: Option<String>) -> Self {
        let until = it.expire_time.and_then(moment);
        let until =
            until.map(|it| format!("{} {:02}:{:02} UTC", it.date(), it.hour(), it.minute()));
        let offer = Offer {
            inviter: it.inviter_name.clone(),
            org: it.org_name.clone(),
            role: role(it.role),
            until: until.unwrap_or_default(),
            message: it.message.clone(),
            projects: it.project_count,
            masked_email: if it.open_link { String::new() } else { it.masked_email.clone() },
            proves_address: it.proves_address,
            typed_email: visit.field("email").to_owned(),
            typed_name: visit.field("name").to_owned(),
        };
        let title = format!("Join {}", it.org_name);
        Self { title, alert, offer: Some(offer), ..Self::default() }
    }
}
