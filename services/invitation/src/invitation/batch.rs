//! Inviting: one address, or many at once, each answered by itself.

use api::{
    identity::{PrepareInvitationRequest, member_service_client::MemberServiceClient},
    invitation::{self as pb, invitation_result::Outcome},
};
use chassis::{Call, Error, Grant, Result, Tx, email, error::remote};

use super::{Draft, Invitation, MAIL, Offer, Refused, Standing, rpc::Rpc, store};

/// What identity says about the addresses.
pub(super) struct Prepared {
    org_name: String,
    members: Vec<String>,
}

impl Rpc {
    /// Asks identity whether there is room, whether what is offered exists, and which of the addresses are a
    /// member's.
    pub(super) async fn prepare<M: api::check::Check>(
        &self,
        call: &Call<M>,
        offered: &pb::CreateInvitationRequest,
        emails: Vec<String>,
    ) -> Result<Prepared> {
        let question = PrepareInvitationRequest {
            org_id: offered.org_id.clone(),
            emails,
            project_access: offered.project_access.clone(),
            team_ids: offered.team_ids.clone(),
        };
        let mut identity = MemberServiceClient::new(self.identity.clone());
        let answer = identity.prepare_invitation(call.forward(question)).await;
        let it = answer.map_err(remote("identity"))?.into_inner();
        Ok(Prepared { org_name: it.org_name, members: it.member_emails })
    }

    /// Invites one address.
    pub(super) async fn invite(
        &self,
        tx: &mut Tx,
        grant: &Grant,
        draft: Draft,
        prepared: &Prepared,
    ) -> Result<pb::Invitation> {
        if self.invitations_max > 0
            && let Some(wait) = store::wait(tx, grant.org_id(), self.invitations_max).await?
        {
            return Err(Refused::TooMany(wait).into());
        }
        let standing = Standing {
            org_name: prepared.org_name.clone(),
            member: prepared.members.contains(&draft.address.typed.0),
            pending: store::pending_for(tx, grant.org_id(), &draft.address.canonical).await?,
        };
        let created = Invitation::create(grant, draft, &standing, &self.links, tx.now)?;
        let it = store::insert(tx, created).await?;
        tx.mail(MAIL, it.id.0).await?;
        Ok(it.message_with(Some("QUEUED"), tx.now))
    }

    /// Invites one address among many. A refusal changes nothing, so the others go on.
    pub(super) async fn invite_each(
        &self,
        tx: &mut Tx,
        grant: &Grant,
        (email, offer): (&str, Offer),
        prepared: &Prepared,
    ) -> Result<pb::InvitationResult> {
        let invited = match email::parse(email) {
            Some(address) => self.invite(tx, grant, Draft { address, offer }, prepared).await,
            None => Err(Error::invalid("email", "must be an e-mail address")),
        };
        let outcome = match invited {
            Ok(it) => Outcome::Invitation(it),
            Err(error @ (Error::Refused { .. } | Error::Limited { .. } | Error::Invalid(_))) => {
                Outcome::Refusal(Refused::told(&error))
            }
            Err(error) => return Err(error),
        };
        Ok(pb::InvitationResult { email: email.to_owned(), outcome: Some(outcome) })
    }
}
