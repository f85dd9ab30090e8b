//! Merkle trees as RFC 6962 defines them: what to hash, which nodes to keep, which nodes make a path.

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

/// A tree that grows: the complete subtrees at its right edge.
#[derive(Debug)]
pub(crate) struct Edge {
    size: u64,
    peaks: Vec<(u32, Hash)>,
}

impl Edge {
    /// The edge of a tree of `size` leaves, whose `hashes` are those of `cover(0, size)`.
    pub(crate) fn new(size: u64, hashes: Vec<Hash>) -> Self {
        let peaks = cover(0, size).into_iter().map(|it| it.level).zip(hashes).collect();
        Self { size, peaks }
    }

    /// Leaves so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; answers the nodes that it completes, the leaf itself first.
    pub(crate) fn append(&mut self, leaf: Hash) -> Vec<(Node, Hash)> {
        let (mut level, mut hash) = (0, leaf);
        let mut completed = vec![(Node { level, index: self.size }, hash)];
        while let Some((_, left)) = self.peaks.pop_if(|it| it.0 == level) {
            hash = node_hash(&left, &hash);
            level += 1;
            completed.push((Node { level, index: self.size >> level }, hash));
        }
        self.peaks.push((level, hash));
        self.size += 1;
        completed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// RFC 6962 word for word, without any of the functions above but the two hashes.
    fn reference_root(leaves: &[Hash]) -> Hash {
        if let [one] = leaves {
            *one
        } else {
            let k = leaves.len().next_power_of_two() / 2;
            node_hash(&reference_root(&leaves[..k]), &reference_root(&leaves[k..]))
        }
    }

    fn reference_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return vec![];
        }
        let k = leaves.len().next_power_of_two() / 2;
        if index < k {
            let mut path = reference_path(index, &leaves[..k]);
            path.push(reference_root(&leaves[k..]));
            path
        } else {
            let mut path = reference_path(index - k, &leaves[k..]);
            path.push(reference_root(&leaves[..k]));
            path
        }
    }

    #[test]
    fn every_root_and_path_up_to_70_leaves_is_that_of_the_rfc() {
        let leaves: Vec<_> = (0..70_u8).map(|it| leaf_hash(&[it])).collect();
        let (mut nodes, mut edge) = (BTreeMap::new(), Edge::new(0, vec![]));
        for (i, leaf) in leaves.iter().enumerate() {
            nodes.extend(edge.append(*leaf));
            let size = i + 1;
            let get =
                |it: &Vec<Node>| fold(&it.iter().map(|it| nodes[it]).collect::<Vec<_>>()).unwrap();
            assert_eq!(get(&cover(0, size as u64)), reference_root(&leaves[..size]), "size {size}");
            for index in 0..size {
                let path: Vec<_> = path(index as u64, size as u64).iter().map(get).collect();
                assert_eq!(path, reference_path(index, &leaves[..size]), "{index} of {size}");
            }
            let again =
                Edge::new(size as u64, cover(0, size as u64).iter().map(|it| nodes[it]).collect());
            assert_eq!(again.peaks, edge.peaks);
        }
    }

    #[test]
    fn the_empty_leaf_has_the_hash_of_the_test_vectors() {
        let hash = data_encoding::HEXLOWER.encode(&leaf_hash(b""));
        assert_eq!(hash, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }
}
