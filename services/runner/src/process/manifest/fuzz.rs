//! Fuzz target: decoding and parsing of manifests, which tenants control.

use bolero::check;

use super::*;
use crate::fuzz_input::Input;

const SAMPLES: [&str; 4] = [
    "[build]\ncommand = \"make\"\n[run]\ncommand = \"./serve\"\n\
     [health]\npath = \"/up\"\ntimeout_s = 5\n",
    "[run]\ncommand = '''a\nb'''\n",
    "recipe = \"tryton:7.0\"\n[build]\ncommand = \"make\"\n",
    "release: make\nweb: ./serve $PORT\nworker: x\n",
];

/// A text as UTF-8, and as UTF-16 with and without a byte order mark.
fn encodings(text: &str) -> [Vec<u8>; 3] {
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [text.as_bytes().to_vec(), [&b"\xff\xfe"[..], &utf16].concat(), utf16]
}

/// Decoding or parsing fails, or each command is valid as one program argument (no NUL byte, not too long),
/// the health path is valid, and the timeout is within its maximum.
#[test]
fn an_accepted_manifest_is_valid() {
    let samples: Vec<Vec<u8>> = SAMPLES.iter().flat_map(|it| encodings(it)).collect();
    check!().with_type::<Input>().for_each(|input| {
        let Ok(TextFile { text, .. }) = TextFile::decode(&input.bytes(&samples)) else { return };
        for manifest in [Manifest::from_toml(&text), Manifest::from_procfile(&text)] {
            let Ok(manifest) = manifest else { continue };
            for command in manifest.build.iter().chain([&manifest.run]) {
                assert!(!command.contains('\0'), "{command:?} contains NUL");
                assert!(command.len() <= COMMAND_BYTES_MAX, "{command:?} is too long");
            }
            assert!(manifest.notices.iter().all(|it| it.len() <= 1_000), "{:?}", manifest.notices);
            let path = manifest.health_path();
            assert!(path.starts_with('/'), "{path:?} is not absolute");
            assert!(
                path.bytes().all(|it| it.is_ascii_graphic()),
                "{path:?} is not printable ASCII"
            );
            let default_timeout = Duration::ZERO;
            let timeout = manifest.start_timeout(default_timeout);
            assert!(
                timeout <= Duration::from_secs(TIMEOUT_S_MAX),
                "the timeout {timeout:?} is too long"
            );
        }
    });
}
