//! Tryton with a module of the repository: deployed, updated, cloned and neutralized by calls of the suite,
//! with logins by JSON-RPC.

use data_encoding::BASE64;
use serde_json::{Value, json};
use testkit::{Engine, Options, Suite, tryton_image};

use super::{ADMIN_PASSWORD, database};
use crate::support::{
    hosting::{ENVIRONMENTS, Hosting},
    world::text,
};

/// A module with one model and one record.
const MODULE: [(&str, &str); 5] = [
    ("tenantry.toml", "recipe = \"tryton\"\n"),
    (
        "orchard/tryton.cfg",
        "[tryton]\nversion=7.0.0\ndepends:\n    ir\n    res\nxml:\n    orchard.xml\n",
    ),
    (
        "orchard/__init__.py",
        "from trytond.pool import Pool\n\nfrom . import orchard\n\n\ndef register():\n    \
         Pool.register(orchard.Tree, module='orchard', type_='model')\n",
    ),
    ("orchard/orchard.py", MODEL),
    (
        "orchard/orchard.xml",
        "<tryton><data><record model=\"orchard.tree\" id=\"first\">\
         <field name=\"name\">Apple</field></record></data></tryton>\n",
    ),
];

const MODEL: &str = r#"from trytond.model import ModelSQL, ModelView, fields


class Tree(ModelSQL, ModelView):
    "Tree"
    __name__ = 'orchard.tree'
    name = fields.Char("Name", required=True)
"#;

/// A session of the account admin.
struct Session {
    url: String,
    authorization: String,
}

impl Session {
    async fn log_in(hosting: &Hosting, environment: &str) -> Self {
        let url = text(&hosting.get(environment).await["url"]);
        let url = format!("{url}/{}/", database(environment));
        let parameters = json!(["admin", { "password": ADMIN_PASSWORD }]);
        let session = call(&url, "", "common.db.login", parameters).await;
        let token = format!("admin:{}:{}", session[0], session[1].as_str().unwrap());
        let authorization = format!("Session {}", BASE64.encode(token.as_bytes()));
        Self { url, authorization }
    }

    async fn call(&self, method: &str, parameters: Value) -> Value {
        call(&self.url, &self.authorization, method, parameters).await
    }

    /// Fields of all records of a model.
    async fn read(&self, model: &str, fields: Value) -> Value {
        let parameters = json!([[], 0, null, null, fields, {}]);
        self.call(&format!("model.{model}.search_read"), parameters).await
    }

    /// Number of scheduled actions that are active.
    async fn active_crons(&self) -> usize {
        self.read("ir.cron", json!(["active"])).await.as_array().unwrap().len()
    }

    /// Attaches a file to the first tree.
    async fn attach(&self, content: &[u8]) {
        let data = json!({ "__class__": "bytes", "base64": BASE64.encode(content) });
        let record = json!({ "name": "photo", "resource": "orchard.tree,1", "data": data });
        self.call("model.ir.attachment.create", json!([[record], {}])).await;
    }

    /// Content of the attached file.
    async fn attached(&self) -> Vec<u8> {
        let read = self.read("ir.attachment", json!(["data"])).await;
        let encoded = text(&read[0]["data"]["base64"]);
        BASE64.decode(encoded.trim().as_bytes()).unwrap()
    }
}

/// Calls a method by JSON-RPC.
async fn call(url: &str, authorization: &str, method: &str, parameters: Value) -> Value {
    let body = json!({ "id": 1, "method": method, "params": parameters });
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::new();
    let request = client.post(url).header("authorization", authorization).json(&body);
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let mut value: Value =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method}: {status}: {text}"));
    assert!(value.get("error").is_none(), "{method}: {value}");
    value["result"].take()
}

/// Calls a method that starts a task of an environment; returns the answer and the finished task.
async fn run(hosting: &Hosting, method: &str, id: &str, more: Value) -> (Value, Value) {
    let answer = hosting
        .owner()
        .call_ok(&format!("{ENVIRONMENTS}/{method}"), hosting.request(id, more))
        .await;
    let task = hosting.finished_task(&text(&answer["task"]["id"])).await;
    (answer, task)
}

/// The log of a task that must have completed.
fn completed(task: &Value) -> String {
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task:#}");
    let lines = task["logLines"].as_array().cloned().unwrap_or_default();
    lines.iter().map(|it| format!("{}\n", text(it))).collect()
}

/// Writes the files of the module, with these lines at the end of its model, and commits them.
fn commit(hosting: &Hosting, more: &str) {
    for (path, content) in MODULE {
        let file = hosting.repository.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let more = if path.ends_with("orchard.py") { more } else { "" };
        std::fs::write(file, format!("{content}{more}")).unwrap();
    }
    hosting.repository.commit("module");
}

/// PE-28, PE-42.
#[tokio::test(flavor = "multi_thread")]
async fn tryton_is_deployed_updated_cloned_and_neutralized() {
    let Some(engine) = Engine::shared().await else { return };
    let arguments = vec![
        "--runner-driver=docker".to_owned(),
        format!("--runner-docker-host=unix://{}", engine.socket().display()),
        format!("--runner-recipe-images=tryton={}", tryton_image(engine).await),
    ];
    let suite = Suite::start_with(Options { arguments, ..Options::default() }).await;
    let hosting = Hosting::new(&suite).await;
    commit(&hosting, "");
    let resources = json!({ "cpuCores": 1.0, "memoryMb": 1_024, "diskGb": 2 });
    let production = json!({
        "name": "production", "kind": "ENVIRONMENT_KIND_PRODUCTION", "resources": resources,
    });
    let id = hosting.create_environment(production).await;
    let (_, task) = run(&hosting, "DeployEnvironment", &id, json!({})).await;
    let error = text(&task["errorMessage"]);
    assert!(error.contains("attach the add-on postgresql to the project"), "{error}");
    let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
    hosting.owner().call_ok("project.v1.AddonService/AttachAddon", attach).await;
    let password = json!([{ "name": "ADMIN_PASSWORD", "value": ADMIN_PASSWORD, "secret": true }]);
    let set = hosting.request(&id, json!({ "set": password }));
    hosting.owner().call_ok(&format!("{ENVIRONMENTS}/SetVariables"), set).await;
    let modules = json!({ "modules": ["orchard"] });
    let (_, task) = run(&hosting, "DeployEnvironment", &id, modules.clone()).await;
    let log = completed(&task);
    assert!(log.contains("building: recipe tryton"), "{log}");
    assert!(log.contains("module of the repository: orchard"), "{log}");
    assert!(!log.contains(ADMIN_PASSWORD), "{log}");
    let session = Session::log_in(&hosting, &id).await;
    let trees = session.read("orchard.tree", json!(["name"])).await;
    assert_eq!(trees[0]["name"], "Apple");
    session.attach(b"a photo of the tree").await;

    // The next version has a field, whose column an update of the module adds.
    commit(&hosting, "    height = fields.Integer(\"Height\")\n");
    completed(&run(&hosting, "DeployEnvironment", &id, json!({})).await.1);
    let (_, task) = run(&hosting, "UpdateModules", &id, modules).await;
    let log = completed(&task);
    assert!(log.contains("updating: orchard"), "{log}");
    assert!(log.contains("orchard:register orchard.tree"), "{log}");
    let session = Session::log_in(&hosting, &id).await;
    let values = json!([[1], { "height": 4 }, {}]);
    session.call("model.orchard.tree.write", values).await;
    assert_eq!(session.read("orchard.tree", json!(["height"])).await[0]["height"], 4);
    assert_eq!(session.attached().await, b"a photo of the tree");

    let (answer, task) = run(&hosting, "CloneEnvironment", &id, json!({ "name": "copy" })).await;
    let log = completed(&task);
    assert!(log.contains("neutralized: 3 scheduled actions are inactive"), "{log}");
    let copy = Session::log_in(&hosting, &text(&answer["environment"]["id"])).await;
    assert_eq!(copy.read("orchard.tree", json!(["height"])).await[0]["height"], 4);
    assert_eq!(copy.attached().await, b"a photo of the tree");
    assert_eq!(copy.active_crons().await, 0);
    assert_eq!(session.active_crons().await, 3);

    let (_, task) = run(&hosting, "UpdateModules", &id, json!({ "modules": ["missing"] })).await;
    let error = text(&task["errorMessage"]);
    assert!(error.contains("the update failed (exit status: 1)"), "{error}");
    assert_eq!(hosting.state(&id).await, "ERROR");
    let session = Session::log_in(&hosting, &id).await;
    assert_eq!(session.active_crons().await, 3, "the version serves on");
    for (id, name) in [(text(&answer["environment"]["id"]), "copy"), (id, "production")] {
        let destroy = json!({ "confirmName": name, "allowProduction": true });
        completed(&run(&hosting, "DestroyEnvironment", &id, destroy).await.1);
    }
    suite.finish().await;
}
