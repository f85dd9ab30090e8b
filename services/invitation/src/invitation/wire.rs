//! Between the contract and the rules.

use api::{identity, invitation as pb};
use chassis::{Error, email, timestamp};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Access, Draft, Invitation, State};

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
        let access = |it: &identity::ProjectAccess| {
            let project_id = it.project_id.parse();
            let project_id =
                project_id.map_err(|_| Error::invalid("project_access", "must hold UUIDs"))?;
            Ok::<_, Error>(Access { project_id, role: it.role })
        };
        let days =
            if request.expires_in_days == 0 { DAYS_DEFAULT } else { request.expires_in_days };
        Ok(Self {
            address: address.ok_or_else(|| Error::invalid("email", "must be an e-mail address"))?,
            role: request.role,
            lifetime: Duration::days(days.into()),
            max_uses: request.max_uses.unwrap_or(1),
            message: request.message.clone(),
            project_access: request.project_access.iter().map(access).collect::<Result<_, _>>()?,
            team_ids: request
                .team_ids
                .iter()
                .map(|it| chassis::id::parse("team_ids", it))
                .collect::<Result<_, _>>()?,
        })
    }
}
