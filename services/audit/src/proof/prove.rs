//! Construction of inclusion and consistency proofs (RFC 6962, 2.1) against checkpoints.

use anyhow::Context;
use api::audit as pb;
use chassis::{Db, Error, OrgId, Result};
use time::Duration;
use uuid::Uuid;
use verifier::tree::verify_inclusion;

use super::{
    leaf_withheld, not_yet_signed,
    store::{self, SignedTree},
};
use crate::{
    damage::Damage,
    db_int::{from_db_int, to_db_int},
    integrity::guard::{LogGuard, signing_stopped},
    leaf_codec::LeafCodec,
    merkle::{Hash, Node, consistency_nodes, inclusion_nodes, leaf_hash, root_of_subtrees},
    note,
    publication::Publication,
    seal::{self, SubjectKeys},
    subject_key,
    tree::{self, SUITE_TREE, Tree},
    url_credential,
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
    /// Proof that the checkpoint is in the suite tree, if witnesses cosign that.
    pub(super) suite: Option<pb::SuiteProof>,
}

/// Proof that a tree of `to_size` entries begins with the first `from_size` of them.
pub(super) struct ConsistencyProof {
    pub(super) to_size: u64,
    pub(super) hashes: Vec<Vec<u8>>,
}

/// Source of proofs. Damage that it finds is contained ([`LogGuard::contain`]).
pub(crate) struct Prover<'r> {
    pub(crate) db: &'r Db,
    pub(crate) guard: &'r LogGuard,
}

impl Prover<'_> {
    /// Returns the tree of an organization with its newest published checkpoint; `None` if it has no log yet.
    /// Fails while signing is stopped.
    pub(crate) async fn signed_tree(&self, org_id: OrgId) -> Result<Option<SignedTree>> {
        self.guard.require_signing().await?;
        let publication = self.guard.publication().await?;
        let signed = store::signed_tree(self.db, &self.guard.heads, org_id, &publication).await;
        self.guard.contain(org_id.0, signed).await
    }

    /// Returns the tree of an organization with its newest checkpoint, which need not be published.
    pub(crate) async fn newest_tree(&self, org_id: OrgId) -> Result<Option<SignedTree>> {
        self.guard.require_signing().await?;
        let heads = &self.guard.heads;
        let signed = store::signed_tree(self.db, heads, org_id, &Publication::Signed).await;
        self.guard.contain(org_id.0, signed).await
    }

    /// Proves one entry against the newest checkpoint.
    pub(super) async fn entry(
        &self,
        codec: &LeafCodec,
        org_id: OrgId,
        event_id: Uuid,
    ) -> Result<EntryProof> {
        let proof = self.try_entry(codec, org_id, event_id).await;
        self.guard.contain(org_id.0, proof).await
    }

    async fn try_entry(
        &self,
        codec: &LeafCodec,
        org_id: OrgId,
        event_id: Uuid,
    ) -> Result<EntryProof> {
        // Before the tree, which then has at least these entries.
        let head = self.guard.heads.head(org_id.0);
        let publication = self.guard.publication().await?;
        let log_name = self.guard.log_name();
        let published = publication.suite_size();
        let found = store::provable_entry(self.db, log_name, org_id, event_id, published).await?;
        let mut found = found.ok_or(Error::NotFound("entry"))?;
        let tree = found.head.tree(head)?;
        // AU-9: entries past the retention are hidden from lists, so their proofs are NOT_FOUND, too.
        let days = found.retention_days.map(|it| Duration::days(it.into()));
        let is_expired = days.is_some_and(|it| found.received_at < self.db.now() - it);
        if is_expired || found.index < found.purged_before {
            return Err(Error::NotFound("entry"));
        }
        if url_credential::is_in_leaf(&codec.descriptors, &found.leaf) {
            return Err(leaf_withheld());
        }
        if found.is_stopped {
            return Err(signing_stopped());
        }
        let index = from_db_int(found.index)?;
        let signed = found.head.signed_tree(tree, head)?;
        if index >= signed.size {
            return Err(not_yet_signed());
        }
        let nodes = inclusion_nodes(index, signed.size);
        let hashes = signed.tree.edge.node_hashes(&nodes.concat(), &found.tiles);
        let hashes = combine(&nodes, hashes.ok_or(Damage::MissingHashes)?)?;
        let subjects = seal::sealed_subjects(&codec.personal_fields, &found.leaf);
        let keys = if subjects.is_subset(&found.people) {
            codec.vault.decrypt_keys(found.keys)
        } else {
            subject_key::store::get(self.db, &codec.vault, &subjects).await?
        };
        let suite = match publication {
            Publication::Signed => None,
            Publication::Cosigned(_) => self.suite(&signed).await?,
        };
        Ok(EntryProof {
            index: found.index,
            suite,
            hashes: verified(&signed, index, &found.leaf, hashes)?,
            keys: leaf_keys(codec, &keys, event_id, &found.leaf),
            leaf: found.leaf,
            checkpoint: signed.note,
        })
    }

    /// Returns the inclusion proof of a leaf in the newest checkpoint, lowest hash first. Fails with
    /// [`Damage`] if it does not lead from the leaf to the signed root.
    pub(crate) async fn inclusion(
        &self,
        signed: &SignedTree,
        index: u64,
        leaf: &[u8],
    ) -> Result<Vec<Vec<u8>>> {
        let nodes = inclusion_nodes(index, signed.size);
        let hashes = proof_hashes(self.db, &signed.tree, nodes).await?;
        verified(signed, index, leaf, hashes)
    }

    /// Proves that the tree at `to_size` continues the tree at `from_size`; 0 as `to_size` means the newest
    /// checkpoint.
    pub(super) async fn consistency(
        &self,
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
        let hashes = self.consistency_hashes(signed, from_size, to_size).await?;
        Ok(ConsistencyProof { to_size, hashes: hashes.into_iter().map(|it| it.to_vec()).collect() })
    }

    /// Returns the hashes that prove that the tree at `to_size` continues the tree at `from_size`.
    pub(crate) async fn consistency_hashes(
        &self,
        signed: &SignedTree,
        from_size: u64,
        to_size: u64,
    ) -> Result<Vec<Hash>> {
        let nodes = consistency_nodes(from_size, to_size);
        let hashes = proof_hashes(self.db, &signed.tree, nodes).await;
        self.guard.contain(signed.tree.org_id.0, hashes).await
    }

    /// Proves that a checkpoint is in the suite tree. `None` while the newest checkpoint of the suite tree
    /// does not cover it.
    pub(crate) async fn suite(&self, signed: &SignedTree) -> Result<Option<pb::SuiteProof>> {
        let suite = self.signed_tree(SUITE_TREE).await?;
        let (Some(suite), Some(index)) = (suite, signed.suite_index) else { return Ok(None) };
        if index >= suite.size {
            return Ok(None);
        }
        let hashes = self.inclusion(&suite, index, signed.note.as_bytes()).await;
        let hashes = self.guard.contain(SUITE_TREE.0, hashes).await?;
        Ok(Some(pb::SuiteProof { index: to_db_int(index)?, hashes, checkpoint: suite.note }))
    }
}

/// Returns an inclusion proof. Fails with [`Damage`] if it does not lead from the leaf to the signed root.
fn verified(
    signed: &SignedTree,
    index: u64,
    leaf: &[u8],
    hashes: Vec<Hash>,
) -> Result<Vec<Vec<u8>>> {
    let head = note::unverified_head(&signed.note).ok_or(Damage::InvalidCheckpoint)?;
    // A resumed export ends at the size of its first part, for which there is no checkpoint any more.
    let size = signed.size;
    let leaf = leaf_hash(leaf);
    if head.size == size && !verify_inclusion(index, leaf, &hashes, size, &head.root) {
        return Err(Damage::ChangedEntry { index }.into());
    }
    Ok(hashes.into_iter().map(|it| it.to_vec()).collect())
}

/// Returns the keys that open the sealed fields of one leaf; erased people have none.
fn leaf_keys(
    codec: &LeafCodec,
    keys: &SubjectKeys,
    event_id: Uuid,
    leaf: &[u8],
) -> Vec<pb::PersonKey> {
    let leaf_keys = keys.of_leaf(&codec.personal_fields, event_id, leaf);
    let person_key = |(id, key): (Uuid, chassis::key::Secret)| pb::PersonKey {
        subject_id: id.to_string(),
        key: key.to_vec(),
    };
    leaf_keys.into_iter().map(person_key).collect()
}

/// Computes the hashes of a proof from stored tiles.
async fn proof_hashes(db: &Db, tree: &Tree, nodes: Vec<Vec<Node>>) -> Result<Vec<Hash>> {
    combine(&nodes, tree::store::node_hashes(db, tree, &nodes.concat()).await?)
}

/// Computes the hashes of a proof, each from the complete subtrees that cover it.
fn combine(nodes: &[Vec<Node>], subtrees: Vec<Hash>) -> Result<Vec<Hash>> {
    let mut hashes = subtrees.into_iter();
    let root = |node: &Vec<Node>| {
        let hashes: Vec<Hash> = hashes.by_ref().take(node.len()).collect();
        root_of_subtrees(&hashes)
    };
    let proof: Option<Vec<Hash>> = nodes.iter().map(root).collect();
    Ok(proof.context("each hash of a proof covers at least one subtree")?)
}
