//! Fuzz target: page tokens.

use bolero::check;

use super::*;
use crate::fuzz::input::Input;

/// A token opens only as it was made, for the list that it was made for.
#[test]
fn a_page_token_opens_as_it_was_made_and_nowhere_else() {
    let seal =
        |filter: &str| Seal { key: [3; 32], binding: vec!["m".to_owned(), filter.to_owned()] };
    let page = |filter: &str| Page { size: 20, after: None, seal: seal(filter) };
    let cursor = "0193c2d5-7a3e-7b1f-8c4d-5e6f7a8b9c0d";
    let (mine, other) = (page("a").token(cursor), page("b").token(cursor));
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&[&mine, &other]);
        match open(&seal("a"), &text) {
            Ok(opened) => assert_eq!((&*opened, &text), (cursor, &mine)),
            Err(error) => assert!(matches!(error, Error::Refused { .. })),
        }
    });
}
