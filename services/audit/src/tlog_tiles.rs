//! Tiles of a log over HTTP (C2SP tlog-tiles): paths of the resources, and the ranges that they have.

pub(crate) mod page;
mod resource;
mod suite_proof;

/// Hashes of a full tile, and entries of a full bundle.
const TILE_WIDTH: u64 = 256;

/// Levels of the tree that a tile spans.
const TILE_HEIGHT: u32 = 8;

/// A resource of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    /// The newest checkpoint.
    Checkpoint,
    /// The newest checkpoint, and the proof that it is in the tree of the suite (C2SP tlog-proof).
    SuiteProof,
    /// Hashes of the tree.
    Tile {
        /// Level of the tile; its hashes are nodes at the level `8 * level` of the tree.
        level: u32,
        range: TileRange,
    },
    /// Entries.
    Entries(TileRange),
}

/// Position of a tile in its level, or of a bundle of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TileRange {
    index: u64,
    /// 1 to 255 for a partial tile, 256 for a full one.
    width: u64,
}

/// A path that is not of the form that the specification gives.
#[derive(Debug, thiserror::Error)]
#[error(
    "the path must be checkpoint, checkpoint.tlog-proof, tile/<L>/<N>[.p/<W>] or tile/entries/<N>[.p/<W>], \
     for example tile/0/x001/x234/067.p/8 (C2SP tlog-tiles)"
)]
struct MalformedPath;

impl Resource {
    /// Parses the path below the prefix of a log.
    fn parse(path: &str) -> Result<Self, MalformedPath> {
        if path == "checkpoint" {
            return Ok(Self::Checkpoint);
        }
        if path == "checkpoint.tlog-proof" {
            return Ok(Self::SuiteProof);
        }
        let rest = path.strip_prefix("tile/").ok_or(MalformedPath)?;
        let (level, range) = rest.split_once('/').ok_or(MalformedPath)?;
        let range = TileRange::parse(range)?;
        if level == "entries" {
            return Ok(Self::Entries(range));
        }
        let level = parse_canonical(level).filter(|level| *level < 64).ok_or(MalformedPath)?;
        let level = u32::try_from(level).map_err(|_| MalformedPath)?;
        Ok(Self::Tile { level, range })
    }

    /// Number of hashes or entries of all tiles of this level in a tree of `size` entries.
    fn available(&self, size: u64) -> u64 {
        match self {
            Self::Tile { level, .. } => size.checked_shr(TILE_HEIGHT * level).unwrap_or(0),
            _ => size,
        }
    }
}

impl TileRange {
    /// Parses `<N>[.p/<W>]`, with the index in groups of three digits: `x001/x234/067`.
    fn parse(text: &str) -> Result<Self, MalformedPath> {
        let (index, width) = match text.split_once(".p/") {
            Some((index, width)) => {
                let width = parse_canonical(width).filter(|it| (1..TILE_WIDTH).contains(it));
                (index, width.ok_or(MalformedPath)?)
            }
            None => (text, TILE_WIDTH),
        };
        let parsed = parse_index(index).ok_or(MalformedPath)?;
        Ok(Self { index: parsed, width })
    }

    /// True if the tile does not change any more.
    fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// Index of the first hash or entry in its level.
    fn first(&self) -> u64 {
        self.index * TILE_WIDTH
    }

    /// Index after that of the last hash or entry.
    fn end(&self) -> u64 {
        self.first() + self.width
    }
}

/// Parses groups of three digits, all but the last of which begin with an `x`. `None` unless this is the form
/// that the specification gives to the number, and its last entry has an index of 64 bits.
fn parse_index(text: &str) -> Option<u64> {
    let groups: Vec<&str> = text.split('/').collect();
    let (last, leading) = groups.split_last()?;
    let mut index: u64 = 0;
    for (position, group) in leading.iter().enumerate() {
        let digits = group.strip_prefix('x')?;
        if position == 0 && digits == "000" {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(parse_group(digits)?)?;
    }
    index = index.checked_mul(1000)?.checked_add(parse_group(last)?)?;
    index.checked_add(1)?.checked_mul(TILE_WIDTH)?;
    Some(index)
}

fn parse_group(digits: &str) -> Option<u64> {
    let is_group = digits.len() == 3 && digits.bytes().all(|it| it.is_ascii_digit());
    digits.parse().ok().filter(|_| is_group)
}

/// Parses a number without additional zeros.
pub(crate) fn parse_canonical(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_specification_are_parsed() {
        let range = |index, width| TileRange { index, width };
        for (path, resource) in [
            ("checkpoint", Resource::Checkpoint),
            ("checkpoint.tlog-proof", Resource::SuiteProof),
            ("tile/0/000", Resource::Tile { level: 0, range: range(0, 256) }),
            ("tile/63/000", Resource::Tile { level: 63, range: range(0, 256) }),
            ("tile/1/x001/x234/067", Resource::Tile { level: 1, range: range(1_234_067, 256) }),
            ("tile/0/x273/000.p/112", Resource::Tile { level: 0, range: range(273_000, 112) }),
            ("tile/entries/x001/234.p/1", Resource::Entries(range(1234, 1))),
        ] {
            assert_eq!(Resource::parse(path).ok(), Some(resource), "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        for path in [
            "",
            "Checkpoint",
            "checkpoint/",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/1000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/0/000/",
            "tile/0/000.p",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/+1",
            "tile/0/000.p/1/",
            "tile/00/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/entry/000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/0/x018/x446/x744/x073/x709/x551/615",
            "tile/0/%30%30%30",
        ] {
            assert!(Resource::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_level_has_a_hash_for_each_full_tile_below() {
        let tile = |level| Resource::Tile { level, range: TileRange { index: 0, width: 1 } };
        assert_eq!(tile(0).available(70_000), 70_000);
        assert_eq!(tile(1).available(70_000), 273);
        assert_eq!(tile(2).available(70_000), 1);
        assert_eq!(tile(8).available(u64::MAX), 0);
        assert_eq!(tile(63).available(u64::MAX), 0);
    }
}
