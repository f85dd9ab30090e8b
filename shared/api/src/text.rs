//! Characters of texts that people type: the rules of `tenantry.policy.v1.TextKind`, by properties of
//! Unicode.

use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed,
    props::{
        BidiControl, CanonicalCombiningClass, DefaultIgnorableCodePoint, EmojiModifier,
        ExtendedPictographic, GeneralCategory, GeneralCategoryGroup, IndicSyllabicCategory,
        JoiningType, NoncharacterCodePoint, PrependedConcatenationMark, VariationSelector,
    },
};
use unicode_normalization::{UnicodeNormalization, is_nfc};

type Set = CodePointSetDataBorrowed<'static>;
type Map<P> = CodePointMapDataBorrowed<'static, P>;

const BIDI_CONTROLS: Set = CodePointSetData::new::<BidiControl>();
const IGNORABLE: Set = CodePointSetData::new::<DefaultIgnorableCodePoint>();
const EMOJI_MODIFIERS: Set = CodePointSetData::new::<EmojiModifier>();
/// Emoji, with the code points that are reserved for them.
const PICTOGRAPHIC: Set = CodePointSetData::new::<ExtendedPictographic>();
const NONCHARACTERS: Set = CodePointSetData::new::<NoncharacterCodePoint>();
const PREPENDED_MARKS: Set = CodePointSetData::new::<PrependedConcatenationMark>();
const VARIATION_SELECTORS: Set = CodePointSetData::new::<VariationSelector>();
const CATEGORY: Map<GeneralCategory> = CodePointMapData::<GeneralCategory>::new();
const COMBINING_CLASS: Map<CanonicalCombiningClass> =
    CodePointMapData::<CanonicalCombiningClass>::new();
const JOINING_TYPE: Map<JoiningType> = CodePointMapData::<JoiningType>::new();
const SYLLABIC_CATEGORY: Map<IndicSyllabicCategory> =
    CodePointMapData::<IndicSyllabicCategory>::new();

/// ZERO WIDTH NON-JOINER.
const NON_JOINER: char = '\u{200c}';
/// ZERO WIDTH JOINER.
const JOINER: char = '\u{200d}';
/// Last character of an emoji tag sequence, for example of the flag of Scotland.
const CANCEL_TAG: char = '\u{e007f}';
/// Letters and symbols that are shown as blanks, besides those that Unicode lists as ignorable: the blanks of
/// Braille, of musical notation, of hieroglyphs and of Khitan.
const BLANKS: [char; 5] = ['\u{2800}', '\u{1d159}', '\u{13441}', '\u{13442}', '\u{16fe4}'];

/// Violation of the rule of a single line: the reason, and the first refused character.
pub fn line_violation(text: &str) -> Option<String> {
    violation(text, &[])
}

/// Violation of the rule of a text of several lines.
pub fn block_violation(text: &str) -> Option<String> {
    violation(text, &['\n', '\t'])
}

/// Violation of the rule of a name. Without a visible character nobody can point at an object, or type its
/// name to confirm a deletion. An empty name is permitted: other rules decide about it.
pub fn name_violation(text: &str) -> Option<String> {
    let blank = || {
        let is_blank = !text.is_empty() && !text.chars().any(is_visible);
        is_blank.then(|| "must contain a visible character".to_owned())
    };
    line_violation(text).or_else(blank)
}

/// Removes the characters that the rule of texts of several lines refuses.
pub fn without_refused(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let is_kept = |position: &usize| {
        let character = characters[*position];
        ['\n', '\t'].contains(&character) || refusal(&characters, *position).is_none()
    };
    (0..characters.len()).filter(is_kept).map(|position| characters[position]).collect()
}

/// Converts a name to NFC, and removes non-joiners without an effect.
pub fn normalize_name(text: &mut String) {
    if text.is_ascii() {
        return;
    }
    if text.contains(NON_JOINER) {
        *text = without_idle_joiners(text);
    }
    if !is_nfc(text) {
        *text = text.nfc().collect();
    }
}

/// Converts a text of several lines to NFC, and its line ends to line feeds.
pub fn normalize_block(text: &mut String) {
    if text.contains('\r') {
        *text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
    normalize_name(text);
}

/// True if a character is shown as something.
pub fn is_visible(character: char) -> bool {
    let category = CATEGORY.get(character);
    let is_graphic = GeneralCategoryGroup::Letter.contains(category)
        || GeneralCategoryGroup::Number.contains(category)
        || GeneralCategoryGroup::Punctuation.contains(category)
        || GeneralCategoryGroup::Symbol.contains(category);
    let is_blank = IGNORABLE.contains(character) || BLANKS.contains(&character);
    (is_graphic || PICTOGRAPHIC.contains(character)) && !is_blank
}

fn violation(text: &str, permitted: &[char]) -> Option<String> {
    if text.is_ascii() && !text.chars().any(|it| it.is_ascii_control()) {
        return None;
    }
    let characters: Vec<char> = text.chars().collect();
    characters.iter().enumerate().find_map(|(position, character)| {
        let reason = refusal(&characters, position).filter(|_| !permitted.contains(character))?;
        Some(format!("must not contain {reason} (U+{:04X})", u32::from(*character)))
    })
}

/// The reason for which the character at a position is refused; `None` if it is permitted.
fn refusal(characters: &[char], position: usize) -> Option<&'static str> {
    let character = characters[position];
    let (before, after) = (&characters[..position], &characters[position + 1..]);
    let category = CATEGORY.get(character);
    match character {
        '\n' | '\r' | '\u{2028}' | '\u{2029}' => return Some("line breaks"),
        NON_JOINER => {
            let is_permitted = separates_letters(before, after) || follows_virama(before, after);
            return (!is_permitted).then_some("joiners outside of words");
        }
        JOINER => {
            let is_permitted = joins_emoji(before, after) || joins_syllable(before, after);
            return (!is_permitted).then_some("joiners outside of words and emoji");
        }
        _ if is_tag(character) && is_in_tag_sequence(before, character, after) => return None,
        _ => {}
    }
    let is_invisible = match category {
        GeneralCategory::Format => !PREPENDED_MARKS.contains(character),
        GeneralCategory::Unassigned => IGNORABLE.contains(character),
        _ => false,
    };
    match category {
        GeneralCategory::Control => Some("control characters"),
        _ if BIDI_CONTROLS.contains(character) => {
            Some("characters that change the direction of text")
        }
        GeneralCategory::PrivateUse => Some("characters of private use"),
        _ if NONCHARACTERS.contains(character) => Some("code points that are no characters"),
        _ if is_invisible => Some("invisible characters"),
        _ => None,
    }
}

fn is_letter(character: char) -> bool {
    GeneralCategoryGroup::Letter.contains(CATEGORY.get(character))
}

fn is_mark(character: char) -> bool {
    GeneralCategoryGroup::Mark.contains(CATEGORY.get(character))
}

fn is_virama(character: char) -> bool {
    COMBINING_CLASS.get(character) == CanonicalCombiningClass::Virama
}

/// UAX #31, context A1: between letters that would join, as in Persian.
fn separates_letters(before: &[char], after: &[char]) -> bool {
    let joins = |it: &char| JOINING_TYPE.get(*it) != JoiningType::Transparent;
    let before = before.iter().rev().copied().find(joins).map(|it| JOINING_TYPE.get(it));
    let after = after.iter().copied().find(joins).map(|it| JOINING_TYPE.get(it));
    matches!(before, Some(JoiningType::LeftJoining | JoiningType::DualJoining))
        && matches!(after, Some(JoiningType::RightJoining | JoiningType::DualJoining))
}

/// UAX #31, context A2: a non-joiner after a virama and before a letter.
fn follows_virama(before: &[char], after: &[char]) -> bool {
    let next =
        after.iter().find(|it| COMBINING_CLASS.get(**it) == CanonicalCombiningClass::NotReordered);
    ends_with_virama(before) && next.is_some_and(|it| is_letter(*it))
}

/// UAX #31, context B: a joiner after a virama and not before a dependent vowel, as in Sinhala. Bengali has
/// joiners between a letter and a virama, too.
fn joins_syllable(before: &[char], after: &[char]) -> bool {
    let is_vowel = |it: &char| SYLLABIC_CATEGORY.get(*it) == IndicSyllabicCategory::VowelDependent;
    let precedes_virama = before.last().is_some_and(|it| is_letter(*it))
        && after.first().is_some_and(|it| is_virama(*it));
    precedes_virama || (ends_with_virama(before) && !after.first().is_some_and(is_vowel))
}

/// True for a letter with a virama, and any marks around the virama.
fn ends_with_virama(text: &[char]) -> bool {
    let mut reversed = text.iter().rev().copied().skip_while(|it| {
        is_mark(*it)
            && !is_virama(*it)
            && COMBINING_CLASS.get(*it) != CanonicalCombiningClass::NotReordered
    });
    reversed.next().is_some_and(is_virama)
        && reversed.find(|it| !is_mark(*it)).is_some_and(is_letter)
}

/// True between two emoji (UTS #51): `emoji ZWJ emoji`.
fn joins_emoji(before: &[char], after: &[char]) -> bool {
    let is_base = |it: &char| !VARIATION_SELECTORS.contains(*it) && !EMOJI_MODIFIERS.contains(*it);
    let base = before.iter().rev().copied().find(is_base);
    base.is_some_and(|it| PICTOGRAPHIC.contains(it))
        && after.first().is_some_and(|it| PICTOGRAPHIC.contains(*it))
}

fn is_tag(character: char) -> bool {
    ('\u{e0020}'..=CANCEL_TAG).contains(&character)
}

/// True inside an emoji tag sequence (UTS #51): an emoji, tags, and the end of the tags.
fn is_in_tag_sequence(before: &[char], character: char, after: &[char]) -> bool {
    let is_spec = |it: &&char| is_tag(**it) && **it != CANCEL_TAG;
    let base = before.iter().rev().find(|it| {
        !is_spec(it) && !VARIATION_SELECTORS.contains(**it) && !EMOJI_MODIFIERS.contains(**it)
    });
    let is_ended =
        character == CANCEL_TAG || after.iter().find(|it| !is_spec(it)) == Some(&CANCEL_TAG);
    let has_spec = character != CANCEL_TAG || before.last().is_some_and(|it| is_spec(&it));
    base.is_some_and(|it| PICTOGRAPHIC.contains(*it)) && is_ended && has_spec
}

/// Removes non-joiners after letters that never join the next one, as people type them in Persian plurals.
fn without_idle_joiners(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut last = None;
    for character in text.chars() {
        if character == NON_JOINER && last == Some(JoiningType::RightJoining) {
            continue;
        }
        let joining_type = JOINING_TYPE.get(character);
        last = if joining_type == JoiningType::Transparent { last } else { Some(joining_type) };
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_and_emoji_are_accepted_in_all_scripts() {
        let accepted = [
            "",
            "a",
            "-",
            "测试公司",
            "می\u{200c}خواهم",
            "خانه\u{200c}ها",
            "ශ\u{dca}\u{200d}ර\u{dd3}",
            "ന\u{d4d}\u{200d}",
            "র\u{200d}\u{9cd}য\u{9be}ব",
            "ಕ\u{ccd}\u{200c}ಷ",
            "👩\u{200d}💻",
            "👩🏽\u{200d}🚀 team",
            "🏳\u{fe0f}\u{200d}🌈",
            "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
            "1\u{fe0f}\u{20e3}",
            // Reserved for emoji, and a letter that is not assigned yet beside one that is.
            "\u{1faff}",
            "a\u{2ffe0}",
            "한국 \u{115f}\u{1161}",
        ];
        for name in accepted {
            assert_eq!(name_violation(name), None, "{name:?}");
            assert_eq!(without_refused(name), name);
        }
    }

    #[test]
    fn names_without_visible_characters_and_with_dangerous_ones_are_refused_in_words() {
        for blank in
            ["   ", "\u{3164}", "\u{115f}\u{1160}", "\u{2800}", "\u{301}", "\u{3000}", "\u{2ffe0}"]
        {
            assert_eq!(
                name_violation(blank).unwrap(),
                "must contain a visible character",
                "{blank:?}"
            );
        }
        for (name, reason) in [
            ("a\0b", "control characters (U+0000)"),
            ("a\nb", "line breaks (U+000A)"),
            ("a\u{202e}b", "characters that change the direction of text (U+202E)"),
            ("a\u{2066}b", "characters that change the direction of text (U+2066)"),
            ("a\u{200b}b", "invisible characters (U+200B)"),
            ("a\u{ad}b", "invisible characters (U+00AD)"),
            ("a\u{200d}b", "joiners outside of words and emoji (U+200D)"),
            ("a\u{200c}b", "joiners outside of words (U+200C)"),
            ("👩\u{200d}", "joiners outside of words and emoji (U+200D)"),
            ("a\u{e0067}\u{e007f}", "invisible characters (U+E0067)"),
            ("🏴\u{e0067}", "invisible characters (U+E0067)"),
            ("a\u{e000}", "characters of private use (U+E000)"),
            ("a\u{ffff}", "code points that are no characters (U+FFFF)"),
            ("a\u{fff0}", "invisible characters (U+FFF0)"),
        ] {
            assert_eq!(
                name_violation(name).unwrap(),
                format!("must not contain {reason}"),
                "{name:?}"
            );
        }
        assert_eq!(without_refused("a\u{202e}\u{200d}b\u{200c}"), "ab");
    }

    #[test]
    fn texts_are_normalized() {
        let mut name = "Cafe\u{301} کشور\u{200c}ها".to_owned();
        normalize_name(&mut name);
        assert_eq!(name, "Café کشورها");
        let mut text = "one\r\ntwo\rthree\tCafe\u{301}\n".to_owned();
        normalize_block(&mut text);
        assert_eq!(text, "one\ntwo\nthree\tCafé\n");
        assert_eq!(block_violation(&text), None);
        assert_eq!(
            block_violation("a\u{7}").unwrap(),
            "must not contain control characters (U+0007)"
        );
    }
}
