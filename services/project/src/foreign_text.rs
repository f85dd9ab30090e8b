//! Text that programs, commits and git wrote: cleaned, bounded and without credentials before anything is
//! done with it.

/// Mark of a cut.
const CUT: &str = " \u{2026} [cut]";

/// Mark in place of a credential.
const MASK: &str = "***";

/// Text as one line of so many bytes at most; a longer one is cut at its end.
pub(crate) fn line(text: &str, bytes_max: usize) -> String {
    let mut text = without_credentials(&clean(text, &['\t']));
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(CUT.len())));
        text.push_str(CUT);
    }
    text
}

/// Text of several lines of so many bytes at most; of a longer one the middle is cut out, as the beginning
/// says what was done and the end what went wrong.
pub(crate) fn block(text: &str, bytes_max: usize) -> String {
    let text = without_credentials(&clean(text, &['\t', '\n']));
    if text.len() <= bytes_max {
        return text;
    }
    let rest = bytes_max.saturating_sub(CUT.len() + 1);
    let head = text.floor_char_boundary(rest / 4);
    let tail = text.ceil_char_boundary(text.len() - (rest - rest / 4));
    format!("{}{CUT}\n{}", &text[..head], &text[tail..])
}

/// Text without control characters but for these, and without invisible ones that reorder or hide others.
fn clean(text: &str, kept: &[char]) -> String {
    let is_invisible = |it: char| {
        matches!(it, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars().filter(|it| kept.contains(it) || !(it.is_control() || is_invisible(*it))).collect()
}

/// Text whose addresses hold no credential any more: `https://***@host/path`. A user name alone stays where
/// it is none, as in `ssh://git@host`.
pub(crate) fn without_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_web = masked.ends_with("http") || masked.ends_with("https");
        masked.push_str("://");
        let ends = |it: char| it.is_whitespace() || "/?#\\'\"<>".contains(it);
        let authority = &part[..part.find(ends).unwrap_or(part.len())];
        match authority.rsplit_once('@') {
            Some((user, _)) if is_web || user.contains(':') => {
                masked.push_str(MASK);
                masked.push_str(&part[user.len()..]);
            }
            _ => masked.push_str(part),
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_in_an_address_is_masked() {
        for (text, masked) in [
            ("https://ann:s3cret@x.example/a", "https://***@x.example/a"),
            ("see 'https://t0ken@x.example/a': no", "see 'https://***@x.example/a': no"),
            ("ssh://git:pw@x/a and http://u@y", "ssh://***@x/a and http://***@y"),
            ("https://a@b:c@x.example", "https://***@x.example"),
            ("ssh://git@x.example/a", "ssh://git@x.example/a"),
            ("https://x.example/a@b", "https://x.example/a@b"),
            ("postgres://u:p@h/d", "postgres://***@h/d"),
            ("plain: a@b ://", "plain: a@b ://"),
        ] {
            assert_eq!(without_credentials(text), masked);
        }
    }

    #[test]
    fn text_is_cleaned_and_cut_with_a_mark() {
        assert_eq!(line("a\u{1b}[31mb\nc\td\u{202e}\0", 100), "a[31mbc\td");
        let cut = line(&"\u{1f980}".repeat(100), 50);
        assert!(cut.len() <= 50 && cut.ends_with("[cut]"), "{cut}");
        let long = format!("first\n{}\nlast", "x".repeat(10_000));
        let cut = block(&long, 1_000);
        assert!(cut.len() <= 1_000 && cut.starts_with("first\n") && cut.ends_with("\nlast"));
        assert!(cut.contains("[cut]"));
        assert_eq!(block("one\ntwo", 100), "one\ntwo");
        let masked = line("https://a\0nn:s3cret@x", 100);
        assert_eq!(masked, "https://***@x", "cleaned before it is masked");
    }
}
