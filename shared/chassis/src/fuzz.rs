//! Fuzz targets: credentials, addresses, field masks, times and events as others write them.

#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each target needs a part of it")]
pub(crate) mod input;

use std::sync::LazyLock;

use api::event::Envelope;
use bolero::check;
use prost::Message;
use prost_types::{FieldMask, Timestamp};
use secrecy::ExposeSecret;
use uuid::Uuid;

use self::input::Input;
use crate::{
    email, mask, moment,
    outbox::Delivery,
    timestamp,
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

/// A text is a token of one kind at most, and of no token but the one that prints it.
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

/// Two spellings of an address have one canonical form, which is an address itself and fits into ASCII.
#[test]
fn an_address_has_one_canonical_form() {
    let samples = ["Ann.B+x@Example.COM", "ann@b\u{fc}cher.example", "a@xn--bcher-kva.example"];
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&samples);
        if let Some(address) = email::parse(&text) {
            let canonical = &address.canonical;
            assert!(canonical.is_ascii() && !canonical.contains(['\r', '\n', ' ', ',', '<']));
            let again = email::parse(canonical).map(|it| it.canonical);
            assert_eq!(again.as_ref(), Some(canonical), "{text:?}");
            assert!(email::same(&text.to_ascii_uppercase(), canonical) || !text.is_ascii());
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

/// A time of the wire is a moment that is written the same way, or no moment.
#[test]
fn a_timestamp_is_a_moment_or_refused() {
    check!().with_type::<(i64, i32)>().for_each(|(seconds, nanos)| {
        for seconds in [*seconds, *seconds % 300_000_000_000] {
            let it = Timestamp { seconds, nanos: *nanos };
            if let Some(at) = moment(it) {
                assert_eq!(moment(timestamp(at)), Some(at));
            }
        }
    });
}

/// Bytes that are no event of their source are delivered without a name, so that nobody acts on them.
#[test]
fn a_delivery_is_of_its_source_or_has_no_name() {
    let envelope = |source: &str| {
        let (id, org_id) = (Uuid::from_u128(1).to_string(), Uuid::from_u128(2).to_string());
        let event = prost_types::Any { type_url: "/tenantry.x.v1.Y".to_owned(), value: vec![1] };
        let source = source.to_owned();
        Envelope { id, org_id, source, event: Some(event), ..Default::default() }.encode_to_vec()
    };
    let samples = [envelope("project"), envelope("identity")];
    check!().with_type::<Input>().for_each(|input| {
        let bytes = input.bytes(&samples);
        let delivery = Delivery::of("project", bytes.clone());
        assert_eq!((&*delivery.source, &delivery.envelope), ("project", &bytes));
        let told = Envelope::decode(&*bytes).map(|it| it.source).unwrap_or_default();
        assert!(told == "project" || delivery.name.is_empty());
        assert_eq!(Delivery::of("project", bytes).id, delivery.id);
    });
}
