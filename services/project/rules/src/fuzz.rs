//! Fuzz target: bodies and signatures of push webhooks.

#[path = "../../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses only a part of the module")]
mod input;

use api::project::PushFormat;
use bolero::check;

use self::input::Input;
use crate::push::{Push, is_signed, parse};

const COMMIT: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";

/// A body is parsed as a push of a commit to a branch, or ignored with a reason. A signature is valid for
/// one body only.
#[test]
fn a_push_is_parsed_or_ignored() {
    let samples = [
        format!(r#"{{"ref":"refs/heads/main","after":"{COMMIT}","pusher":{{"name":"ann"}}}}"#),
        format!(r#"{{"ref":"refs/heads/a/b","after":"{COMMIT}","user_username":"ann"}}"#),
        format!(r#"{{"pusher":{{"login":"ann"}},"after":"{COMMIT}","ref":"refs/heads/main"}}"#),
        format!(r#"{{"ref":"refs/tags/v1","after":"{COMMIT}"}}"#),
        format!(
            "payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%2C%22after%22%3A%22{COMMIT}%22%7D"
        ),
    ];
    let samples = samples.map(String::into_bytes);
    check!().with_type::<Input>().for_each(|input| {
        let body = input.bytes(&samples);
        match parse("push", &body) {
            Ok(push) => {
                assert!(matches!(push.commit.len(), 40 | 64));
                assert!(push.commit.bytes().all(|it| it.is_ascii_hexdigit()));
                assert!(push.pusher.chars().count() <= 100);
                assert!(!push.pusher.chars().any(char::is_control));
                // The same limits as the contract's rule for names of branches.
                assert!(push.branch.len() <= 255 && !push.branch.chars().any(char::is_control));
                let condensed = push.condensed("secret");
                let Push { branch, commit, pusher } = parse("push", &condensed.body).unwrap();
                assert_eq!((branch, commit, pusher), (push.branch, push.commit, push.pusher));
            }
            Err(ignored) => assert!(!ignored.0.is_empty()),
        }
        let mac = chassis::key::hmac_sha256(b"secret", &samples[0]);
        let signature = format!("sha256={}", data_encoding::HEXLOWER.encode(&mac));
        let signed = is_signed(PushFormat::Github, "secret", &signature, &body);
        assert_eq!(signed, body == samples[0]);
    });
}
