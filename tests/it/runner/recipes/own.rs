//! Recipes of an operator, and refusals.

use api::project::{Lease, Observed, TaskKind};
use runner::{ProxySettings, Tls};
use testkit::{BASE_IMAGE, ReservedPort, caddy, eventually};

use super::{WithRecipes, bench, clone, deploy, update};
use crate::{runner::conformance::bench::Bench, support::hosting::response};

/// A recipe for the program of the test repository.
fn recipe(more: &str) -> WithRecipes {
    let text = format!(
        "image = \"{BASE_IMAGE}\"\nsetup = \"export SECRET=$WORKERS\"\n{more}\n\
         [processes]\nweb = \"exec perl server.pl\"\nsecond = \"touch $DATA_DIR/second; exec sleep 3600\"\n"
    );
    WithRecipes { own: Some(("pages.toml", text)), ..WithRecipes::default() }
}

async fn pages(recipe: &WithRecipes) -> Option<Bench> {
    bench(recipe, &[("tenantry.toml", "recipe = \"pages\"\n")]).await
}

/// The end of one process ends the program, which is started again with all of its processes.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_process_restarts_the_program() {
    let once = "test -e $DATA_DIR/ended && exec sleep 3600; touch $DATA_DIR/ended; sleep 2; exit 7";
    let technology = WithRecipes {
        own: Some((
            "pages.toml",
            format!(
                "image = \"{BASE_IMAGE}\"\n[processes]\nweb = \"exec perl server.pl\"\nsecond = \"{once}\"\n"
            ),
        )),
        ..WithRecipes::default()
    };
    let Some(bench) = pages(&technology).await else { return };
    let id = bench.environment();
    bench.deploy(&id).await;
    eventually("a restart of the program", async || {
        bench.driver.reconcile().await;
        let report = bench.report(&id).await;
        (report.restart_count == 1 && report.observed() == Observed::Running).then_some(())
    })
    .await;
    bench.finish().await;
}

/// A recipe gets workers from the resources. A version without commands for it is refused an update, and its
/// copy says that it is not neutralized.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_of_the_operator_is_used() {
    let Some(bench) = pages(&recipe("memory_per_worker_mb = 512")).await else { return };
    let id = bench.environment();
    let (deployed, played) = deploy(&bench, &id, &[]).await;
    let page = response(&played.outcome().url, "/").await;
    assert!(page.contains("secret: 2\n"), "1,024 MiB are enough for two workers: {page}");
    let error = update(&bench, &deployed, "all", &[]).await.error();
    assert!(error.contains("its recipe has no command for updates"), "{error}");
    let cloned = clone(&bench, &deployed, &bench.environment(), &[]).await;
    assert!(cloned.log.contains("the copy is not neutralized"), "{}", cloned.log);
    cloned.outcome();
    bench.finish().await;
}

/// A copy that cannot be neutralized is discarded: the target serves as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_not_neutralized_is_discarded() {
    let technology =
        recipe("[neutralize]\ncommand = \"cat $DATA_DIR/kept; echo $PGDATABASE; exit 9\"");
    let Some(bench) = pages(&technology).await else { return };
    let [source, target] = [bench.environment(), bench.environment()];
    let (deployed, played) = deploy(&bench, &source, &[]).await;
    response(&played.outcome().url, "/keep/apples").await;
    let (_, played) = deploy(&bench, &target, &[]).await;
    let url = played.outcome().url;
    response(&url, "/keep/pears").await;
    let cloned = clone(&bench, &deployed, &target, &[]).await;
    assert!(cloned.log.contains("apples\n"), "{}", cloned.log);
    assert!(
        cloned.log.contains(&format!("{}_incoming", super::database(&target))),
        "{}",
        cloned.log
    );
    let error = cloned.error();
    assert!(error.contains("the copy is not neutralized, and was discarded"), "{error}");
    assert!(error.contains("exit status: 9"), "{error}");
    assert!(response(&url, "/").await.contains("kept: pears\n"));
    bench.finish().await;
}

/// Refusals say what to do; a failed preparation leaves the running version.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_cannot_be_used_is_refused() {
    let technology =
        recipe("needs_database = true\n[prepare]\ncommand = \"test -z \\\"$MODULES\\\"\"");
    let Some(bench) = pages(&technology).await else { return };
    let id = bench.environment();
    let error = bench.play(&bench.lease(TaskKind::Deploy, &id)).await.error();
    assert!(error.contains("attach the add-on postgresql to the project"), "{error}");
    let (_, played) = deploy(&bench, &id, &[]).await;
    let url = played.outcome().url;
    let error = deploy(&bench, &id, &[("MODULES", "broken")]).await.1.error();
    assert!(error.contains("the preparation failed (exit status: 1)"), "{error}");
    assert!(response(&url, "/").await.starts_with("one\n"));
    for (manifest, expected) in [
        ("recipe = \"none\"\n", "there is no recipe none; this server has: odoo, pages, tryton"),
        ("recipe = \"../pages\"\n", "is not a recipe; write its name"),
        ("recipe = \"odoo\"\n", "the recipe odoo needs a version: write odoo:<version>"),
        ("recipe = \"pages\"\n[run]\ncommand = \"x\"\n", "remove one of them"),
    ] {
        bench.repository.write("tenantry.toml", manifest);
        bench.repository.commit("one");
        let error = deploy(&bench, &id, &[]).await.1.error();
        assert!(error.contains(expected), "{manifest}: {error}");
    }
    bench.finish().await;
}

/// Behind the proxy another port of the container serves the paths that the recipe names, also of the next
/// version.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_a_recipe_is_served_by_its_port() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let [http, https] = [ReservedPort::new(), ReservedPort::new()];
    let live = "mkdir -p live; cp page.txt live/; exec python3 -m http.server 8081";
    let text = format!(
        "image = \"{BASE_IMAGE}\"\nsetup = \"export SECRET=$ROUTES\"\n\
         [processes]\nweb = \"exec perl server.pl\"\nlive = \"{live}\"\n\
         [[routes]]\npath = \"/live\"\nport = 8081\n"
    );
    let proxy = ProxySettings {
        apps_domain: "apps.test".to_owned(),
        caddy: caddy(),
        http_port: http.number(),
        https_port: https.number(),
        tls: Tls::Off,
    };
    let technology = WithRecipes { own: Some(("pages.toml", text)), proxy: Some(proxy) };
    let Some(bench) = pages(&technology).await else { return };
    let id = bench.environment();
    let host = "main-pages.apps.test";
    let address = ([127, 0, 0, 1], http.number()).into();
    let client = reqwest::Client::builder().resolve(host, address).build().unwrap();
    for version in ["two", "three"] {
        bench.repository.commit(version);
        let lease = bench.lease(TaskKind::Deploy, &id);
        let lease = Lease { hostname: host.to_owned(), ..lease };
        let url = bench.play(&lease).await.outcome().url;
        let get = async |path: &str| {
            let response = client.get(format!("{url}{path}")).send().await.unwrap();
            response.text().await.unwrap()
        };
        // The process beside the one that is checked may be slower.
        let page = eventually("the page of the other port", async || {
            let page = get("/live/page.txt").await;
            (page == format!("{version}\n")).then_some(page)
        });
        page.await;
        let page = get("/other").await;
        assert!(
            page.starts_with(&format!("{version}\nkept")) && page.contains("secret: yes"),
            "{page}"
        );
    }
    bench.finish().await;
}
