//! Conversions of created API keys to the contract.

use api::identity as pb;

use super::commands::CreatedKey;

impl From<CreatedKey> for pb::CreateApiKeyResponse {
    fn from(created: CreatedKey) -> Self {
        Self { api_key: Some((&created.key).into()), token: created.token }
    }
}

impl From<CreatedKey> for pb::CreateProjectApiKeyResponse {
    fn from(created: CreatedKey) -> Self {
        Self { api_key: Some((&created.key).into()), token: created.token }
    }
}
