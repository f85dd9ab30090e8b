//! Commands that create invitations, for one address or many.

use api::{
    identity::{PrepareInvitationRequest, member_service_client::MemberServiceClient},
    invitation::{self as pb, MailState, invitation_result::Outcome},
};
use chassis::{Call, Error, Grant, Result, Tx, email, error::remote};

use super::{
    AddressStatus, Invitation, MAIL_TEMPLATE, NewInvitation, Offer, refused, refused::Refused,
    rpc::Rpc, store, wire,
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
        ::mail::enqueue(tx, MAIL_TEMPLATE, invitation.id.0).await?;
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
