//! Paths from entries to signed heads, and from older heads to newer ones.

use anyhow::Context;
use api::audit as pb;
use chassis::{Db, Error, Result};

use super::store::{self, Signed};
use crate::{
    log::{SUITE, Tree, store::stored},
    merkle::{Hash, Node, consistency, fold, path},
};

/// The path from a leaf to the root at a size, lowest first.
pub(crate) async fn inclusion(db: &Db, tree: &Tree, index: u64, size: u64) -> Result<Vec<Vec<u8>>> {
    folded(db, tree, path(index, size)).await
}

/// What proves that the tree at one size continues the tree at an older one.
pub(crate) async fn continuation(
    db: &Db,
    signed: &Signed,
    from: i64,
    to: i64,
) -> Result<(u64, Vec<Vec<u8>>)> {
    let number = |it: i64| u64::try_from(it).unwrap_or_default();
    let (from, to) = (number(from), if to == 0 { signed.size } else { number(to) });
    if to > signed.size {
        return Err(Error::invalid(
            "to_size",
            format!("must not be beyond the signed {}", signed.size),
        ));
    }
    if from > to {
        return Err(Error::invalid("from_size", "must not be greater than to_size"));
    }
    Ok((to, folded(db, &signed.tree, consistency(from, to)).await?))
}

/// Where a head is in the suite's tree, if the suite's newest head covers it already.
pub(crate) async fn in_suite(db: &Db, signed: &Signed) -> Result<Option<pb::SuiteProof>> {
    let suite = store::signed(db, SUITE).await?;
    let (Some(suite), Some(index)) = (suite, signed.suite_index) else { return Ok(None) };
    if index >= suite.size {
        return Ok(None);
    }
    let hashes = inclusion(db, &suite.tree, index, suite.size).await?;
    Ok(Some(pb::SuiteProof { index: stored(index)?, hashes, checkpoint: suite.note }))
}

/// Each step as one hash.
async fn folded(db: &Db, tree: &Tree, steps: Vec<Vec<Node>>) -> Result<Vec<Vec<u8>>> {
    let mut hashes = store::hashes(db, tree, &steps.concat()).await?.into_iter();
    let step = |it: &Vec<Node>| fold(&hashes.by_ref().take(it.len()).collect::<Vec<Hash>>());
    let steps: Option<Vec<Hash>> = steps.iter().map(step).collect();
    let steps = steps.context("each step has a node")?;
    Ok(steps.into_iter().map(|it| it.to_vec()).collect())
}
