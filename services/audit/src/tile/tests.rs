//! Trees against the text of RFC 6962, against the vectors of its reference implementation, against the
//! verifier, and against an implementation of others.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use data_encoding::HEXLOWER;
use sha2::Sha256;
use verifier::tree::{Growing, continues, includes};

use super::*;
use crate::merkle::{consistency, leaf_hash, path};

/// A tree with all of its tiles.
#[derive(Default)]
struct Grown {
    edge: Edge,
    tiles: BTreeMap<Place, Tile>,
    roots: Vec<Hash>,
}

impl Grown {
    fn add(&mut self, leaf: Hash) {
        let mut tiles = vec![];
        self.edge.append(leaf, &mut tiles);
        self.tiles.extend(tiles);
    }

    fn steps(&self, steps: &[Vec<Node>]) -> Vec<Hash> {
        let hash = |it: &Vec<Node>| {
            let missing = self.edge.tiles_of(it);
            assert!(
                missing.iter().all(|it| self.tiles.contains_key(it)),
                "a tile that is not there"
            );
            fold(&self.edge.hashes(it, &self.tiles).unwrap()).unwrap()
        };
        steps.iter().map(hash).collect()
    }

    /// The path of a leaf to the root of some size that the tree has had.
    fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        self.steps(&path(index, size))
    }

    fn consistency(&self, from: u64, to: u64) -> Vec<Hash> {
        self.steps(&consistency(from, to))
    }
}

fn leaf(n: u64) -> Vec<u8> {
    format!("leaf {n}").into_bytes()
}

fn grown(size: u64) -> Grown {
    let mut grown = Grown::default();
    for n in 0..size {
        grown.add(leaf_hash(&leaf(n)));
        grown.roots.push(grown.edge.root().unwrap());
    }
    grown
}

/// The vectors of the reference implementation of RFC 6962: eight leaves and the root after each.
#[test]
fn roots_are_those_of_the_reference_implementation() {
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
    let (mut ours, mut theirs) = (Grown::default(), Growing::default());
    for (leaf, root) in vectors {
        let hash = leaf_hash(&HEXLOWER.decode(leaf.as_bytes()).unwrap());
        ours.add(hash);
        theirs.add(hash);
        assert_eq!(HEXLOWER.encode(&ours.edge.root().unwrap()), root);
        assert_eq!(HEXLOWER.encode(&theirs.root()), root);
    }
}

/// RFC 6962, 2.1, word for word.
fn root_of_the_rfc(leaves: &[Hash]) -> Hash {
    if let [one] = leaves {
        return *one;
    }
    let k = leaves.len().next_power_of_two() / 2;
    node_hash(&root_of_the_rfc(&leaves[..k]), &root_of_the_rfc(&leaves[k..]))
}

/// every path and every proof of consistency up to 300 leaves is believed by the verifier; with
/// one bit changed, or for another place, none is.
#[test]
fn every_proof_up_to_300_leaves_verifies_and_no_other_does() {
    let grown = grown(300);
    let leaves: Vec<Hash> = (0..300).map(|n| leaf_hash(&leaf(n))).collect();
    let mut growing = Growing::default();
    for size in 1..=300_u64 {
        let root = grown.roots[usize::try_from(size).unwrap() - 1];
        growing.add(leaves[usize::try_from(size).unwrap() - 1]);
        assert_eq!(growing.root(), root);
        if size % 7 == 0 || size < 70 {
            assert_eq!(root, root_of_the_rfc(&leaves[..usize::try_from(size).unwrap()]));
        }
        for index in 0..size {
            let leaf = leaves[usize::try_from(index).unwrap()];
            let proof = grown.inclusion(index, size);
            assert!(includes(index, leaf, &proof, size, &root), "{index} of {size}");
            assert!(!includes((index + 1) % size.max(2), leaf, &proof, size, &root));
            for (i, _) in proof.iter().enumerate() {
                let mut forged = proof.clone();
                forged[i][usize::try_from(index).unwrap() % 32] ^= 1;
                assert!(!includes(index, leaf, &forged, size, &root));
            }
            let from = index + 1;
            let old = grown.roots[usize::try_from(index).unwrap()];
            let proof = grown.consistency(from, size);
            assert!(continues(from, &old, size, &root, &proof), "{from} to {size}");
            if from < size {
                assert!(!continues(from, &root, size, &root, &proof), "another old root");
                assert!(!continues(from, &old, size, &old, &proof), "another new root");
                assert!(!continues(from, &old, size, &root, &proof[1..]), "too short");
                let longer = [proof.as_slice(), &[[0; 32]]].concat();
                assert!(!continues(from, &old, size, &root, &longer), "too long");
            }
        }
    }
}

/// The same tree in an implementation of others: the same roots, the same paths, the same proofs.
#[test]
fn others_build_the_same_tree() {
    let grown = grown(300);
    let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for size in 1..=300_u64 {
        theirs.push(leaf(size - 1));
        let root = theirs.root();
        let ours = grown.roots[usize::try_from(size).unwrap() - 1];
        assert_eq!(root.as_bytes().as_slice(), ours.as_slice());
        for index in (0..size).step_by(13) {
            let their = theirs.prove_inclusion(usize::try_from(index).unwrap());
            assert_eq!(
                their.as_bytes(),
                grown.inclusion(index, size).concat(),
                "{index} of {size}"
            );
            let added = usize::try_from(size - index - 1).unwrap();
            let their = theirs.prove_consistency(added);
            let proof = grown.consistency(index + 1, size).concat();
            assert_eq!(their.as_bytes(), proof, "{} to {size}", index + 1);
        }
    }
}

/// the same at sizes up to a million, at random.
#[test]
fn random_proofs_up_to_a_million_leaves_verify() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    // Leaves are their number: what they hash is of no account here.
    let leaf = |n: u64| leaf_hash(&n.to_be_bytes());
    let (mut grown, mut growing) = (Grown::default(), Growing::default());
    for n in 0..1_000_000 {
        grown.add(leaf(n));
        growing.add(leaf(n));
        if n % 50_000 == 49_999 {
            let (size, root) = (n + 1, growing.root());
            assert_eq!(grown.edge.root(), Some(root));
            let again = Edge::parse(size, &grown.edge.bytes()).unwrap();
            assert_eq!(again, grown.edge);
            for _ in 0..200 {
                let index = below(size);
                let proof = grown.inclusion(index, size);
                assert!(includes(index, leaf(index), &proof, size, &root), "{index} of {size}");
                let (from, to) = (below(size) + 1, size);
                let old = fold(
                    &grown.steps(&cover(0, from).iter().map(|it| vec![*it]).collect::<Vec<_>>()),
                );
                let proof = grown.consistency(from, to);
                assert!(continues(from, &old.unwrap(), to, &root, &proof), "{from} to {to}");
            }
        }
    }
}

#[test]
fn an_edge_that_does_not_fit_its_size_is_refused() {
    let edge = grown(37).edge;
    assert_eq!(Edge::parse(37, &edge.bytes()), Some(edge.clone()));
    assert_eq!(Edge::parse(36, &edge.bytes()), None);
    assert_eq!(Edge::parse(37, &edge.bytes()[1..]), None);
}
