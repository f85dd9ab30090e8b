//! Fuzz target: redaction of secrets in arbitrary text.

use std::sync::LazyLock;

use bolero::check;
use data_encoding::BASE64;
use primitives::foreign_text::clean;

use super::Secrets;
use crate::fuzz_input::Input;

const VALUE: &str = "S3cr\u{e9}t/+ \"value\"";

static SECRETS: LazyLock<Secrets> = LazyLock::new(|| Secrets::new([("NAME", VALUE)]));

/// A text with a secret, encoded in any way, does not contain the secret after its redaction; redacted text
/// is clean and within its limit.
#[test]
fn redacted_text_contains_no_secret() {
    let samples =
        ["a=%53&b=", "{\"a\": \"\\u0053", "\u{1b}[31mred\u{200d}\0", "A/+=\\\\", "line\r\nnext"];
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&samples);
        let percent: String = VALUE.bytes().map(|it| format!("%{it:02X}")).collect();
        let json = serde_json::to_string(VALUE).unwrap_or_default();
        let json = &json[1..json.len() - 1];
        let base64 = BASE64.encode(VALUE.as_bytes());
        for form in [VALUE, &percent, json, base64.trim_end_matches('=')] {
            // A line feed ends an escape sequence or a percent sign of the text before.
            let redacted = SECRETS.redact_block(&format!("{text}\n{form}\n{text}"), usize::MAX);
            assert!(!redacted.contains(form), "{redacted:?} contains {form:?}");
            assert!(redacted.contains("[secret NAME]"), "{redacted:?}");
            assert_eq!(clean(&redacted), redacted);
        }
        for bytes_max in [10, 100, 10_000] {
            let redacted = SECRETS.redact_line(&text, bytes_max);
            assert_eq!(redacted, SECRETS.redact_any_line(&text, bytes_max));
        }
        let line = SECRETS.redact_line(&format!("first {text}"), 100);
        assert!(line.starts_with("first"), "{line:?} has lost its beginning");
        let line = SECRETS.redact_line(&text, 100);
        assert!(line.len() <= 100 && !line.contains('\n'), "{line:?}");
        assert!(SECRETS.redact_block(&text, 100).len() <= 100);
    });
}
