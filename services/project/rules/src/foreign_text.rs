//! Sanitization of text from programs, commits and git: control characters and credentials are removed, and
//! the length is limited, before the text is stored or shown.

use chassis::credential_mask::mask_credentials;

/// Marker where text was cut out.
const CUT: &str = " \u{2026} [cut]";

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

#[cfg(test)]
mod tests {
    use super::*;

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
