//! Members: accounts that belong to an organization, each with one role.

mod wire;

use api::{error::Reason, identity as pb};
use chassis::{
    Account, Changed, Code, EventTarget, Grant, OrgId, ProjectId, Refusal, TeamId, UserId,
};
use prost::{Message, Name};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    policy::{self, OrgRole, ProjectRole},
    project_access::{self, ProjectGrant},
    types::{count_i32, event_batches},
};

/// An account that belongs to an organization.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: Uuid,
    pub org_id: OrgId,
    pub user_id: UserId,
    pub email: String,
    pub display_name: String,
    pub email_verified: bool,
    pub role: OrgRole,
    /// `None` for the creator of the organization.
    pub invitation_id: Option<Uuid>,
    pub created_at: OffsetDateTime,
}

/// The terms of an accepted invitation: role, teams and projects of the new member.
pub struct Admission {
    pub role: OrgRole,
    pub invitation_id: Uuid,
    pub inviter_id: UserId,
    pub project_access: Vec<PromisedAccess>,
    pub team_ids: Vec<TeamId>,
    /// Creation time of a personal invitation; `None` for an open link.
    pub personal_since: Option<OffsetDateTime>,
}

/// A role on a project that an invitation includes.
#[derive(Clone, Copy, Debug)]
pub struct PromisedAccess {
    pub project_id: ProjectId,
    pub role: ProjectRole,
}

/// The grants, team memberships and API keys of a member, which end with the membership (ID-19).
#[derive(Debug, Default)]
pub struct MemberAssociations {
    pub grants: Vec<ProjectGrant>,
    pub team_ids: Vec<TeamId>,
    pub key_ids: Vec<Uuid>,
}

/// Reasons for which a change of a membership is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the owner's role cannot be changed; transfer ownership instead")]
    OwnerRole,
    #[error("you cannot change your own role; ask another admin")]
    SelfRole,
    #[error("you cannot assign a role above your own; ask the owner")]
    RoleAboveOwn,
    #[error("the owner cannot leave or be removed; transfer ownership first")]
    OwnerRemoval,
    #[error("you cannot remove yourself; leave the organization instead")]
    SelfRemoval,
    #[error("you are already a member of this organization; open it")]
    AlreadyMember,
    #[error("the person who invited you may no longer invite members; ask for a new invitation")]
    InviterNotAllowed,
    #[error(
        "your membership ended after this invitation was created, which revoked it; ask for a new invitation"
    )]
    MembershipEnded,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::RoleAboveOwn => Code::PermissionDenied,
            Self::AlreadyMember => Code::AlreadyExists,
            _ => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::OwnerRole => Reason::OwnerRoleImmutable,
            Self::SelfRole => Reason::SelfRoleChange,
            Self::RoleAboveOwn => Reason::RoleAboveOwn,
            Self::OwnerRemoval => Reason::OwnerCannotLeave,
            Self::SelfRemoval => Reason::SelfRemoval,
            Self::AlreadyMember => Reason::AlreadyMember,
            Self::InviterNotAllowed => Reason::InviterNotAllowed,
            Self::MembershipEnded => Reason::InvitationRevoked,
        }
    }
}

impl Admission {
    /// Refuses a personal invitation from before the account's last membership ended: what was open to the
    /// person then has ended, too, at every address of theirs (IN-29).
    pub fn require_since(
        &self,
        membership_ended_at: Option<OffsetDateTime>,
    ) -> Result<(), Refused> {
        match (self.personal_since, membership_ended_at) {
            (Some(created_at), Some(ended_at)) if created_at <= ended_at => {
                Err(Refused::MembershipEnded)
            }
            _ => Ok(()),
        }
    }
}

impl Member {
    /// Returns the membership of an organization's creator (ID-2).
    pub fn owner(org_id: OrgId, account: &Account, now: OffsetDateTime) -> Self {
        Self::new(org_id, account, OrgRole::Owner, None, now)
    }

    fn new(
        org_id: OrgId,
        account: &Account,
        role: OrgRole,
        invitation_id: Option<Uuid>,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            id: chassis::id::new(),
            org_id,
            user_id: account.user_id,
            email: account.email.clone(),
            display_name: account.display_name.clone(),
            email_verified: account.email_verified,
            role,
            invitation_id,
            created_at: now,
        }
    }

    /// Makes an invited account a member. The inviter must still be allowed to invite with that role. The
    /// plan's limit and the confirmed address are checked by [`crate::organization::Organization::admit`].
    pub fn join(
        org_id: OrgId,
        invitee: &Account,
        admission: &Admission,
        inviter: Option<&Self>,
        associations: &MemberAssociations,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        let inviter_may =
            |inviter: &Self| policy::may_invite(inviter.role) && admission.role <= inviter.role;
        if !inviter.is_some_and(inviter_may) {
            return Err(Refused::InviterNotAllowed);
        }
        let invitation_id = Some(admission.invitation_id);
        let member = Self::new(org_id, invitee, admission.role, invitation_id, now);
        let event = pb::MemberJoined {
            after: Some((&member).into()),
            grants: associations.grants.iter().map(Into::into).collect(),
            team_ids: associations.team_ids.iter().map(|it| (*it).into()).collect(),
        };
        let target = member.event_target();
        Ok(Changed::new(member, &event, target))
    }

    /// Changes the role (ID-14 to ID-16). `None` if the member has it already, which is no change (ID-17).
    pub fn change_role(
        &self,
        changer: &Self,
        role: OrgRole,
    ) -> Result<Option<Changed<Self>>, Refused> {
        if self.role == OrgRole::Owner || role == OrgRole::Owner {
            return Err(Refused::OwnerRole);
        }
        if self.user_id == changer.user_id {
            return Err(Refused::SelfRole);
        }
        if role > changer.role {
            return Err(Refused::RoleAboveOwn);
        }
        if role == self.role {
            return Ok(None);
        }
        let after = Self { role, ..self.clone() };
        let event = pb::MemberRoleChanged {
            before: Some(self.into()),
            after: Some((&after).into()),
            may_invite: policy::may_invite(role),
        };
        let target = self.event_target();
        Ok(Some(Changed::new(after, &event, target)))
    }

    /// Returns the member with another role.
    #[must_use]
    pub fn with_role(self, role: OrgRole) -> Self {
        Self { role, ..self }
    }

    /// Removes another member, with their associations (ID-18, ID-19).
    pub fn remove(
        self,
        authorization: &Grant,
        associations: &MemberAssociations,
    ) -> Result<Changed<Self>, Refused> {
        if self.role == OrgRole::Owner {
            return Err(Refused::OwnerRemoval);
        }
        if self.user_id == authorization.account().user_id {
            return Err(Refused::SelfRemoval);
        }
        let event = pb::MemberRemoved {
            before: Some((&self).into()),
            removed_grant_count: count_i32(&associations.grants),
            removed_team_count: count_i32(&associations.team_ids),
            revoked_key_count: count_i32(&associations.key_ids),
        };
        Ok(self.end(&event, associations))
    }

    /// Ends the membership by the member's own decision, together with their associations (ID-7, ID-22).
    pub fn leave(self, associations: &MemberAssociations) -> Result<Changed<Self>, Refused> {
        if self.role == OrgRole::Owner {
            return Err(Refused::OwnerRemoval);
        }
        let event = pb::MemberLeft {
            before: Some((&self).into()),
            removed_grant_count: count_i32(&associations.grants),
            removed_team_count: count_i32(&associations.team_ids),
            revoked_key_count: count_i32(&associations.key_ids),
        };
        Ok(self.end(&event, associations))
    }

    /// Returns the ended membership with its event, followed by the events that list its associations.
    fn end<E: Message + Name>(self, event: &E, associations: &MemberAssociations) -> Changed<Self> {
        let user_id = self.user_id;
        let target = self.event_target();
        let team_batches = event_batches(&associations.team_ids, |it| String::from(*it));
        let key_batches = event_batches(&associations.key_ids, Uuid::to_string);
        let teams_left =
            team_batches.map(|team_ids| pb::MemberTeamsLeft { user_id: user_id.into(), team_ids });
        let keys_revoked =
            key_batches.map(|key_ids| pb::ApiKeysRevoked { owner_id: user_id.into(), key_ids });
        Changed::new(self, event, target)
            .followed_by(project_access::removal_events(&associations.grants))
            .followed_by(teams_left)
            .followed_by(keys_revoked)
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("member", self.user_id, &self.display_name).in_org(self.org_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: OrgRole) -> Member {
        let account = Account {
            user_id: UserId::new(),
            email: "ann@example.com".to_owned(),
            display_name: "Ann".to_owned(),
            email_verified: true,
            credential_id: Uuid::nil(),
            key: None,
            authenticated_at: None,
        };
        Member::new(OrgId(Uuid::nil()), &account, role, None, OffsetDateTime::UNIX_EPOCH)
    }

    /// ID-4, ID-14, ID-15, ID-16, ID-17.
    #[test]
    fn roles_change_below_the_changer_and_never_the_owners() {
        use OrgRole::{Admin, Developer, Owner, Viewer};
        let admin = member(Admin);
        let change = |from: OrgRole, to| {
            member(from).change_role(&admin, to).map(|changed| changed.is_some())
        };

        assert_eq!(change(Developer, Viewer), Ok(true));
        assert_eq!(change(Viewer, Admin), Ok(true));
        assert_eq!(change(Admin, Viewer), Ok(true));
        assert_eq!(change(Viewer, Viewer), Ok(false));
        assert_eq!(change(Owner, Viewer), Err(Refused::OwnerRole));
        assert_eq!(change(Viewer, Owner), Err(Refused::OwnerRole));
        assert_eq!(admin.change_role(&admin, Viewer).map(|_| ()), Err(Refused::SelfRole));
        let above = member(Viewer).change_role(&member(Developer), Admin);
        assert_eq!(above.map(|_| ()), Err(Refused::RoleAboveOwn));
    }
}
