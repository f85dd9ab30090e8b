//! Recipes: Tryton as its users deploy it, Odoo by a stand-in, and recipes of an operator.

mod odoo;
mod own;
mod tryton;

use std::{path::Path, sync::Arc};

use api::project::{Lease, Provision, TaskKind, Variable};
use runner::{
    DockerSettings, ProxySettings, RecipeImage, RecipeSettings, Settings, driver::Driver,
};
use testkit::{Engine, odoo_image, tryton_image};

use super::conformance::{
    Technology,
    bench::{Bench, Played},
    settings,
};

/// Password of the account admin.
const ADMIN_PASSWORD: &str = "correct-horse-battery";

/// Containers of the shared engine, with recipes.
#[derive(Default)]
struct WithRecipes {
    /// File name and text of a recipe of the operator.
    own: Option<(&'static str, String)>,
    proxy: Option<ProxySettings>,
}

impl Technology for WithRecipes {
    async fn start(&self, folder: &Path) -> Option<Arc<dyn Driver>> {
        let engine = Engine::shared().await?;
        let image = |recipe: &str, image| RecipeImage { recipe: recipe.to_owned(), image };
        let images = vec![
            image("tryton", tryton_image(engine).await),
            image("odoo", odoo_image(engine).await),
        ];
        let directory = self.own.as_ref().map(|(name, text)| {
            let directory = folder.with_file_name("recipes");
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(name), text).unwrap();
            directory
        });
        let docker = DockerSettings {
            socket: engine.socket(),
            base_image: None,
            credentials_file: None,
            is_required: true,
            recipes: RecipeSettings { directory, images },
        };
        let settings = Settings { proxy: self.proxy.clone(), ..settings(folder, Some(docker)) };
        Some(runner::process_driver(settings).await.unwrap())
    }
}

/// A bench whose repository has these files and no manifest.
async fn bench(technology: &WithRecipes, files: &[(&str, &str)]) -> Option<Bench> {
    let bench = Bench::new(technology).await?;
    std::fs::remove_file(bench.repository.path().join("tenantry.toml")).unwrap();
    for (path, text) in files {
        write(&bench, path, text);
    }
    bench.repository.commit("one");
    Some(bench)
}

/// Writes a file, with its directory.
fn write(bench: &Bench, path: &str, text: &str) {
    let file = bench.repository.path().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

/// Adds a database and variables to a lease.
fn with_database(mut lease: Lease, variables: &[(&str, &str)]) -> Lease {
    let id = lease.environment_id.replace('-', "");
    lease.provisions.push(Provision {
        addon_key: "postgresql".to_owned(),
        name: format!("env_{id}"),
        password: id.chars().rev().collect(),
        variable: "DATABASE_URL".to_owned(),
        ..Provision::default()
    });
    let password = ("ADMIN_PASSWORD", ADMIN_PASSWORD);
    for (name, value) in variables.iter().chain([&password]) {
        let (name, value) = ((*name).to_owned(), (*value).to_owned());
        let secret = name == "ADMIN_PASSWORD";
        lease.variables.push(Variable { name, value, secret });
    }
    if let Some(resources) = &mut lease.resources {
        resources.memory_mb = 1_024;
    }
    lease
}

/// Name of the database of an environment.
fn database(environment: &str) -> String {
    format!("env_{}", environment.replace('-', ""))
}

/// Deploys with a database; returns the lease and the result.
async fn deploy(bench: &Bench, environment: &str, variables: &[(&str, &str)]) -> (Lease, Played) {
    let lease = with_database(bench.lease(TaskKind::Deploy, environment), variables);
    let played = bench.play(&lease).await;
    (lease, played)
}

/// Updates modules of a deployed version.
async fn update(
    bench: &Bench,
    deployed: &Lease,
    modules: &str,
    variables: &[(&str, &str)],
) -> Played {
    let lease = bench.lease(TaskKind::UpdateModules, &deployed.environment_id);
    let lease = Lease { release: deployed.release.clone(), ..lease };
    let variables = [variables, &[("MODULES", modules)]].concat();
    bench.play(&with_database(lease, &variables)).await
}

/// Clones PRODUCTION into another environment.
async fn clone(bench: &Bench, source: &Lease, target: &str, variables: &[(&str, &str)]) -> Played {
    let lease = Lease {
        source_environment_id: source.environment_id.clone(),
        source_release: source.release.clone(),
        neutralize: true,
        ..bench.lease(TaskKind::Clone, target)
    };
    bench.play(&with_database(lease, variables)).await
}
