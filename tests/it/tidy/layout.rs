//! Layout of source files: length, first line, leftover marks.

use super::{assert_none, rust_files};

/// Largest number of lines of a file.
const LINES_MAX: usize = 400;

/// Largest number of characters of a line.
const COLUMNS_MAX: usize = 110;

#[test]
fn files_and_lines_are_short() {
    let mut violations = vec![];
    for source in rust_files() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            violations.push(format!("{}: {lines} lines", source.path));
        }
        for (index, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                violations.push(format!("{}:{}: {columns} columns", source.path, index + 1));
            }
        }
    }
    assert_none(&violations, "a file has at most 400 lines, a line at most 110 columns");
}

#[test]
fn every_file_begins_with_its_purpose_and_has_no_leftover_marks() {
    let marks = ["TODO", "FIXME", "XXX", "dbg!(", "todo!(", "unimplemented!(", "#[ignore"];
    for source in rust_files() {
        assert!(source.text.starts_with("//!"), "{} does not begin with `//!`", source.path);
        for mark in marks.iter().filter(|_| !source.path.ends_with("tidy/layout.rs")) {
            assert!(!source.text.contains(mark), "{} contains {mark}", source.path);
        }
    }
}
