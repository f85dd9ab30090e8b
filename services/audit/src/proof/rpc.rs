//! The gRPC surface of proofs.

use std::{collections::BTreeSet, sync::Arc};

use api::{
    audit::{self as pb, log_service_server::LogService},
    error::Reason,
};
use chassis::{Access, Call, Code, Db, Error, OrgId, Reply, Result, Tx, reply, timestamp};
use tonic::Request;
use uuid::Uuid;

use super::{
    path::{continuation, in_suite, inclusion},
    store::{self, Signed},
};
use crate::{
    entry,
    log::{SUITE, ingest::Ledger, store::stored},
    note::{self, Signer, Witness},
    person, seal,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) signer: Arc<Signer>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) witnesses: Vec<Witness>,
}

#[tonic::async_trait]
impl LogService for Rpc {
    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Reply<pb::GetCheckpointResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let Some(signed) = store::signed(&self.db, grant.org_id()).await? else {
            return reply(pb::GetCheckpointResponse::default());
        };
        let suite = in_suite(&self.db, &signed).await?;
        let (checkpoint, sign_time) = (signed.note, signed.signed_at.map(timestamp));
        reply(pb::GetCheckpointResponse { checkpoint, sign_time, suite })
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<pb::GetInclusionProofRequest>,
    ) -> Reply<pb::GetInclusionProofResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let it = self.prove(grant.org_id(), &call.message.event_id).await?;
        let (index, leaf, hashes, checkpoint) = (it.index, it.leaf, it.hashes, it.checkpoint);
        reply(pb::GetInclusionProofResponse { index, leaf, hashes, checkpoint, keys: it.keys })
    }

    async fn get_receipt(
        &self,
        request: Request<pb::GetReceiptRequest>,
    ) -> Reply<pb::GetReceiptResponse> {
        let call = Call::of(request)?;
        let event_id = chassis::id::parse("event_id", &call.message.event_id)?;
        let actor_id = call.account()?.user_id.to_string();
        let org_id = store::place_of(&self.db, event_id, &actor_id).await?;
        let org_id = org_id.ok_or(Error::NotFound("entry"))?;
        reply(self.prove(org_id, &call.message.event_id).await?)
    }

    async fn get_consistency_proof(
        &self,
        request: Request<pb::GetConsistencyProofRequest>,
    ) -> Reply<pb::GetConsistencyProofResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let signed = store::signed(&self.db, grant.org_id()).await?.ok_or_else(not_yet_signed)?;
        let (from_size, to) = (call.message.from_size, call.message.to_size);
        let (to, hashes) = continuation(&self.db, &signed, from_size, to).await?;
        let to_size = stored(to)?;
        reply(pb::GetConsistencyProofResponse { from_size, to_size, hashes })
    }

    async fn get_suite_checkpoint(
        &self,
        request: Request<pb::GetSuiteCheckpointRequest>,
    ) -> Reply<pb::GetSuiteCheckpointResponse> {
        Call::of(request)?;
        let signed = store::signed(&self.db, SUITE).await?;
        let witnessed_checkpoint = store::witnessed(&self.db).await?.unwrap_or_default();
        let (checkpoint, sign_time) = signed.map(|it| (it.note, it.signed_at)).unwrap_or_default();
        let sign_time = sign_time.map(timestamp);
        reply(pb::GetSuiteCheckpointResponse { checkpoint, sign_time, witnessed_checkpoint })
    }

    async fn get_suite_consistency_proof(
        &self,
        request: Request<pb::GetSuiteConsistencyProofRequest>,
    ) -> Reply<pb::GetSuiteConsistencyProofResponse> {
        let call = Call::of(request)?;
        let signed = store::signed(&self.db, SUITE).await?.ok_or_else(not_yet_signed)?;
        let (from_size, to) = (call.message.from_size, call.message.to_size);
        let (to, hashes) = continuation(&self.db, &signed, from_size, to).await?;
        let to_size = stored(to)?;
        reply(pb::GetSuiteConsistencyProofResponse { from_size, to_size, hashes })
    }

    async fn add_cosignature(
        &self,
        request: Request<pb::AddCosignatureRequest>,
    ) -> Reply<pb::AddCosignatureResponse> {
        let call = Call::of(request)?;
        let note = call.message.checkpoint.as_str();
        let of_suite = note.lines().next() == Some(&self.signer.origin("suite"));
        let size = note::size(note).filter(|_| of_suite && self.signer.signed(note));
        let size = stored(size.ok_or_else(unknown_checkpoint)?)?;
        let lines: Vec<_> = self.witnesses.iter().filter_map(|it| it.line(note)).collect();
        if lines.is_empty() {
            return Err(unknown_witness().into());
        }
        let write = async |tx: &mut Tx| {
            let known = store::cosigned(tx, size).await?;
            let mut kept = known.unwrap_or_else(|| self.signed_only(note));
            for line in &lines {
                if !kept.lines().any(|it| it == *line) {
                    kept += &format!("{line}\n");
                }
            }
            store::keep_cosigned(tx, size, &kept).await?;
            let witnesses = self.witnesses.iter().filter(|it| it.line(&kept).is_some()).count();
            Ok(pb::AddCosignatureResponse {
                witnesses: i32::try_from(witnesses).unwrap_or(i32::MAX),
            })
        };
        reply(self.db.write(&call, write).await?)
    }

    async fn get_verifier_keys(
        &self,
        request: Request<pb::GetVerifierKeysRequest>,
    ) -> Reply<pb::GetVerifierKeysResponse> {
        Call::of(request)?;
        let witness_keys = self.witnesses.iter().map(|it| it.text.clone()).collect();
        reply(pb::GetVerifierKeysResponse {
            verifier_keys: self.signer.verifier_keys(),
            witness_keys,
        })
    }
}

impl Rpc {
    /// Everything that proves one entry.
    async fn prove(&self, org_id: OrgId, event_id: &str) -> Result<pb::GetReceiptResponse> {
        let event_id = Uuid::try_parse(event_id).map_err(|_| Error::NotFound("entry"))?;
        let leaf =
            store::leaf(&self.db, org_id, event_id).await?.ok_or(Error::NotFound("entry"))?;
        // AU-9: what lists no longer show is not told by its proof either.
        let shown = entry::store::bounds(&self.db, org_id, None, None).await?;
        if shown.is_none_or(|it| stored(leaf.index).is_ok_and(|index| index < it.first)) {
            return Err(Error::NotFound("entry"));
        }
        let signed = store::signed(&self.db, org_id).await?;
        let covers = |it: &Signed| leaf.index < it.size;
        let signed = signed.filter(covers).ok_or_else(not_yet_signed)?;
        let hashes = inclusion(&self.db, &signed.tree, leaf.index, signed.size).await?;
        Ok(pb::GetReceiptResponse {
            index: stored(leaf.index)?,
            keys: self.keys(event_id, &leaf.bytes).await?,
            leaf: leaf.bytes,
            hashes,
            checkpoint: signed.note,
        })
    }

    /// What opens the sealed fields of one leaf.
    async fn keys(&self, event_id: Uuid, leaf: &[u8]) -> Result<Vec<pb::PersonKey>> {
        let people: BTreeSet<_> = seal::sealed_for(self.ledger.plans(), leaf);
        let keys = person::store::read(&self.db, self.ledger.vault(), &people).await?;
        let key = |(id, secret): (&Uuid, &chassis::key::Secret)| pb::PersonKey {
            subject_id: id.to_string(),
            key: seal::leaf_key(secret, event_id).to_vec(),
        };
        Ok(keys.iter().map(key).collect())
    }

    /// A note with no signatures but our own.
    fn signed_only(&self, note: &str) -> String {
        let theirs: Vec<_> = self.witnesses.iter().filter_map(|it| it.line(note)).collect();
        let ours = note.lines().filter(|it| !theirs.contains(it));
        ours.map(|it| format!("{it}\n")).collect()
    }
}

fn refused(code: Code, reason: Reason, message: &str) -> Error {
    Error::Refused { code, reason, message: message.to_owned(), metadata: vec![] }
}

pub(crate) fn not_yet_signed() -> Error {
    let message = "no signed checkpoint covers the entry yet; retry in a second";
    refused(Code::FailedPrecondition, Reason::NotYetSigned, message)
}

fn unknown_checkpoint() -> Error {
    let message =
        "this log has not signed such a head of the suite's tree; take it from GetSuiteCheckpoint";
    refused(Code::FailedPrecondition, Reason::CheckpointUnknown, message)
}

fn unknown_witness() -> Error {
    let message = "no line is the signature of a witness that this log knows (--audit-witness-key)";
    refused(Code::PermissionDenied, Reason::WitnessUnknown, message)
}
