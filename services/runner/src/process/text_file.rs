//! Decoding of text files of repositories: UTF-8, and UTF-16 with a byte order mark, as editors and shells of
//! Windows write them.

use anyhow::{Context, Result, ensure};

/// Encoding of a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    /// UTF-8 with a byte order mark, which is removed.
    Utf8WithMark,
    Utf16,
}

/// Decoded text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextFile {
    pub(super) text: String,
    pub(super) encoding: Encoding,
}

impl TextFile {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        if let Some(rest) = bytes.strip_prefix(b"\xff\xfe") {
            return Self::from_utf16(rest, u16::from_le_bytes);
        }
        if let Some(rest) = bytes.strip_prefix(b"\xfe\xff") {
            return Self::from_utf16(rest, u16::from_be_bytes);
        }
        let (bytes, encoding) = match bytes.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) => (rest, Encoding::Utf8WithMark),
            None => (bytes, Encoding::Utf8),
        };
        ensure!(
            !bytes.contains(&0),
            "contains NUL bytes, like UTF-16 text without a byte order mark; save it as UTF-8"
        );
        let text = str::from_utf8(bytes).context("is neither UTF-8 nor UTF-16 text")?.to_owned();
        Ok(Self { text, encoding })
    }

    fn from_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Self> {
        let (units, rest) = bytes.as_chunks();
        ensure!(rest.is_empty(), "has a byte order mark of UTF-16, but an odd length");
        let units: Vec<_> = units.iter().map(|it| unit(*it)).collect();
        let text = String::from_utf16(&units).context("is no valid UTF-16 text")?;
        Ok(Self { text, encoding: Encoding::Utf16 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_are_decoded() {
        let utf16 = |unit: fn(u16) -> [u8; 2]| {
            "\u{feff}web: caf\u{e9} \u{1f980}".encode_utf16().flat_map(unit).collect::<Vec<_>>()
        };
        for (bytes, encoding) in [
            ("web: caf\u{e9} \u{1f980}".into(), Encoding::Utf8),
            ("\u{feff}web: caf\u{e9} \u{1f980}".into(), Encoding::Utf8WithMark),
            (utf16(u16::to_le_bytes), Encoding::Utf16),
            (utf16(u16::to_be_bytes), Encoding::Utf16),
        ] {
            let expected = TextFile { text: "web: caf\u{e9} \u{1f980}".to_owned(), encoding };
            assert_eq!(TextFile::decode(&bytes).unwrap(), expected);
        }
        for bytes in [&b"\xc3\x28"[..], b"\xff\xfea", b"\xff\xfe\x00\xd8"] {
            assert!(TextFile::decode(bytes).is_err(), "{bytes:?}");
        }
        for without_mark in [&b"w\0e\0b\0"[..], b"\0w\0e\0b"] {
            let error = TextFile::decode(without_mark).unwrap_err().to_string();
            assert!(error.contains("UTF-16 text without a byte order mark"), "{error}");
        }
    }
}
