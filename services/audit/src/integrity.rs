//! Integrity of the stored log: comparison of trees with the heads that were signed, quarantine of a
//! damaged log, and the stop of all signing.

pub(crate) mod guard;
pub(crate) mod store;

use crate::{damage::Damage, head_journal::TreeHead, tile::Edge};

/// Compares a stored tree with its newest signed head. Reads no tiles: if the root of the signed entries
/// takes any, only the sizes are compared. The signing loop compares roots in every case.
pub(crate) fn check_edge(signed: Option<TreeHead>, edge: &Edge) -> Result<(), Damage> {
    let Some(signed) = signed else { return Ok(()) };
    check_size(Some(signed), edge.size())?;
    match edge.root_at(signed.size) {
        Some(root) if root != signed.root => Err(Damage::Rewritten { signed: signed.size }),
        _ => Ok(()),
    }
}

/// Compares the stored size of a tree with the newest signed head.
pub(crate) fn check_size(signed: Option<TreeHead>, size: u64) -> Result<(), Damage> {
    match signed {
        Some(signed) if size < signed.size => Err(Damage::RolledBack { size, signed: signed.size }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::Hash;

    /// Edge of a tree whose leaf hashes are these bytes, each repeated.
    fn edge(leaves: &[u8]) -> Edge {
        let mut edge = Edge::default();
        for leaf in leaves {
            edge.append([*leaf; 32], &mut vec![]);
        }
        edge
    }

    fn head(edge: &Edge) -> TreeHead {
        let root: Hash = edge.root().unwrap();
        TreeHead { size: edge.size(), root }
    }

    /// A-04, G-22: a tree that is smaller than the signed head, or does not continue it, is refused.
    #[test]
    fn a_tree_that_does_not_continue_the_signed_head_is_refused() {
        let signed = head(&edge(&[1, 2, 3]));
        assert_eq!(check_edge(None, &edge(&[1])), Ok(()));
        let rolled_back = Err(Damage::RolledBack { size: 2, signed: 3 });
        assert_eq!(check_edge(Some(signed), &edge(&[1, 2])), rolled_back);
        let rewritten = Err(Damage::Rewritten { signed: 3 });
        assert_eq!(check_edge(Some(signed), &edge(&[1, 2, 3])), Ok(()));
        assert_eq!(check_edge(Some(signed), &edge(&[1, 9, 3])), rewritten);
        assert_eq!(check_edge(Some(signed), &edge(&[1, 9, 3, 4])), rewritten);
        assert_eq!(check_edge(Some(signed), &edge(&[1, 2, 3, 4])), Ok(()));
    }
}
