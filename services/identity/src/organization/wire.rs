//! Between the contract and the rules.

use api::identity as pb;
use chassis::{Error, OrgId, timestamp};
use data_encoding::BASE64URL_NOPAD;

use super::{Draft, Organization, Plan};

impl From<&Organization> for pb::Organization {
    fn from(it: &Organization) -> Self {
        Self {
            id: it.id.into(),
            name: it.name.clone(),
            slug: it.slug.clone(),
            plan: pb::Plan::from(it.plan).into(),
            owner_id: it.owner_id.into(),
            member_count: i32::try_from(it.members).unwrap_or(i32::MAX),
            member_limit: it.member_limit,
            project_count: i32::try_from(it.projects).unwrap_or(i32::MAX),
            project_limit: it.project_limit,
            create_time: Some(timestamp(it.created_at)),
            etag: it.etag(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_made_from_the_name() {
        assert_eq!(slug("Acme & Söhne GmbH"), "acme-s-hne-gmbh");
        assert!(slug(&"x y".repeat(40)).len() <= 50);
    }
}
