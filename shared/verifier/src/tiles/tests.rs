//! Tests with a log in memory: honest, changed in one byte of one resource, forked and rolled back.

use std::{collections::BTreeMap, pin::pin, task};

use super::*;

/// A log in memory: its leaves, and the hashes of each level of its tiles.
struct Log {
    leaves: Vec<Vec<u8>>,
    levels: Vec<Vec<Hash>>,
    /// Resources that were changed, by path.
    changed: BTreeMap<String, Vec<u8>>,
    /// Entries of which only the hash is shown.
    hidden: u64,
    reads: usize,
}

impl Log {
    fn new(leaves: Vec<Vec<u8>>) -> Self {
        let mut levels: Vec<Vec<Hash>> = vec![leaves.iter().map(|it| leaf_hash(it)).collect()];
        while let Some(top) = levels.last().filter(|it| it.len() >= 256) {
            levels.push(top.chunks_exact(256).map(root).collect());
        }
        Self { leaves, levels, changed: BTreeMap::new(), hidden: 0, reads: 0 }
    }

    fn checkpoint(&self, size: usize) -> Checkpoint {
        let mut tree = RootBuilder::default();
        for leaf in &self.leaves[..size] {
            tree.push(leaf_hash(leaf));
        }
        Checkpoint { origin: "log.example/acme".to_owned(), size: number(size), root: tree.root() }
    }

    /// Verifies from one size to another; returns the result and the verified entries.
    fn verify(&mut self, from: usize, to: usize) -> (Result<Verified, VerifyError>, Vec<Vec<u8>>) {
        let seen = (from > 0).then(|| self.checkpoint(from));
        let checkpoint = self.checkpoint(to);
        self.verify_checkpoints(seen.as_ref(), &checkpoint)
    }

    fn verify_checkpoints(
        &mut self,
        seen: Option<&Checkpoint>,
        checkpoint: &Checkpoint,
    ) -> (Result<Verified, VerifyError>, Vec<Vec<u8>>) {
        let mut entries = vec![];
        let on_entry = |_, entry: &[u8]| {
            entries.push(entry.to_vec());
            Ok(())
        };
        let result = {
            let future = pin!(verify(self, seen, checkpoint, on_entry));
            // Every read is complete at once.
            let mut context = task::Context::from_waker(task::Waker::noop());
            match future.poll(&mut context) {
                task::Poll::Ready(result) => result,
                task::Poll::Pending => panic!("a read from memory waits"),
            }
        };
        (result, entries)
    }

    /// Content of a tile, whose width is in the path.
    fn read(&self, path: &str) -> Vec<u8> {
        let (level, rest) = path.strip_prefix("tile/").unwrap().split_once('/').unwrap();
        let (index, width) = rest.split_once(".p/").unwrap_or((rest, "256"));
        let first = index.replace(['x', '/'], "").parse::<usize>().unwrap() * 256;
        let hashes = &self.levels[level.parse::<usize>().unwrap()];
        hashes[first..first + width.parse::<usize>().unwrap()].as_flattened().to_vec()
    }
}

impl Source for Log {
    type Error = VerifyError;

    async fn tile(&mut self, path: &str) -> Result<Vec<u8>, VerifyError> {
        self.reads += 1;
        Ok(self.changed.get(path).cloned().unwrap_or_else(|| self.read(path)))
    }

    async fn entries(&mut self, range: EntryRange) -> Result<Vec<Option<Vec<u8>>>, VerifyError> {
        let entry =
            |index: u64| (index >= self.hidden).then(|| self.leaves[position_in(index)].clone());
        let honest: Vec<_> = (range.first..range.end).map(entry).collect();
        let Some(changed) = self.changed.get(&range.path()) else { return Ok(honest) };
        let changed = split_bundle(&range.path(), changed)?;
        Ok(changed.into_iter().map(Some).skip(position_in(range.first % 256)).collect())
    }
}

fn number(size: usize) -> u64 {
    size.try_into().unwrap()
}

fn position_in(index: u64) -> usize {
    index.try_into().unwrap()
}

fn leaves(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|it| format!("entry {it}").into_bytes()).collect()
}

#[test]
fn every_growth_of_an_honest_log_is_verified() {
    let mut log = Log::new(leaves(66_000));
    let sizes = [0, 1, 2, 255, 256, 257, 511, 512, 700, 65_535, 65_536, 65_537, 65_800, 66_000];
    for (n, from) in sizes.into_iter().enumerate() {
        for to in &sizes[n.max(1)..] {
            let (result, entries) = log.verify(from, *to);
            let expected = Verified { entries: number(to - from), hash_only: 0 };
            assert_eq!(result, Ok(expected), "{from} to {to}");
            assert_eq!(entries, log.leaves[from..*to], "{from} to {to}");
        }
    }
    // A monitor that follows reads a few tiles, not the log.
    log.reads = 0;
    log.verify(65_990, 66_000).0.unwrap();
    assert!(log.reads < 10, "{} reads", log.reads);
}

#[test]
fn one_changed_byte_is_found_with_its_tile() {
    let size = 66_000;
    let mut log = Log::new(leaves(size));
    let edge = "tile/0/257.p/208, tile/1/001.p/1, tile/2/000.p/1";
    for (from, path, named) in [
        (0, "tile/0/000", "tile/0/000"),
        (0, "tile/0/255", "tile/0/255"),
        (0, "tile/1/000", "tile/1/000"),
        (0, "tile/0/256", "tile/0/256"),
        (0, "tile/0/257.p/208", edge),
        (0, "tile/1/001.p/1", edge),
        (0, "tile/2/000.p/1", edge),
        // Tiles that show the root at the earlier checkpoint: not mistaken for a fork.
        (300, "tile/0/001", "tile/0/001"),
        (65_530, "tile/1/000", "tile/1/000"),
        (65_990, "tile/0/257.p/208", edge),
    ] {
        let mut changed = log.read(path);
        *changed.last_mut().unwrap() ^= 1;
        log.changed = BTreeMap::from([(path.to_owned(), changed)]);
        let expected = VerifyError::ChangedTile { path: named.to_owned() };
        assert_eq!(log.verify(from, size).0, Err(expected), "{path}");
    }
    // A tile of another width.
    let short = log.read("tile/0/000")[32..].to_vec();
    log.changed = BTreeMap::from([("tile/0/000".to_owned(), short)]);
    let refused = log.verify(0, size).0.unwrap_err().to_string();
    assert_eq!(refused, "MALFORMED: tile/0/000 has another number of hashes");
}

#[test]
fn a_changed_entry_is_found_with_its_bundle() {
    let mut log = Log::new(leaves(300));
    let bundle = |entries: &[Vec<u8>]| -> Vec<u8> {
        let framed = entries
            .iter()
            .map(|it| [&u16::try_from(it.len()).unwrap().to_be_bytes(), &it[..]].concat());
        framed.flatten().collect()
    };
    let mut changed = log.leaves[256..300].to_vec();
    changed[7][0] ^= 1;
    let path = "tile/entries/001.p/44";
    log.changed = BTreeMap::from([(path.to_owned(), bundle(&changed))]);
    let expected = VerifyError::ChangedBundle { index: 263, path: path.to_owned() };
    let (result, entries) = log.verify(0, 300);
    assert_eq!((result, entries.len()), (Err(expected), 263));
    // An entry is missing, and a bundle is cut.
    log.changed = BTreeMap::from([(path.to_owned(), bundle(&changed[1..]))]);
    let refused = log.verify(0, 300).0.unwrap_err().to_string();
    assert_eq!(refused, "MALFORMED: tile/entries/001.p/44 has another number of entries");
    let mut cut = bundle(&changed);
    cut.pop();
    log.changed = BTreeMap::from([(path.to_owned(), cut)]);
    let refused = log.verify(0, 300).0.unwrap_err().to_string();
    assert_eq!(refused, "MALFORMED: tile/entries/001.p/44 ends within an entry");
}

#[test]
fn a_fork_and_a_rollback_are_found() {
    let honest = Log::new(leaves(600));
    for changed in [0, 255, 256, 299] {
        // The log signs another history, whose tiles and entries match each other.
        let mut leaves = leaves(600);
        leaves[changed].push(b'x');
        let mut forked = Log::new(leaves);
        let forged = forked.checkpoint(600);
        let seen = honest.checkpoint(300);
        let (refused, entries) = forked.verify_checkpoints(Some(&seen), &forged);
        assert_eq!(refused, Err(VerifyError::Forked { seen: 300 }), "{changed}");
        assert!(entries.is_empty());
        let same_size = forked.checkpoint(300);
        let refused = forked.verify_checkpoints(Some(&seen), &same_size).0;
        assert_eq!(refused, Err(VerifyError::Forked { seen: 300 }), "{changed}");
    }
    let mut log = honest;
    let (seen, older) = (log.checkpoint(300), log.checkpoint(299));
    let refused = log.verify_checkpoints(Some(&seen), &older).0;
    assert_eq!(refused, Err(VerifyError::RolledBack { size: 299, seen: 300 }));
}

#[test]
fn hidden_entries_are_verified_by_their_hashes() {
    let mut log = Log::new(leaves(600));
    log.hidden = 300;
    let (result, entries) = log.verify(0, 600);
    assert_eq!(result, Ok(Verified { entries: 300, hash_only: 300 }));
    assert_eq!(entries, log.leaves[300..]);
}

#[test]
fn paths_are_those_of_the_specification() {
    let tile = |level, index| TileId { level, index };
    assert_eq!(tile(0, 1_234_067).path(u64::MAX), "tile/0/x001/x234/067");
    assert_eq!(tile(0, 273).path(70_000), "tile/0/273.p/112");
    assert_eq!(tile(1, 1).path(70_000), "tile/1/001.p/17");
    assert_eq!(tile(2, 0).path(70_000), "tile/2/000.p/1");
    assert_eq!(tile(0, 0).path(256), "tile/0/000");
    assert_eq!(tile(1, 0).path(256), "tile/1/000.p/1");
    assert_eq!(EntryRange { first: 1_000, end: 1_024 }.path(), "tile/entries/003");
    assert_eq!(EntryRange { first: 1_000, end: 1_001 }.path(), "tile/entries/003.p/233");
}
