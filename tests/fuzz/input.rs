//! Inputs of fuzz targets: random bytes, or valid samples with random edits. The targets are in modules
//! `fuzz` of the crates whose private code they test; each includes this file.

use bolero::{TypeGenerator, produce};

/// Largest size of an input in bytes.
const LEN_MAX: usize = 64 << 10;

/// An edit of a sample.
#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Edit {
    Set { at: u16, byte: u8 },
    Flip { at: u16, bit: u8 },
    Insert { at: u16, byte: u8 },
    Remove { at: u16, len: u8 },
    Copy { from: u16, len: u8, to: u16 },
    Repeat { at: u16, len: u8, times: u8 },
    Cut { at: u16 },
}

/// A sample with edits, or random bytes.
#[derive(Clone, Debug, TypeGenerator)]
pub(crate) struct Input {
    sample: u8,
    #[generator(produce::<Vec<Edit>>().with().len(0_usize..8))]
    edits: Vec<Edit>,
    #[generator(produce::<Vec<u8>>().with().len(0_usize..64))]
    random: Vec<u8>,
}

impl Input {
    /// A random sample with the edits, or the random bytes with the edits.
    pub(crate) fn bytes(&self, samples: &[Vec<u8>]) -> Vec<u8> {
        let choice = usize::from(self.sample) % (samples.len() + 1);
        let mut bytes = samples.get(choice).unwrap_or(&self.random).clone();
        for edit in &self.edits {
            edit.apply(&mut bytes);
            bytes.truncate(LEN_MAX);
        }
        bytes
    }

    /// The input as text; invalid UTF-8 is replaced.
    pub(crate) fn text(&self, samples: &[&str]) -> String {
        let samples: Vec<Vec<u8>> = samples.iter().map(|it| it.as_bytes().to_vec()).collect();
        String::from_utf8_lossy(&self.bytes(&samples)).into_owned()
    }

    /// Random numbers, 16 per random byte.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u8> {
        self.random.iter().copied().cycle().take(self.random.len() * 16)
    }
}

impl Edit {
    fn apply(self, bytes: &mut Vec<u8>) {
        let end = bytes.len();
        let position = |at: u16| usize::from(at) % (end + 1);
        let range = |at: u16, len: u8| position(at)..end.min(position(at) + usize::from(len));
        match self {
            Self::Set { at, byte } => {
                if let Some(target) = bytes.get_mut(position(at)) {
                    *target = byte;
                }
            }
            Self::Flip { at, bit } => {
                if let Some(target) = bytes.get_mut(position(at)) {
                    *target ^= 1 << (bit % 8);
                }
            }
            Self::Insert { at, byte } => bytes.insert(position(at), byte),
            Self::Remove { at, len } => drop(bytes.drain(range(at, len))),
            Self::Copy { from, len, to } => {
                let piece = bytes[range(from, len)].to_vec();
                let to = position(to);
                drop(bytes.splice(to..to, piece));
            }
            Self::Repeat { at, len, times } => {
                let range = range(at, len);
                let piece = bytes[range.clone()].repeat(usize::from(times));
                let end = range.end;
                drop(bytes.splice(end..end, piece));
            }
            Self::Cut { at } => bytes.truncate(position(at)),
        }
    }
}
