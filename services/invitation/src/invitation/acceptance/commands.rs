//! Commands of acceptances.

use std::time::{Duration, Instant};

use api::{
    identity::{
        AdmitMemberRequest, AdmitMemberResponse, member_service_client::MemberServiceClient,
    },
    invitation::{self as pb, AcceptInvitationRequest, AcceptInvitationResponse},
};
use chassis::{Account, Call, Code, Error, Result, Tx, error::remote, timestamp};
use uuid::Uuid;

use super::{Acceptance, Reservation, store};
use crate::invitation::{
    Invitation, InvitationId,
    rpc::{Proof, Rpc},
};

/// Longest wait for a use that an acceptance of another account holds.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest pause between two attempts to reserve a use: other processes release uses, too.
const RESERVE_INTERVAL: Duration = Duration::from_millis(100);

impl Rpc {
    /// Accepts an invitation for the calling account.
    pub(in crate::invitation) async fn accept(
        &self,
        call: &Call<AcceptInvitationRequest>,
        proof: &Proof,
    ) -> Result<AcceptInvitationResponse> {
        if let Some(response) = self.stored_response(call).await? {
            return Ok(response);
        }
        let attempt_id = attempt_id(&call.message.request_id)?;
        let account = self.confirmed_account(call, proof).await?;
        let invitation = match self.reserve(proof, &account, attempt_id).await {
            Ok(invitation) => invitation,
            // A concurrent call with the same `request_id` may have succeeded: its response counts.
            Err(error) => return self.stored_response(call).await?.ok_or(error),
        };
        let invitation_id = invitation.id;
        let user_id = call.account()?.user_id;
        let reservation = Reservation { invitation_id, user_id, attempt_id };
        let response = match self.admit(call, &invitation).await {
            Ok(AdmitMemberResponse { member, consistency_token }) => {
                AcceptInvitationResponse { member, consistency_token }
            }
            Err(error) => {
                if is_final(&error) {
                    self.release(reservation).await;
                }
                return Err(error);
            }
        };
        let confirm = async |tx: &mut Tx| {
            super::confirm(tx, reservation).await?;
            Ok(response)
        };
        self.db.write(call, confirm).await
    }

    /// The acceptances of an invitation, oldest first.
    pub(in crate::invitation) async fn acceptances(
        &self,
        invitation_id: InvitationId,
    ) -> Result<Vec<pb::Acceptance>> {
        let acceptances = store::list(&self.db, invitation_id).await?;
        let message = |it: Acceptance| pb::Acceptance {
            user_id: it.user_id.into(),
            accept_time: Some(timestamp(it.accepted_at)),
        };
        Ok(acceptances.into_iter().map(message).collect())
    }

    /// The response of an earlier call with the same `request_id`. Fails if that call was another request.
    async fn stored_response(
        &self,
        call: &Call<AcceptInvitationRequest>,
    ) -> Result<Option<AcceptInvitationResponse>> {
        if call.message.request_id.is_empty() {
            return Ok(None);
        }
        let mut is_first_call = false;
        // Runs only without a stored response; the error rolls back.
        let record_first_call = async |_: &mut Tx| {
            is_first_call = true;
            Err(Error::conflict("no call with this request_id has succeeded"))
        };
        match self.db.write(call, record_first_call).await {
            Err(_) if is_first_call => Ok(None),
            result => result.map(Some),
        }
    }

    /// Reserves a use of the invitation. While reservations of other accounts hold all remaining uses, waits
    /// up to [`RESERVE_TIMEOUT`], because they are released if these accounts are refused.
    async fn reserve(
        &self,
        proof: &Proof,
        account: &Account,
        attempt_id: Uuid,
    ) -> Result<Invitation> {
        let started = Instant::now();
        loop {
            let released = self.db.next_commit();
            let reserve = async |tx: &mut Tx| {
                let invitation = self.lock_by_proof(tx, proof, account).await?;
                let reserved = try_reserve(tx, &invitation, account, attempt_id).await?;
                Ok(reserved.then_some(invitation))
            };
            if let Some(invitation) = self.db.write_as_system("acceptance", reserve).await? {
                return Ok(invitation);
            }
            if started.elapsed() >= RESERVE_TIMEOUT {
                let message = "other people are accepting the last uses of this invitation; retry";
                return Err(Error::conflict(message));
            }
            let _ = tokio::time::timeout(RESERVE_INTERVAL, released).await;
        }
    }

    /// Has the identity service make the calling account a member, which also takes a seat of the plan.
    async fn admit(
        &self,
        call: &Call<AcceptInvitationRequest>,
        invitation: &Invitation,
    ) -> Result<AdmitMemberResponse> {
        let request = AdmitMemberRequest {
            org_id: invitation.org_id.into(),
            role: invitation.role.into(),
            invitation_id: invitation.id.into(),
            inviter_id: invitation.inviter_id.into(),
            project_access: invitation.project_access.0.iter().map(Into::into).collect(),
            team_ids: invitation.team_ids.iter().map(Uuid::to_string).collect(),
            personal_since: (invitation.max_uses == 1).then(|| timestamp(invitation.created_at)),
        };
        let mut identity = MemberServiceClient::new(self.identity.clone());
        let response = identity.admit_member(call.forward(request)).await;
        Ok(response.map_err(remote("identity"))?.into_inner())
    }

    /// Releases the reservation of a refused acceptance. If that fails, the cleanup releases it later.
    async fn release(&self, reservation: Reservation) {
        let release = async |tx: &mut Tx| store::release(tx, reservation).await;
        if let Err(error) = self.db.write_as_system("acceptance", release).await {
            let InvitationId(invitation_id) = reservation.invitation_id;
            tracing::warn!(%invitation_id, %error, "a reservation is released by the cleanup only");
        }
    }
}

/// Reserves a use for an account that may accept. Returns false while other accounts hold all remaining uses.
async fn try_reserve(
    tx: &mut Tx,
    invitation: &Invitation,
    account: &Account,
    attempt_id: Uuid,
) -> Result<bool> {
    let user_id = account.user_id;
    let already_accepted = store::find(tx, invitation.id, user_id).await?.is_some();
    invitation.check_acceptable(account, already_accepted, tx.now)?;
    let held_by_others = store::count_others(tx, invitation.id, user_id).await?;
    if i64::from(invitation.use_count) + held_by_others >= i64::from(invitation.max_uses) {
        return Ok(false);
    }
    store::reserve(tx, Reservation { invitation_id: invitation.id, user_id, attempt_id }).await?;
    Ok(true)
}

/// The id of an attempt: the request id, if there is one.
fn attempt_id(request_id: &str) -> Result<Uuid> {
    if request_id.is_empty() {
        return Ok(chassis::id::new());
    }
    chassis::id::parse("request_id", request_id)
}

/// True if the identity service refused, so that the account is not a member by this attempt. After any other
/// error the account may have become a member.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Remote(status) => ![
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Cancelled,
            Code::Internal,
            Code::Unknown,
            Code::DataLoss,
        ]
        .contains(&status.code()),
        _ => false,
    }
}
