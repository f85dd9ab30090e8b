//! Fuzz target: page tokens.

#[path = "../../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each target needs a part of it")]
mod input;

use bolero::check;

use self::input::Input;
use super::*;

/// A token is rejected if any part of it was modified, and for a list with another filter.
#[test]
fn a_page_token_is_valid_unmodified_and_for_its_list_only() {
    let binding = |filter: &str| Binding {
        keys: Key::new(&[[3; 32]]).derive("page tokens"),
        values: vec!["method".to_owned(), filter.to_owned()],
    };
    let page = |filter: &str| Page { size: 20, after: None, binding: binding(filter) };
    let cursor = "0193c2d5-7a3e-7b1f-8c4d-5e6f7a8b9c0d";
    let own_token = page("a").token(cursor);
    let other_token = page("b").token(cursor);
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&[&own_token, &other_token]);
        match open(&binding("a"), &text) {
            Ok(opened) => assert_eq!((&*opened, &text), (cursor, &own_token)),
            Err(error) => assert!(matches!(error, Error::Refused { .. })),
        }
    });
}
