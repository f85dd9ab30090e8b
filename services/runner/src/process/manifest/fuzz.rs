//! Fuzz target: parsing of manifests, which tenants control.

use bolero::check;

use super::*;
use crate::fuzz_input::Input;

const SAMPLES: [&str; 3] = [
    "[build]\ncommand = \"make\"\n[run]\ncommand = \"./serve\"\n\
     [health]\npath = \"/up\"\ntimeout_s = 5\n",
    "[run]\ncommand = '''a\nb'''\n",
    "release: make\nweb: ./serve $PORT\nworker: x\n",
];

/// Parsing fails, or each command is valid as one program argument (no NUL byte, not too long), the health
/// path is valid, and the timeout is within its maximum.
#[test]
fn an_accepted_manifest_is_valid() {
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&SAMPLES);
        for manifest in [Manifest::from_toml(&text), Manifest::from_procfile(&text)] {
            let Ok(manifest) = manifest else { continue };
            for command in manifest.build.iter().chain([&manifest.run]) {
                assert!(!command.contains('\0'), "{command:?} contains NUL");
                assert!(command.len() <= COMMAND_BYTES_MAX, "{command:?} is too long");
            }
            let path = &manifest.health;
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
