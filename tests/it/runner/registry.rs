//! Images of a registry that needs a password.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use api::project::TaskKind;
use runner::{DockerSettings, RecipeSettings, driver::Driver};
use testkit::{Engine, Registry};

use super::conformance::{Technology, bench::Bench, settings};

/// Containers of the shared engine, with a file of credentials.
struct WithCredentials(Option<PathBuf>);

impl Technology for WithCredentials {
    async fn start(&self, folder: &Path) -> Option<Arc<dyn Driver>> {
        let docker = DockerSettings {
            socket: Engine::shared().await?.socket(),
            base_image: None,
            credentials_file: self.0.clone(),
            is_required: true,
            recipes: RecipeSettings::default(),
        };
        Some(runner::process_driver(settings(folder, Some(docker))).await.unwrap())
    }
}

/// A bench whose repository has a manifest that names an image, or a Dockerfile that begins with it.
async fn bench(credentials: Option<PathBuf>, image: &str, has_dockerfile: bool) -> Bench {
    let bench = Bench::new(&WithCredentials(credentials)).await.unwrap();
    if has_dockerfile {
        std::fs::remove_file(bench.repository.path().join("tenantry.toml")).unwrap();
        let text = format!(
            "FROM {image}\nWORKDIR /srv\nCOPY server.pl page.txt ./\nCMD [\"perl\", \"server.pl\"]\n"
        );
        bench.repository.write("Dockerfile", &text);
    } else {
        let server = "exec python3 -m http.server --bind $HOST --directory /usr/share $PORT";
        let manifest = format!("[run]\nimage = \"{image}\"\ncommand = '''{server}'''\n");
        bench.repository.write("tenantry.toml", &manifest);
    }
    bench.repository.commit("one");
    bench
}

/// An image of the registry is pulled, for a manifest and for a Dockerfile, with the credentials of the file
/// only. No text that a tenant sees has the password.
#[tokio::test(flavor = "multi_thread")]
async fn private_images_are_pulled_with_the_credentials_of_the_server() {
    let Some(engine) = Engine::shared().await else { return };
    let registry = Registry::start().await;
    let image = registry.push_base_image(engine).await;
    let wrong = "not-the-password";
    for has_dockerfile in [false, true] {
        for password in [None, Some(wrong)] {
            let file = password.map(|it| registry.write_credentials(it));
            let bench = bench(file, &image, has_dockerfile).await;
            let played = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await;
            let log = played.log.clone();
            let error = played.error();
            assert!(error.contains(&image) || error.contains("/base"), "{error}");
            assert!(!format!("{error}{log}").contains(wrong), "{error}\n{log}");
            bench.finish().await;
        }
        let file = registry.write_credentials(Registry::PASSWORD);
        let bench = bench(Some(file), &image, has_dockerfile).await;
        let id = bench.environment();
        let played = bench.play(&bench.lease(TaskKind::Deploy, &id)).await;
        let log = played.log.clone();
        assert!(!log.contains(Registry::PASSWORD), "{log}");
        let page = bench.page(&played.outcome().url).await;
        assert!(page.contains(if has_dockerfile { "one" } else { "perl" }), "{page}");
        bench.finish().await;
        assert_eq!(engine.objects_of(&id).await, Vec::<String>::new());
        Registry::forget(engine, &image).await;
    }
}
