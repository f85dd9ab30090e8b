//! The tables of rules in `docs/reference/rules.md`: ids and texts of rules are written by hand; the column
//! of tests is generated from the comments of the tests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{Outcome, run::root};

/// File with the rules, from the root.
pub(crate) const DOCUMENT: &str = "docs/reference/rules.md";

/// Prefixes of rule ids whose numbers have no leading zeros: `ID-1`.
const WITHOUT_ZEROS: [&str; 6] = ["ID-", "PE-", "IN-", "NO-", "AU-", "PL-"];
/// Prefixes of rule ids with two digits: `A-01`.
const TWO_DIGITS: [&str; 4] = ["A-", "I-", "P-", "G-"];

/// Beginning of the last column of a rule that cannot be tested, followed by the reason.
const NO_TEST: &str = "no test: ";

/// Returns the document with its column of tests generated from the sources. Fails with the rules that
/// neither a test nor [`NO_TEST`] covers.
pub(crate) fn with_tests(document: &str) -> Outcome<String> {
    let tests = tests();
    let mut lines = vec![];
    let mut untested = vec![];
    for line in document.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let rule = cells.get(1).filter(|it| prefix(it).is_some());
        let Some(rule) = rule else {
            lines.push(line.to_owned());
            continue;
        };
        let mut tests = tests.get(*rule).cloned().unwrap_or_default();
        let exception = cells.get(3).filter(|it| it.starts_with(NO_TEST));
        if tests.is_empty() {
            match exception {
                Some(reason) => tests.push((*reason).to_owned()),
                None => untested.push((*rule).to_owned()),
            }
        }
        let text = cells.get(2).copied().unwrap_or_default();
        lines.push(format!("| {rule} | {text} | {} |", tests.join("<br>")));
    }
    if untested.is_empty() {
        Ok(lines.join("\n") + "\n")
    } else {
        let untested = untested.join(", ");
        Err(format!("no test names these rules in its comment: {untested}"))
    }
}

/// Returns the tests that name each rule in the comment above them, by rule id.
fn tests() -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources(&root()) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let module = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        let mut comment = String::new();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("/// ") {
                comment += more;
                comment.push(' ');
            } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if !line.starts_with("#[") {
                if let Some(name) = function(line).filter(|_| is_test) {
                    for rule in rules(&comment) {
                        found.entry(rule).or_default().push(format!("`{module}` {name}"));
                    }
                }
                comment.clear();
                is_test = false;
            }
        }
    }
    for named in found.values_mut() {
        named.sort();
        named.dedup();
    }
    found
}

/// Returns the name of the function that a line defines.
fn function(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
    rest.split('(').next()
}

/// Returns the prefix of a rule id, for example `ID-`.
fn prefix(word: &str) -> Option<&'static str> {
    WITHOUT_ZEROS.iter().chain(&TWO_DIGITS).find(|it| word.starts_with(**it)).copied()
}

/// Returns the rules that a comment names: `ID-3`, and all of `ID-4 to ID-7`.
fn rules(comment: &str) -> Vec<String> {
    let word = |it: &str| it.trim_matches(|it: char| !it.is_ascii_alphanumeric()).to_owned();
    let words: Vec<_> = comment.split_whitespace().map(word).collect();
    let parse = |word: &String| {
        let family = prefix(word)?;
        Some((family, word[family.len()..].parse::<u32>().ok()?))
    };
    let mut rules = vec![];
    for (i, word) in words.iter().enumerate() {
        let Some((family, number)) = parse(word) else { continue };
        let range = words.get(i + 1).is_some_and(|it| it == "to");
        let last = words.get(i + 2).and_then(parse).filter(|it| range && it.0 == family);
        for number in number..=last.map_or(number, |it| it.1) {
            let width = if TWO_DIGITS.contains(&family) { 2 } else { 1 };
            rules.push(format!("{family}{number:0width$}"));
        }
    }
    // The last rule of a range is also a word of its own.
    rules.dedup();
    rules
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found = vec![];
    for path in entries.map(|it| it.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", ".git", ".tools"].contains(&name.as_str()) {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_names_rules_one_by_one_and_in_ranges() {
        let named =
            rules("ID-1, ID-3 to ID-5, (PL-4), A-03, and 9.20: whatever. I-06, but not X-1.");
        assert_eq!(named, ["ID-1", "ID-3", "ID-4", "ID-5", "PL-4", "A-03", "I-06"]);
    }
}
