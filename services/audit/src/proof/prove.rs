//! Construction of inclusion and consistency proofs (RFC 6962, 2.1) against checkpoints.

use std::collections::BTreeSet;

use anyhow::Context;
use api::audit as pb;
use chassis::{Db, Error, OrgId, Result};
use uuid::Uuid;

use super::{
    not_yet_signed,
    store::{self, SignedTree},
};
use crate::{
    db_int::{from_db_int, to_db_int},
    entry::{search::TimeRange, store::visible_range},
    leaf_codec::LeafCodec,
    log::{SUITE_TREE, Tree},
    merkle::{Hash, Node, consistency_nodes, inclusion_nodes, root_of_subtrees},
    seal, subject_key,
};

/// Everything that proves one entry offline.
pub(super) struct EntryProof {
    pub(super) index: i64,
    pub(super) leaf: Vec<u8>,
    /// Inclusion proof, lowest hash first.
    pub(super) hashes: Vec<Vec<u8>>,
    /// The checkpoint that covers the entry.
    pub(super) checkpoint: String,
    /// Keys that open the sealed fields of the leaf.
    pub(super) keys: Vec<pb::PersonKey>,
}

/// Proof that a tree of `to_size` entries begins with the first `from_size` of them.
pub(super) struct ConsistencyProof {
    pub(super) to_size: u64,
    pub(super) hashes: Vec<Vec<u8>>,
}

/// Proves one entry against the newest checkpoint.
pub(super) async fn prove_entry(
    db: &Db,
    codec: &LeafCodec,
    org_id: OrgId,
    event_id: Uuid,
) -> Result<EntryProof> {
    let leaf = store::leaf(db, org_id, event_id).await?.ok_or(Error::NotFound("entry"))?;
    // AU-9: entries past the retention are hidden from lists, so their proofs are NOT_FOUND, too.
    let visible = visible_range(db, org_id, TimeRange::default()).await?;
    if visible.is_none_or(|it| leaf.index < it.first) {
        return Err(Error::NotFound("entry"));
    }
    let index = from_db_int(leaf.index)?;
    let signed = store::signed_tree(db, org_id).await?;
    let signed = signed.filter(|it| index < it.size).ok_or_else(not_yet_signed)?;
    Ok(EntryProof {
        index: leaf.index,
        hashes: inclusion_proof(db, &signed.tree, index, signed.size).await?,
        keys: leaf_keys(db, codec, event_id, &leaf.bytes).await?,
        leaf: leaf.bytes,
        checkpoint: signed.note,
    })
}

/// Returns the keys that open the sealed fields of one leaf; erased people have none.
async fn leaf_keys(
    db: &Db,
    codec: &LeafCodec,
    event_id: Uuid,
    leaf: &[u8],
) -> Result<Vec<pb::PersonKey>> {
    let subjects: BTreeSet<_> = seal::sealed_subjects(&codec.personal_fields, leaf);
    let subject_keys = subject_key::store::get(db, &codec.vault, &subjects).await?;
    let person_key = |(id, key): (&Uuid, &chassis::key::Secret)| pb::PersonKey {
        subject_id: id.to_string(),
        key: seal::leaf_key(key, event_id).to_vec(),
    };
    Ok(subject_keys.iter().map(person_key).collect())
}

/// Returns the inclusion proof of a leaf in the tree at a size, lowest hash first.
pub(crate) async fn inclusion_proof(
    db: &Db,
    tree: &Tree,
    index: u64,
    size: u64,
) -> Result<Vec<Vec<u8>>> {
    proof_hashes(db, tree, inclusion_nodes(index, size)).await
}

/// Proves that the tree at `to_size` continues the tree at `from_size`; 0 as `to_size` means the newest
/// checkpoint.
pub(super) async fn consistency_proof(
    db: &Db,
    signed: &SignedTree,
    from_size: i64,
    to_size: i64,
) -> Result<ConsistencyProof> {
    let from_size = from_db_int(from_size)?;
    let to_size = if to_size == 0 { signed.size } else { from_db_int(to_size)? };
    if to_size > signed.size {
        let description =
            format!("must be at most {}, the size of the newest checkpoint", signed.size);
        return Err(Error::invalid("to_size", description));
    }
    if from_size > to_size {
        return Err(Error::invalid("from_size", "must not be greater than to_size"));
    }
    let hashes = proof_hashes(db, &signed.tree, consistency_nodes(from_size, to_size)).await?;
    Ok(ConsistencyProof { to_size, hashes })
}

/// Proves that a checkpoint is in the suite tree. `None` while the newest checkpoint of the suite tree does
/// not cover it.
pub(crate) async fn suite_proof(db: &Db, signed: &SignedTree) -> Result<Option<pb::SuiteProof>> {
    let suite = store::signed_tree(db, SUITE_TREE).await?;
    let (Some(suite), Some(index)) = (suite, signed.suite_index) else { return Ok(None) };
    if index >= suite.size {
        return Ok(None);
    }
    let hashes = inclusion_proof(db, &suite.tree, index, suite.size).await?;
    Ok(Some(pb::SuiteProof { index: to_db_int(index)?, hashes, checkpoint: suite.note }))
}

/// Computes the hashes of a proof, each from the complete subtrees that cover it.
async fn proof_hashes(db: &Db, tree: &Tree, nodes: Vec<Vec<Node>>) -> Result<Vec<Vec<u8>>> {
    let mut hashes = store::node_hashes(db, tree, &nodes.concat()).await?.into_iter();
    let combine = |subtrees: &Vec<Node>| {
        let hashes: Vec<Hash> = hashes.by_ref().take(subtrees.len()).collect();
        root_of_subtrees(&hashes)
    };
    let proof: Option<Vec<Hash>> = nodes.iter().map(combine).collect();
    let proof = proof.context("each hash of a proof covers at least one subtree")?;
    Ok(proof.into_iter().map(|it| it.to_vec()).collect())
}
