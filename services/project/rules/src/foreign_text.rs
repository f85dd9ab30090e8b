//! Sanitization of text from programs, commits and git: control characters and credentials are removed, and
//! the length is limited, before the text is stored or shown.

/// Marker where text was cut out.
const CUT: &str = " \u{2026} [cut]";

/// Replacement of a credential.
const MASK: &str = "***";

/// Sanitizes a single line. If it is longer than `bytes_max`, its end is cut off.
pub fn sanitize_line(text: &str, bytes_max: usize) -> String {
    let mut text = mask_credentials(&clean(text, &['\t']));
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(CUT.len())));
        text.push_str(CUT);
    }
    text
}

/// Sanitizes text of several lines. If it is longer than `bytes_max`, its middle is cut out: the beginning
/// of an error names the command, the end names the cause.
pub fn sanitize_block(text: &str, bytes_max: usize) -> String {
    let text = mask_credentials(&clean(text, &['\t', '\n']));
    if text.len() <= bytes_max {
        return text;
    }
    let kept_bytes = bytes_max.saturating_sub(CUT.len() + 1);
    let head_end = text.floor_char_boundary(kept_bytes / 4);
    let tail_start = text.ceil_char_boundary(text.len() - (kept_bytes - kept_bytes / 4));
    format!("{}{CUT}\n{}", &text[..head_end], &text[tail_start..])
}

/// Removes control characters except the `allowed` ones, and invisible characters that reorder or hide text.
fn clean(text: &str, allowed: &[char]) -> String {
    let is_invisible = |it: char| {
        matches!(it, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars()
        .filter(|it| allowed.contains(it) || !(it.is_control() || is_invisible(*it)))
        .collect()
}

/// Masks the credentials of URLs in a text: `https://***@host/path`. A user name without a password is kept
/// in URLs other than http and https, as in `ssh://git@host`.
pub fn mask_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_http = masked.ends_with("http") || masked.ends_with("https");
        masked.push_str("://");
        let is_end = |it: char| it.is_whitespace() || "/?#\\'\"<>".contains(it);
        let authority = &part[..part.find(is_end).unwrap_or(part.len())];
        match authority.rsplit_once('@') {
            Some((user, _)) if is_http || user.contains(':') => {
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
    fn a_credential_in_a_url_is_masked() {
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
            assert_eq!(mask_credentials(text), masked);
        }
    }

    #[test]
    fn text_is_cleaned_and_cut_with_a_marker() {
        assert_eq!(sanitize_line("a\u{1b}[31mb\nc\td\u{202e}\0", 100), "a[31mbc\td");
        let cut = sanitize_line(&"\u{1f980}".repeat(100), 50);
        assert!(cut.len() <= 50 && cut.ends_with("[cut]"), "{cut}");
        let long = format!("first\n{}\nlast", "x".repeat(10_000));
        let cut = sanitize_block(&long, 1_000);
        assert!(cut.len() <= 1_000 && cut.starts_with("first\n") && cut.ends_with("\nlast"));
        assert!(cut.contains("[cut]"));
        assert_eq!(sanitize_block("one\ntwo", 100), "one\ntwo");
        let masked = sanitize_line("https://a\0nn:s3cret@x", 100);
        assert_eq!(masked, "https://***@x", "cleaned before it is masked");
    }
}
