//! Keys by which texts are compared, searched and ordered. Made here only, and stored beside the text: the
//! functions of a database depend on its locale.

use api::text::is_visible;
use unicase::UniCase;
use unicode_normalization::UnicodeNormalization;

/// Returns the key of a text: NFKC and full case folding of Unicode, so that composed and decomposed,
/// full-width and upper-case forms of a text have the same key. White space at the ends is removed, and runs
/// of it become one space.
pub fn key(text: &str) -> String {
    let normalized: String = text.nfkc().collect();
    let folded: String = UniCase::unicode(normalized).to_folded_case().nfkc().collect();
    folded.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// True if a typed text is the exact name of an object, which confirms its deletion. Names of older versions
/// may not be in NFC; one without a visible character can be typed by nobody and confirms nothing.
pub fn is_exact_name(typed: &str, name: &str) -> bool {
    typed.chars().any(is_visible) && typed.trim().nfc().eq(name.trim().nfc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_somebody_has_typed_confirms() {
        assert!(
            is_exact_name(" Cafe\u{301}", "Caf\u{e9}") && is_exact_name("Caf\u{e9}", "Cafe\u{301}")
        );
        for (typed, name) in [("", ""), ("   ", ""), ("\u{3164}", "\u{3164}"), ("cafe", "Cafe")] {
            assert!(!is_exact_name(typed, name), "{typed:?}");
        }
    }

    #[test]
    fn forms_of_a_text_that_people_take_for_the_same_have_one_key() {
        let same = [
            ("Özlem", "özlem"),
            ("ÜBER UNS", "über uns"),
            ("Cafe\u{301}", "Café"),
            ("Straße", "STRASSE"),
            ("ΣΊΣΥΦΟΣ", "Σίσυφος"),
            ("ＡＢＣ", "abc"),
            ("  Two \u{3000} words ", "two words"),
        ];
        for (one, other) in same {
            assert_eq!(key(one), key(other), "{one} {other}");
        }
        assert_ne!(key("Özlem"), key("Ozlem"));
        for text in ["Straße", "ǅ", "ﬁ", "İstanbul", "ﷺ"] {
            assert_eq!(key(&key(text)), key(text), "{text}");
        }
    }
}
