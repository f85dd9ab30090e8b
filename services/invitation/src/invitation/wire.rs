//! Between the contract and the rules.

use api::{identity, invitation as pb};
use chassis::{About, Changed, Error, OrgId, email, timestamp};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Access, Draft, Invitation, Offer, State};
use crate::link::Way;

/// A week: long enough for holidays, short enough to forget safely.
const DAYS_DEFAULT: i32 = 7;

impl State {
    pub(super) fn wire(self) -> (pb::InvitationState, pb::ExpiryReason) {
        match self {
            Self::Pending => (pb::InvitationState::Pending, pb::ExpiryReason::Unspecified),
            Self::Late => (pb::InvitationState::Expired, pb::ExpiryReason::Time),
            Self::UsedUp => (pb::InvitationState::Expired, pb::ExpiryReason::MaxUses),
            Self::Revoked => (pb::InvitationState::Revoked, pb::ExpiryReason::Unspecified),
        }
    }
}

/// How the list filters by state.
pub(super) fn state(it: pb::InvitationState) -> Option<&'static str> {
    match it {
        pb::InvitationState::Unspecified => None,
        pb::InvitationState::Pending => Some("pending"),
        pb::InvitationState::Expired => Some("expired"),
        pb::InvitationState::Revoked => Some("revoked"),
    }
}

impl Invitation {
    /// The message, with the state at this moment.
    pub(super) fn message_at(&self, now: OffsetDateTime) -> pb::Invitation {
        let (state, expiry_reason) = self.state(now).wire();
        pb::Invitation {
            id: self.id.into(),
            org_id: self.org_id.into(),
            email: self.email.0.clone(),
            role: self.role,
            state: state.into(),
            expiry_reason: expiry_reason.into(),
            max_uses: self.max_uses,
            use_count: self.use_count,
            message: self.message.clone(),
            project_access: self.project_access.0.iter().map(Into::into).collect(),
            inviter_id: self.inviter_id.into(),
            create_time: Some(timestamp(self.created_at)),
            expire_time: Some(timestamp(self.expires_at)),
            acceptances: vec![],
            team_ids: self.team_ids.iter().map(Uuid::to_string).collect(),
            revoke_cause: self.revoke_cause,
            revoke_time: self.revoked_at.map(timestamp),
            revoker_id: self.revoker_id.map(String::from).unwrap_or_default(),
            mail_state: pb::MailState::Unspecified.into(),
            last_send_time: self.mailed_at.last().copied().map(timestamp),
            send_count: self.mail_count,
        }
    }

    /// The message, with what became of its newest mail.
    pub(super) fn message_with(&self, mail: Option<&str>, now: OffsetDateTime) -> pb::Invitation {
        let mail = mail.and_then(|it| pb::MailState::from_str_name(&format!("MAIL_STATE_{it}")));
        let mail_state = mail.unwrap_or_default().into();
        pb::Invitation { mail_state, ..self.message_at(now) }
    }

    /// What an invited person sees of it in their own list.
    pub(super) fn mine(&self) -> pb::MyInvitation {
        pb::MyInvitation {
            id: self.id.into(),
            org_id: self.org_id.into(),
            org_name: self.org_name.clone(),
            inviter_name: self.inviter_name.clone(),
            role: self.role,
            message: self.message.clone(),
            expire_time: Some(timestamp(self.expires_at)),
        }
    }
}

impl From<&Access> for identity::ProjectAccess {
    fn from(it: &Access) -> Self {
        Self { project_id: it.project_id.to_string(), role: it.role }
    }
}

impl TryFrom<&pb::CreateInvitationRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateInvitationRequest) -> Result<Self, Error> {
        let address = email::parse(&request.email);
        Ok(Self {
            address: address.ok_or_else(|| Error::invalid("email", "must be an e-mail address"))?,
            offer: Offer::try_from(request)?,
        })
    }
}

impl TryFrom<&pb::CreateInvitationRequest> for Offer {
    type Error = Error;

    fn try_from(request: &pb::CreateInvitationRequest) -> Result<Self, Error> {
        let access = |it: &identity::ProjectAccess| {
            let project_id = chassis::id::parse("project_access", &it.project_id)?;
            Ok::<_, Error>(Access { project_id, role: it.role })
        };
        let days =
            if request.expires_in_days == 0 { DAYS_DEFAULT } else { request.expires_in_days };
        let team_id = |it: &String| chassis::id::parse("team_ids", it);
        Ok(Self {
            role: request.role,
            lifetime: Duration::days(days.into()),
            max_uses: request.max_uses.unwrap_or(1),
            message: request.message.clone(),
            project_access: request.project_access.iter().map(access).collect::<Result<_, _>>()?,
            team_ids: request.team_ids.iter().map(team_id).collect::<Result<_, _>>()?,
        })
    }
}

/// The offer of a batch, as one to nobody yet.
pub(super) fn offered(it: &pb::BatchCreateInvitationsRequest) -> pb::CreateInvitationRequest {
    pb::CreateInvitationRequest {
        org_id: it.org_id.clone(),
        email: String::new(),
        role: it.role,
        expires_in_days: it.expires_in_days,
        max_uses: it.max_uses,
        message: it.message.clone(),
        project_access: it.project_access.clone(),
        request_id: String::new(),
        team_ids: it.team_ids.clone(),
    }
}

impl Invitation {
    /// What whoever holds the link may know (3.3): no address, no member.
    pub(super) fn preview(&self, way: Way, now: OffsetDateTime) -> pb::PreviewInvitationResponse {
        let message = self.message_at(now);
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
            proves_address: self.max_uses == 1 && way == Way::Mailed,
            project_count: i32::try_from(self.project_access.0.len()).unwrap_or(i32::MAX),
        }
    }
}

/// Past invitations were taken out of the list.
pub(super) fn cleaned_up(org_id: OrgId, count: i32) -> Changed<()> {
    let event = pb::InvitationsCleanedUp { org_id: org_id.into(), count };
    Changed::new((), &event, About::object("organization", org_id, "").of(org_id))
}
