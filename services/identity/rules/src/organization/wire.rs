//! Conversions of organizations between the contract and the rules.

use api::identity as pb;
use chassis::{Error, UserId, mask, timestamp};

use super::{Draft, Organization, Patch, Plan, RESTORE_PERIOD, Subscription};

/// Shortest name, in characters.
const NAME_CHARS_MIN: usize = 2;

/// Shortest slug, in bytes.
const SLUG_BYTES_MIN: usize = 3;

/// Longest slug that is derived from a name, in bytes.
const DERIVED_SLUG_BYTES_MAX: usize = 50;

impl From<&Organization> for pb::Organization {
    fn from(organization: &Organization) -> Self {
        let purge_at = organization.deleted_at.map(|it| it + RESTORE_PERIOD);
        Self {
            id: organization.id.into(),
            name: organization.name.clone(),
            slug: organization.slug.clone(),
            plan: pb::Plan::from(organization.plan).into(),
            owner_id: organization.owner_id.into(),
            member_count: i32::try_from(organization.members).unwrap_or(i32::MAX),
            member_limit: organization.limits.max("members"),
            project_count: i32::try_from(organization.projects).unwrap_or(i32::MAX),
            project_limit: organization.limits.max("projects"),
            create_time: Some(timestamp(organization.created_at)),
            etag: organization.etag(),
            subscription: pb::Subscription::from(organization.subscription).into(),
            delete_time: organization.deleted_at.map(timestamp),
            purge_time: purge_at.map(timestamp),
            revision: organization.revision,
            closing_services: organization.pending_cleanup.clone(),
        }
    }
}

impl From<Subscription> for pb::Subscription {
    fn from(subscription: Subscription) -> Self {
        match subscription {
            Subscription::Active => Self::Active,
            Subscription::Trialing => Self::Trialing,
            Subscription::PastDue => Self::PastDue,
            Subscription::Paused => Self::Paused,
            Subscription::Canceled => Self::Canceled,
            Subscription::Blocked => Self::Blocked,
        }
    }
}

impl TryFrom<pb::Subscription> for Subscription {
    type Error = Error;

    fn try_from(subscription: pb::Subscription) -> Result<Self, Error> {
        match subscription {
            pb::Subscription::Active => Ok(Self::Active),
            pb::Subscription::Trialing => Ok(Self::Trialing),
            pb::Subscription::PastDue => Ok(Self::PastDue),
            pb::Subscription::Paused => Ok(Self::Paused),
            pb::Subscription::Canceled => Ok(Self::Canceled),
            pb::Subscription::Blocked => Ok(Self::Blocked),
            pb::Subscription::Unspecified => Err(Error::invalid("subscription", "is required")),
        }
    }
}

impl TryFrom<&pb::UpdateOrganizationRequest> for Patch {
    type Error = Error;

    fn try_from(request: &pb::UpdateOrganizationRequest) -> Result<Self, Error> {
        let paths = mask::paths(request.update_mask.as_ref(), &["name", "slug"])?;
        let name = paths.contains(&"name").then(|| parse_name(&request.name)).transpose()?;
        let slug = paths.contains(&"slug").then(|| request.slug.clone());
        if slug.as_ref().is_some_and(String::is_empty) {
            return Err(Error::invalid("slug", "must not be empty"));
        }
        Ok(Self { name, slug })
    }
}

fn parse_name(text: &str) -> Result<String, Error> {
    let name = text.trim();
    if name.chars().count() < NAME_CHARS_MIN {
        return Err(Error::invalid("name", "must have at least 2 characters"));
    }
    Ok(name.to_owned())
}

impl From<Plan> for pb::Plan {
    fn from(plan: Plan) -> Self {
        match plan {
            Plan::Free => Self::Free,
            Plan::Starter => Self::Starter,
            Plan::Pro => Self::Pro,
            Plan::Agency => Self::Agency,
        }
    }
}

impl Organization {
    /// Returns the message for a reader. Only the Owner sees the state of the subscription (PL-5).
    pub fn message_for(&self, user_id: UserId) -> pb::Organization {
        let mut message = pb::Organization::from(self);
        message.set_subscription(self.subscription_for(user_id));
        message
    }

    /// Returns the state of the subscription for a reader; unspecified for others than the Owner.
    pub fn subscription_for(&self, user_id: UserId) -> pb::Subscription {
        if self.owner_id == user_id {
            self.subscription.into()
        } else {
            pb::Subscription::Unspecified
        }
    }
}

impl TryFrom<pb::Plan> for Plan {
    type Error = Error;

    fn try_from(plan: pb::Plan) -> Result<Self, Error> {
        match plan {
            pb::Plan::Free => Ok(Self::Free),
            pb::Plan::Starter => Ok(Self::Starter),
            pb::Plan::Pro => Ok(Self::Pro),
            pb::Plan::Agency => Ok(Self::Agency),
            pb::Plan::Unspecified => Err(Error::invalid("plan", "is required")),
        }
    }
}

impl TryFrom<&pb::CreateOrganizationRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateOrganizationRequest) -> Result<Self, Error> {
        let name = parse_name(&request.name)?;
        let is_slug_derived = request.slug.is_empty();
        let slug = if is_slug_derived { slugify(&name) } else { request.slug.clone() };
        Ok(Self { name, slug, is_slug_derived })
    }
}

impl From<Organization> for pb::CreateOrganizationResponse {
    fn from(organization: Organization) -> Self {
        let consistency_token = organization.token().encode();
        Self { organization: Some((&organization).into()), consistency_token }
    }
}

impl From<Organization> for pb::TransferOwnershipResponse {
    fn from(organization: Organization) -> Self {
        let consistency_token = organization.token().encode();
        Self { organization: Some((&organization).into()), consistency_token }
    }
}

impl From<Organization> for pb::RestoreOrganizationResponse {
    fn from(organization: Organization) -> Self {
        let consistency_token = organization.token().encode();
        Self { organization: Some((&organization).into()), consistency_token }
    }
}

impl From<Organization> for pb::SetSubscriptionResponse {
    fn from(organization: Organization) -> Self {
        let consistency_token = organization.token().encode();
        Self { organization: Some((&organization).into()), consistency_token }
    }
}

/// Derives a slug from a name: runs of characters other than ASCII letters and digits become one hyphen. A
/// name with too few of them, for example in another script, gets the prefix `org`.
fn slugify(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
    let mut slug = words.collect::<Vec<_>>().join("-");
    slug.truncate(DERIVED_SLUG_BYTES_MAX);
    let slug = slug.trim_end_matches('-');
    if slug.len() < SLUG_BYTES_MIN {
        return format!("org-{slug}").trim_end_matches('-').to_owned();
    }
    slug.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_derived_from_the_name() {
        assert_eq!(slugify("Acme & Söhne GmbH"), "acme-s-hne-gmbh");
        assert_eq!(slugify("测试公司"), "org");
        assert_eq!(slugify("HP"), "org-hp");
        assert!(slugify(&"x y".repeat(40)).len() <= DERIVED_SLUG_BYTES_MAX);
    }
}
