//! Conversions of sessions between the contract and the rules.

use api::identity as pb;
use chassis::timestamp;

use super::Session;

impl From<&Session> for pb::Session {
    fn from(session: &Session) -> Self {
        Self {
            id: session.id.to_string(),
            user_id: session.user_id.into(),
            create_time: Some(timestamp(session.created_at)),
            expire_time: Some(timestamp(session.expires_at)),
            last_use_time: Some(timestamp(session.last_used_at)),
            address: session.address.clone(),
            user_agent: session.user_agent.clone(),
            current: false,
            prove_time: Some(timestamp(session.proved_at)),
        }
    }
}
