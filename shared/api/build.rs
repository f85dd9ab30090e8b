//! Build script: compiles every `.proto` file under `proto/` into one module tree, one descriptor set and the
//! checks of its `buf.validate` rules. Needs no `protoc` and no list of files.

#[path = "build/checks.rs"]
mod checks;
#[path = "build/normalization.rs"]
mod normalization;
#[path = "build/remedies.rs"]
mod remedies;

use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    println!("cargo:rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let files = proto_files(&root.join("tenantry"))?;
    let (admin, contract): (Vec<_>, Vec<_>) =
        files.iter().cloned().partition(|it| it.starts_with(root.join("tenantry/admin")));
    // Encoded here, because decoded descriptors lose the custom options, which the host enforces.
    let contract = compile(&root, contract)?.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), contract)?;
    let admin = compile(&root, admin)?.encode_file_descriptor_set();
    fs::write(out.join("admin_descriptors.bin"), admin)?;
    let compiler = compile(&root, files)?;
    fs::write(out.join("checks.rs"), checks::generate(&compiler.descriptor_pool())?)?;

    fs::write(out.join("remedies.rs"), remedies::generate(&compiler.descriptor_pool())?)?;
    fs::write(out.join("short_names.rs"), short_names(&root.join("tenantry"))?)?;

    let mut files = compiler.file_descriptor_set();
    files.file.retain(|it| it.package() != "buf.validate");
    let mut prost = tonic_prost_build::Config::new();
    prost.enable_type_names().btree_map(["."]).include_file("packages.rs");
    tonic_prost_build::configure().compile_fds_with_config(files, prost)?;
    Ok(())
}

/// Compiles files with their imports and comments.
fn compile(root: &Path, files: Vec<PathBuf>) -> Result<protox::Compiler, protox::Error> {
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    Ok(compiler)
}

/// Re-exports of the packages below `dir` by their short names: `tenantry.audit.v1` as `audit`.
fn short_names(dir: &Path) -> io::Result<String> {
    let mut names = vec![];
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.iter().map(|it| format!("pub use tenantry::{it}::v1 as {it};\n")).collect())
}

/// All .proto files below `dir`, sorted.
fn proto_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|it| it == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
