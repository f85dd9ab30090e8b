//! What becomes of an organization: other names, another owner, its end, its return.

use api::identity as pb;
use chassis::{Account, Changed, Error};
use time::OffsetDateTime;

use super::{Organization, RESTORABLE, Refused, Subscription};
use crate::{member::Member, policy::OrgRole};

/// What changes of an organization.
#[derive(Default)]
pub(crate) struct Patch {
    pub(crate) name: Option<String>,
    pub(crate) slug: Option<String>,
}

impl Organization {
    /// Another name or slug (ID-36). `None`: everything is so already.
    pub(crate) fn update(
        &self,
        patch: Patch,
        etag: &str,
    ) -> Result<Option<Changed<Self>>, Refused> {
        self.current(etag)?;
        let mut it = self.clone();
        it.name = patch.name.unwrap_or(it.name);
        it.slug = patch.slug.unwrap_or(it.slug);
        if (&it.name, &it.slug) == (&self.name, &self.slug) {
            return Ok(None);
        }
        it.revision += 1;
        let after = Some((&it).into());
        let event = pb::OrganizationUpdated { before: Some(self.into()), after };
        let about = it.about();
        Ok(Some(Changed::new(it, &event, about)))
    }

    /// What the billing system says. `None`: it is so already.
    pub(crate) fn subscribe(&self, subscription: Subscription) -> Option<Changed<Self>> {
        if self.subscription == subscription {
            return None;
        }
        let it = Self { subscription, revision: self.revision + 1, ..self.clone() };
        let (before, after) = (Some(self.into()), Some((&it).into()));
        let event = pb::SubscriptionChanged { before, after };
        let about = it.about();
        Some(Changed::new(it, &event, about))
    }

    /// ID-6: what cannot be undone takes a fresh proof of who asks, or the typed name.
    pub(crate) fn confirmed(
        &self,
        typed: &str,
        by: &Account,
        now: OffsetDateTime,
    ) -> Result<(), Error> {
        match typed {
            "" => by.require_fresh(now),
            typed if typed == self.name => Ok(()),
            _ => Err(Refused::Confirmation.into()),
        }
    }

    /// Another member becomes the Owner and the Owner an Admin, in one step (ID-5).
    pub(crate) fn transfer(
        mut self,
        from: Member,
        to: Option<Member>,
        etag: &str,
    ) -> Result<Changed<(Self, Member, Member)>, Refused> {
        self.current(etag)?;
        let to = to.filter(|it| it.user_id != from.user_id && it.email_verified);
        let to = to.ok_or(Refused::TransferTarget)?;
        let before = Some((&self).into());
        let (from, to) = (from.with(OrgRole::Admin), to.with(OrgRole::Owner));
        self.owner_id = to.user_id;
        self.revision += 1;
        let event = pb::OwnershipTransferred {
            before,
            after: Some((&self).into()),
            from: Some((&from).into()),
            to: Some((&to).into()),
        };
        let about = self.about();
        Ok(Changed::new((self, from, to), &event, about))
    }

    /// The end, for a while (ID-35). `cascade` takes what runs along (ID-34).
    pub(crate) fn delete(
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
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// The return, in time. Its subscription stays cancelled until the billing system says otherwise.
    pub(crate) fn restore(
        mut self,
        slug: Option<String>,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if self.deleted_at.is_none_or(|it| it + RESTORABLE <= now) {
            return Err(Refused::NotRestorable);
        }
        let before = Some((&self).into());
        self.deleted_at = None;
        self.slug = slug.unwrap_or(self.slug);
        self.revision += 1;
        let event = pb::OrganizationRestored { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// The end, for good.
    pub(crate) fn purge(self) -> Changed<Self> {
        let event = pb::OrganizationPurged { before: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }
}
