//! gRPC service of invitations.

use api::{
    identity::{
        RegisterInvitedRequest, VerifyInvitedEmailRequest, user_service_client::UserServiceClient,
    },
    invitation::{
        self as pb, accept_invitation_request as accept, decline_invitation_request as decline,
        invitation_service_server::InvitationService,
    },
};
use chassis::{
    Access, Account, Call, Db, Error, Reply, Result, Tx,
    channel::ServiceChannel,
    email,
    error::remote,
    page::Pager,
    rate_limit::FailureLimit,
    reply,
    token::{Kind, Token},
};
use tonic::Request;

use super::{
    Invitation, InvitationId, NewInvitation, Offer,
    link::{LinkKind, Links},
    refused::Refused,
    store::{self, Filter},
    wire,
};

pub(super) struct Rpc {
    pub(super) db: Db,
    pub(super) access: Access,
    pub(super) pager: Pager,
    pub(super) identity: ServiceChannel,
    pub(super) links: Links,
    /// Blocks network addresses from which too many wrong links were tried.
    pub(super) wrong_links: FailureLimit,
    /// Largest number of invitations of one organization in an hour; 0 for no limit.
    pub(super) invitations_per_hour_max: i64,
}

/// Proof of an invited person that an invitation is for them.
pub(super) enum Proof {
    /// The token of a link.
    Token(Token),
    /// The confirmed e-mail address of the calling account, which must be the invited one.
    Email(InvitationId),
}

#[tonic::async_trait]
impl InvitationService for Rpc {
    async fn create_invitation(
        &self,
        request: Request<pb::CreateInvitationRequest>,
    ) -> Reply<pb::CreateInvitationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let new = NewInvitation::try_from(&call.message)?;
        let warnings = wire::warnings(new.offer.role, &new.offer.project_access);
        let emails = vec![call.message.email.clone()];
        let prepared = self.prepare(&call, wire::prepare_request(&call.message, emails)).await?;
        let create = async |tx: &mut Tx| {
            let invitation = Some(self.create(tx, &grant, new, &prepared).await?);
            Ok(pb::CreateInvitationResponse { invitation, warnings })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn batch_create_invitations(
        &self,
        request: Request<pb::BatchCreateInvitationsRequest>,
    ) -> Reply<pb::BatchCreateInvitationsResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let offer_request = wire::offer_request(&call.message);
        let offer = Offer::try_from(&offer_request)?;
        let warnings = wire::warnings(offer.role, &offer.project_access);
        let emails = &call.message.emails;
        let prepared =
            self.prepare(&call, wire::prepare_request(&offer_request, emails.clone())).await?;
        let create = async |tx: &mut Tx| {
            let mut results = vec![];
            for email in emails {
                let offer = offer.clone();
                results.push(self.create_in_batch(tx, &grant, email, offer, &prepared).await?);
            }
            Ok(pb::BatchCreateInvitationsResponse { results, warnings })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_invitation(
        &self,
        request: Request<pb::GetInvitationRequest>,
    ) -> Reply<pb::GetInvitationResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.invitation_id.parse()?;
        let invitation = store::get(&self.db, &grant, id).await?;
        let warnings = wire::warnings(invitation.role.0, &invitation.project_access.0);
        let acceptances = self.acceptances(id).await?;
        let invitation = self.messages(vec![invitation]).await?.pop();
        let invitation = invitation.map(|it| pb::Invitation { acceptances, ..it });
        reply(pb::GetInvitationResponse { invitation, warnings })
    }

    async fn list_invitations(
        &self,
        request: Request<pb::ListInvitationsRequest>,
    ) -> Reply<pb::ListInvitationsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let filter = Filter { state: message.state(), search: &message.search };
        let state = message.state().as_str_name();
        let filter_key = [message.org_id.as_str(), state, &message.search];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter_key)?;
        let rows = store::list(&self.db, &grant, &filter, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
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
            let invitation = store::lock(tx, grant.org_id(), id).await?;
            let invitation = store::update(tx, invitation.copy_link(tx.now)?).await?;
            let link = self.links.url(&invitation, LinkKind::Copied);
            Ok(pb::GetInvitationLinkResponse { link })
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
        let found = store::get(&self.db, &grant, id).await?;
        self.check_renewal(&call, &found).await?;
        let resend = async |tx: &mut Tx| {
            let invitation = Some(self.resend(tx, &found).await?);
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
        let revoker_id = Some(grant.account().user_id);
        let revoke = async |tx: &mut Tx| {
            let invitation = store::lock(tx, grant.org_id(), id).await?;
            let revoked = invitation.revoke(pb::RevokeCause::Manager, revoker_id, tx.now)?;
            let invitation = store::update(tx, revoked).await?;
            Ok(pb::RevokeInvitationResponse { invitation: Some(invitation.to_message(tx.now)) })
        };
        reply(self.db.write(&call, revoke).await?)
    }

    async fn clean_up_invitations(
        &self,
        request: Request<pb::CleanUpInvitationsRequest>,
    ) -> Reply<pb::CleanUpInvitationsResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let clean_up = async |tx: &mut Tx| {
            let count = store::clean_up(tx, grant.org_id()).await?;
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            tx.emit(wire::cleaned_up(grant.org_id(), count));
            Ok(pb::CleanUpInvitationsResponse { count })
        };
        reply(self.db.write(&call, clean_up).await?)
    }

    async fn list_my_invitations(
        &self,
        request: Request<pb::ListMyInvitationsRequest>,
    ) -> Reply<pb::ListMyInvitationsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let account = call.account()?;
        let Some(address) = email::parse(&account.email).filter(|_| account.email_verified) else {
            return reply(pb::ListMyInvitationsResponse::default());
        };
        let page = self.pager.page(&call, message.page_size, &message.page_token, &[])?;
        let rows = store::list_mine(&self.db, &address.canonical, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let invitations = rows.iter().map(Invitation::to_my_invitation).collect();
        reply(pb::ListMyInvitationsResponse { invitations, next_page_token })
    }

    async fn preview_invitation(
        &self,
        request: Request<pb::PreviewInvitationRequest>,
    ) -> Reply<pb::PreviewInvitationResponse> {
        let call = Call::of(request)?;
        let (invitation, kind) = self.find_by_link(&call, &call.message.token).await?;
        reply(invitation.to_preview(kind, self.db.now()))
    }

    async fn accept_invitation(
        &self,
        request: Request<pb::AcceptInvitationRequest>,
    ) -> Reply<pb::AcceptInvitationResponse> {
        let call = Call::of(request)?;
        let proof = match &call.message.invitation {
            Some(accept::Invitation::Token(token)) => Proof::Token(self.token(&call, token).await?),
            Some(accept::Invitation::InvitationId(id)) => Proof::Email(id.parse()?),
            None => return Err(missing_invitation().into()),
        };
        let accepted = self.accept(&call, &proof).await;
        reply(self.count_wrong_link(&call, &proof, accepted).await?)
    }

    async fn decline_invitation(
        &self,
        request: Request<pb::DeclineInvitationRequest>,
    ) -> Reply<pb::DeclineInvitationResponse> {
        let call = Call::of(request)?;
        let proof = match &call.message.invitation {
            Some(decline::Invitation::Token(token)) => {
                Proof::Token(self.token(&call, token).await?)
            }
            Some(decline::Invitation::InvitationId(id)) => Proof::Email(id.parse()?),
            None => return Err(missing_invitation().into()),
        };
        let account = self.confirmed_account(&call, &proof).await?;
        let decline = async |tx: &mut Tx| {
            let invitation = self.lock_by_proof(tx, &proof, &account).await?;
            store::update(tx, invitation.decline(&account, tx.now)?).await?;
            Ok(pb::DeclineInvitationResponse {})
        };
        let declined = self.db.write(&call, decline).await;
        reply(self.count_wrong_link(&call, &proof, declined).await?)
    }

    async fn sign_up(&self, request: Request<pb::SignUpRequest>) -> Reply<pb::SignUpResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let (invitation, kind) = self.find_by_link(&call, &message.token).await?;
        invitation.check_pending(self.db.now()).map_err(Error::from)?;
        if invitation.max_uses > 1 || kind != LinkKind::Mailed {
            return Err(Error::from(Refused::ProvesNothing).into());
        }
        let register = RegisterInvitedRequest {
            email: invitation.email.0,
            password: message.password.clone(),
            display_name: message.display_name.clone(),
            request_id: message.request_id.clone(),
        };
        let mut identity = UserServiceClient::new(self.identity.clone());
        let response = identity.register_invited(call.forward(register)).await;
        let token = response.map_err(remote("identity"))?.into_inner().token;
        reply(pb::SignUpResponse { token })
    }

    async fn describe_organization(
        &self,
        request: Request<pb::DescribeOrganizationRequest>,
    ) -> Reply<pb::DescribeOrganizationResponse> {
        let call = Call::of(request)?;
        let org_id = call.message.org_id.parse()?;
        let pending = store::count_pending(&self.db, org_id).await?;
        let pending_invitations = i32::try_from(pending).unwrap_or(i32::MAX);
        let open_ids = store::by_person::open_ids(&self.db, org_id).await?;
        let open_invitation_ids = open_ids.into_iter().map(Into::into).collect();
        reply(pb::DescribeOrganizationResponse { pending_invitations, open_invitation_ids })
    }
}

fn missing_invitation() -> Error {
    Error::invalid("token", "must be set, unless invitation_id is set")
}

fn not_found() -> Error {
    Error::NotFound(InvitationId::NOUN)
}

impl Rpc {
    /// Parses the token of a link. A malformed token is treated as unknown (IN-26).
    async fn token<M>(&self, call: &Call<M>, text: &str) -> Result<Token> {
        self.wrong_links.check(&call.origin.address)?;
        match Token::parse(Kind::Invitation, text) {
            Some(token) => Ok(token),
            None => Err(self.wrong_link(call).await),
        }
    }

    /// Counts a wrong link for the network address of the call, and returns the error.
    async fn wrong_link<M>(&self, call: &Call<M>) -> Error {
        let recorded = self.wrong_links.record_failure(&call.origin.address).await;
        recorded.err().unwrap_or_else(not_found)
    }

    /// Counts a wrong link after the transaction that did not find its invitation.
    async fn count_wrong_link<M, T>(
        &self,
        call: &Call<M>,
        proof: &Proof,
        result: Result<T>,
    ) -> Result<T> {
        match (proof, result) {
            (Proof::Token(_), Err(Error::NotFound(InvitationId::NOUN))) => {
                Err(self.wrong_link(call).await)
            }
            (_, result) => result,
        }
    }

    /// Finds the invitation of a link.
    async fn find_by_link<M>(&self, call: &Call<M>, text: &str) -> Result<(Invitation, LinkKind)> {
        let token = self.token(call, text).await?;
        let found = store::get_by_link(&self.db, token.id).await?;
        let kind = found.as_ref().and_then(|it| it.link_kind(&token));
        match found.zip(kind) {
            Some(found) => Ok(found),
            None => Err(self.wrong_link(call).await),
        }
    }

    /// Returns the calling account. If its address is not confirmed, and the proof is a link that was mailed
    /// to this address, the identity service confirms the address first: the link proves the mailbox (IN-14).
    pub(super) async fn confirmed_account<M>(
        &self,
        call: &Call<M>,
        proof: &Proof,
    ) -> Result<Account> {
        let account = call.account()?.clone();
        let Proof::Token(token) = proof else { return Ok(account) };
        if account.email_verified {
            return Ok(account);
        }
        let found = store::get_by_link(&self.db, token.id).await?;
        let is_proof = |it: &Invitation| {
            it.max_uses == 1
                && it.link_kind(token) == Some(LinkKind::Mailed)
                && email::matches_canonical(&account.email, &it.canonical_email)
                && it.check_pending(self.db.now()).is_ok()
        };
        let Some(invitation) = found.filter(is_proof) else { return Ok(account) };
        let verify = VerifyInvitedEmailRequest { email: invitation.email.0, ..Default::default() };
        let mut identity = UserServiceClient::new(self.identity.clone());
        let verified = identity.verify_invited_email(call.forward(verify)).await;
        verified.map_err(remote("identity"))?;
        Ok(Account { email_verified: true, ..account })
    }

    /// Locks the invitation that a proof is for. An invitation for somebody else is treated as unknown.
    pub(super) async fn lock_by_proof(
        &self,
        tx: &mut Tx,
        proof: &Proof,
        account: &Account,
    ) -> Result<Invitation> {
        match proof {
            Proof::Token(token) => {
                let found = store::lock_by_link(tx, token.id).await?;
                let opened = found.filter(|it| it.link_kind(token).is_some());
                opened.ok_or_else(not_found)
            }
            Proof::Email(id) => {
                let found = store::lock_by_link(tx, id.0).await?;
                let is_for_account = |it: &Invitation| {
                    it.max_uses == 1
                        && account.email_verified
                        && email::matches_canonical(&account.email, &it.canonical_email)
                };
                found.filter(is_for_account).ok_or_else(not_found)
            }
        }
    }

    /// Converts invitations to messages with the states of their mails.
    async fn messages(&self, invitations: Vec<Invitation>) -> Result<Vec<pb::Invitation>> {
        let ids: Vec<_> = invitations.iter().map(|it| it.id.0).collect();
        let mail_states = store::mail_states(&self.db, &ids).await?;
        let now = self.db.now();
        let message = |it: &Invitation| {
            let mail_state = mail_states.get(&it.id.0).copied().unwrap_or_default();
            it.to_message_with_mail(mail_state, now)
        };
        Ok(invitations.iter().map(message).collect())
    }
}
