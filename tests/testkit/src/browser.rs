//! Chromium driven over W3C `WebDriver`, with scripts disabled and the width of a small phone.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use data_encoding::BASE64;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{ReservedPort, eventually};

/// Width of the screen in CSS pixels: that of the smallest phones.
const WIDTH: u32 = 320;

/// Key of an element id in `WebDriver` responses.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser; stops with the test.
pub struct Browser {
    driver: Child,
    /// Temporary files of the browser, deleted with it.
    _folder: TempDir,
    session: String,
    http: reqwest::Client,
}

impl Browser {
    /// Starts a browser in which pages cannot run scripts.
    pub async fn start() -> Self {
        let reserved = ReservedPort::new();
        let port = reserved.number();
        let folder = tempfile::tempdir().expect("a temporary directory");
        let driver = Command::new("chromedriver")
            .env("TMPDIR", folder.path())
            .arg(format!("--port={port}"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is no chromedriver; run `cargo xtask test`");
        let connect = || tokio::net::TcpStream::connect(("127.0.0.1", port));
        eventually("the driver of the browser", async || connect().await.ok()).await;
        let http = reqwest::Client::new();
        let options = json!({
            // Chromium's sandbox does not start as root, and tests may run as root.
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            "prefs": { "profile.managed_default_content_settings.javascript": 2 },
        });
        // `none`, because the driver's own wait for the end of loading runs scripts in the page. `open` and
        // `click` call `wait_for_page` instead.
        let always = json!({ "pageLoadStrategy": "none", "goog:chromeOptions": options });
        let capabilities = json!({ "capabilities": { "alwaysMatch": always } });
        let driver_url = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { driver, _folder: folder, session: driver_url, http };
        let created = browser.post("", capabilities).await;
        let id =
            created["sessionId"].as_str().expect("the driver has created a session").to_owned();
        browser.session = format!("{}/{id}", browser.session);
        let screen =
            json!({ "width": WIDTH, "height": 640, "deviceScaleFactor": 1, "mobile": false });
        browser.cdp("Emulation.setDeviceMetricsOverride", screen).await;
        browser
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
        let succeeded = answer.status().is_success();
        let body = answer.json::<Value>().await;
        let value = body.expect("the driver answers in JSON")["value"].clone();
        assert!(succeeded, "{path}: {value}");
        value
    }

    /// Opens a URL and waits for the page.
    pub async fn open(&self, url: &str) {
        let before = self.find("main").await;
        self.post("/url", json!({ "url": url })).await;
        self.wait_for_page(before).await;
    }

    /// Waits for a `main` element other than the one of the previous page.
    async fn wait_for_page(&self, before: Option<String>) {
        eventually("the next page", async || {
            let now = self.find("main").await?;
            (Some(&now) != before.as_ref()).then_some(())
        })
        .await;
    }

    async fn find(&self, css: &str) -> Option<String> {
        let selector = json!({ "using": "css selector", "value": css });
        let url = format!("{}/element", self.session);
        let answer = self.http.post(url).json(&selector).send().await.ok()?;
        let found = answer.json::<Value>().await.ok()?;
        Some(found["value"][ELEMENT].as_str()?.to_owned())
    }

    async fn element(&self, css: &str) -> String {
        self.find(css).await.unwrap_or_else(|| panic!("the page has no {css}"))
    }

    /// Types text into a field.
    pub async fn fill(&self, css: &str, text: &str) {
        let id = self.element(css).await;
        self.post(&format!("/element/{id}/value"), json!({ "text": text })).await;
    }

    /// Clicks a button and waits for the next page.
    pub async fn click(&self, css: &str) {
        let before = self.find("main").await;
        let id = self.element(css).await;
        self.post(&format!("/element/{id}/click"), json!({})).await;
        self.wait_for_page(before).await;
    }

    /// Visible text of the page.
    pub async fn text(&self) -> String {
        let id = self.element("body").await;
        let text = self.get(&format!("/element/{id}/text")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    async fn cdp(&self, method: &str, params: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": method, "params": params })).await
    }

    /// True if no content is wider than the screen.
    pub async fn fits_screen(&self) -> bool {
        let metrics = self.cdp("Page.getLayoutMetrics", json!({})).await;
        let width =
            metrics["cssContentSize"]["width"].as_f64().expect("the driver reports a width");
        width <= f64::from(WIDTH)
    }

    /// Roles and names of the accessibility tree, as a screen reader gets them.
    pub async fn accessible_names(&self) -> Vec<(String, String)> {
        let tree = self.cdp("Accessibility.getFullAXTree", json!({})).await;
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let property = |node: &Value, field: &str| {
            node[field]["value"].as_str().unwrap_or_default().to_owned()
        };
        nodes.iter().map(|it| (property(it, "role"), property(it, "name"))).collect()
    }

    /// Writes a screenshot of the page to a file.
    pub async fn screenshot(&self, path: &Path) {
        let image = self.get("/screenshot").await;
        let image = BASE64.decode(image.as_str().unwrap_or_default().as_bytes());
        std::fs::write(path, image.expect("the screenshot is base64"))
            .expect("the file can be written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver does not stop its browser; both are one process group.
        let group = i32::try_from(self.driver.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.driver.wait();
    }
}
