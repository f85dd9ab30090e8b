//! Merkle tree hashes, and verification of inclusion and consistency proofs (RFC 6962, 2.1; the algorithms of
//! RFC 9162, 2.1.3.2 and 2.1.4.2).

use aws_lc_rs::digest::{Context, SHA256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Most hashes of a proof: a tree has less than 2^63 leaves.
const PROOF_LEN_MAX: usize = 64;

/// Prefixes that separate the hashes of leaves from those of nodes (RFC 6962, 2.1).
const LEAF_PREFIX: u8 = 0;
const NODE_PREFIX: u8 = 1;

/// Returns the hash of a leaf.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    sha256(LEAF_PREFIX, &[leaf])
}

pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(NODE_PREFIX, &[left, right])
}

fn sha256(prefix: u8, parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[prefix]);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Verifies an inclusion proof (RFC 9162, 2.1.3.2): true if the leaf is at `index` of the tree that has
/// `size` leaves and this root.
pub fn verify_inclusion(index: u64, leaf: Hash, proof: &[Hash], size: u64, root: &Hash) -> bool {
    if index >= size || proof.len() > PROOF_LEN_MAX {
        return false;
    }
    // `fn` and `sn` of the RFC: the node on the path, and the last node of its level.
    let mut node = index;
    let mut last = size - 1;
    let mut hash = leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Verifies a consistency proof (RFC 9162, 2.1.4.2): true if the tree of `new_size` leaves begins with the
/// leaves of the tree of `old_size` leaves.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> bool {
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    if old_size == 0 || old_size > new_size || proof.len() > PROOF_LEN_MAX {
        return false;
    }
    // The proof omits the root of a complete old tree, because the verifier has it.
    let first = if old_size.is_power_of_two() { Some(*old_root) } else { None };
    let mut hashes = first.iter().chain(proof);
    let Some(start) = hashes.next() else { return false };
    let mut node = old_size - 1;
    let mut last = new_size - 1;
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let mut old_hash = *start;
    let mut new_hash = *start;
    for sibling in hashes {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// Computes the root of a tree leaf by leaf. Keeps only the roots of its complete subtrees.
#[derive(Clone, Debug, Default)]
pub struct RootBuilder {
    size: u64,
    /// Largest subtree first: one for each 1 bit of the size.
    subtrees: Vec<Hash>,
}

impl RootBuilder {
    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing 1 bit of the size is a subtree that the new leaf completes.
        for _ in 0..self.size.trailing_ones() {
            let left = self.subtrees.pop().expect("a subtree for each 1 bit of the size");
            hash = node_hash(&left, &hash);
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the root; that of an empty tree is the hash of the empty string.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        let Some(last) = subtrees.next() else {
            let empty = aws_lc_rs::digest::digest(&SHA256, b"");
            return empty.as_ref().try_into().expect("SHA-256 has 32 bytes");
        };
        subtrees.fold(*last, |right, left| node_hash(left, &right))
    }
}
