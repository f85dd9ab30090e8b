//! Conversions of API keys between the contract and the rules.

use api::identity as pb;
use chassis::{
    Error, ProjectId, timestamp,
    token::{Kind, Token},
};

use super::{ApiKey, Draft};

impl From<&ApiKey> for pb::ApiKey {
    fn from(key: &ApiKey) -> Self {
        Self {
            org_id: key.org_id.into(),
            id: key.id.to_string(),
            project_id: key.project_id.map(String::from).unwrap_or_default(),
            name: key.name.clone(),
            full: key.is_full,
            owner_id: key.owner_id.into(),
            hint: Token::hint(Kind::ApiKey, key.id),
            create_time: Some(timestamp(key.created_at)),
            expire_time: key.expires_at.map(timestamp),
            last_use_time: key.last_used_at.map(timestamp),
            revoke_time: key.revoked_at.map(timestamp),
        }
    }
}

impl TryFrom<&pb::CreateApiKeyRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateApiKeyRequest) -> Result<Self, Error> {
        let project_id = Some(&request.project_id).filter(|it| !it.is_empty());
        let project_id = project_id.map(|it| it.parse()).transpose()?;
        Ok(draft(&request.name, project_id, request.full, request.expires_in_days))
    }
}

impl TryFrom<&pb::CreateProjectApiKeyRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateProjectApiKeyRequest) -> Result<Self, Error> {
        let project_id = request.project_id.parse()?;
        Ok(draft(&request.name, Some(project_id), request.full, request.expires_in_days))
    }
}

/// Returns a draft; 0 days mean that the key does not expire.
fn draft(name: &str, project_id: Option<ProjectId>, is_full: bool, days: i32) -> Draft {
    let lifetime_days = Some(days).filter(|it| *it != 0);
    Draft { name: name.trim().to_owned(), project_id, is_full, lifetime_days }
}
