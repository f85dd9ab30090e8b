//! Between the contract and the rules.

use api::identity as pb;
use chassis::{
    Error, timestamp,
    token::{Kind, Token},
};

use super::{ApiKey, Draft};

impl From<&ApiKey> for pb::ApiKey {
    fn from(it: &ApiKey) -> Self {
        Self {
            org_id: it.org_id.into(),
            id: it.id.to_string(),
            project_id: it.project_id.map(String::from).unwrap_or_default(),
            name: it.name.clone(),
            full: it.is_full,
            owner_id: it.owner_id.into(),
            hint: Token::hint(Kind::ApiKey, it.id),
            create_time: Some(timestamp(it.created_at)),
            expire_time: it.expires_at.map(timestamp),
            last_use_time: it.last_used_at.map(timestamp),
            revoke_time: it.revoked_at.map(timestamp),
        }
    }
}

impl TryFrom<&pb::CreateApiKeyRequest> for Draft {
    type Error = Error;

    fn try_from(it: &pb::CreateApiKeyRequest) -> Result<Self, Error> {
        let project_id = Some(&it.project_id).filter(|it| !it.is_empty());
        let project_id = project_id.map(|it| it.parse()).transpose()?;
        Ok(Self::new(&it.name, project_id, it.full, it.expires_in_days))
    }
}

impl TryFrom<&pb::CreateProjectApiKeyRequest> for Draft {
    type Error = Error;

    fn try_from(it: &pb::CreateProjectApiKeyRequest) -> Result<Self, Error> {
        Ok(Self::new(&it.name, Some(it.project_id.parse()?), it.full, it.expires_in_days))
    }
}

impl Draft {
    fn new(
        name: &str,
        project_id: Option<chassis::ProjectId>,
        is_full: bool,
        expires_in_days: i32,
    ) -> Self {
        let days = Some(expires_in_days).filter(|it| *it != 0);
        Self { name: name.trim().to_owned(), project_id, is_full, days }
    }
}
