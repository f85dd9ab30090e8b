//! Odoo, by a stand-in that takes its documented command line: what the recipe calls, and in which order.

use serde_json::{Value, json};

use super::{ADMIN_PASSWORD, WithRecipes, bench, clone, database, deploy, update};
use crate::support::hosting::response;

const VERSION: (&str, &str) = ("ODOO_VERSION", "17.0");

async fn state(url: &str) -> Value {
    serde_json::from_str(&response(url, "/state").await).unwrap()
}

/// Calls of the command.
fn calls(state: &Value) -> Vec<&str> {
    state["calls"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

/// A project with an Odoo version needs neither Dockerfile nor manifest.
#[tokio::test(flavor = "multi_thread")]
async fn odoo_is_deployed_updated_cloned_and_neutralized() {
    let files = [("addons/orchard/__manifest__.py", "{'name': 'Orchard'}\n")];
    let Some(bench) = bench(&WithRecipes::default(), &files).await else { return };
    let production = bench.environment();
    let (deployed, played) = deploy(&bench, &production, &[VERSION]).await;
    assert!(played.log.contains("building: recipe odoo:17.0"), "{}", played.log);
    let url = played.outcome().url;
    let first = state(&url).await;
    let [init, shell, server] = calls(&first)[..] else { panic!("{first}") };
    assert!(init.contains("--init base --without-demo all --stop-after-init"), "{init}");
    assert!(shell.starts_with("shell --database"), "{shell}");
    let database = format!("server --database {}", database(&production));
    assert!(server.starts_with(&database), "{server}");
    for option in [
        "--data-dir /data --addons-path /app/addons",
        "--workers 0",
        "--proxy-mode --no-database-list",
        "--limit-memory-soft 858993456",
    ] {
        assert!(server.contains(option), "{option}: {server}");
    }
    assert_eq!(first["res_users"], json!([["admin", ADMIN_PASSWORD]]));

    let updated = update(&bench, &deployed, "orchard,base", &[VERSION]).await;
    assert!(updated.log.contains("Module orchard loaded"), "{}", updated.log);
    let url = updated.outcome().url;
    let second = state(&url).await;
    let [update, server] = calls(&second)[3..] else { panic!("{second}") };
    assert!(update.contains("--update orchard,base --stop-after-init"), "{update}");
    assert!(server.starts_with(&database), "{server}");
    assert_eq!(second["ir_module_module"], json!([["base", 1], ["orchard", 0]]));

    let development = bench.environment();
    let cloned = clone(&bench, &deployed, &development, &[VERSION]).await;
    let copy = state(&cloned.outcome().url).await;
    let [neutralize, server] = calls(&copy)[5..] else { panic!("{copy}") };
    assert!(neutralize.starts_with("neutralize --database"), "{neutralize}");
    assert!(server.starts_with("server"), "{server}");
    let is_active =
        |state: &Value| [state["ir_cron"][0][0].clone(), state["ir_mail_server"][0][0].clone()];
    assert_eq!(is_active(&copy), [json!(false), json!(false)]);
    assert_eq!(is_active(&state(&url).await), [json!(true), json!(true)]);
    bench.finish().await;
}
