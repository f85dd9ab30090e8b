//! Tests of trees and proofs against the definition in RFC 6962, the vectors of its reference implementation,
//! the verifier, and an independent implementation.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use data_encoding::HEXLOWER;
use sha2::Sha256;
use verifier::tree::{RootBuilder, verify_consistency, verify_inclusion};

use super::*;
use crate::merkle::{consistency_nodes, inclusion_nodes, leaf_hash};

/// A tree with all of its tiles.
#[derive(Default)]
struct TestTree {
    edge: Edge,
    tiles: BTreeMap<TileId, TileHashes>,
    /// The root at each size from 1 on.
    roots: Vec<Hash>,
}

impl TestTree {
    fn push(&mut self, leaf: Hash) {
        let mut completed = vec![];
        self.edge.append(leaf, &mut completed);
        self.tiles.extend(completed.into_iter().map(|it| (it.id, it.hashes)));
    }

    /// Computes the hashes of a proof.
    fn proof_hashes(&self, nodes: &[Vec<Node>]) -> Vec<Hash> {
        let hash = |subtrees: &Vec<Node>| {
            let required = self.edge.required_tiles(subtrees);
            assert!(
                required.iter().all(|it| self.tiles.contains_key(it)),
                "a required tile is missing"
            );
            root_of_subtrees(&self.edge.node_hashes(subtrees, &self.tiles).unwrap()).unwrap()
        };
        nodes.iter().map(hash).collect()
    }

    /// Inclusion proof of a leaf at an earlier or the current size.
    fn inclusion_proof(&self, index: u64, size: u64) -> Vec<Hash> {
        self.proof_hashes(&inclusion_nodes(index, size))
    }

    fn consistency_proof(&self, old_size: u64, new_size: u64) -> Vec<Hash> {
        self.proof_hashes(&consistency_nodes(old_size, new_size))
    }
}

fn leaf(n: u64) -> Vec<u8> {
    format!("leaf {n}").into_bytes()
}

fn tree_of_size(size: u64) -> TestTree {
    let mut tree = TestTree::default();
    for n in 0..size {
        tree.push(leaf_hash(&leaf(n)));
        tree.roots.push(tree.edge.root().unwrap());
    }
    tree
}

/// The vectors of the reference implementation of RFC 6962: eight leaves and the root after each.
#[test]
fn roots_equal_those_of_the_reference_implementation() {
    let vectors = [
        ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (
            "606162636465666768696a6b6c6d6e6f",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ),
    ];
    let mut tree = TestTree::default();
    let mut verifier_root = RootBuilder::default();
    for (leaf, root) in vectors {
        let hash = leaf_hash(&HEXLOWER.decode(leaf.as_bytes()).unwrap());
        tree.push(hash);
        verifier_root.push(hash);
        assert_eq!(HEXLOWER.encode(&tree.edge.root().unwrap()), root);
        assert_eq!(HEXLOWER.encode(&verifier_root.root()), root);
    }
}

/// Root of a tree, exactly as RFC 6962, 2.1 defines it.
fn rfc_root(leaves: &[Hash]) -> Hash {
    if let [one] = leaves {
        return *one;
    }
    let k = leaves.len().next_power_of_two() / 2;
    node_hash(&rfc_root(&leaves[..k]), &rfc_root(&leaves[k..]))
}

/// the verifier accepts every inclusion and consistency proof of trees up to 300 leaves, and
/// refuses all with a changed bit or another index.
#[test]
fn every_proof_up_to_300_leaves_verifies_and_no_other_does() {
    let tree = tree_of_size(300);
    let leaves: Vec<Hash> = (0..300).map(|n| leaf_hash(&leaf(n))).collect();
    let mut verifier_root = RootBuilder::default();
    for size in 1..=300_u64 {
        let root = tree.roots[usize::try_from(size).unwrap() - 1];
        verifier_root.push(leaves[usize::try_from(size).unwrap() - 1]);
        assert_eq!(verifier_root.root(), root);
        if size % 7 == 0 || size < 70 {
            assert_eq!(root, rfc_root(&leaves[..usize::try_from(size).unwrap()]));
        }
        for index in 0..size {
            let leaf = leaves[usize::try_from(index).unwrap()];
            let proof = tree.inclusion_proof(index, size);
            assert!(verify_inclusion(index, leaf, &proof, size, &root), "{index} of {size}");
            assert!(!verify_inclusion((index + 1) % size.max(2), leaf, &proof, size, &root));
            for (i, _) in proof.iter().enumerate() {
                let mut forged = proof.clone();
                forged[i][usize::try_from(index).unwrap() % 32] ^= 1;
                assert!(!verify_inclusion(index, leaf, &forged, size, &root));
            }
            let from = index + 1;
            let old = tree.roots[usize::try_from(index).unwrap()];
            let proof = tree.consistency_proof(from, size);
            assert!(verify_consistency(from, &old, size, &root, &proof), "{from} to {size}");
            if from < size {
                assert!(!verify_consistency(from, &root, size, &root, &proof), "another old root");
                assert!(!verify_consistency(from, &old, size, &old, &proof), "another new root");
                assert!(!verify_consistency(from, &old, size, &root, &proof[1..]), "too short");
                let longer = [proof.as_slice(), &[[0; 32]]].concat();
                assert!(!verify_consistency(from, &old, size, &root, &longer), "too long");
            }
        }
    }
}

/// An independent implementation has the same roots and proofs.
#[test]
fn an_independent_implementation_builds_the_same_tree() {
    let tree = tree_of_size(300);
    let mut independent = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for size in 1..=300_u64 {
        independent.push(leaf(size - 1));
        let root = independent.root();
        let ours = tree.roots[usize::try_from(size).unwrap() - 1];
        assert_eq!(root.as_bytes().as_slice(), ours.as_slice());
        for index in (0..size).step_by(13) {
            let expected = independent.prove_inclusion(usize::try_from(index).unwrap());
            assert_eq!(
                expected.as_bytes(),
                tree.inclusion_proof(index, size).concat(),
                "{index} of {size}"
            );
            let added = usize::try_from(size - index - 1).unwrap();
            let expected = independent.prove_consistency(added);
            let proof = tree.consistency_proof(index + 1, size).concat();
            assert_eq!(expected.as_bytes(), proof, "{} to {size}", index + 1);
        }
    }
}

/// random proofs at sizes up to a million verify.
#[test]
fn random_proofs_up_to_a_million_leaves_verify() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    // The content of leaves is irrelevant here: each is its number.
    let leaf = |n: u64| leaf_hash(&n.to_be_bytes());
    let mut tree = TestTree::default();
    let mut verifier_root = RootBuilder::default();
    for n in 0..1_000_000 {
        tree.push(leaf(n));
        verifier_root.push(leaf(n));
        if n % 50_000 == 49_999 {
            let size = n + 1;
            let root = verifier_root.root();
            assert_eq!(tree.edge.root(), Some(root));
            assert_eq!(Edge::decode(size, &tree.edge.encode()), Some(tree.edge.clone()));
            for _ in 0..200 {
                let index = below(size);
                let proof = tree.inclusion_proof(index, size);
                assert!(
                    verify_inclusion(index, leaf(index), &proof, size, &root),
                    "{index} of {size}"
                );
                let old_size = below(size) + 1;
                let subtrees = complete_subtrees(0, old_size);
                let subtrees: Vec<_> = subtrees.iter().map(|it| vec![*it]).collect();
                let old_root = root_of_subtrees(&tree.proof_hashes(&subtrees)).unwrap();
                let proof = tree.consistency_proof(old_size, size);
                assert!(
                    verify_consistency(old_size, &old_root, size, &root, &proof),
                    "{old_size} to {size}"
                );
            }
        }
    }
}

#[test]
fn an_edge_that_does_not_fit_its_size_is_refused() {
    let edge = tree_of_size(37).edge;
    assert_eq!(Edge::decode(37, &edge.encode()), Some(edge.clone()));
    assert_eq!(Edge::decode(36, &edge.encode()), None);
    assert_eq!(Edge::decode(37, &edge.encode()[1..]), None);
}
