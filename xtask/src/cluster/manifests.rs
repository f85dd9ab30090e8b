//! Objects of `deploy/kubernetes` and of the Helm chart: the API server accepts them, and they are the same.

use std::fs;

use super::{Cluster, NAMESPACE, output, upgrade::NEXT, write};
use crate::{Outcome, run};

const CHART: &str = "deploy/helm/tenantry";

/// Validates the objects, and compares both ways to make them.
pub(super) fn check(cluster: &Cluster) -> Outcome {
    let production = "deploy/kubernetes/overlays/production";
    let with_cert_manager = cert_manager_overlay(cluster)?;
    for (overlay, values) in [
        (production, &["--values", "deploy/helm/production.yaml"][..]),
        (
            &with_cert_manager,
            &["--values", "deploy/helm/production.yaml", "--set", "certManager=true"],
        ),
    ] {
        let mut kustomize = cluster.command("kubectl");
        let kustomized = output(kustomize.args(["kustomize", overlay]), "kubectl kustomize")?;
        let mut helm = cluster.command("helm");
        // Without it, helm takes the objects for a cluster of the version that it was compiled for.
        helm.args(["template", "tenantry", CHART, "--kube-version", "1.34.0"]);
        helm.args(["--namespace", NAMESPACE]).args(values);
        let templated = output(&mut helm, "helm template")?;
        let kustomized = normalize(cluster, &kustomized)?;
        let templated = normalize(cluster, &templated)?;
        if let Some(difference) = first_difference(&kustomized, &templated) {
            return Err(format!("{overlay} and {CHART} differ: {difference}"));
        }
        let objects = kustomized.lines().filter(|it| it.starts_with("kind:")).count();
        eprintln!("xtask: {overlay} and {CHART} make the same {objects} objects");
    }
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    for overlay in [production, "deploy/kubernetes/overlays/dev"] {
        let dry_run = ["apply", "--dry-run=server", "--validate=strict", "--kustomize", overlay];
        cluster.read(&dry_run)?;
    }
    Ok(())
}

/// Replaces the objects of the base by those of `helm install`, with the databases, keys and certificates
/// that exist. The runner and the project service get the sample repository of the demo as in the overlay
/// `dev`.
pub(super) fn install_chart(cluster: &Cluster) -> Outcome {
    let base = "deploy/kubernetes/base";
    cluster.read(&["delete", "--wait", "--ignore-not-found", "--kustomize", base])?;
    let mut helm = cluster.command("helm");
    helm.args(["install", "tenantry", CHART, "--namespace", NAMESPACE]);
    helm.args(["--set-string", "settings.TENANTRY_NATS_STREAM_REPLICAS=3"]);
    helm.args(["--set-string", "settings.TENANTRY_SMTP_URL=smtp://mail:1025"]);
    helm.args(["--set", "openEgress=false", "--set", &format!("image.tag={NEXT}")]);
    run::finish(&mut helm, "helm install")?;
    for (workload, file) in [("deployment/project", "project"), ("statefulset/runner", "runner")] {
        let patch = format!("deploy/kubernetes/overlays/dev/{file}.yaml");
        cluster.read(&["patch", workload, "--patch-file", &patch])?;
    }
    cluster.wait_for_rollouts()
}

/// Writes an overlay with the production one and the component `cert-manager`; returns its folder.
fn cert_manager_overlay(cluster: &Cluster) -> Outcome<String> {
    let folder = cluster.folder.join("cert-manager");
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create a folder: {error}"))?;
    let text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: tenantry\n\
                resources: [../../../deploy/kubernetes/overlays/production]\n\
                components: [../../../deploy/kubernetes/components/cert-manager]\n";
    write(&folder.join("kustomization.yaml"), text)?;
    Ok(folder.to_string_lossy().into_owned())
}

/// Returns objects in the order and notation of kustomize.
fn normalize(cluster: &Cluster, objects: &str) -> Outcome<String> {
    let folder = cluster.folder.join("normalize");
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create a folder: {error}"))?;
    write(&folder.join("objects.yaml"), objects)?;
    let kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
                         resources: [objects.yaml]\nsortOptions: { order: legacy }\n";
    write(&folder.join("kustomization.yaml"), kustomization)?;
    let mut kustomize = cluster.command("kubectl");
    output(kustomize.arg("kustomize").arg(folder), "kubectl kustomize")
}

/// Returns the first pair of lines that differ; `None` if there is none.
fn first_difference(left: &str, right: &str) -> Option<String> {
    let mut lines = left.lines().zip(right.lines());
    let pair = lines.find(|(left, right)| left != right);
    let differ = |(left, right)| format!("`{left}` and `{right}`");
    pair.map(differ).or_else(|| (left.len() != right.len()).then(|| "one is longer".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n").unwrap(), "`b` and `c`");
        assert_eq!(first_difference("a\nb\n", "a\n").unwrap(), "one is longer");
    }
}
