//! Commands that create invitations, for one address or many.

use ::mail::{NewMail, Priority};
use api::{
    identity::{PrepareInvitationRequest, member_service_client::MemberServiceClient},
    invitation::{self as pb, MailState, invitation_result::Outcome},
};
use chassis::{Call, Error, Grant, Result, Tx, email, error::remote};

use super::{
    AddressStatus, Invitation, MAIL_TEMPLATE, NewInvitation, Offer, refused, refused::Refused,
    rpc::Rpc, state::State, store, wire,
};

/// Response of the identity service about the organization and the invited addresses.
pub(super) struct Prepared {
    org_name: String,
    /// The addresses that belong to members.
    member_emails: Vec<String>,
}

impl Rpc {
    /// Queries the identity service for addresses that belong to members. Fails if the plan has no free seat,
    /// or an offered project or team does not exist.
    pub(super) async fn prepare<M: api::check::Check>(
        &self,
        call: &Call<M>,
        request: PrepareInvitationRequest,
    ) -> Result<Prepared> {
        let mut identity = MemberServiceClient::new(self.identity.clone());
        let response = identity.prepare_invitation(call.forward(request)).await;
        let response = response.map_err(remote("identity"))?.into_inner();
        Ok(Prepared { org_name: response.org_name, member_emails: response.member_emails })
    }

    /// Creates one invitation and queues its mail.
    pub(super) async fn create(
        &self,
        tx: &mut Tx,
        grant: &Grant,
        new: NewInvitation,
        prepared: &Prepared,
    ) -> Result<pb::Invitation> {
        let org_id = grant.org_id();
        // The setting 0 means no limit.
        let limit = self.invitations_per_hour_max;
        if limit > 0
            && let Some(wait) = store::rate_limit_wait(tx, org_id, limit).await?
        {
            return Err(Refused::TooMany(wait).into());
        }
        let status = AddressStatus {
            org_name: prepared.org_name.clone(),
            // The response has the addresses in the form in which they were typed.
            is_member: prepared.member_emails.contains(&new.address.typed.0),
            pending: store::lock_pending_for(tx, org_id, &new.address.canonical).await?,
        };
        let created = Invitation::create(grant, new, &status, &self.links, tx.now)?;
        let invitation = store::insert(tx, created).await?;
        invitation.enqueue_mail(tx).await?;
        Ok(invitation.to_message_with_mail(MailState::Queued, tx.now))
    }

    /// Refuses to renew an invitation whose address belongs to a member, or while the plan has no free seat.
    /// A pending invitation is not renewed.
    pub(super) async fn check_renewal<M: api::check::Check>(
        &self,
        call: &Call<M>,
        invitation: &Invitation,
    ) -> Result<()> {
        if invitation.state(self.db.now()) != State::Expired {
            return Ok(());
        }
        let request = PrepareInvitationRequest {
            org_id: invitation.org_id.into(),
            emails: vec![invitation.email.0.clone()],
            ..Default::default()
        };
        let is_member = !self.prepare(call, request).await?.member_emails.is_empty();
        if is_member { Err(Refused::AlreadyMember.into()) } else { Ok(()) }
    }

    /// Mails the link of an invitation again. One that has expired is renewed, unless its address has another
    /// pending invitation.
    pub(super) async fn resend(&self, tx: &mut Tx, found: &Invitation) -> Result<pb::Invitation> {
        let invitation = store::lock(tx, found.org_id, found.id).await?;
        if invitation.state(tx.now) == State::Expired && invitation.max_uses == 1 {
            let address = &invitation.canonical_email;
            if let Some(id) = store::lock_pending_for(tx, found.org_id, address).await? {
                return Err(Refused::Pending(id).into());
            }
        }
        let invitation = store::update(tx, invitation.resend(&self.links, tx.now)?).await?;
        invitation.enqueue_mail(tx).await?;
        Ok(invitation.to_message_with_mail(MailState::Queued, tx.now))
    }

    /// Creates the invitation of one address of a batch. A refusal changes nothing, so the batch continues,
    /// and the response has the refusal as the result of this address.
    pub(super) async fn create_in_batch(
        &self,
        tx: &mut Tx,
        grant: &Grant,
        email: &str,
        offer: Offer,
        prepared: &Prepared,
    ) -> Result<pb::InvitationResult> {
        let created = match email::parse(email) {
            Some(address) => {
                self.create(tx, grant, NewInvitation { address, offer }, prepared).await
            }
            None => Err(wire::invalid_email()),
        };
        let outcome = match created {
            Ok(invitation) => Outcome::Invitation(invitation),
            Err(error @ (Error::Refused { .. } | Error::Limited { .. } | Error::Invalid(_))) => {
                Outcome::Refusal(refused::to_message(&error))
            }
            Err(error) => return Err(error),
        };
        Ok(pb::InvitationResult { email: email.to_owned(), outcome: Some(outcome) })
    }
}

impl Invitation {
    /// Queues the mail with the link.
    async fn enqueue_mail(&self, tx: &mut Tx) -> Result<()> {
        let mail = NewMail {
            template: MAIL_TEMPLATE,
            subject_id: self.id.0,
            org_id: Some(self.org_id),
            priority: Priority::Link,
            due_at: tx.now,
        };
        ::mail::enqueue_new(tx, mail).await
    }
}
