//! Fuzz target: lists of submodules, which anyone who can push to a repository controls.

use bolero::check;

use super::*;
use crate::fuzz_input::Input;

/// A submodule of a repository on this machine is mounted from an absolute path without `..`, and only for a
/// relative URL; one of another repository is never mounted.
#[test]
fn a_submodule_is_mounted_from_a_path_beside_the_repository() {
    let samples = [
        "submodule.a.b.path\nvendor/b\0submodule.a.b.url\n../b\0",
        "submodule.c.path\nc\0submodule.c.url\n../../../../bin/..\0",
        "submodule.d.url\n./x/../../y\0submodule.d.path\nd\0submodule.e.path\ne\0",
        "submodule.f.path\n../../f\0submodule.f.url\n/usr/bin\0",
    ];
    check!().with_type::<Input>().for_each(|input| {
        let list = input.text(&samples);
        for submodule in parse_submodules(&list, "/usr/lib") {
            for mount in submodule.mount("/usr/lib") {
                assert!(submodule.is_relative, "{submodule:?}");
                assert!(mount.target.starts_with('/'), "{mount:?}");
                assert!(mount.target.split('/').all(|it| it != ".."), "{mount:?}");
            }
            assert!(submodule.mount("https://git.example.com/a").is_empty());
        }
        assert!(!first_error(&list).contains('\n'));
    });
}
