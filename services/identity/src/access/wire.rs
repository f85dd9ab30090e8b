//! Conversions of decisions between the contract and the rules.

use std::time::Duration;

use api::{error::Reason, identity as pb};
use chassis::{Account, Error, OrgId, ProjectId, Result, access::Decision, timestamp};
use data_encoding::HEXLOWER;
use identity_rules::{
    access::{explain::Explanation, freshness::Freshness},
    policy::{self, OrgRole, Permission, ProjectRole},
    snapshot::{AccessQuery, Snapshot},
};
use prost::Message;

use super::{
    audience::{Audience, Candidates},
    reader::HolderPage,
    store::Contact,
};

/// Returns the freshness that a request requires; `call_token` is the token of the call's metadata.
pub(crate) fn freshness(
    consistency: Option<&pb::Consistency>,
    call_token: Option<&str>,
) -> Result<Freshness> {
    match consistency {
        Some(it) if !it.at_least.is_empty() => Freshness::at_least(&it.at_least),
        Some(it) if it.max_age_ms > 0 => {
            Ok(Freshness::MaxAge(Duration::from_millis(it.max_age_ms.unsigned_abs().into())))
        }
        _ => Freshness::newest(call_token),
    }
}

/// Parses a query; `field` is the field of the permission, for violations.
pub(crate) fn query(field: &str, code: &str, project_id: &str, write: bool) -> Result<AccessQuery> {
    let unknown = || {
        let description = "must be a permission that AccessService/GetPermissionMatrix lists";
        Error::invalid(field, description)
    };
    let permission = Permission::parse(code).ok_or_else(unknown)?;
    let project_id = if project_id.is_empty() { None } else { Some(project_id.parse()?) };
    Ok(AccessQuery { permission, project_id, write })
}

/// Parses the items of a batch, each with its organization.
pub(crate) fn batch_queries(items: &[pb::CheckItem]) -> Result<Vec<(OrgId, AccessQuery)>> {
    let parse = |(index, item): (usize, &pb::CheckItem)| {
        let field = format!("items[{index}].permission");
        let query = query(&field, &item.permission, &item.project_id, item.write)?;
        Ok((item.org_id.parse()?, query))
    };
    items.iter().enumerate().map(parse).collect()
}

/// Returns a digest of simulated changes, to which page tokens are bound.
pub(crate) fn digest(changes: &[pb::AccessChange]) -> String {
    let encoded: Vec<u8> =
        changes.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
    HEXLOWER.encode(&chassis::key::hash(&encoded))
}

/// Returns the response to a single check; roles are included only if the object is visible to the caller.
pub(crate) fn check_response(
    decision: Decision,
    snapshot: Option<&Snapshot>,
    account: &Account,
    query: &AccessQuery,
) -> pb::CheckResponse {
    let visible = snapshot.filter(|_| decision.visible);
    let org_role = visible.and_then(|it| it.org_role(account.user_id));
    let project_role = visible.and_then(|it| it.project_role(account.user_id, query.project_id?));
    pb::CheckResponse {
        allowed: decision.allowed,
        visible: decision.visible,
        org_role: org_role_message(org_role).into(),
        project_role: project_role_message(project_role).into(),
        reason: reason(&decision).into(),
        consistency_token: decision.token,
    }
}

/// Returns the answer to one item of a batch.
pub(crate) fn batch_answer(decision: &Decision) -> pb::CheckAnswer {
    pb::CheckAnswer {
        allowed: decision.allowed,
        visible: decision.visible,
        reason: reason(decision).into(),
    }
}

/// Returns the reason of a denial; `Unspecified` if allowed.
fn reason(decision: &Decision) -> Reason {
    match (decision.allowed, decision.visible) {
        (true, _) => Reason::Unspecified,
        (false, true) => decision.reason,
        (false, false) => Reason::NotFound,
    }
}

/// Returns a role in the organization; `Unspecified` if there is none.
pub(crate) fn org_role_message(role: Option<OrgRole>) -> pb::OrgRole {
    role.map_or(pb::OrgRole::Unspecified, Into::into)
}

/// Returns a role on a project; `Unspecified` if there is none.
pub(crate) fn project_role_message(role: Option<ProjectRole>) -> pb::ProjectRole {
    role.map_or(pb::ProjectRole::Unspecified, Into::into)
}

/// Returns the project of a list of visible projects.
pub(crate) fn project_access((project_id, role): (ProjectId, ProjectRole)) -> pb::ProjectAccess {
    pb::ProjectAccess { project_id: project_id.into(), role: pb::ProjectRole::from(role).into() }
}

/// Returns the permission matrix.
pub(crate) fn matrix() -> pb::GetPermissionMatrixResponse {
    pb::GetPermissionMatrixResponse {
        organization: policy::ORG.iter().map(Into::into).collect(),
        project: policy::PROJECT.iter().map(Into::into).collect(),
    }
}

/// Returns the response to `ListProjectHolders`.
pub(crate) fn project_holders_response(
    page: HolderPage,
    snapshot: &Snapshot,
) -> pb::ListProjectHoldersResponse {
    pb::ListProjectHoldersResponse {
        emails: page.emails,
        holders: page.holders,
        next_page_token: page.next_page_token,
        consistency_token: snapshot.token().encode(),
    }
}

/// Returns the response to `WhoCouldOn`.
pub(crate) fn past_holders_response(page: HolderPage) -> pb::WhoCouldOnResponse {
    pb::WhoCouldOnResponse {
        holders: page.holders,
        next_page_token: page.next_page_token,
        access_version: page.access_version,
    }
}

/// Returns the response to Explain.
pub(crate) fn explain_response(
    explanation: Explanation,
    snapshot: &Snapshot,
) -> pb::ExplainResponse {
    pb::ExplainResponse {
        allowed: explanation.allowed,
        explanation: explanation.text,
        path: explanation.path,
        remedies: explanation.remedies,
        access_version: snapshot.version,
        consistency_token: snapshot.token().encode(),
    }
}

impl TryFrom<&pb::ListAudienceRequest> for Candidates {
    type Error = Error;

    fn try_from(request: &pb::ListAudienceRequest) -> Result<Self, Error> {
        let user_ids = request.user_ids.iter().map(|it| it.parse());
        let user_ids = user_ids.collect::<Result<_, _>>()?;
        Ok(Self { user_ids, emails: request.emails.clone() })
    }
}

impl From<Audience> for pb::ListAudienceResponse {
    fn from(audience: Audience) -> Self {
        Self {
            org_name: audience.org_name,
            listeners: audience.permitted.iter().map(Into::into).collect(),
            barred_emails: audience.denied_emails,
            accounts: audience.candidates.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Contact> for pb::Listener {
    fn from(contact: &Contact) -> Self {
        Self {
            user_id: contact.user_id.into(),
            email: contact.email.clone(),
            display_name: contact.display_name.clone(),
        }
    }
}

/// Returns the response to Authenticate.
pub(crate) fn authenticate_response(account: &Account) -> pb::AuthenticateResponse {
    let key = account.key.as_ref().map(|scope| pb::ApiKeyScope {
        org_id: scope.org_id.into(),
        project_id: scope.project_id.map(String::from).unwrap_or_default(),
        full: scope.full,
        name: scope.name.clone(),
    });
    pb::AuthenticateResponse {
        user_id: account.user_id.into(),
        email: account.email.clone(),
        display_name: account.display_name.clone(),
        email_verified: account.email_verified,
        credential_id: account.credential_id.to_string(),
        key,
        authenticate_time: account.authenticated_at.map(timestamp),
    }
}
