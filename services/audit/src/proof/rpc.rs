//! gRPC surface of `LogService`: checkpoints, proofs and verifier keys.

use std::sync::Arc;

use api::audit::{self as pb, log_service_server::LogService};
use chassis::{Access, Call, Db, Error, Reply, reply, timestamp};
use tonic::Request;
use verifier::witness::WitnessPolicy;

use super::{
    not_yet_signed,
    prove::{EntryProof, Prover},
    store,
};
use crate::{
    db_int::to_db_int, integrity::guard::LogGuard, leaf_codec::LeafCodec, note::CheckpointSigner,
    tree::SUITE_TREE,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) guard: LogGuard,
    pub(crate) signer: Arc<CheckpointSigner>,
    pub(crate) codec: Arc<LeafCodec>,
    /// Witnesses whose cosignatures published checkpoints have.
    pub(crate) policy: Option<Arc<WitnessPolicy>>,
}

impl Rpc {
    fn prover(&self) -> Prover<'_> {
        Prover { db: &self.db, guard: &self.guard }
    }
}

#[tonic::async_trait]
impl LogService for Rpc {
    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Reply<pb::GetCheckpointResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let Some(signed) = self.prover().signed_tree(grant.org_id()).await? else {
            return reply(pb::GetCheckpointResponse::default());
        };
        reply(pb::GetCheckpointResponse {
            suite: self.prover().suite(&signed).await?,
            checkpoint: signed.note,
            sign_time: signed.signed_at.map(timestamp),
        })
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<pb::GetInclusionProofRequest>,
    ) -> Reply<pb::GetInclusionProofResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let event_id = chassis::id::parse("event_id", &call.message.event_id)?;
        let proof = self.prover().entry(&self.codec, grant.org_id(), event_id).await?;
        let EntryProof { index, leaf, hashes, checkpoint, keys, suite } = proof;
        reply(pb::GetInclusionProofResponse { index, leaf, hashes, checkpoint, keys, suite })
    }

    async fn get_receipt(
        &self,
        request: Request<pb::GetReceiptRequest>,
    ) -> Reply<pb::GetReceiptResponse> {
        let call = Call::of(request)?;
        let event_id = chassis::id::parse("event_id", &call.message.event_id)?;
        let actor_id = call.account()?.user_id.to_string();
        let org_id = store::org_of_event(&self.db, event_id, &actor_id).await?;
        let org_id = org_id.ok_or(Error::NotFound("entry"))?;
        let proof = self.prover().entry(&self.codec, org_id, event_id).await?;
        let EntryProof { index, leaf, hashes, checkpoint, keys, suite } = proof;
        reply(pb::GetReceiptResponse { index, leaf, hashes, checkpoint, keys, suite })
    }

    async fn get_consistency_proof(
        &self,
        request: Request<pb::GetConsistencyProofRequest>,
    ) -> Reply<pb::GetConsistencyProofResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let signed = self.prover().signed_tree(grant.org_id()).await?;
        let signed = signed.ok_or_else(not_yet_signed)?;
        let proof = self.prover().consistency(&signed, message.from_size, message.to_size).await?;
        reply(pb::GetConsistencyProofResponse {
            from_size: message.from_size,
            to_size: to_db_int(proof.to_size)?,
            hashes: proof.hashes,
        })
    }

    async fn get_suite_checkpoint(
        &self,
        request: Request<pb::GetSuiteCheckpointRequest>,
    ) -> Reply<pb::GetSuiteCheckpointResponse> {
        Call::of(request)?;
        let Some(signed) = self.prover().signed_tree(SUITE_TREE).await? else {
            return reply(pb::GetSuiteCheckpointResponse::default());
        };
        reply(pb::GetSuiteCheckpointResponse {
            checkpoint: signed.note,
            sign_time: signed.signed_at.map(timestamp),
        })
    }

    async fn get_suite_consistency_proof(
        &self,
        request: Request<pb::GetSuiteConsistencyProofRequest>,
    ) -> Reply<pb::GetSuiteConsistencyProofResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let signed = self.prover().signed_tree(SUITE_TREE).await?;
        let signed = signed.ok_or_else(not_yet_signed)?;
        let proof = self.prover().consistency(&signed, message.from_size, message.to_size).await?;
        reply(pb::GetSuiteConsistencyProofResponse {
            from_size: message.from_size,
            to_size: to_db_int(proof.to_size)?,
            hashes: proof.hashes,
        })
    }

    async fn get_verifier_keys(
        &self,
        request: Request<pb::GetVerifierKeysRequest>,
    ) -> Reply<pb::GetVerifierKeysResponse> {
        Call::of(request)?;
        let witnesses = self.policy.iter().flat_map(|it| it.witnesses());
        reply(pb::GetVerifierKeysResponse {
            verifier_keys: self.signer.verifier_keys(),
            witness_keys: witnesses.map(|it| it.verifier_key.clone()).collect(),
        })
    }
}
