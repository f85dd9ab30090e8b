//! Language of the code: first words of comments, words of the glossary, ids of rules.

use std::{collections::BTreeSet, fs, path::Path};

use super::{Source, assert_none, files, root};

/// First words that make a comment a question instead of a description.
const QUESTION_WORDS: [&str; 7] = ["What", "Whether", "Who", "Whose", "Whom", "How", "Why"];

/// Families of rule ids: `ID-3`.
const RULE_FAMILIES: [&str; 11] = ["ID", "PE", "IN", "NO", "AU", "PL", "I", "P", "A", "N", "G"];

/// Words that look like rule ids: the name of an elliptic curve.
const NO_RULE_IDS: [&str; 1] = ["P-256"];

fn rust_and_contract() -> Vec<Source> {
    files(".", &[".rs", ".proto"])
}

/// The text of a documentation line: `///` and `//!` in Rust, `//` in the contract.
fn documentation<'a>(path: &str, line: &'a str) -> Option<&'a str> {
    let line = line.trim_start();
    let rust = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! "));
    let is_contract = Path::new(path).extension().is_some_and(|it| it == "proto");
    if is_contract { rust.or_else(|| line.strip_prefix("// ")) } else { rust }
}

#[test]
fn documentation_begins_with_a_noun_or_a_verb() {
    let mut violations = vec![];
    for Source { path, text } in rust_and_contract() {
        for (index, line) in text.lines().enumerate() {
            let first_word = documentation(&path, line)
                .and_then(|text| text.split(|c: char| !c.is_ascii_alphabetic()).next());
            if first_word.is_some_and(|word| QUESTION_WORDS.contains(&word)) {
                violations.push(format!("{path}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    assert_none(&violations, "a documentation line does not begin with a question word");
}

/// Words of the column "Not used" in the table of the glossary.
fn unused_words() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/development/glossary.md")).unwrap();
    let table = text.split("<!-- glossary -->").nth(1).expect("the mark of the table");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let cells = rows.filter_map(|row| row.split('|').nth(5));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Code without string literals and comments.
pub(super) fn code_only(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        code.extend(line.split('"').step_by(2));
        code.push('\n');
    }
    code
}

/// Words of an identifier in lower case: `WebhookRequest` and `webhook_request` have the same.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous_is_lower = false;
    for character in identifier.chars() {
        let begins_word = character == '_' || (character.is_ascii_uppercase() && previous_is_lower);
        if begins_word {
            words.push(String::new());
        }
        if character != '_' {
            words.last_mut().unwrap().push(character.to_ascii_lowercase());
        }
        previous_is_lower = character.is_ascii_lowercase() || character.is_ascii_digit();
    }
    words
}

#[test]
fn names_use_the_words_of_the_glossary() {
    let unused = unused_words();
    assert!(!unused.is_empty(), "the glossary lists words that are not used");
    let mut violations = vec![];
    for Source { path, text } in rust_and_contract() {
        let code = code_only(&text);
        let identifiers: BTreeSet<&str> =
            code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        for identifier in identifiers {
            let is_unused = |word: &String| unused.contains(word.trim_end_matches('s'));
            if words(identifier).iter().any(is_unused) {
                violations.push(format!("{path}: {identifier}"));
            }
        }
    }
    assert_none(&violations, "docs/development/glossary.md has another word");
}

#[test]
fn identifiers_are_split_into_words() {
    assert_eq!(words("WebhookRequest"), ["webhook", "request"]);
    assert_eq!(words("webhook_request2"), ["webhook", "request2"]);
}

/// Ids of rules in a text.
fn rule_ids(text: &str) -> impl Iterator<Item = &str> {
    let tokens = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    tokens.map(|token| token.trim_matches('-')).filter(|token| {
        let Some((family, number)) = token.split_once('-') else { return false };
        let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
        RULE_FAMILIES.contains(&family) && is_number && !NO_RULE_IDS.contains(token)
    })
}

#[test]
fn cited_rules_are_defined() {
    let rules = fs::read_to_string(root().join("docs/reference/rules.md")).unwrap();
    let defined: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .flat_map(rule_ids)
        .collect();
    assert!(defined.len() > 100, "{} rules", defined.len());
    let mut violations = vec![];
    for Source { path, text } in rust_and_contract() {
        // Samples of the parser of rule ids.
        if path.ends_with("xtask/src/rules.rs") {
            continue;
        }
        let cited: BTreeSet<_> = rule_ids(&text).filter(|id| !defined.contains(id)).collect();
        violations.extend(cited.iter().map(|id| format!("{path}: {id}")));
    }
    assert_none(&violations, "docs/reference/rules.md defines every cited rule");
}

#[test]
fn rule_ids_are_found() {
    let found: Vec<_> = rule_ids("ID-3, (A-01): IN-4. SHA-256, P-256, UTF-8, X-ID-9").collect();
    assert_eq!(found, ["ID-3", "A-01", "IN-4"]);
}

/// The attributes `#[error(…)]` of all refusals: messages that clients read.
fn error_messages(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[error(").skip(1).filter_map(|rest| rest.split(")]\n").next())
}

/// Parts of a message that show the name of a variant of an enum: its `Debug` form, or its name in the code.
const NAMES_OF_VARIANTS: [&str; 3] = [":?}", ".name()", "as_str_name"];

/// Statements that make a refusal of a text, up to their end.
fn refusal_statements(text: &str) -> impl Iterator<Item = &str> {
    let makers = ["Error::invalid(", "Error::conflict(", "let message = format!("];
    makers
        .into_iter()
        .flat_map(|maker| text.split(maker).skip(1).filter_map(|rest| rest.split(";\n").next()))
}

/// Messages say in words what is wrong. The reason, an enum of the contract, is a field of its own.
#[test]
fn no_refusal_quotes_the_name_of_a_variant() {
    let mut violations = vec![];
    let mut count = 0;
    for Source { path, text } in files("services", &[".rs"]) {
        for message in error_messages(&text).chain(refusal_statements(&text)) {
            count += 1;
            if NAMES_OF_VARIANTS.iter().any(|it| message.contains(it)) {
                violations.push(format!("{path}: {message}"));
            }
        }
    }
    assert!(count > 100, "{count} messages");
    assert_none(&violations, "a refusal shows no name of a variant");
    let quoted = "#[error(\"this one is {0:?}\")]\nLate(State),\n";
    let found = error_messages(quoted).filter(|it| it.contains(":?}"));
    assert_eq!(found.count(), 1, "the check finds such a message");
    let quoted = "let message = format!(\"this one is {state:?}\");\n";
    let found = refusal_statements(quoted).filter(|it| it.contains(":?}"));
    assert_eq!(found.count(), 1, "the check finds such a statement");
}
