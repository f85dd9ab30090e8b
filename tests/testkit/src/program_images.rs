//! Images of programs that have recipes, made from packages of this machine: Tryton of PyPI, and a stand-in
//! for Odoo, which is not on PyPI.

use std::{path::Path, process::Command};

use bollard::{body_full, query_parameters::BuildImageOptionsBuilder};
use futures::StreamExt;
use tokio::sync::Mutex;

use crate::{BASE_IMAGE, Engine};

/// Image of Tryton 7.0 with gunicorn and psycopg2.
const TRYTON: &str = "test-tryton:7.0";

/// Image of the stand-in for Odoo 17.0.
const ODOO: &str = "test-odoo:17.0";

/// The stand-in: takes the documented options and refuses others.
const ODOO_PROGRAM: &str = include_str!("program_images/odoo.py");

static BUILDING: Mutex<()> = Mutex::const_new(());

/// Makes the image of Tryton, unless the engine has it; returns its name with `{version}`.
///
/// # Panics
/// If Tryton is not installed, which `cargo xtask test` does.
pub async fn tryton_image(engine: &Engine) -> String {
    let _building = BUILDING.lock().await;
    make_tryton(engine).await;
    "test-tryton:{version}".to_owned()
}

/// Makes the image of the stand-in for Odoo, unless the engine has it; returns its name with `{version}`.
///
/// # Panics
/// If the engine does not build it.
pub async fn odoo_image(engine: &Engine) -> String {
    let _building = BUILDING.lock().await;
    make_tryton(engine).await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let program = folder.path().join("odoo");
    std::fs::write(&program, ODOO_PROGRAM).expect("a file");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("the mode can be set");
    // Its Python has psycopg2, as that of Odoo.
    let dockerfile = format!("FROM {TRYTON}\nCOPY odoo /usr/local/bin/odoo\n");
    build(engine, ODOO, &dockerfile, folder.path()).await;
    "test-odoo:{version}".to_owned()
}

async fn make_tryton(engine: &Engine) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/tryton");
    assert!(folder.join("bin/trytond").exists(), "Tryton is not installed; run `cargo xtask test`");
    let dockerfile = format!(
        "FROM {BASE_IMAGE}\nCOPY . /usr/lib/python3/dist-packages\nCOPY bin /usr/local/bin\n"
    );
    if engine.client().inspect_image(TRYTON).await.is_err() {
        build(engine, TRYTON, &dockerfile, &folder).await;
    }
}

/// Builds an image from a folder.
async fn build(engine: &Engine, name: &str, dockerfile: &str, folder: &Path) {
    let recipe = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(recipe.path().join("Dockerfile"), dockerfile).expect("a file");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--file=-", "--exclude=__pycache__", "--directory"]).arg(folder);
    let output = tar.arg(".").arg("--directory").arg(recipe.path()).arg("Dockerfile").output();
    let output = output.expect("tar is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let options = BuildImageOptionsBuilder::new().t(name).networkmode("none").rm(true).build();
    let body = body_full(output.stdout.into());
    let mut building = std::pin::pin!(engine.client().build_image(options, None, Some(body)));
    while let Some(step) = building.next().await {
        let error = step.expect("the image is built").error_detail;
        assert!(error.is_none(), "{name}: {error:?}");
    }
}
