//! Base images and third-party images: pulled, or replaced by stand-ins from package registries where no
//! image registry can be reached (`deploy/stand-ins.Dockerfile`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Programs, docker, docker_output};
use crate::{
    Outcome,
    machine::{self, Need},
    run,
};

/// Image of the Debian release that the others are made of.
const DEBIAN: &str = "debian:bookworm-slim";

/// Images and the targets of their stand-ins.
const IMAGES: [(&str, &str); 5] = [
    ("rust:1.95-bookworm", "rust"),
    ("postgres:15-bookworm", "postgres"),
    ("nats:2.12", "nats"),
    ("caddy:2.11", "caddy"),
    ("maildev/maildev:2.2.1", "maildev"),
];

const NATS_VERSION: &str = "v2.12.7";
const MAILDEV_VERSION: &str = "2.2.1";

/// Creates the root file system of a Debian release.
const DEBOOTSTRAP: Need = Need::new("debootstrap", || machine::runs("debootstrap", &["--version"]));

/// Pulls the images that are missing, or builds their stand-ins.
pub(super) fn provide(programs: Programs) -> Outcome {
    if !is_available(DEBIAN) {
        import_debian()?;
    }
    for (image, target) in IMAGES {
        let is_needed = target != "rust" || programs == Programs::Compiled;
        if is_needed && !is_available(image) {
            build(image, target)?;
        }
    }
    Ok(())
}

/// True if the engine has an image, after an attempt to pull it.
fn is_available(image: &str) -> bool {
    docker_output(&["image", "inspect", image]).is_ok()
        || docker_output(&["pull", "--quiet", image]).is_ok()
}

/// Imports a minimal Debian, with the certificate authorities that this machine trusts.
fn import_debian() -> Outcome {
    eprintln!("xtask: {DEBIAN} cannot be pulled; making a stand-in with debootstrap");
    machine::need(&[DEBOOTSTRAP])?;
    let folder = run::root().join("target/stand-ins/debian");
    let path = folder.to_string_lossy().into_owned();
    let _ = fs::remove_dir_all(&folder);
    create(&folder)?;
    let arguments = ["--variant=minbase", "--include=ca-certificates", "bookworm", &path];
    run::program(Path::new("debootstrap"), &arguments)?;
    let authorities = "etc/ssl/certs/ca-certificates.crt";
    let copied = fs::copy(Path::new("/").join(authorities), folder.join(authorities));
    copied.map_err(|error| format!("cannot copy /{authorities}: {error}"))?;
    let archive = format!("{path}.tar");
    run::program(Path::new("tar"), &["--directory", &path, "--create", "--file", &archive, "."])?;
    docker(&["import", &archive, DEBIAN])
}

fn build(image: &str, target: &str) -> Outcome {
    eprintln!("xtask: {image} cannot be pulled; making a stand-in");
    let context = match target {
        "rust" => toolchain()?,
        "nats" => nats()?,
        "caddy" => caddy()?,
        "maildev" => maildev()?,
        _ => empty()?,
    };
    let context = context.to_string_lossy().into_owned();
    let file = "deploy/stand-ins.Dockerfile";
    let arguments = ["build", "--network", "host", "--file", file, "--target", target];
    docker(&[&arguments[..], &["--tag", image, &context]].concat())
}

/// Directory of the Rust toolchain.
fn toolchain() -> Outcome<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let output = output.map_err(|error| format!("rustc cannot be started: {error}"))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Directory with `nats-server`, compiled from the Go module proxy.
fn nats() -> Outcome<PathBuf> {
    let folder = create(&run::root().join("target/stand-ins/nats"))?;
    if !machine::runs("go", &["version"]) {
        return Err("go is not installed; it compiles the stand-in of nats".to_owned());
    }
    let mut install = Command::new("go");
    install.env("CGO_ENABLED", "0").env("GOBIN", &folder).stdin(Stdio::null());
    let package = format!("github.com/nats-io/nats-server/v2@{NATS_VERSION}");
    install.args(["install", "-trimpath", "-ldflags=-s -w", &package]);
    run::finish(&mut install, &format!("go install {package}"))?;
    Ok(folder)
}

/// Directory with `caddy`, from PyPI.
fn caddy() -> Outcome<PathBuf> {
    let program = machine::caddy()?;
    let folder = create(&run::root().join("target/stand-ins/caddy"))?;
    let copied = fs::copy(program, folder.join("caddy"));
    copied.map_err(|error| format!("cannot copy caddy: {error}"))?;
    Ok(folder)
}

/// Directory with `maildev`, from npm.
fn maildev() -> Outcome<PathBuf> {
    let folder = create(&run::root().join("target/stand-ins/maildev"))?;
    if !machine::runs("npm", &["--version"]) {
        return Err("npm is not installed; it installs the stand-in of maildev".to_owned());
    }
    let path = folder.to_string_lossy().into_owned();
    let package = format!("maildev@{MAILDEV_VERSION}");
    run::program(Path::new("npm"), &["install", "--silent", "--prefix", &path, &package])?;
    Ok(folder)
}

fn empty() -> Outcome<PathBuf> {
    create(&run::root().join("target/stand-ins/empty"))
}

fn create(folder: &Path) -> Outcome<PathBuf> {
    let created = fs::create_dir_all(folder);
    created.map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    Ok(folder.to_owned())
}
