//! Merkle trees as RFC 6962 defines them: hashes, and the nodes that make up a root, an inclusion proof or a
//! consistency proof. The storage of nodes is in `tile`.

use aws_lc_rs::digest::{Context, SHA256};

/// A SHA-256 hash.
pub(crate) type Hash = [u8; 32];

/// Prefixes that separate the hashes of leaves from those of nodes (RFC 6962, 2.1).
const LEAF_PREFIX: u8 = 0;
const NODE_PREFIX: u8 = 1;

/// Root of a complete subtree of `1 << level` leaves, the first of which is the leaf `index << level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(crate) level: u32,
    pub(crate) index: u64,
}

fn hash(prefix: u8, parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[prefix]);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Returns the hash of a leaf (RFC 6962, 2.1).
pub(crate) fn leaf_hash(leaf: &[u8]) -> Hash {
    hash(LEAF_PREFIX, &[leaf])
}

/// Returns the hash of a node with two subtrees (RFC 6962, 2.1).
pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(NODE_PREFIX, &[left, right])
}

/// Returns the complete subtrees that cover the leaves from `start` to `start + length`, from left to right.
/// `start` must be a multiple of the largest power of two in `length`, as it is in [`inclusion_nodes`] and at
/// 0.
pub(crate) fn complete_subtrees(start: u64, length: u64) -> Vec<Node> {
    let mut nodes = vec![];
    let mut next = start;
    let mut remaining = length;
    while remaining > 0 {
        let level = remaining.ilog2();
        nodes.push(Node { level, index: next >> level });
        next += 1 << level;
        remaining -= 1 << level;
    }
    nodes
}

/// Returns the root over complete subtrees, given from left to right; `None` if there are none.
pub(crate) fn root_of_subtrees(hashes: &[Hash]) -> Option<Hash> {
    let (last, left) = hashes.split_last()?;
    Some(left.iter().rfold(*last, |right, left| node_hash(left, &right)))
}

/// Complete subtrees of a growing tree, largest first: enough to append leaves and to compute the root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subtrees {
    size: u64,
    /// One root for each 1 bit of the size.
    roots: Vec<Hash>,
}

impl Subtrees {
    /// Creates the tree of `size` leaves from the roots of [`complete_subtrees`].
    pub(crate) fn new(size: u64, roots: Vec<Hash>) -> Self {
        Self { size, roots }
    }

    /// Number of leaves.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf.
    pub(crate) fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing 1 bit of the size is a subtree that the new leaf completes.
        for _ in 0..self.size.trailing_ones() {
            let left = self.roots.pop().expect("a subtree for each 1 bit of the size");
            hash = node_hash(&left, &hash);
        }
        self.roots.push(hash);
        self.size += 1;
    }

    /// Returns the root; `None` if the tree is empty.
    pub(crate) fn root(&self) -> Option<Hash> {
        root_of_subtrees(&self.roots)
    }
}

/// Returns the nodes of an inclusion proof (RFC 6962, 2.1.1): the siblings on the path from a leaf to the
/// root of a tree of `size` leaves, lowest first. Each sibling is given as the complete subtrees that cover
/// it.
pub(crate) fn inclusion_nodes(index: u64, size: u64) -> Vec<Vec<Node>> {
    let mut siblings = vec![];
    let mut start = 0;
    let mut size = size;
    while size > 1 {
        let left_size = largest_power_of_two_below(size);
        if index - start < left_size {
            siblings.push(complete_subtrees(start + left_size, size - left_size));
            size = left_size;
        } else {
            siblings.push(complete_subtrees(start, left_size));
            start += left_size;
            size -= left_size;
        }
    }
    siblings.reverse();
    siblings
}

/// Returns the nodes of a consistency proof (RFC 6962, 2.1.2): they show that a tree of `new_size` leaves
/// begins with the `old_size` leaves of an older one. Each node is given as the complete subtrees that cover
/// it. Empty if there is nothing to prove.
pub(crate) fn consistency_nodes(old_size: u64, new_size: u64) -> Vec<Vec<Node>> {
    let mut nodes = vec![];
    if old_size == 0 || old_size >= new_size {
        return nodes;
    }
    let mut start = 0;
    let mut old_size = old_size;
    let mut size = new_size;
    // The parameter `b` of the RFC: true while the old tree is a complete subtree whose root the verifier
    // has.
    let mut verifier_has_root = true;
    while old_size != size {
        let left_size = largest_power_of_two_below(size);
        if old_size <= left_size {
            nodes.push(complete_subtrees(start + left_size, size - left_size));
            size = left_size;
        } else {
            nodes.push(complete_subtrees(start, left_size));
            start += left_size;
            old_size -= left_size;
            size -= left_size;
            verifier_has_root = false;
        }
    }
    if !verifier_has_root {
        nodes.push(complete_subtrees(start, size));
    }
    nodes.reverse();
    nodes
}

fn largest_power_of_two_below(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}
