//! Keys by which texts are compared, searched and ordered. Made here only, and stored beside the text: the
//! functions of a database depend on its locale.

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

#[cfg(test)]
mod tests {
    use super::*;

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
