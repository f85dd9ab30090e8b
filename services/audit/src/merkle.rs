//! Merkle trees as RFC 6962 defines them: what to hash, which nodes make a root, a path or a proof of
//! consistency. How the nodes are kept is told in `tile`.

use aws_lc_rs::digest::{Context, SHA256};

/// A SHA-256.
pub(crate) type Hash = [u8; 32];

/// Root of a complete subtree: it covers the leaves `index << level` and on, `1 << level` of them.
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
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// RFC 6962, 2.1: the hash of a leaf.
pub(crate) fn leaf_hash(leaf: &[u8]) -> Hash {
    hash(0, &[leaf])
}

/// RFC 6962, 2.1: the hash of two subtrees.
pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(1, &[left, right])
}

/// The complete subtrees that cover `length` leaves from `start` on, from left to right. `start` must be
/// where a subtree of that length may stand, as it does in [`path`] and at 0.
pub(crate) fn cover(start: u64, length: u64) -> Vec<Node> {
    let (mut nodes, mut at, mut rest) = (vec![], start, length);
    while rest > 0 {
        let level = rest.ilog2();
        nodes.push(Node { level, index: at >> level });
        at += 1 << level;
        rest -= 1 << level;
    }
    nodes
}

/// The root over complete subtrees from left to right.
pub(crate) fn fold(hashes: &[Hash]) -> Option<Hash> {
    let (last, left) = hashes.split_last()?;
    Some(left.iter().rfold(*last, |right, left| node_hash(left, &right)))
}

/// The subtrees beside the way from a leaf to the root of a tree of `size` leaves, lowest first: each as
/// the nodes that cover it (RFC 6962, 2.1.1).
pub(crate) fn path(index: u64, size: u64) -> Vec<Vec<Node>> {
    let (mut steps, mut start, mut size) = (vec![], 0, size);
    while size > 1 {
        // The largest power of two below the size.
        let left = 1 << (size - 1).ilog2();
        if index - start < left {
            steps.push(cover(start + left, size - left));
            size = left;
        } else {
            steps.push(cover(start, left));
            start += left;
            size -= left;
        }
    }
    steps.reverse();
    steps
}

/// What proves that a tree of `size` leaves begins with the `from` leaves of an older one, each as the nodes
/// that cover it (RFC 6962, 2.1.2). Empty if there is nothing to prove.
pub(crate) fn consistency(from: u64, size: u64) -> Vec<Vec<Node>> {
    let (mut steps, mut start, mut size, mut from) = (vec![], 0, size, from);
    // Whether the older tree is one complete subtree, whose root the verifier knows.
    let mut known = true;
    if from == 0 || from >= size {
        return steps;
    }
    while from != size {
        let left = 1 << (size - 1).ilog2();
        if from <= left {
            steps.push(cover(start + left, size - left));
            size = left;
        } else {
            steps.push(cover(start, left));
            (start, from, size, known) = (start + left, from - left, size - left, false);
        }
    }
    if !known {
        steps.push(cover(start, size));
    }
    steps.reverse();
    steps
}
