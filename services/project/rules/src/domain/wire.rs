//! Conversion between messages of the contract and domains.

use api::project as pb;
use chassis::timestamp;

use super::{
    Domain, State,
    proof::{Proof, ProofTargets},
};

impl From<State> for pb::DomainState {
    fn from(it: State) -> Self {
        match it {
            State::Pending => Self::Pending,
            State::Verified => Self::Verified,
        }
    }
}

impl From<Proof> for pb::DomainProof {
    fn from(it: Proof) -> Self {
        match it {
            Proof::Address => Self::Address,
            Proof::Cname => Self::Cname,
            Proof::Txt => Self::Txt,
        }
    }
}

impl From<&Domain> for pb::Domain {
    fn from(it: &Domain) -> Self {
        let verified_by = it.verified_by.map_or(pb::DomainProof::Unspecified, Into::into);
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            environment_id: it.environment_id.into(),
            hostname: it.hostname.clone(),
            state: pb::DomainState::from(it.state).into(),
            txt_name: it.txt_name(),
            txt_value: it.txt_value.clone(),
            cname_target: String::new(),
            server_address: String::new(),
            verified_by: verified_by.into(),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            verify_time: it.verified_at.map(timestamp),
            check_time: it.checked_at.map(timestamp),
            check_error: it.check_error.clone(),
        }
    }
}

/// Converts a domain with the targets of its records.
pub fn domain_with_targets(domain: &Domain, targets: &ProofTargets) -> pb::Domain {
    pb::Domain {
        cname_target: targets.cname_target.clone(),
        server_address: targets.server_address.clone(),
        ..domain.into()
    }
}
