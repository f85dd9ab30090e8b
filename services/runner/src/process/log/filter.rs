//! Text filter of a query. Redacted lines are searched, so that a search cannot find out a secret; most lines
//! without the text are left out before they are redacted.

use memchr::memmem::Finder;

use crate::{
    secrets::{Secrets, VALUE_BYTES_MIN},
    text::LINE_BYTES_MAX,
};

/// Search for a text in redacted lines.
pub(super) struct TextFilter {
    finder: Finder<'static>,
    /// True if a mark that replaces a secret may contain the text, or a part of it.
    is_in_mark: bool,
    /// Longest line that is not cut off if it consists of marks, in bytes.
    uncut_bytes_max: usize,
}

impl TextFilter {
    /// Returns a filter for a text; `None` if it is empty.
    pub(super) fn new(text: &str, secrets: &Secrets) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let bytes_max = secrets.marks().map(|it| it.len()).max().unwrap_or(0);
        // A text that overlaps the begin or the end of a mark has its first or last character.
        let is_in_mark = text.contains(['[', ']']) || secrets.marks().any(|it| it.contains(text));
        Some(Self {
            finder: Finder::new(text).into_owned(),
            is_in_mark,
            uncut_bytes_max: LINE_BYTES_MAX / (1 + bytes_max.div_ceil(VALUE_BYTES_MIN)),
        })
    }

    /// Returns true if a line does not have the text after its redaction. False for some of those lines.
    pub(super) fn excludes(&self, line: &[u8], secrets: &Secrets) -> bool {
        !self.is_in_mark
            && line.len() <= self.uncut_bytes_max
            && self.finder.find(line).is_none()
            && secrets.is_literal(line)
    }

    pub(super) fn selects(&self, redacted: &str) -> bool {
        self.finder.find(redacted.as_bytes()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of a search is that of a search in redacted lines.
    #[test]
    fn lines_are_excluded_only_if_their_redaction_does_not_have_the_text() {
        let secrets = Secrets::new([("TOKEN", "s3crets3cret"), ("OTHER", "a secret with spaces")]);
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let many = "s3crets3cret".repeat(LINE_BYTES_MAX / 12);
        let lines = [
            "",
            "plain",
            "s3crets3cret",
            "a s3crets3cret b",
            "s3cret%733cret",
            "a+secret+with+spaces",
            "\u{1b}[1mpl\u{1b}[0main",
            "\u{e9}",
            "https://ann:pw@x",
            &long,
            &many,
        ];
        let texts =
            ["plain", "s3cret", "TOKEN", "[", "]", "a [", "secret", "***", "cut", "\u{e9}", " b"];
        let mut excluded = 0;
        for text in texts {
            let filter = TextFilter::new(text, &secrets).unwrap();
            for line in lines {
                let redacted = secrets.redact_line(line, LINE_BYTES_MAX);
                assert_eq!(filter.selects(&redacted), redacted.contains(text));
                if filter.excludes(line.as_bytes(), &secrets) {
                    assert!(!redacted.contains(text), "{text:?} in {redacted:?}");
                    excluded += 1;
                }
            }
        }
        assert!(excluded >= 15, "{excluded}");
        assert!(TextFilter::new("", &secrets).is_none());
    }
}
