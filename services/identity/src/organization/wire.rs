//! Between the contract and the rules.

use api::identity as pb;
use chassis::{Error, OrgId, mask, timestamp};
use data_encoding::BASE64URL_NOPAD;

use super::{Draft, Organization, Patch, Plan, RESTORABLE, Subscription};

impl From<&Organization> for pb::Organization {
    fn from(it: &Organization) -> Self {
        Self {
            id: it.id.into(),
            name: it.name.clone(),
            slug: it.slug.clone(),
            plan: pb::Plan::from(it.plan).into(),
            owner_id: it.owner_id.into(),
            member_count: i32::try_from(it.members).unwrap_or(i32::MAX),
            member_limit: it.limits.of("members"),
            project_count: i32::try_from(it.projects).unwrap_or(i32::MAX),
            project_limit: it.limits.of("projects"),
            create_time: Some(timestamp(it.created_at)),
            etag: it.etag(),
            subscription: pb::Subscription::from(it.subscription).into(),
            delete_time: it.deleted_at.map(timestamp),
            purge_time: it.deleted_at.map(|it| timestamp(it + RESTORABLE)),
            revision: it.revision,
            closing_services: it.closing.clone(),
        }
    }
}

impl From<Subscription> for pb::Subscription {
    fn from(it: Subscription) -> Self {
        match it {
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

    fn try_from(it: pb::Subscription) -> Result<Self, Error> {
        match it {
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

    fn try_from(it: &pb::UpdateOrganizationRequest) -> Result<Self, Error> {
        let paths = mask::paths(it.update_mask.as_ref(), &["name", "slug"])?;
        let name = paths.contains(&"name").then(|| it.name.trim().to_owned());
        let slug = paths.contains(&"slug").then(|| it.slug.clone());
        if name.as_ref().is_some_and(|it| it.chars().count() < 2) {
            return Err(Error::invalid("name", "must have at least 2 characters"));
        }
        if slug.as_ref().is_some_and(String::is_empty) {
            return Err(Error::invalid("slug", "must not be empty"));
        }
        Ok(Self { name, slug })
    }
}

impl From<Plan> for pb::Plan {
    fn from(it: Plan) -> Self {
        match it {
            Plan::Free => Self::Free,
            Plan::Starter => Self::Starter,
            Plan::Pro => Self::Pro,
            Plan::Agency => Self::Agency,
        }
    }
}

impl TryFrom<pb::Plan> for Plan {
    type Error = Error;

    fn try_from(it: pb::Plan) -> Result<Self, Error> {
        match it {
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
        let name = request.name.trim().to_owned();
        let slug = if request.slug.is_empty() { slug(&name) } else { request.slug.clone() };
        if slug.len() < 3 {
            return Err(Error::invalid("slug", "cannot be made from this name; give one"));
        }
        Ok(Self { name, slug })
    }
}

/// A slug from a name: what is no letter or digit becomes a hyphen.
fn slug(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
    let mut slug = words.collect::<Vec<_>>().join("-");
    slug.truncate(50);
    slug.trim_end_matches('-').to_owned()
}

/// The state of an organization's access, for callers that want to be sure that a check knows of it.
pub(crate) fn consistency_token(org_id: OrgId, access_version: i64) -> String {
    BASE64URL_NOPAD
        .encode(&[org_id.0.as_bytes().as_slice(), &access_version.to_be_bytes()].concat())
}

/// The organization and the version of a consistency token; `None` if it is none.
pub(crate) fn parse_consistency_token(token: &str) -> Option<(OrgId, i64)> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    let (org_id, version) = bytes.split_at_checked(16)?;
    let org_id = OrgId(uuid::Uuid::from_slice(org_id).ok()?);
    Some((org_id, i64::from_be_bytes(version.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consistency_token_is_read_as_it_was_written() {
        let org_id = OrgId(uuid::Uuid::from_u128(7));
        let token = consistency_token(org_id, 300);
        assert_eq!(parse_consistency_token(&token), Some((org_id, 300)));
        assert_eq!(parse_consistency_token("AAAA"), None);
        assert_eq!(parse_consistency_token("é"), None);
    }

    #[test]
    fn a_slug_is_made_from_the_name() {
        assert_eq!(slug("Acme & Söhne GmbH"), "acme-s-hne-gmbh");
        assert!(slug(&"x y".repeat(40)).len() <= 50);
    }
}
