//! Members: the accounts of an organization, each with one role.

pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod wire;

use api::{error::Reason, identity as pb};
use chassis::{About, Account, Changed, Code, Error, Grant, OrgId, ProjectId, Refusal, UserId};
use prost::{Message, Name};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    organization::{self, Organization},
    policy::{self, OrgRole, ProjectRole},
    project_access::{self, ProjectGrant},
    team::TeamId,
};

/// An account in an organization.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: Uuid,
    pub(crate) org_id: OrgId,
    pub(crate) user_id: UserId,
    pub(crate) email: String,
    pub(crate) display_name: String,
    pub(crate) email_verified: bool,
    pub(crate) role: OrgRole,
    pub(crate) invitation_id: Option<Uuid>,
    pub(crate) created_at: OffsetDateTime,
}

/// What an invitation promises to whoever accepts it.
pub(crate) struct Admission {
    pub(crate) role: OrgRole,
    pub(crate) invitation_id: Uuid,
    pub(crate) inviter_id: UserId,
    pub(crate) project_access: Vec<(ProjectId, ProjectRole)>,
    pub(crate) team_ids: Vec<TeamId>,
}

/// What goes with a membership (ID-19).
#[derive(Debug, Default)]
pub(crate) struct Belongings {
    pub(crate) grants: Vec<ProjectGrant>,
    pub(crate) team_ids: Vec<TeamId>,
    pub(crate) key_ids: Vec<Uuid>,
}

/// Why a membership does not change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the owner's role cannot be changed; transfer ownership instead")]
    OwnerRole,
    #[error("nobody changes their own role; ask another admin")]
    SelfRole,
    #[error("you cannot give a role above your own")]
    RoleAboveOwn,
    #[error("the owner cannot leave or be removed; transfer ownership first")]
    OwnerRemoval,
    #[error("nobody removes themselves; leave the organization instead")]
    SelfRemoval,
    #[error("you are a member of this organization already; just open it")]
    AlreadyMember,
    #[error("the person who invited may no longer invite; ask for a new invitation")]
    InviterNotAllowed,
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
        }
    }
}

impl Member {
    /// Whoever creates an organization (ID-2).
    pub(crate) fn owner(org_id: OrgId, account: &Account, now: OffsetDateTime) -> Self {
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

    /// A guest becomes a member if there is a seat (ID-12), if they are who they say, and if the inviter
    /// may invite at this moment (N-07). `grants` are those for projects that still exist (IN-15).
    pub(crate) fn admit(
        organization: &Organization,
        guest: &Account,
        admission: &Admission,
        inviter: Option<&Self>,
        with: &Belongings,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Error> {
        if !guest.email_verified {
            return Err(organization::Refused::EmailNotVerified.into());
        }
        if !inviter.is_some_and(|it| policy::may_invite(it.role) && admission.role <= it.role) {
            return Err(Refused::InviterNotAllowed.into());
        }
        organization.seat()?;
        let it =
            Self::new(organization.id, guest, admission.role, Some(admission.invitation_id), now);
        let grants = with.grants.iter().map(Into::into).collect();
        let team_ids = with.team_ids.iter().map(|it| (*it).into()).collect();
        let event = pb::MemberJoined { after: Some((&it).into()), grants, team_ids };
        let about = it.about();
        Ok(Changed::new(it, &event, about))
    }

    /// ID-14 to ID-16. `None`: they have that role already, and nothing happens (ID-17).
    pub(crate) fn change_role(
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
        let about = self.about();
        Ok(Some(Changed::new(after, &event, about)))
    }

    /// The same member with another role.
    pub(crate) fn with(self, role: OrgRole) -> Self {
        Self { role, ..self }
    }

    /// ID-18, ID-19: a member goes together with what they have here.
    pub(crate) fn remove(self, grant: &Grant, lost: &Belongings) -> Result<Changed<Self>, Refused> {
        if self.role == OrgRole::Owner {
            return Err(Refused::OwnerRemoval);
        }
        if self.user_id == grant.account().user_id {
            return Err(Refused::SelfRemoval);
        }
        let event = pb::MemberRemoved {
            before: Some((&self).into()),
            removed_grant_count: count(&lost.grants),
            removed_team_count: count(&lost.team_ids),
            revoked_key_count: count(&lost.key_ids),
        };
        Ok(self.gone(&event, lost))
    }

    /// ID-7, ID-22: a member goes by themselves, with the same consequences.
    pub(crate) fn leave(self, lost: &Belongings) -> Result<Changed<Self>, Refused> {
        if self.role == OrgRole::Owner {
            return Err(Refused::OwnerRemoval);
        }
        let event = pb::MemberLeft {
            before: Some((&self).into()),
            removed_grant_count: count(&lost.grants),
            removed_team_count: count(&lost.team_ids),
            revoked_key_count: count(&lost.key_ids),
        };
        Ok(self.gone(&event, lost))
    }

    /// The end of a membership, with the events that list what went with it.
    fn gone<E: Message + Name>(self, event: &E, lost: &Belongings) -> Changed<Self> {
        let (user_id, about) = (self.user_id, self.about());
        let left = parts(&lost.team_ids, |it| String::from(*it));
        let revoked = parts(&lost.key_ids, Uuid::to_string);
        Changed::new(self, event, about)
            .followed_by(project_access::removed(&lost.grants))
            .followed_by(left.map(|team_ids| pb::TeamsLeft { user_id: user_id.into(), team_ids }))
            .followed_by(
                revoked.map(|key_ids| pb::ApiKeysRevoked { owner_id: user_id.into(), key_ids }),
            )
    }

    fn about(&self) -> About {
        About::object("member", self.user_id, &self.display_name).of(self.org_id)
    }
}

/// How many ids an event lists at most.
const IDS_MAX: usize = 500;

/// A list, cut into what one event lists.
pub(crate) fn parts<T>(
    all: &[T],
    id: impl Fn(&T) -> String + Copy,
) -> impl Iterator<Item = Vec<String>> {
    all.chunks(IDS_MAX).map(move |part| part.iter().map(id).collect())
}

/// The length of a list, as the contract counts.
pub(crate) fn count<T>(all: &[T]) -> i32 {
    i32::try_from(all.len()).unwrap_or(i32::MAX)
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
        let to =
            |from: OrgRole, role| member(from).change_role(&admin, role).map(|it| it.is_some());

        assert_eq!(to(Developer, Viewer), Ok(true));
        assert_eq!(to(Viewer, Admin), Ok(true));
        assert_eq!(to(Admin, Viewer), Ok(true));
        assert_eq!(to(Viewer, Viewer), Ok(false));
        assert_eq!(to(Owner, Viewer), Err(Refused::OwnerRole));
        assert_eq!(to(Viewer, Owner), Err(Refused::OwnerRole));
        assert_eq!(admin.change_role(&admin, Viewer).map(|_| ()), Err(Refused::SelfRole));
        let above = member(Viewer).change_role(&member(Developer), Admin);
        assert_eq!(above.map(|_| ()), Err(Refused::RoleAboveOwn));
    }
}
