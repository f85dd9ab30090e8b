//! Fuzz targets: parsing of credentials, e-mail addresses, field masks and timestamps from clients, and
//! cleaning of foreign text.

#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each target needs a part of it")]
mod input;

use std::sync::LazyLock;

use bolero::check;
use prost_types::{FieldMask, Timestamp};
use secrecy::ExposeSecret;
use uuid::Uuid;

use self::input::Input;
use crate::{
    datetime, email,
    foreign_text::{clean, clean_block, clean_line},
    mask, timestamp,
    token::{Kind, Token},
};

const KINDS: [Kind; 8] = [
    Kind::Session,
    Kind::Invitation,
    Kind::Verification,
    Kind::Reset,
    Kind::Challenge,
    Kind::ApiKey,
    Kind::External,
    Kind::Agent,
];

/// A text parses as a token of at most one kind, and that token prints as the same text.
#[test]
fn a_token_has_one_text_and_one_kind() {
    static TOKENS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let text = |it: Kind| Token::derived(Uuid::from_u128(7), &[9; 32]).reveal(it);
        KINDS.iter().map(|it| text(*it).expose_secret().to_owned()).collect()
    });
    let samples: Vec<&str> = TOKENS.iter().map(String::as_str).collect();
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&samples);
        let parsed: Vec<_> =
            KINDS.iter().filter_map(|it| Some((*it, Token::parse(*it, &text)?))).collect();
        assert!(parsed.len() <= 1, "{text}");
        for (kind, token) in parsed {
            assert_eq!(token.reveal(kind).expose_secret(), text);
        }
    });
}

/// The canonical form of an address is ASCII, valid, and its own canonical form.
#[test]
fn an_address_has_one_canonical_form() {
    let samples = ["Ann.B+x@Example.COM", "ann@b\u{fc}cher.example", "a@xn--bcher-kva.example"];
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&samples);
        if let Some(address) = email::parse(&text) {
            let canonical = &address.canonical;
            assert!(canonical.is_ascii() && !canonical.contains(['\r', '\n', ' ', ',', '<']));
            let reparsed = email::parse(canonical).map(|it| it.canonical);
            assert_eq!(reparsed.as_ref(), Some(canonical), "{text:?}");
            let upper_case = text.to_ascii_uppercase();
            assert!(email::matches_canonical(&upper_case, canonical) || !text.is_ascii());
            assert!(email::masked(canonical).ends_with(&canonical[canonical.find('@').unwrap()..]));
        }
    });
}

/// A mask is accepted only if each of its paths is known.
#[test]
fn a_mask_names_known_fields_only() {
    let samples = ["name\0slug", "name", "members.role", "*"];
    let known = ["name", "slug", "description"];
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&samples);
        let mask = FieldMask { paths: text.split('\0').map(str::to_owned).collect() };
        if let Ok(paths) = mask::paths(Some(&mask), &known) {
            assert!(!paths.is_empty() && paths.iter().all(|it| known.contains(it)));
        }
    });
}

/// A timestamp is out of range, or converts to a time and back to an equal timestamp.
#[test]
fn a_timestamp_converts_both_ways_or_is_refused() {
    check!().with_type::<(i64, i32)>().for_each(|(seconds, nanos)| {
        for seconds in [*seconds, *seconds % 300_000_000_000] {
            if let Some(time) = datetime(Timestamp { seconds, nanos: *nanos }) {
                assert_eq!(datetime(timestamp(time)), Some(time));
            }
        }
    });
}

/// Cleaned text has no character that a rule of the contract refuses, is within its limit, and is unchanged
/// by another cleaning.
#[test]
fn cleaned_text_is_accepted_everywhere() {
    let samples = [
        "\u{1f469}\u{200d}\u{1f680} so\u{ad}ft",
        "\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}\u{1b}Pq\u{9b}31m",
        "a\r\nb\rc\0\u{202e}\u{2028}\u{e000}\u{e0041}",
        "https://ann:s3cret@x.example/a 'postgres://u:p@h' ://@",
    ];
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&samples);
        let cleaned = clean(&text);
        assert_eq!(api::text::block_violation(&cleaned), None, "{cleaned:?}");
        assert_eq!(clean(&cleaned), cleaned);
        let (line, block) = (clean_line(&text, 100), clean_block(&text, 100));
        assert!(line.len() <= 100 && !line.contains('\n'), "{line:?}");
        assert!(block.len() <= 100, "{block:?}");
        assert_eq!((clean_line(&line, 100), clean_block(&block, 100)), (line, block));
    });
}
