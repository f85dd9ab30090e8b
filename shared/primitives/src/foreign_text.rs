//! Foreign text: text of programs, commits, files and git servers. It is cleaned where it enters a process,
//! and never refused: terminal escapes, control characters and credentials are removed, and the length is
//! limited. Cleaning is idempotent.

use api::text::{is_visible, normalize_name, without_refused};

use crate::credential_mask::mask_credentials;

/// Mark where text was cut out.
pub const CUT: &str = " \u{2026} [cut]";

/// Size of the blocks in which bytes are compared, without a branch for each byte.
const BLOCK_BYTES: usize = 32;

/// Removes terminal escapes (ECMA-48) and the characters that texts of requests may not contain. A carriage
/// return becomes a line feed.
pub fn clean(text: &str) -> String {
    // Most lines of programs.
    if all_bytes(text.as_bytes(), |it| matches!(it, b' '..=b'~' | b'\n' | b'\t')) {
        return text.to_owned();
    }
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut cleaned = String::with_capacity(text.len());
    // Line by line: an escape sequence without its end would remove all of the text after it.
    for line in text.split_inclusive('\n') {
        let plain = anstream::adapter::strip_str(line.trim_end_matches('\n')).to_string();
        cleaned.push_str(&without_refused(&plain));
        cleaned.push_str(if line.ends_with('\n') { "\n" } else { "" });
    }
    cleaned
}

/// Returns true for a line that [`clean_line`] does not change, unless it is too long: it has printable ASCII
/// characters and tabs only, and no credentials of a URL. Other lines may be unchanged, too.
pub fn is_plain_line(text: &[u8]) -> bool {
    all_bytes(text, |it| matches!(it, b' '..=b'~' | b'\t'))
        && (memchr::memchr(b'@', text).is_none() || memchr::memmem::find(text, b"://").is_none())
}

fn all_bytes(bytes: &[u8], is_expected: impl Fn(u8) -> bool) -> bool {
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    let is_block_expected =
        |block: &[u8; BLOCK_BYTES]| block.iter().fold(true, |all, it| all & is_expected(*it));
    blocks.iter().all(is_block_expected) && rest.iter().all(|it| is_expected(*it))
}

/// Cleans a single line. If it is longer than `bytes_max`, its end is cut off.
pub fn clean_line(text: &str, bytes_max: usize) -> String {
    cut_line(&clean(text), bytes_max)
}

/// Cleans a name of another system. Empty if it has no visible character.
pub fn clean_name(text: &str) -> String {
    let mut name = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    normalize_name(&mut name);
    if name.chars().any(is_visible) { name } else { String::new() }
}

/// Cleans text of several lines. If it is longer than `bytes_max`, its middle is cut out: the beginning of an
/// error names the command, the end names the cause.
pub fn clean_block(text: &str, bytes_max: usize) -> String {
    cut_block(&clean(text), bytes_max)
}

/// [`clean_line`] for text that is clean.
pub fn cut_line(text: &str, bytes_max: usize) -> String {
    let mut text = mask_credentials(&text.replace('\n', " "));
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(CUT.len())));
        // The cut can separate a joiner from its emoji.
        text = without_refused(&text) + CUT;
    }
    text
}

/// [`clean_block`] for text that is clean.
pub fn cut_block(text: &str, bytes_max: usize) -> String {
    let text = mask_credentials(text);
    if text.len() <= bytes_max {
        return text;
    }
    let kept_bytes = bytes_max.saturating_sub(CUT.len() + 1);
    let head_end = text.floor_char_boundary(kept_bytes / 4);
    let tail_start = text.ceil_char_boundary(text.len() - (kept_bytes - kept_bytes / 4));
    let (head, tail) = (without_refused(&text[..head_end]), without_refused(&text[tail_start..]));
    format!("{head}{CUT}\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_is_not_changed() {
        let long = "x".repeat(100);
        for text in ["", "a\tb ~", "GET https://x/a", "ann@example.com", &long] {
            assert!(is_plain_line(text.as_bytes()), "{text:?}");
            assert_eq!(clean_line(text, usize::MAX), text);
        }
        for character in ["\n", "\r", "\u{1b}", "\u{7f}", "\u{e9}", "https://a@b"] {
            for text in [character.to_owned(), format!("{long}{character}{long}")] {
                assert!(!is_plain_line(text.as_bytes()), "{text:?}");
            }
        }
    }

    #[test]
    fn text_is_cleaned_and_cut_with_a_mark() {
        assert_eq!(clean_line("a\u{1b}[31mb\nc\td\u{202e}\0", 100), "ab c\td");
        // A soft hyphen, a joined emoji, a window title with and without its end, a progress bar.
        assert_eq!(
            clean("so\u{ad}ft \u{1f469}\u{200d}\u{1f680}"),
            "soft \u{1f469}\u{200d}\u{1f680}"
        );
        assert_eq!(clean("\u{1b}]0;title\u{7}a\n\u{1b}]0;title\nb"), "a\n\nb");
        assert_eq!(clean("10%\r20%\r\ndone"), "10%\n20%\ndone");
        let cut = clean_line(&"\u{1f980}".repeat(100), 50);
        assert!(cut.len() <= 50 && cut.ends_with("[cut]"), "{cut}");
        assert_eq!(clean_name(" Ann\n\u{202e}Cafe\u{301}\t"), "Ann Caf\u{e9}");
        assert_eq!(clean_name("\u{3164} "), "");
        let long = format!("first\n{}\nlast", "x".repeat(10_000));
        let cut = clean_block(&long, 1_000);
        assert!(cut.len() <= 1_000 && cut.starts_with("first\n") && cut.ends_with("\nlast"));
        assert!(cut.contains("[cut]"));
        assert_eq!(clean_block("one\ntwo", 100), "one\ntwo");
        let masked = clean_line("https://a\0nn:s3cret@x", 100);
        assert_eq!(masked, "https://***@x", "cleaned before it is masked");
    }
}
