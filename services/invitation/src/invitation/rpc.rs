//! The gRPC surface of invitations.

use api::{
    identity::{
        AdmitMemberRequest, AdmitMemberResponse, PrepareInvitationRequest,
        member_service_client::MemberServiceClient,
    },
    invitation::{self as pb, invitation_service_server::InvitationService},
};
use chassis::{
    Access, Call, Db, Error, Reply, Result, Tx, email,
    error::remote,
    link::Link,
    page::Pager,
    reply, timestamp,
    token::{Kind, Token},
};
use tonic::Request;

use super::{Draft, Invitation, InvitationId, MAIL, store};
use crate::link::Links;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
    pub(crate) links: Links,
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
        let org_name = self.prepare(&call).await?;
        let create = async |tx: &mut Tx| {
            let pending = store::pending_for(tx, grant.org_id(), &draft.address.canonical).await?;
            let created =
                Invitation::create(&grant, draft, org_name, pending, &self.links, tx.now)?;
            let it = store::insert(tx, created).await?;
            tx.mail(MAIL, it.id.0).await?;
            Ok(pb::CreateInvitationResponse { invitation: Some(it.message_at(tx.now)) })
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
        let invitation = pb::Invitation { acceptances, ..it.message_at(self.db.now()) };
        reply(pb::GetInvitationResponse { invitation: Some(invitation) })
    }

    async fn list_invitations(
        &self,
        request: Request<pb::ListInvitationsRequest>,
    ) -> Reply<pb::ListInvitationsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let state = match it.state() {
            pb::InvitationState::Unspecified => None,
            pb::InvitationState::Pending => Some("pending"),
            pb::InvitationState::Expired => Some("expired"),
            pb::InvitationState::Revoked => Some("revoked"),
        };
        let filter = [it.org_id.as_str(), state.unwrap_or_default()];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let rows = store::list(&self.db, &grant, state, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let invitations = rows.iter().map(|it| it.message_at(self.db.now())).collect();
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
            Ok(pb::GetInvitationLinkResponse { link: self.links.link(it.id.0) })
        };
        reply(self.db.write(&call, copy).await?)
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
            let it = store::update(tx, it.revoke("asked for", tx.now)?).await?;
            Ok(pb::RevokeInvitationResponse { invitation: Some(it.message_at(tx.now)) })
        };
        reply(self.db.write(&call, revoke).await?)
    }

    async fn preview_invitation(
        &self,
        request: Request<pb::PreviewInvitationRequest>,
    ) -> Reply<pb::PreviewInvitationResponse> {
        let call = Call::of(request)?;
        let token = token(&call.message.token)?;
        let it = store::get_by_link(&self.db, token.id).await?.filter(|it| it.opens_with(&token));
        let it = it.ok_or(Error::NotFound(InvitationId::NOUN))?;
        let message = it.message_at(self.db.now());
        reply(pb::PreviewInvitationResponse {
            org_name: it.org_name,
            inviter_name: it.inviter_name,
            masked_email: email::masked(&it.canonical_email),
            role: message.role,
            state: message.state,
            expire_time: message.expire_time,
            message: message.message,
        })
    }

    async fn accept_invitation(
        &self,
        request: Request<pb::AcceptInvitationRequest>,
    ) -> Reply<pb::AcceptInvitationResponse> {
        let call = Call::of(request)?;
        let (guest, token) = (call.account()?, token(&call.message.token)?);
        let accept = async |tx: &mut Tx| {
            let it = store::lock_by_link(tx, token.id).await?.filter(|it| it.opens_with(&token));
            let it = it.ok_or(Error::NotFound(InvitationId::NOUN))?;
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

/// The token of a link. One that is none is like one that is unknown.
fn token(text: &str) -> Result<Token> {
    Token::parse(Kind::Invitation, text).ok_or(Error::NotFound(InvitationId::NOUN))
}

impl Rpc {
    /// Asks identity whether the address can be invited; answers the organization's name.
    async fn prepare(&self, call: &Call<pb::CreateInvitationRequest>) -> Result<String> {
        let question = PrepareInvitationRequest {
            org_id: call.message.org_id.clone(),
            email: call.message.email.clone(),
            project_access: call.message.project_access.clone(),
            team_ids: call.message.team_ids.clone(),
        };
        let mut identity = MemberServiceClient::new(self.identity.clone());
        let answer = identity.prepare_invitation(call.forward(question)).await;
        Ok(answer.map_err(remote("identity"))?.into_inner().org_name)
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
