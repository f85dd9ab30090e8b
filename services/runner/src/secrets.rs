//! Redaction of secrets: values of secret variables, passwords of add-ons and credentials of repositories are
//! replaced by `[secret NAME]` in all text that leaves the runner, also if they are percent-, JSON-, base64-
//! or hex-encoded, or two of these in turn.
//!
//! Values and lines of values that are shorter than [`VALUE_BYTES_MIN`] are not replaced, because ordinary
//! text contains them.

mod encoding;
#[cfg(test)]
mod fuzz;

use std::{collections::BTreeSet, ops::Range};

use aho_corasick::AhoCorasick;
use api::project::Lease;
use primitives::foreign_text::{CUT, clean, cut_block, cut_line, is_plain_line};

use encoding::{decodings, encoded_forms, percent_decoded};

/// Minimum length of a redacted value, in bytes.
pub(crate) const VALUE_BYTES_MIN: usize = 8;

/// Length of the prefix of a value that is searched for, in bytes; the rest is compared.
const PREFIX_BYTES: usize = 32;

/// Length of the searched pieces of an encoded form, in bytes.
const PIECE_BYTES: usize = 8;

/// Length from which only one of [`LONG_FORM_STEP`] bytes of an encoded form begins a searched piece: less
/// than the 76 characters to which `base64` wraps its lines.
const LONG_FORM_BYTES: usize = 512;
const LONG_FORM_STEP: usize = 64;

/// Begin and end of the mark that replaces a secret; its name is between them.
const MARK: (&str, &str) = ("[secret ", "]");

/// Secrets of an environment.
#[derive(Default)]
pub(crate) struct Secrets {
    names: Vec<String>,
    forms: Vec<Form>,
    pieces: Vec<Piece>,
    /// Searches for the pieces; `None`: there are none.
    search: Option<AhoCorasick>,
    /// True if a value has a space, which is `+` in a form.
    has_space: bool,
}

/// A value, or an encoded form of it.
struct Form {
    /// Index of the secret's name.
    secret: usize,
    bytes: Vec<u8>,
    /// True if every part of it is redacted: text contains parts of encoded values only if it contains the
    /// secret, possibly wrapped to several lines.
    is_divisible: bool,
}

/// Part of a form that is searched for.
struct Piece {
    form: usize,
    offset: usize,
}

/// Part of a text that is a secret.
struct Match {
    range: Range<usize>,
    secret: usize,
}

impl Secrets {
    /// Returns the secrets of a lease.
    pub(crate) fn of_lease(lease: &Lease) -> Self {
        let variables = lease.variables.iter().filter(|it| it.secret);
        let variables = variables.map(|it| (it.name.as_str(), it.value.as_str()));
        let provisions = lease.provisions.iter().map(|it| (&*it.variable, &*it.password));
        let repository = password_of_url(&lease.repository_url);
        let repository = repository.as_deref().map(|it| ("REPOSITORY_PASSWORD", it));
        let token = lease.repository_credential.as_ref();
        let token = token.map(|it| ("REPOSITORY_TOKEN", it.password.as_str()));
        let key = lease.ssh_credential.as_ref();
        let key = key.map(|it| ("REPOSITORY_KEY", it.private_key.as_str()));
        Self::new(variables.chain(provisions).chain(repository).chain(token).chain(key))
    }

    /// Returns secrets with their names. The password of a value that is a URL is a secret, too.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = Self::default();
        let mut values = BTreeSet::new();
        for (name, value) in secrets {
            let secret = all.names.len();
            all.names.push(name.to_owned());
            let password = password_of_url(value);
            for value in std::iter::once(value).chain(password.as_deref()) {
                // Redacted text has been cleaned before.
                let cleaned = clean(value);
                let lines = cleaned.lines().map(str::trim);
                let parts = [value, value.trim(), cleaned.as_str()].into_iter().chain(lines);
                for part in parts.filter(|it| it.len() >= VALUE_BYTES_MIN) {
                    if values.insert(part.to_owned()) {
                        all.add_value(secret, part);
                    }
                }
            }
        }
        let mut known = BTreeSet::new();
        let mut pieces = std::mem::take(&mut all.pieces);
        pieces.retain(|it| {
            !all.forms[it.form].is_divisible || known.insert(all.pattern(it).to_vec())
        });
        all.pieces = pieces;
        let patterns = all.pieces.iter().map(|it| all.pattern(it));
        // Fails only for more than 2 GiB of patterns.
        all.search = AhoCorasick::new(patterns).ok().filter(|_| !all.pieces.is_empty());
        all.has_space = all.forms.iter().any(|it| it.bytes.contains(&b' '));
        all
    }

    fn add_value(&mut self, secret: usize, value: &str) {
        let bytes = value.as_bytes().to_vec();
        self.pieces.push(Piece { form: self.forms.len(), offset: 0 });
        self.forms.push(Form { secret, bytes, is_divisible: false });
        for bytes in encoded_forms(value.as_bytes()) {
            let form = self.forms.len();
            let step = if bytes.len() < LONG_FORM_BYTES { PIECE_BYTES } else { LONG_FORM_STEP };
            let offsets = (0..=bytes.len().saturating_sub(PIECE_BYTES)).step_by(step);
            self.pieces.extend(offsets.map(|offset| Piece { form, offset }));
            self.forms.push(Form { secret, bytes, is_divisible: true });
        }
    }

    /// Returns the bytes that are searched for.
    fn pattern(&self, piece: &Piece) -> &[u8] {
        let form = &self.forms[piece.form];
        let length = if form.is_divisible { PIECE_BYTES } else { PREFIX_BYTES };
        let end = form.bytes.len().min(piece.offset + length);
        &form.bytes[piece.offset..end]
    }

    /// Cleans and redacts a line of foreign text. If it is longer than `bytes_max`, its end is cut off; text
    /// after that serves only to recognize a secret at the cut.
    pub(crate) fn redact_line(&self, text: &str, bytes_max: usize) -> String {
        let has_piece = || self.search.as_ref().is_some_and(|it| it.is_match(text));
        if text.len() <= bytes_max && self.is_literal(text.as_bytes()) && !has_piece() {
            return text.to_owned();
        }
        self.redact_any_line(text, bytes_max)
    }

    fn redact_any_line(&self, text: &str, bytes_max: usize) -> String {
        let end = text.floor_char_boundary(bytes_max);
        let mut redacted = self.redact_part(text, 0..end);
        if end < text.len() {
            redacted.push_str(CUT);
        }
        cut_line(&redacted, bytes_max)
    }

    /// Returns the marks that replace the secrets.
    pub(crate) fn marks(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(|it| [MARK.0, it, MARK.1].concat())
    }

    /// Returns true for a line of which redaction changes only the secrets that it contains unencoded.
    pub(crate) fn is_literal(&self, line: &[u8]) -> bool {
        let is_encoded = || {
            let has_escape = memchr::memchr2(b'%', b'\\', line).is_some();
            has_escape || (self.has_space && memchr::memchr(b'+', line).is_some())
        };
        is_plain_line(line) && (self.search.is_none() || !is_encoded())
    }

    /// Cleans and redacts foreign text of several lines. If it is longer than `bytes_max`, its middle is cut
    /// out.
    pub(crate) fn redact_block(&self, text: &str, bytes_max: usize) -> String {
        cut_block(&self.redact_part(text, 0..text.len()), bytes_max)
    }

    /// Cleans text, replaces the secrets in it, and returns a part of it. Text is cleaned first, so that
    /// invisible characters in a secret do not hide it. A secret at the bounds of the part is replaced as a
    /// whole.
    pub(crate) fn redact_part(&self, text: &str, part: Range<usize>) -> String {
        let cleaned = clean(text);
        // Not the length of the text after the part: an escape sequence can extend beyond the part.
        let bytes_before = if part.start == 0 { 0 } else { clean(&text[..part.start]).len() };
        let bytes_to_end =
            if part.end == text.len() { cleaned.len() } else { clean(&text[..part.end]).len() };
        let text = cleaned;
        let end = text.floor_char_boundary(bytes_to_end);
        let mut copied = text.floor_char_boundary(bytes_before.min(end));
        let mut redacted = String::with_capacity(end - copied);
        for Match { range, secret } in self.matches(&text) {
            if range.end <= copied || range.start >= end {
                continue;
            }
            redacted.push_str(text.get(copied..range.start).unwrap_or_default());
            redacted.extend([MARK.0, &self.names[secret], MARK.1]);
            copied = range.end;
        }
        redacted.push_str(&text[copied.min(end)..end]);
        redacted
    }

    /// Returns the secrets in a text, in the order of their positions, without overlaps.
    fn matches(&self, text: &str) -> Vec<Match> {
        let mut found = self.search_in(text.as_bytes());
        for decoding in decodings(text.as_bytes()) {
            let encoded = self.search_in(&decoding.bytes).into_iter();
            found.extend(encoded.map(|it| Match { range: decoding.source(it.range), ..it }));
        }
        for it in &mut found {
            it.range =
                text.floor_char_boundary(it.range.start)..text.ceil_char_boundary(it.range.end);
        }
        found.sort_by_key(|it| (it.range.start, std::cmp::Reverse(it.range.end)));
        let mut disjoint: Vec<Match> = vec![];
        for it in found {
            match disjoint.last_mut().filter(|last| it.range.start < last.range.end) {
                Some(last) => last.range.end = last.range.end.max(it.range.end),
                None => disjoint.push(it),
            }
        }
        disjoint
    }

    fn search_in(&self, text: &[u8]) -> Vec<Match> {
        let Some(search) = &self.search else { return vec![] };
        let mut found: Vec<Match> = vec![];
        for it in search.find_overlapping_iter(text) {
            let piece = &self.pieces[it.pattern()];
            let last = found.last().map_or(0..0, |last| last.range.clone());
            // Most pieces of a form are in the match of its first one.
            let is_known = last.start <= it.start() && it.end() <= last.end;
            if !is_known || !self.forms[piece.form].is_divisible {
                found.extend(self.extend(text, it.start(), piece));
            }
        }
        found
    }

    /// Returns the secret of which a piece was found at `position`; `None` if the text does not contain the
    /// whole of a value that is not divisible.
    fn extend(&self, text: &[u8], position: usize, piece: &Piece) -> Option<Match> {
        let form = &self.forms[piece.form];
        let secret = form.secret;
        if !form.is_divisible {
            let is_complete = text[position..].starts_with(&form.bytes);
            return is_complete
                .then(|| Match { range: position..position + form.bytes.len(), secret });
        }
        let before = text[..position].iter().rev().zip(form.bytes[..piece.offset].iter().rev());
        let after = text[position..].iter().zip(&form.bytes[piece.offset..]);
        let start = position - before.take_while(|(one, other)| one == other).count();
        let end = position + after.take_while(|(one, other)| one == other).count();
        Some(Match { range: start..end, secret })
    }
}

/// Returns the password of a URL; `None` if it has none.
fn password_of_url(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    // A user name without a password is the token, as in `https://token@host`.
    let password = user.split_once(':').map_or(user, |it| it.1);
    let password = if password.is_empty() { user.trim_end_matches(':') } else { password };
    let decoded = percent_decoded(password.as_bytes(), false);
    let decoded = decoded.and_then(|it| String::from_utf8(it.bytes).ok());
    Some(decoded.unwrap_or_else(|| password.to_owned()))
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};

    use super::*;

    fn redact(secrets: &Secrets, text: &str) -> String {
        secrets.redact_block(text, usize::MAX)
    }

    const VALUE: &str = "p4ss w\u{f6}rd/\"+%&\\=?";

    fn secrets() -> Secrets {
        Secrets::new([
            ("TOKEN", VALUE),
            ("KEY", "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34\nshort\n"),
            ("DATABASE_URL", "postgres://app:d4t4b4se%21@db:5432/app"),
            ("SHORT", "1234567"),
        ])
    }

    #[test]
    fn each_encoding_of_a_secret_is_redacted() {
        let percent: String = VALUE.bytes().map(|it| format!("%{it:02x}")).collect();
        let json = serde_json::to_string(VALUE).unwrap();
        let escaped: String = VALUE.encode_utf16().map(|it| format!("\\u{it:04X}")).collect();
        let json_in_json = serde_json::to_string(&json).unwrap();
        let form = VALUE.replace('+', "%2B").replace('%', "%25").replace("%252B", "%2B");
        let form = form.replace(' ', "+");
        for text in [VALUE, &percent, &json, &escaped, &json_in_json, &form] {
            let redacted = redact(&secrets(), &format!("a {text} b"));
            assert!(redacted.contains("[secret TOKEN]"), "{text}: {redacted}");
            let rest = redacted.replace("[secret TOKEN]", "").replace(['"', '\\'], "");
            assert_eq!(rest, "a  b", "{text}");
        }
        for prefix in ["", "a", "ab", "user:"] {
            let text = format!("{prefix}{VALUE}!");
            for encoded in [
                BASE64.encode(text.as_bytes()),
                BASE64URL_NOPAD.encode(text.as_bytes()),
                HEXLOWER.encode(text.as_bytes()),
            ] {
                let redacted = redact(&secrets(), &encoded);
                let rest = redacted.replace("[secret TOKEN]", "");
                let kept_max = (prefix.len() + 2) * 2;
                assert!(
                    redacted.contains("[secret TOKEN]") && rest.len() <= kept_max,
                    "{redacted}"
                );
            }
        }
    }

    #[test]
    fn base64_that_is_wrapped_is_redacted() {
        let value: String =
            (0..4_000_u32).filter_map(|it| char::from_u32(33 + it * it % 89)).collect();
        let secrets = Secrets::new([("LONG", value.as_str())]);
        let encoded = BASE64.encode(format!("x{value}").as_bytes());
        for line in encoded.as_bytes().chunks(76) {
            let redacted = redact(&secrets, str::from_utf8(line).unwrap());
            let rest = redacted.replace("[secret LONG]", "");
            assert!(rest.len() <= 4, "{redacted}");
        }
    }

    #[test]
    fn a_secret_at_a_cut_is_redacted_as_a_whole() {
        let secrets = Secrets::new([("TOKEN", "s3crets3crets3cret")]);
        let text = format!("{}s3crets3crets3cret tail", "x".repeat(90));
        assert_eq!(secrets.redact_line(&text, 100), format!("{} \u{2026} [cut]", "x".repeat(90)));
        let many = "s3crets3crets3cret".repeat(10);
        assert_eq!(secrets.redact_line(&many, 30), "[secret TOKEN] \u{2026} [cut]");
        assert_eq!(secrets.redact_part(&text, 95..text.len()), "[secret TOKEN] tail");
        assert_eq!(secrets.redact_part(&text, 85..95), "xxxxx[secret TOKEN]");
    }

    /// The text before a cut is kept if an escape sequence extends beyond the cut.
    #[test]
    fn an_escape_sequence_at_a_cut_removes_no_other_text() {
        let text = format!("kept \u{1b}]8;;{}", "x".repeat(5_000));
        let line = Secrets::default().redact_line(&text, 4_096);
        assert_eq!(line, "kept  \u{2026} [cut]");
        let text = format!("{text}\u{7} tail");
        assert_eq!(Secrets::default().redact_line(&text, 4_096), "kept  \u{2026} [cut]");
    }

    #[test]
    fn lines_and_passwords_of_a_secret_are_redacted_and_short_values_are_not() {
        let secrets = secrets();
        assert_eq!(redact(&secrets, "a MIIBOgIBAAJBAKj34 b"), "a [secret KEY] b");
        assert_eq!(redact(&secrets, "short 1234567"), "short 1234567");
        assert_eq!(redact(&secrets, "pw d4t4b4se!"), "pw [secret DATABASE_URL]");
        let url = "url postgres://app:d4t4b4se%21@db:5432/app";
        assert_eq!(redact(&secrets, url), "url [secret DATABASE_URL]");
        assert_eq!(redact(&secrets, "d4t4\u{1b}[1mb4\u{200d}se!"), "[secret DATABASE_URL]");
        assert_eq!(redact(&Secrets::default(), "a\0b"), "ab");
    }

    #[test]
    fn the_secrets_of_a_lease_are_variables_passwords_and_credentials() {
        let variable = |name: &str, value: &str, secret| api::project::Variable {
            name: name.to_owned(),
            value: value.to_owned(),
            secret,
        };
        let lease = Lease {
            repository_url: "https://t0kent0ken@git.example.com/a".to_owned(),
            variables: vec![
                variable("ENVIRONMENT", "production", false),
                variable("TOKEN", "s3crets3cret", true),
            ],
            provisions: vec![api::project::Provision {
                password: "d4t4b4se".to_owned(),
                variable: "DATABASE_URL".to_owned(),
                ..Default::default()
            }],
            ..Lease::default()
        };
        let redacted =
            redact(&Secrets::of_lease(&lease), "production s3crets3cret d4t4b4se t0kent0ken");
        let expected =
            "production [secret TOKEN] [secret DATABASE_URL] [secret REPOSITORY_PASSWORD]";
        assert_eq!(redacted, expected);
    }
}
