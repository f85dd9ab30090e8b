//! A real browser, Chromium, driven over `WebDriver` (W3C), without scripts and as narrow as a small phone.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use data_encoding::BASE64;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::eventually;

/// Narrow enough for every phone: 320 CSS pixels.
const WIDTH: u32 = 320;

/// How `WebDriver` names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser; it ends with the test.
pub struct Browser {
    driver: Child,
    /// Where it keeps its files; gone with it.
    _folder: TempDir,
    session: String,
    http: reqwest::Client,
}

impl Browser {
    /// Starts a browser in which pages can run no scripts.
    pub async fn start() -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr().map(|it| it.port());
        let port = free().expect("a port");
        let folder = tempfile::tempdir().expect("a folder");
        let driver = Command::new("chromedriver")
            .env("TMPDIR", folder.path())
            .arg(format!("--port={port}"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is no chromedriver; run `cargo xtask test`");
        let there = || tokio::net::TcpStream::connect(("127.0.0.1", port));
        eventually("the driver of the browser", async || there().await.ok()).await;
        let http = reqwest::Client::new();
        let options = json!({
            // Tests may run as root, which Chromium's own sandbox refuses.
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            "prefs": { "profile.managed_default_content_settings.javascript": 2 },
        });
        // The driver waits for pages by scripts, which there are none; so this waits for them itself.
        let always = json!({ "pageLoadStrategy": "none", "goog:chromeOptions": options });
        let wish = json!({ "capabilities": { "alwaysMatch": always } });
        let driver_url = format!("http://127.0.0.1:{port}/session");
        let mut it = Self { driver, _folder: folder, session: driver_url, http };
        let made = it.post("", wish).await;
        let id = made["sessionId"].as_str().expect("a session").to_owned();
        it.session = format!("{}/{id}", it.session);
        let screen =
            json!({ "width": WIDTH, "height": 640, "deviceScaleFactor": 1, "mobile": false });
        it.cdp("Emulation.setDeviceMetricsOverride", screen).await;
        it
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        let answer = self.http.post(url).json(&body).send().await.expect("the driver answers");
        Self::value(path, answer).await
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.session);
        let answer = self.http.get(url).send().await.expect("the driver answers");
        Self::value(path, answer).await
    }

    async fn value(path: &str, answer: reqwest::Response) -> Value {
        let (good, body) = (answer.status().is_success(), answer.json::<Value>().await);
        let value = body.expect("the driver answers in JSON")["value"].clone();
        assert!(good, "{path}: {value}");
        value
    }

    /// Opens an address.
    pub async fn open(&self, url: &str) {
        let before = self.find("main").await;
        self.post("/url", json!({ "url": url })).await;
        self.next(before).await;
    }

    /// Waits until there is a page, and it is not the one before.
    async fn next(&self, before: Option<String>) {
        eventually("the next page", async || {
            let now = self.find("main").await?;
            (Some(&now) != before.as_ref()).then_some(())
        })
        .await;
    }

    async fn find(&self, css: &str) -> Option<String> {
        let wish = json!({ "using": "css selector", "value": css });
        let url = format!("{}/element", self.session);
        let answer = self.http.post(url).json(&wish).send().await.ok()?;
        let found = answer.json::<Value>().await.ok()?;
        Some(found["value"][ELEMENT].as_str()?.to_owned())
    }

    async fn element(&self, css: &str) -> String {
        self.find(css).await.unwrap_or_else(|| panic!("the page has no {css}"))
    }

    /// Types into a field.
    pub async fn fill(&self, css: &str, text: &str) {
        let id = self.element(css).await;
        self.post(&format!("/element/{id}/value"), json!({ "text": text })).await;
    }

    /// Presses a button, and waits for the page that follows.
    pub async fn press(&self, css: &str) {
        let (before, id) = (self.find("main").await, self.element(css).await);
        self.post(&format!("/element/{id}/click"), json!({})).await;
        self.next(before).await;
    }

    /// What a reader of the page sees.
    pub async fn text(&self) -> String {
        let id = self.element("body").await;
        let text = self.get(&format!("/element/{id}/text")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    async fn cdp(&self, method: &str, params: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": method, "params": params })).await
    }

    /// Whether the page fits: nothing is wider than the screen.
    pub async fn fits(&self) -> bool {
        let metrics = self.cdp("Page.getLayoutMetrics", json!({})).await;
        let width = metrics["cssContentSize"]["width"].as_f64().expect("a width");
        width <= f64::from(WIDTH)
    }

    /// What a screen reader is told: role and name of everything that has one.
    pub async fn spoken(&self) -> Vec<(String, String)> {
        let tree = self.cdp("Accessibility.getFullAXTree", json!({})).await;
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let word = |node: &Value, field: &str| {
            node[field]["value"].as_str().unwrap_or_default().to_owned()
        };
        nodes.iter().map(|it| (word(it, "role"), word(it, "name"))).collect()
    }

    /// Keeps a picture of the page, to be looked at.
    pub async fn picture(&self, path: &Path) {
        let picture = self.get("/screenshot").await;
        let picture = BASE64.decode(picture.as_str().unwrap_or_default().as_bytes());
        std::fs::write(path, picture.expect("a picture")).expect("a file");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver leaves its browser behind; they are one process group.
        let group = i32::try_from(self.driver.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.driver.wait();
    }
}
