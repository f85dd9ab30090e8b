//! Generation of client stubs from the contract with the tools of others.

use std::{path::Path, process::Command};

use prost_reflect::DescriptorPool;

/// `protoc` of Debian 12 (3.21) parses every file of the contract, and every file names the packages of its
/// Go and Java stubs.
#[test]
fn protoc_accepts_the_contract() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let out = tempfile::NamedTempFile::new().unwrap();
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let files: Vec<_> =
        pool.files().filter(|it| it.package_name().starts_with("tenantry.")).collect();
    assert!(files.len() > 20, "{} files", files.len());
    let output = Command::new("protoc")
        .arg("-I")
        .arg(root)
        .arg("-o")
        .arg(out.path())
        .args(files.iter().map(|it| it.name().to_owned()))
        .output()
        .expect("protoc is installed; `cargo xtask test` installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in files {
        let options = file.file_descriptor_proto().options.clone().unwrap_or_default();
        let package = file.package_name();
        let go = format!("tenantry.dev/gen/{};", package.replace('.', "/"));
        assert!(options.go_package().starts_with(&go), "{}: go_package", file.name());
        assert_eq!(options.java_package(), format!("dev.{package}"), "{}", file.name());
        assert!(options.java_multiple_files(), "{}", file.name());
    }
}
