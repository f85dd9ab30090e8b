//! Upgrade drill: a next version, which is this one with a migration more, is rolled out under load.

use std::{fs, path::PathBuf, process::Command, time::Instant};

use super::{Cluster, drills, output, write};
use crate::{
    Outcome,
    containers::{self, Programs},
    run,
};

/// Tag of the images of the next version.
pub(super) const NEXT: &str = "next";

/// Migration of the next version. Its name marks it as compatible with programs of this version.
const MIGRATION: &str = "services/identity/migrations/9000_expand_upgrade_drill.sql";

/// Builds the images of the next version; returns their names.
pub(super) fn build(programs: Programs) -> Outcome<Vec<String>> {
    let folder = folder();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create a folder: {error}"))?;
    // Files keep their times, so that only what depends on the migration is compiled again.
    let copy = format!(
        "git ls-files -z --cached --others --exclude-standard \
         | xargs -0 cp --parents --no-dereference --preserve=timestamps -t {}",
        folder.display()
    );
    let mut command = Command::new("sh");
    run::finish(command.current_dir(run::root()).args(["-c", &copy]), "copy of the workspace")?;
    let statement = "alter table identity.organization add column upgrade_drill text;\n";
    write(&folder.join(MIGRATION), statement)?;
    containers::build_images_of(&folder, programs)?;
    containers::tag_images(NEXT)
}

/// Upgrades the suite under calls that read and change. Fails if a call fails, or if the next version does
/// not run.
pub(super) fn upgrade_under_load(cluster: &Cluster) -> Outcome {
    let overlay = cluster.folder.join("upgrade");
    fs::create_dir_all(&overlay).map_err(|error| format!("cannot create a folder: {error}"))?;
    let images = containers::TARGETS
        .map(|it| format!("  - {{ name: tenantry-{it}, newTag: {NEXT} }}\n"))
        .concat();
    let kustomization = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
         resources: [../../../deploy/kubernetes/overlays/dev]\nimages:\n{images}"
    );
    write(&overlay.join("kustomization.yaml"), &kustomization)?;
    let loads = drills::start_loads(cluster)?;
    let started = Instant::now();
    cluster.read(&["delete", "job", "migrate", "cluster-secrets", "--ignore-not-found"])?;
    cluster.kubectl(&["apply", "--kustomize", &overlay.to_string_lossy()])?;
    cluster.wait_for_rollouts()?;
    let seconds = started.elapsed().as_secs_f64();
    drills::finish_loads(loads, "the upgrade")?;
    expect_next_version(cluster)?;
    eprintln!("xtask: the suite was upgraded in {seconds:.0} s");
    Ok(())
}

/// Fails if a pod runs this version, or if the migration did not run.
fn expect_next_version(cluster: &Cluster) -> Outcome {
    let images = "jsonpath={range .items[*]}{.spec.containers[*].image}{\"\\n\"}{end}";
    let running = ["get", "pods", "--field-selector=status.phase=Running", "--output", images];
    let images = cluster.read(&running)?;
    let is_old = |it: &&str| it.contains("tenantry-") && !it.ends_with(NEXT);
    if let Some(image) = images.lines().find(is_old) {
        return Err(format!("a pod runs {image} after the upgrade"));
    }
    let mut psql = cluster.command("kubectl");
    psql.args(["--namespace", super::NAMESPACE, "exec", "postgres-0", "--"]);
    psql.args(["psql", "--username", "tenantry", "--dbname", "tenantry", "--command"]);
    psql.arg("select count(upgrade_drill) from identity.organization");
    output(&mut psql, "psql").map(drop)
}

fn folder() -> PathBuf {
    run::root().join("target/cluster/next")
}
