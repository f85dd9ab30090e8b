//! Encodings in which programs print secrets.

use std::ops::Range;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// Decoded text, with the positions of its bytes in the encoded text.
pub(super) struct Decoding {
    pub(super) bytes: Vec<u8>,
    /// Position of each byte, and the length of the encoded text.
    positions: Vec<usize>,
}

impl Decoding {
    fn with_capacity(length: usize) -> Self {
        Self { bytes: Vec::with_capacity(length), positions: Vec::with_capacity(length + 1) }
    }

    /// Appends bytes that are encoded at a position.
    fn push(&mut self, bytes: &[u8], position: usize) {
        self.bytes.extend_from_slice(bytes);
        self.positions.extend(std::iter::repeat_n(position, bytes.len()));
    }

    fn finish(mut self, length: usize) -> Self {
        self.positions.push(length);
        self
    }

    /// Returns the encoded text of a range of the decoded one.
    pub(super) fn source(&self, range: Range<usize>) -> Range<usize> {
        let start = self.positions[range.start];
        let last = self.positions[range.end.max(1) - 1];
        // The bytes of one escape sequence have the same position.
        let later = self.positions[range.end..].iter().find(|it| **it > last);
        start..later.copied().unwrap_or(last)
    }

    /// Replaces the positions in a decoded text by those in its encoded text.
    fn within(mut self, outer: &Self) -> Self {
        for position in &mut self.positions {
            *position = outer.positions[*position];
        }
        self
    }
}

/// Returns the decodings of a text: one or two of percent-, form- and JSON-encoding in turn.
pub(super) fn decodings(text: &[u8]) -> Vec<Decoding> {
    let once = decode_each(text);
    let mut twice = vec![];
    for outer in &once {
        twice.extend(decode_each(&outer.bytes).into_iter().map(|it| it.within(outer)));
    }
    once.into_iter().chain(twice).collect()
}

fn decode_each(text: &[u8]) -> Vec<Decoding> {
    let has_plus = text.contains(&b'+');
    let form = has_plus.then(|| percent_decoded(text, true)).flatten();
    [percent_decoded(text, false), form, json_unescaped(text)].into_iter().flatten().collect()
}

/// Decodes percent-encoding, and `+` as a space in forms; `None` if nothing is encoded.
pub(super) fn percent_decoded(text: &[u8], is_form: bool) -> Option<Decoding> {
    if !text.contains(&b'%') && !is_form {
        return None;
    }
    let mut decoded = Decoding::with_capacity(text.len());
    let mut position = 0;
    while let Some(byte) = text.get(position) {
        let hex = if *byte == b'%' { text.get(position + 1..position + 3) } else { None };
        let value = hex.and_then(|it| u8::from_str_radix(str::from_utf8(it).ok()?, 16).ok());
        let plain = if is_form && *byte == b'+' { b' ' } else { *byte };
        decoded.push(&[value.unwrap_or(plain)], position);
        position += if value.is_some() { 3 } else { 1 };
    }
    Some(decoded.finish(text.len()))
}

/// Decodes the escape sequences of JSON strings, which are also those of most programming languages; `None`
/// if there are none.
fn json_unescaped(text: &[u8]) -> Option<Decoding> {
    if !text.contains(&b'\\') {
        return None;
    }
    let mut decoded = Decoding::with_capacity(text.len());
    let mut position = 0;
    while let Some(byte) = text.get(position) {
        let (character, length) = match (*byte, text.get(position + 1)) {
            (b'\\', Some(b'u')) => unicode_escape(&text[position..]).unwrap_or(('u', 2)),
            (b'\\', Some(escaped)) if escaped.is_ascii() => (unescaped(*escaped), 2),
            _ => {
                decoded.push(&[*byte], position);
                position += 1;
                continue;
            }
        };
        decoded.push(character.encode_utf8(&mut [0; 4]).as_bytes(), position);
        position += length;
    }
    Some(decoded.finish(text.len()))
}

fn unescaped(escaped: u8) -> char {
    match escaped {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        other => char::from(other),
    }
}

/// Decodes `\u` with four digits, or two of them that are a surrogate pair; returns the character and the
/// length.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    };
    let first = unit(0)?;
    let units = [Some(first), unit(6)].into_iter().flatten();
    let character = char::decode_utf16(units).next()?.ok()?;
    Some((character, if character.len_utf16() == 2 { 12 } else { 6 }))
}

/// Returns the base64 and hexadecimal forms of a value. Base64 encodes groups of three bytes, so there are
/// three forms, for each number of bytes before the value in its group; they lack the characters that depend
/// on the bytes before and after the value.
pub(super) fn encoded_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![HEXLOWER.encode(value).into_bytes(), HEXUPPER.encode(value).into_bytes()];
    for bytes_before in 0..3 {
        let text = [&[0; 2][..bytes_before], value].concat();
        // Characters of 6 bits: the first that depends on the value only, and the end of those.
        let first = (bytes_before * 8).div_ceil(6);
        let end = text.len() * 8 / 6;
        for alphabet in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
            let form = alphabet.encode(&text).as_bytes()[first..end].to_vec();
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms
}
