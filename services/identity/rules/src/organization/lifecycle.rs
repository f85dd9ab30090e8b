//! State changes of an organization: update, subscription, ownership transfer, deletion, restore, purge.

use api::identity as pb;
use chassis::{Account, Changed, Error, fold};
use time::OffsetDateTime;

use super::{Organization, RESTORE_PERIOD, Refused, Subscription};
use crate::{member::Member, policy::OrgRole};

/// Changes of an organization; `None` leaves a field as it is.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub slug: Option<String>,
}

impl Organization {
    /// Changes name or slug (ID-36). `None` if nothing differs.
    pub fn update(&self, patch: Patch, etag: &str) -> Result<Option<Changed<Self>>, Refused> {
        self.require_etag(etag)?;
        let mut updated = self.clone();
        updated.name = patch.name.unwrap_or(updated.name);
        updated.slug = patch.slug.unwrap_or(updated.slug);
        if updated.name == self.name && updated.slug == self.slug {
            return Ok(None);
        }
        updated.revision += 1;
        let after = Some((&updated).into());
        let event = pb::OrganizationUpdated { before: Some(self.into()), after };
        let target = updated.event_target();
        Ok(Some(Changed::new(updated, &event, target)))
    }

    /// Sets the state of the subscription that the billing system reports. `None` if it is the same.
    pub fn set_subscription(&self, subscription: Subscription) -> Option<Changed<Self>> {
        if self.subscription == subscription {
            return None;
        }
        let updated = Self { subscription, revision: self.revision + 1, ..self.clone() };
        let after = Some((&updated).into());
        let event = pb::SubscriptionChanged { before: Some(self.into()), after };
        let target = updated.event_target();
        Some(Changed::new(updated, &event, target))
    }

    /// Refuses an irreversible change without a confirmation: the organization's name, or a recent
    /// authentication (ID-6).
    pub fn require_confirmation(
        &self,
        confirm_name: &str,
        account: &Account,
        now: OffsetDateTime,
    ) -> Result<(), Error> {
        if confirm_name.is_empty() {
            return account.require_fresh(now);
        }
        if !fold::is_exact_name(confirm_name, &self.name) {
            return Err(Refused::Confirmation.into());
        }
        Ok(())
    }

    /// Makes another member the Owner, and the Owner an Admin, in one step (ID-5).
    pub fn transfer(
        mut self,
        from: Member,
        to: Option<Member>,
        etag: &str,
    ) -> Result<Changed<(Self, Member, Member)>, Refused> {
        self.require_etag(etag)?;
        let to = to.filter(|it| it.user_id != from.user_id && it.email_verified);
        let to = to.ok_or(Refused::TransferTarget)?;
        let before = Some((&self).into());
        let from = from.with_role(OrgRole::Admin);
        let to = to.with_role(OrgRole::Owner);
        self.owner_id = to.user_id;
        self.revision += 1;
        let event = pb::OrganizationOwnershipTransferred {
            before,
            after: Some((&self).into()),
            from: Some((&from).into()),
            to: Some((&to).into()),
        };
        let target = self.event_target();
        Ok(Changed::new((self, from, to), &event, target))
    }

    /// Deletes the organization; it can be restored for a while (ID-35). Without `cascade`, refused while
    /// environments are running (ID-34).
    pub fn delete(
        mut self,
        preview: pb::DeletionPreview,
        cascade: bool,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if preview.running_environments > 0 && !cascade {
            return Err(Refused::NotEmpty(preview.running_environments));
        }
        let before = Some((&self).into());
        self.deleted_at = Some(now);
        self.subscription = Subscription::Canceled;
        self.revision += 1;
        let after = Some((&self).into());
        let event = pb::OrganizationDeleted { before, after, preview: Some(preview) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Restores a deleted organization within the restore period. The subscription stays cancelled until the
    /// billing system reports another state.
    pub fn restore(
        mut self,
        slug: Option<String>,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if self.deleted_at.is_none_or(|it| it + RESTORE_PERIOD <= now) {
            return Err(Refused::NotRestorable);
        }
        let before = Some((&self).into());
        self.deleted_at = None;
        self.slug = slug.unwrap_or(self.slug);
        self.revision += 1;
        let event = pb::OrganizationRestored { before, after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Removes a deleted organization for good.
    pub fn purge(self) -> Changed<Self> {
        let event = pb::OrganizationPurged { before: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }
}
