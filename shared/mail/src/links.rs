//! Text of people in mails and notices: mail programs turn URLs, host names and addresses in plain text into
//! links, so these are written in a form that no program recognizes (N-10).

/// Characters that name resolution treats as the dot of a host name (UTS #46).
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// Sanitizes a user-chosen name for a subject line or a sentence: replaces control characters, such as line
/// breaks, by spaces, and neutralizes links.
pub fn sanitize(name: &str) -> String {
    let printable: String = name.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    neutralize_links(&printable.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Replaces each word that contains a URL by `…`, and writes host names and e-mail addresses with `[.]`:
/// `bit[.]ly`. Abbreviations and version numbers, such as `Dr. med. A. B.` and `v2.0`, stay as they are: the
/// part after their dots has fewer than two letters.
pub fn neutralize_links(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(neutralize_word).collect()
}

/// Neutralizes a word and the white space after it.
fn neutralize_word(word: &str) -> String {
    let (word, space) = word.split_at(word.trim_end().len());
    if is_url(word) {
        return format!("…{space}");
    }
    let mut neutral = String::new();
    let mut previous = ' ';
    for (position, character) in word.char_indices() {
        let rest = &word[position + character.len_utf8()..];
        let joins_labels = DOTS.contains(&character) && is_host_character(previous);
        neutral.push_str(if joins_labels && begins_with_label(rest) { "[.]" } else { "" });
        if !(joins_labels && begins_with_label(rest)) {
            neutral.push(character);
        }
        previous = character;
    }
    neutral + space
}

/// True for a URL with a scheme, and for a host name with a path or with the label `www`.
fn is_url(word: &str) -> bool {
    let lower = word.to_lowercase();
    let has_scheme =
        lower.contains("://") || ["mailto:", "tel:", "sms:"].iter().any(|it| lower.starts_with(it));
    let mut names = lower.split(|it| !is_host_character(it) && !DOTS.contains(&it));
    let has_www = names.any(|it| it.strip_prefix("www").is_some_and(|it| it.starts_with(DOTS)));
    // A host name that is followed by a path.
    let hosts = lower.split('/').rev().skip(1);
    has_scheme || has_www || hosts.into_iter().any(is_host_name)
}

/// True if a text ends with a host name of two labels or more, or with an IPv4 address.
fn is_host_name(text: &str) -> bool {
    let is_numeric = text.split('.').count() == 4
        && text.split('.').all(|it| !it.is_empty() && it.chars().all(|it| it.is_ascii_digit()));
    let found = text.char_indices().any(|(position, character)| {
        let before = text[..position].chars().next_back().is_some_and(is_host_character);
        let rest = &text[position + character.len_utf8()..];
        DOTS.contains(&character) && before && begins_with_label(rest)
    });
    found || is_numeric
}

fn is_host_character(character: char) -> bool {
    character.is_alphanumeric() || ['-', '_'].contains(&character)
}

/// True if a text begins with two letters, or with a further label of a host name: `co` in `co.uk`, `a.com`.
fn begins_with_label(text: &str) -> bool {
    let mut characters = text.chars();
    let letters = characters.by_ref().take(2).filter(|it| it.is_alphabetic()).count();
    if letters == 2 || text.to_lowercase().starts_with("xn--") {
        return true;
    }
    // A label with a digit or with one letter counts if a top-level domain follows somewhere in the name.
    let label = text.find(|it: char| !is_host_character(it)).unwrap_or(text.len());
    let (label, rest) = text.split_at(label);
    let mut rest = rest.chars();
    !label.is_empty()
        && rest.next().is_some_and(|it| DOTS.contains(&it))
        && begins_with_label(rest.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-10.
    #[test]
    fn a_sanitized_name_has_no_line_break_and_no_url() {
        assert_eq!(sanitize("Acme\r\nBcc: x"), "Acme Bcc: x");
        assert_eq!(sanitize("Win at https://spam.example now"), "Win at … now");
        assert_eq!(sanitize("See WWW.spam.example"), "See …");
        assert_eq!(sanitize("Acme GmbH & Co."), "Acme GmbH & Co.");
    }

    /// N-10: what mail programs link, in every spelling.
    #[test]
    fn hosts_addresses_and_urls_are_no_links() {
        for (typed, shown) in [
            ("bit.ly/x", "…"),
            ("(bit.ly/x)", "…"),
            ("Shop bit.ly", "Shop bit[.]ly"),
            ("a.b.co.uk", "a[.]b[.]co[.]uk"),
            ("x1.4shop.com", "x1[.]4shop[.]com"),
            ("bob@example.com", "bob@example[.]com"),
            ("Spam.Example.", "Spam[.]Example."),
            ("пример.рф", "пример[.]рф"),
            ("bit。ly", "bit[.]ly"),
            ("shop.xn--p1ai", "shop[.]xn--p1ai"),
            ("10.0.0.1/x", "…"),
            ("http://localhost", "…"),
            ("HTTPS://10.0.0.1", "…"),
            ("mailto:x", "…"),
            ("line one\nspam.example\n", "line one\nspam[.]example\n"),
        ] {
            assert_eq!(neutralize_links(typed), shown, "{typed}");
            assert_eq!(neutralize_links(shown), shown, "a second time: {typed}");
        }
    }

    /// N-10.
    #[test]
    fn abbreviations_and_versions_stay_readable() {
        for name in
            ["Dr. med. A. B.", "v2.0", "1.2.3", "z.B.", "A.B. Co.", "J.R.R. T.", "AC/DC", "…"]
        {
            assert_eq!(neutralize_links(name), name);
        }
    }
}
