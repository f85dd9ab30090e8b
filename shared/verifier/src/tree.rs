//! Roots and paths (RFC 6962, 2.1; the algorithms of RFC 9162, 2.1.3.2 and 2.1.4.2).

use aws_lc_rs::digest::{Context, SHA256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The most steps of a path: a tree has less than 2^63 leaves.
const STEPS_MAX: usize = 64;

/// The hash of a leaf.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    sha256(0, &[leaf])
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(1, &[left, right])
}

fn sha256(prefix: u8, parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[prefix]);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// Whether a leaf with this hash is at `index` of the tree of `size` leaves with this root.
pub fn includes(index: u64, leaf: Hash, path: &[Hash], size: u64, root: &Hash) -> bool {
    if index >= size || path.len() > STEPS_MAX {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether the tree of `to` leaves with the root `new` begins with the tree of `from` leaves with the root
/// `old`.
pub fn continues(from: u64, old: &Hash, to: u64, new: &Hash, proof: &[Hash]) -> bool {
    if from == to {
        return proof.is_empty() && old == new;
    }
    if from == 0 || from > to || proof.len() > STEPS_MAX {
        return false;
    }
    // An older tree that is complete is its own first step.
    let first = if from.is_power_of_two() { Some(*old) } else { None };
    let mut steps = first.iter().chain(proof);
    let Some(seed) = steps.next() else { return false };
    let (mut at, mut last) = (from - 1, to - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut of_old, mut of_new) = (*seed, *seed);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            of_old = node_hash(step, &of_old);
            of_new = node_hash(step, &of_new);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            of_new = node_hash(&of_new, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && of_old == *old && of_new == *new
}

/// A tree that is built leaf by leaf; only its complete subtrees are remembered.
#[derive(Clone, Debug, Default)]
pub struct Growing {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Growing {
    /// Adds a leaf.
    pub fn add(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // As many subtrees are complete now as the old size ends in ones.
        for _ in 0..self.size.trailing_ones() {
            let left = self.subtrees.pop().expect("each one of the size is a subtree");
            hash = node_hash(&left, &hash);
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root; that of an empty tree is the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        let Some(last) = subtrees.next() else {
            let empty = aws_lc_rs::digest::digest(&SHA256, b"");
            return empty.as_ref().try_into().expect("SHA-256 gives 32 bytes");
        };
        subtrees.fold(*last, |right, left| node_hash(left, &right))
    }
}
