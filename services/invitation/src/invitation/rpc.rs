//! The gRPC surface of invitations.

use api::{
    identity::{
        AdmitMemberRequest, AdmitMemberResponse, RegisterInvitedRequest,
        member_service_client::MemberServiceClient, user_service_client::UserServiceClient,
    },
    invitation::{
        self as pb, accept_invitation_request as accept, decline_invitation_request as decline,
        invitation_service_server::InvitationService,
    },
};
use chassis::{
    Access, Account, Call, Db, Error, Reply, Result, Tx, email,
    error::remote,
    link::Link,
    page::Pager,
    reply,
    throttle::Guesses,
    timestamp,
    token::{Kind, Token},
};
use tonic::Request;

use super::{Cause, Draft, Invitation, InvitationId, MAIL, Offer, Refused, store, wire};
use crate::link::{Links, Way};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
    pub(crate) links: Links,
    pub(crate) guesses: Guesses,
    /// Invitations of one organization in an hour; 0 means no limit.
    pub(crate) invitations_max: i64,
}

/// What opens an invitation.
enum Proof {
    /// A link.
    Token(Token),
    /// The confirmed address of the invited account.
    Address(InvitationId),
}

#[tonic::async_trait]
impl InvitationService for Rpc {
    async fn create_invitation(
        &self,
        request: Request<pb::CreateInvitationRequest>,
    ) -> Reply<pb::CreateInvitationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::try_from(&call.message)?;
        let emails = vec![call.message.email.clone()];
        let prepared = self.prepare(&call, &call.message, emails).await?;
        let create = async |tx: &mut Tx| {
            let invitation = Some(self.invite(tx, &grant, draft, &prepared).await?);
            Ok(pb::CreateInvitationResponse { invitation })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn batch_create_invitations(
        &self,
        request: Request<pb::BatchCreateInvitationsRequest>,
    ) -> Reply<pb::BatchCreateInvitationsResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let offered = wire::offered(&call.message);
        let (offer, emails) = (Offer::try_from(&offered)?, &call.message.emails);
        let prepared = self.prepare(&call, &offered, emails.clone()).await?;
        let create = async |tx: &mut Tx| {
            let mut results = vec![];
            for email in emails {
                let one = (email.as_str(), offer.clone());
                results.push(self.invite_each(tx, &grant, one, &prepared).await?);
            }
            Ok(pb::BatchCreateInvitationsResponse { results })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_invitation(
        &self,
        request: Request<pb::GetInvitationRequest>,
    ) -> Reply<pb::GetInvitationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let it = store::get(&self.db, &grant, call.message.invitation_id.parse()?).await?;
        let acceptances = store::acceptances(&self.db, it.id).await?;
        let acceptances = acceptances.into_iter().map(|it| pb::Acceptance {
            user_id: it.user_id.into(),
            accept_time: Some(timestamp(it.accepted_at)),
        });
        let acceptances = acceptances.collect();
        let invitation = self.messages(vec![it]).await?.pop();
        let invitation = invitation.map(|it| pb::Invitation { acceptances, ..it });
        reply(pb::GetInvitationResponse { invitation })
    }

    async fn list_invitations(
        &self,
        request: Request<pb::ListInvitationsRequest>,
    ) -> Reply<pb::ListInvitationsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let state = wire::state(it.state());
        let filter = [it.org_id.as_str(), state.unwrap_or_default(), &it.search];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let rows = store::list(&self.db, &grant, (state, &it.search), &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let invitations = self.messages(rows).await?;
        reply(pb::ListInvitationsResponse { invitations, next_page_token })
    }

    async fn get_invitation_link(
        &self,
        request: Request<pb::GetInvitationLinkRequest>,
    ) -> Reply<pb::GetInvitationLinkResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id: InvitationId = call.message.invitation_id.parse()?;
        let copy = async |tx: &mut Tx| {
            let it = store::lock(tx, grant.org_id(), id).await?;
            let it = store::update(tx, it.copy_link(tx.now)?).await?;
            Ok(pb::GetInvitationLinkResponse { link: self.links.link(it.id.0, Way::Copied) })
        };
        reply(self.db.write(&call, copy).await?)
    }

    async fn resend_invitation(
        &self,
        request: Request<pb::ResendInvitationRequest>,
    ) -> Reply<pb::ResendInvitationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.invitation_id.parse()?;
        let resend = async |tx: &mut Tx| {
            let it = store::lock(tx, grant.org_id(), id).await?;
            let it = store::update(tx, it.resend(tx.now)?).await?;
            tx.mail(MAIL, it.id.0).await?;
            let invitation = Some(it.message_with(Some("QUEUED"), tx.now));
            Ok(pb::ResendInvitationResponse { invitation })
        };
        reply(self.db.write(&call, resend).await?)
    }

    async fn revoke_invitation(
        &self,
        request: Request<pb::RevokeInvitationRequest>,
    ) -> Reply<pb::RevokeInvitationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.invitation_id.parse()?;
        let revoke = async |tx: &mut Tx| {
            let it = store::lock(tx, grant.org_id(), id).await?;
            let by = Some(grant.account().user_id);
            let it = store::update(tx, it.revoke(Cause::Manager, by, tx.now)?).await?;
            Ok(pb::RevokeInvitationResponse { invitation: Some(it.message_at(tx.now)) })
        };
        reply(self.db.write(&call, revoke).await?)
    }

    async fn clean_up_invitations(
        &self,
        request: Request<pb::CleanUpInvitationsRequest>,
    ) -> Reply<pb::CleanUpInvitationsResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let clean = async |tx: &mut Tx| {
            let count = store::clean_up(tx, grant.org_id()).await?;
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            tx.emit(wire::cleaned_up(grant.org_id(), count));
            Ok(pb::CleanUpInvitationsResponse { count })
        };
        reply(self.db.write(&call, clean).await?)
    }

    async fn list_my_invitations(
        &self,
        request: Request<pb::ListMyInvitationsRequest>,
    ) -> Reply<pb::ListMyInvitationsResponse> {
        let call = Call::of(request)?;
        let (it, account) = (&call.message, call.account()?);
        let Some(address) = email::parse(&account.email).filter(|_| account.email_verified) else {
            return reply(pb::ListMyInvitationsResponse::default());
        };
        let page = self.pager.page(&call, it.page_size, &it.page_token, &[])?;
        let rows = store::list_mine(&self.db, &address.canonical, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let invitations = rows.iter().map(Invitation::mine).collect();
        reply(pb::ListMyInvitationsResponse { invitations, next_page_token })
    }

    async fn preview_invitation(
        &self,
        request: Request<pb::PreviewInvitationRequest>,
    ) -> Reply<pb::PreviewInvitationResponse> {
        let call = Call::of(request)?;
        let (it, way) = self.open(&call, &call.message.token).await?;
        reply(it.preview(way, self.db.now()))
    }

    async fn accept_invitation(
        &self,
        request: Request<pb::AcceptInvitationRequest>,
    ) -> Reply<pb::AcceptInvitationResponse> {
        let call = Call::of(request)?;
        let proof = match &call.message.invitation {
            Some(accept::Invitation::Token(it)) => Proof::Token(self.token(&call, it)?),
            Some(accept::Invitation::InvitationId(it)) => Proof::Address(it.parse()?),
            None => return Err(which().into()),
        };
        let guest = call.account()?;
        let accept = async |tx: &mut Tx| {
            let it = self.lock(tx, &call, &proof, guest).await?;
            let accepted = store::accepted(tx, it.id, guest.user_id).await?;
            it.check_guest(guest, accepted, tx.now)?;
            // If we break off after this, the reaction to identity's event counts the use.
            let admitted = self.admit(&call, &it).await?;
            store::accept(tx, it.accept(tx.now), guest.user_id).await?;
            let AdmitMemberResponse { member, consistency_token } = admitted;
            Ok(pb::AcceptInvitationResponse { member, consistency_token })
        };
        reply(self.db.write(&call, accept).await?)
    }

    async fn decline_invitation(
        &self,
        request: Request<pb::DeclineInvitationRequest>,
    ) -> Reply<pb::DeclineInvitationResponse> {
        let call = Call::of(request)?;
        let proof = match &call.message.invitation {
            Some(decline::Invitation::Token(it)) => Proof::Token(self.token(&call, it)?),
            Some(decline::Invitation::InvitationId(it)) => Proof::Address(it.parse()?),
            None => return Err(which().into()),
        };
        let guest = call.account()?;
        let decline = async |tx: &mut Tx| {
            let it = self.lock(tx, &call, &proof, guest).await?;
            store::update(tx, it.decline(guest, tx.now)?).await?;
            Ok(pb::DeclineInvitationResponse {})
        };
        reply(self.db.write(&call, decline).await?)
    }

    async fn sign_up(&self, request: Request<pb::SignUpRequest>) -> Reply<pb::SignUpResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let (it, way) = self.open(&call, &message.token).await?;
        it.check_open(self.db.now()).map_err(Error::from)?;
        if it.max_uses > 1 || way != Way::Mailed {
            return Err(Error::from(Refused::ProvesNothing).into());
        }
        let register = RegisterInvitedRequest {
            email: it.email.0,
            password: message.password.clone(),
            display_name: message.display_name.clone(),
            request_id: message.request_id.clone(),
        };
        let mut identity = UserServiceClient::new(self.identity.clone());
        let answer = identity.register_invited(call.forward(register)).await;
        let token = answer.map_err(remote("identity"))?.into_inner().token;
        reply(pb::SignUpResponse { token })
    }

    async fn describe_organization(
        &self,
        request: Request<pb::DescribeOrganizationRequest>,
    ) -> Reply<pb::DescribeOrganizationResponse> {
        let call = Call::of(request)?;
        let pending = store::pending(&self.db, call.message.org_id.parse()?).await?;
        let pending_invitations = i32::try_from(pending).unwrap_or(i32::MAX);
        reply(pb::DescribeOrganizationResponse { pending_invitations })
    }
}

fn which() -> Error {
    Error::invalid("token", "must be given, or invitation_id")
}

fn unknown() -> Error {
    Error::NotFound(InvitationId::NOUN)
}

impl Rpc {
    /// The token of a link. One that is none is like one that is unknown (IN-26).
    fn token<M>(&self, call: &Call<M>, text: &str) -> Result<Token> {
        self.guesses.check(&call.origin.address)?;
        Token::parse(Kind::Invitation, text).ok_or_else(|| {
            self.guesses.wrong(&call.origin.address);
            unknown()
        })
    }

    /// The invitation of a link, to look at.
    async fn open<M>(&self, call: &Call<M>, text: &str) -> Result<(Invitation, Way)> {
        let token = self.token(call, text)?;
        let found = store::get_by_link(&self.db, token.id).await?;
        let way = found.as_ref().and_then(|it| it.opened_by(&token));
        found.zip(way).ok_or_else(|| {
            self.guesses.wrong(&call.origin.address);
            unknown()
        })
    }

    /// The invitation that a proof opens, locked. One that is somebody else's is unknown.
    async fn lock<M>(
        &self,
        tx: &mut Tx,
        call: &Call<M>,
        proof: &Proof,
        guest: &Account,
    ) -> Result<Invitation> {
        match proof {
            Proof::Token(token) => {
                let found = store::lock_by_link(tx, token.id).await?;
                found.filter(|it| it.opened_by(token).is_some()).ok_or_else(|| {
                    self.guesses.wrong(&call.origin.address);
                    unknown()
                })
            }
            Proof::Address(id) => {
                let found = store::lock_by_link(tx, id.0).await?;
                let mine = |it: &Invitation| {
                    it.max_uses == 1
                        && guest.email_verified
                        && email::same(&guest.email, &it.canonical_email)
                };
                found.filter(mine).ok_or_else(unknown)
            }
        }
    }

    /// Invitations with what became of their mails.
    async fn messages(&self, rows: Vec<Invitation>) -> Result<Vec<pb::Invitation>> {
        let ids: Vec<_> = rows.iter().map(|it| it.id.0).collect();
        let mails = store::mails(&self.db, &ids).await?;
        let now = self.db.now();
        let mail = |it: &Invitation| mails.get(&it.id.0).map(String::as_str);
        Ok(rows.iter().map(|it| it.message_with(mail(it), now)).collect())
    }

    /// Has identity make the guest a member, which takes the seat.
    async fn admit(
        &self,
        call: &Call<pb::AcceptInvitationRequest>,
        it: &Invitation,
    ) -> Result<AdmitMemberResponse> {
        let admission = AdmitMemberRequest {
            org_id: it.org_id.into(),
            role: it.role,
            invitation_id: it.id.into(),
            inviter_id: it.inviter_id.into(),
            project_access: it.project_access.0.iter().map(Into::into).collect(),
            team_ids: it.team_ids.iter().map(uuid::Uuid::to_string).collect(),
        };
        let mut identity = MemberServiceClient::new(self.identity.clone());
        let answer = identity.admit_member(call.forward(admission)).await;
        Ok(answer.map_err(remote("identity"))?.into_inner())
    }
}
