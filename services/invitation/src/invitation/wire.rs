//! Conversion between the contract and invitations.

use api::{
    identity::{self, AccessWarning, OrgRole, ProjectRole},
    invitation::{self as pb, ExpiryReason, InvitationState, MailState},
};
use chassis::{Changed, Error, EventTarget, OrgId, email, timestamp};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Invitation, NewInvitation, Offer, ProjectAccess, link::LinkKind, state::State};
use crate::db_enum::DbEnum;

/// Lifetime in days of an invitation whose request has none.
const LIFETIME_DAYS_DEFAULT: i32 = 7;

impl From<State> for InvitationState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Expired | State::Exhausted => Self::Expired,
            State::Revoked => Self::Revoked,
        }
    }
}

impl From<State> for ExpiryReason {
    fn from(state: State) -> Self {
        match state {
            State::Pending | State::Revoked => Self::Unspecified,
            State::Expired => Self::Time,
            State::Exhausted => Self::MaxUses,
        }
    }
}

impl Invitation {
    /// The message, with the state at a time.
    pub(super) fn to_message(&self, now: OffsetDateTime) -> pb::Invitation {
        let state = self.state(now);
        pb::Invitation {
            id: self.id.into(),
            org_id: self.org_id.into(),
            email: self.email.0.clone(),
            role: self.role.into(),
            state: InvitationState::from(state).into(),
            expiry_reason: ExpiryReason::from(state).into(),
            max_uses: self.max_uses,
            use_count: self.use_count,
            message: self.message.clone(),
            project_access: self.project_access.0.iter().map(Into::into).collect(),
            inviter_id: self.inviter_id.into(),
            create_time: Some(timestamp(self.created_at)),
            expire_time: Some(timestamp(self.expires_at)),
            acceptances: vec![],
            team_ids: self.team_ids.iter().map(Uuid::to_string).collect(),
            revoke_cause: self.revoke_cause.into(),
            revoke_time: self.revoked_at.map(timestamp),
            revoker_id: self.revoker_id.map(String::from).unwrap_or_default(),
            mail_state: MailState::Unspecified.into(),
            last_send_time: self.mailed_at.last().copied().map(timestamp),
            send_count: self.mail_count,
        }
    }

    /// The message, with the state of the newest mail.
    pub(super) fn to_message_with_mail(
        &self,
        mail_state: MailState,
        now: OffsetDateTime,
    ) -> pb::Invitation {
        pb::Invitation { mail_state: mail_state.into(), ..self.to_message(now) }
    }

    /// The message for the invited person's own list.
    pub(super) fn to_my_invitation(&self) -> pb::MyInvitation {
        pb::MyInvitation {
            id: self.id.into(),
            org_id: self.org_id.into(),
            org_name: self.org_name.clone(),
            inviter_name: self.inviter_name.clone(),
            role: self.role.into(),
            message: self.message.clone(),
            expire_time: Some(timestamp(self.expires_at)),
        }
    }

    /// The preview for anybody who has a link: with the e-mail address masked, and without members.
    pub(super) fn to_preview(
        &self,
        kind: LinkKind,
        now: OffsetDateTime,
    ) -> pb::PreviewInvitationResponse {
        let message = self.to_message(now);
        pb::PreviewInvitationResponse {
            org_name: self.org_name.clone(),
            inviter_name: self.inviter_name.clone(),
            masked_email: email::masked(&self.canonical_email),
            role: message.role,
            state: message.state,
            expire_time: message.expire_time,
            message: message.message,
            expiry_reason: message.expiry_reason,
            revoke_cause: message.revoke_cause,
            open_link: self.max_uses > 1,
            proves_address: self.max_uses == 1 && kind == LinkKind::Mailed,
            project_count: i32::try_from(self.project_access.0.len()).unwrap_or(i32::MAX),
        }
    }
}

impl From<&ProjectAccess> for identity::ProjectAccess {
    fn from(access: &ProjectAccess) -> Self {
        Self { project_id: access.project_id.to_string(), role: access.role.into() }
    }
}

impl TryFrom<&pb::CreateInvitationRequest> for NewInvitation {
    type Error = Error;

    fn try_from(request: &pb::CreateInvitationRequest) -> Result<Self, Error> {
        let address = email::parse(&request.email).ok_or_else(invalid_email)?;
        Ok(Self { address, offer: Offer::try_from(request)? })
    }
}

/// The error of an e-mail address that cannot be parsed.
pub(super) fn invalid_email() -> Error {
    Error::invalid("email", "must be a valid e-mail address")
}

impl TryFrom<&pb::CreateInvitationRequest> for Offer {
    type Error = Error;

    fn try_from(request: &pb::CreateInvitationRequest) -> Result<Self, Error> {
        let access = |it: &identity::ProjectAccess| {
            let project_id = chassis::id::parse("project_access", &it.project_id)?;
            Ok::<_, Error>(ProjectAccess { project_id, role: DbEnum(it.role()) })
        };
        let team_id = |it: &String| chassis::id::parse("team_ids", it);
        let days = match request.expires_in_days {
            0 => LIFETIME_DAYS_DEFAULT,
            days => days,
        };
        Ok(Self {
            role: request.role(),
            lifetime: Duration::days(days.into()),
            max_uses: request.max_uses.unwrap_or(1),
            message: request.message.clone(),
            project_access: request.project_access.iter().map(access).collect::<Result<_, _>>()?,
            team_ids: request.team_ids.iter().map(team_id).collect::<Result<_, _>>()?,
        })
    }
}

/// The warnings about an offer: a Viewer of the organization has at most VIEWER on a project (ID-52).
pub(super) fn warnings(role: OrgRole, project_access: &[ProjectAccess]) -> Vec<i32> {
    let is_higher = |it: &ProjectAccess| it.role.0 > ProjectRole::Viewer;
    let is_limited = role == OrgRole::Viewer && project_access.iter().any(is_higher);
    is_limited.then(|| AccessWarning::ViewerLimit.into()).into_iter().collect()
}

/// The offer of a batch, as a request without an e-mail address.
pub(super) fn offer_request(
    batch: &pb::BatchCreateInvitationsRequest,
) -> pb::CreateInvitationRequest {
    pb::CreateInvitationRequest {
        org_id: batch.org_id.clone(),
        email: String::new(),
        role: batch.role,
        expires_in_days: batch.expires_in_days,
        max_uses: batch.max_uses,
        message: batch.message.clone(),
        project_access: batch.project_access.clone(),
        request_id: String::new(),
        team_ids: batch.team_ids.clone(),
    }
}

/// The event of a clean-up of the list.
pub(super) fn cleaned_up(org_id: OrgId, count: i32) -> Changed<()> {
    let event = pb::InvitationsCleanedUp { org_id: org_id.into(), count };
    Changed::new((), &event, EventTarget::object("organization", org_id, "").in_org(org_id))
}

/// Request to the identity service about new invitations.
pub(super) fn prepare_request(
    request: &pb::CreateInvitationRequest,
    emails: Vec<String>,
) -> identity::PrepareInvitationRequest {
    identity::PrepareInvitationRequest {
        org_id: request.org_id.clone(),
        emails,
        project_access: request.project_access.clone(),
        team_ids: request.team_ids.clone(),
    }
}
