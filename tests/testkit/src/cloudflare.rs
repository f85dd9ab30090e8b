//! The DNS part of the API of Cloudflare, with the requests and responses of its documentation: zones,
//! records and batches of one zone. It is no record of the real service.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::{Receiver, Request, Response};

/// Id of the zone.
const ZONE_ID: &str = "023e105f4ecef8ad9ca31a8372d0c353";

/// A stored record, and the answer to the next batch.
#[derive(Default)]
struct State {
    records: Vec<Value>,
    created: usize,
    refuses_type: Option<String>,
}

/// The API for the zone `apps.example.com`; stops with the test.
pub struct Cloudflare {
    receiver: Receiver,
    state: Arc<Mutex<State>>,
}

impl Cloudflare {
    /// API token.
    pub const TOKEN: &str = "cloudflare-s3cret-t0ken";

    /// Starts the API without records.
    pub async fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let receiver = Receiver::with_script(move |request| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (status, body) = state.answer(request);
            let header = "content-type: application/json".to_owned();
            Response { header, body: body.to_string(), ..Response::status(status) }
        })
        .await;
        Self { receiver, state }
    }

    /// URL of the API, for the setting.
    pub fn url(&self) -> String {
        self.receiver.url("/client/v4")
    }

    /// Requests received so far.
    pub fn requests(&self) -> Vec<Request> {
        self.receiver.requests()
    }

    /// Names and contents of the records.
    pub fn records(&self) -> Vec<(String, String)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        state.records.iter().map(|it| (text(&it["name"]), text(&it["content"]))).collect()
    }

    /// Adds a record.
    pub fn add(&self, name: &str, record_type: &str, content: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.insert(json!({ "name": name, "type": record_type, "content": content }));
    }

    /// Refuses batches that create a record of a type.
    pub fn refuse(&self, record_type: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refuses_type = Some(record_type.to_owned());
    }
}

fn success(result: impl Into<Value>) -> (u16, Value) {
    (200, json!({ "success": true, "errors": [], "messages": [], "result": result.into() }))
}

fn failure(status: u16, code: u32, message: &str) -> (u16, Value) {
    let errors = json!([{ "code": code, "message": message }]);
    (status, json!({ "success": false, "errors": errors, "messages": [], "result": null }))
}

impl State {
    fn insert(&mut self, mut record: Value) {
        self.created += 1;
        record["id"] = format!("{:032x}", self.created).into();
        self.records.push(record);
    }

    fn answer(&mut self, request: &Request) -> (u16, Value) {
        if request.headers.get("authorization") != Some(&format!("Bearer {}", Cloudflare::TOKEN)) {
            return failure(403, 9109, "Invalid access token");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parameter =
            |name: &str| query.split('&').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        let records = format!("/client/v4/zones/{ZONE_ID}/dns_records");
        match (request.method.as_str(), path) {
            ("GET", "/client/v4/zones") => match parameter("name") {
                Some("apps.example.com") => success(json!([{ "id": ZONE_ID }])),
                _ => success(json!([])),
            },
            ("GET", path) if path == records => {
                let name = parameter("name.exact").unwrap_or_default();
                let found = self.records.iter().filter(|it| it["name"] == name);
                success(found.cloned().collect::<Vec<_>>())
            }
            ("POST", path) if path == format!("{records}/batch") => {
                let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
                let posts = body["posts"].as_array().cloned().unwrap_or_default();
                let refused = self.refuses_type.as_ref();
                if refused.is_some_and(|it| posts.iter().any(|post| post["type"] == it.as_str())) {
                    return failure(
                        400,
                        9005,
                        "Content for A record must be a valid IPv4 address.",
                    );
                }
                let deletes = body["deletes"].as_array().cloned().unwrap_or_default();
                self.records.retain(|it| !deletes.iter().any(|delete| delete["id"] == it["id"]));
                for post in posts {
                    self.insert(post);
                }
                success(body)
            }
            _ => failure(404, 7003, "Could not route to the path"),
        }
    }
}
