//! Kubernetes cluster of one node on this machine: its programs from the Go module proxy and Debian, its
//! images from the container engine.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Outcome, containers,
    machine::{self, Need},
    run,
};

const SCRIPTS: &str = "xtask/src/cluster/node";

/// Programs of Debian packages.
const NEEDS: [Need; 7] = [
    Need::new("containerd", || machine::runs("containerd", &["--version"])),
    Need::new("runc", || machine::runs("runc", &["--version"])),
    Need::new("etcd-server", || machine::runs("etcd", &["--version"])),
    Need::new("containernetworking-plugins", || Path::new("/usr/lib/cni/bridge").exists()),
    Need::new("iptables", || machine::runs("iptables", &["--version"])),
    Need::new("ipset", || machine::runs("ipset", &["--version"])),
    Need::new("busybox-static", || Path::new("/bin/busybox").exists()),
];

/// Image of the pods' first container, and of the pod that attacks: busybox, statically linked.
const PAUSE: &str = "tenantry-pause:1";

/// Folder of the programs and the state of the cluster.
pub(super) fn folder() -> PathBuf {
    run::root().join("target/cluster")
}

/// Fails unless this machine can run a node.
pub(super) fn need() -> Outcome {
    let is_root = fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    if !is_root {
        return Err("a node needs root; run `cargo xtask cluster` as root".to_owned());
    }
    if !machine::runs("go", &["version"]) {
        return Err("go is not installed; it compiles the programs of the cluster".to_owned());
    }
    machine::need(&NEEDS)
}

/// Compiles the programs that are missing, in about twelve minutes.
pub(super) fn build() -> Outcome {
    let programs =
        ["kube-apiserver", "kubelet", "kubectl", "coredns", "kube-router", "helm", "ghz"];
    if programs.iter().all(|it| folder().join("bin").join(it).exists()) {
        return Ok(());
    }
    script("build.sh")
}

/// Starts the node, with images of the suite.
pub(super) fn start(images: &[String]) -> Outcome {
    let pause = folder().join("pause");
    fs::create_dir_all(&pause).map_err(|error| format!("cannot create a folder: {error}"))?;
    fs::copy("/bin/busybox", pause.join("busybox")).map_err(|error| error.to_string())?;
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
                      ENTRYPOINT [\"/bin/busybox\", \"sleep\", \"2147483647\"]\n";
    super::write(&pause.join("Dockerfile"), dockerfile)?;
    containers::docker(&["build", "--quiet", "--tag", PAUSE, &pause.to_string_lossy()])?;
    let archive = folder().join("images.tar");
    let archive = archive.to_string_lossy();
    let mut images: Vec<_> = images.iter().map(String::as_str).collect();
    images.extend([
        "postgres:15-bookworm",
        "nats:2.12",
        "caddy:2.11",
        "maildev/maildev:2.2.1",
        PAUSE,
    ]);
    containers::docker(&[&["save", "--output", &archive], &images[..]].concat())?;
    script("up.sh")
}

/// Stops the node.
pub(super) fn stop() -> Outcome {
    script("down.sh")
}

fn script(name: &str) -> Outcome {
    let mut command = Command::new("bash");
    command.current_dir(run::root()).arg(format!("{SCRIPTS}/{name}")).arg(folder());
    run::finish(&mut command, name)
}
