//! gRPC-Web: calls of browsers over HTTP/1.1, in binary and in base64, with the same checks as gRPC calls.

use api::identity as pb;
use data_encoding::BASE64;
use prost::Message;
use reqwest::{Method, header::HeaderMap};
use serde_json::json;
use testkit::{Options, Suite};

use crate::support::audit_client::AuditClient;

const CREATE: &str = "tenantry.identity.v1.OrganizationService/CreateOrganization";
const LOGIN: &str = "tenantry.identity.v1.SessionService/Login";

/// A response in gRPC-Web.
#[derive(Debug)]
struct WebResponse {
    http_status: u16,
    headers: HeaderMap,
    /// The message; empty if the call was refused.
    message: Vec<u8>,
    /// Trailers in the body, or the headers of a response without a body.
    status: String,
    details: String,
}

/// A client of a browser.
struct Browser<'s> {
    suite: &'s Suite,
    content_type: &'static str,
    token: String,
    /// Address of the browser, which a trusted proxy adds.
    address: &'static str,
}

impl Browser<'_> {
    async fn call(&self, method: &str, message: &impl Message) -> WebResponse {
        self.send(method, message.encode_to_vec()).await
    }

    async fn send(&self, method: &str, message: Vec<u8>) -> WebResponse {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let mut body = [&[0][..], &length, &message].concat();
        let is_text = self.content_type.contains("text");
        if is_text {
            body = BASE64.encode(&body).into_bytes();
        }
        let request = reqwest::Client::builder().http1_only().build().unwrap();
        let request = request.post(format!("http://{}/{method}", self.suite.address));
        let request = request
            .header("content-type", self.content_type)
            .header("accept", self.content_type)
            .header("x-grpc-web", "1")
            .header("x-forwarded-for", self.address);
        let request =
            if self.token.is_empty() { request } else { request.bearer_auth(&self.token) };
        let response = request.body(body).send().await.unwrap();
        let http_status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut body = response.bytes().await.unwrap().to_vec();
        if is_text {
            // Each chunk is encoded with its own padding.
            body = body.chunks(4).flat_map(|it| BASE64.decode(it).unwrap()).collect();
        }
        let (message, trailers) = frames(&body);
        let find = |name: &str| {
            let header = headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
            let prefix = format!("{name}:");
            let trailer = trailers.lines().find_map(|it| it.strip_prefix(&prefix));
            trailer.map(|it| it.trim().to_owned()).or(header).unwrap_or_default()
        };
        let status = find("grpc-status");
        let details = find("grpc-status-details-bin");
        WebResponse { http_status, headers, message, status, details }
    }
}

/// Returns the message and the trailers of a body: frames of a flag, a length and content.
fn frames(mut body: &[u8]) -> (Vec<u8>, String) {
    let (mut message, mut trailers) = (vec![], String::new());
    while let [flag, a, b, c, d, rest @ ..] = body {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap();
        let (content, following) = rest.split_at(length);
        if flag & 0x80 == 0 {
            message = content.to_vec();
        } else {
            trailers = String::from_utf8_lossy(content).into_owned();
        }
        body = following;
    }
    (message, trailers)
}

fn create(slug: &str) -> pb::CreateOrganizationRequest {
    let (name, slug) = (slug.to_owned(), slug.to_owned());
    pb::CreateOrganizationRequest { name, slug, ..Default::default() }
}

/// True if the details of a status name a reason. They are base64 without padding.
fn has_reason(response: &WebResponse, reason: &str) -> bool {
    let details =
        data_encoding::BASE64_NOPAD.decode(response.details.trim_end_matches('=').as_bytes());
    String::from_utf8_lossy(&details.unwrap()).contains(reason)
}

/// Calls through gRPC-Web are executed, refused, limited and recorded like gRPC calls.
#[tokio::test(flavor = "multi_thread")]
async fn browsers_call_through_grpc_web() {
    let options = Options {
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        sign_ins_max: 20,
        ..Options::default()
    };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    for (content_type, slug) in
        [("application/grpc-web+proto", "binary"), ("application/grpc-web-text", "text")]
    {
        let token = ann.token.clone();
        let browser = Browser { suite: &suite, content_type, token, address: "192.0.2.7" };
        let created = browser.call(CREATE, &create(slug)).await;
        assert_eq!((created.http_status, created.status.as_str()), (200, "0"), "{created:?}");
        assert!(created.headers["content-type"].to_str().unwrap().starts_with(content_type));
        let organization = pb::CreateOrganizationResponse::decode(&*created.message).unwrap();
        let org = organization.organization.unwrap().id;
        suite.wait_for_log().await;
        let log = AuditClient::new(&suite, &ann, &org).await;
        let entries = log.entries(json!({ "action": "organization.created" })).await;
        assert_eq!(entries[0]["envelope"]["origin"]["address"], "192.0.2.7");

        let refused = browser.call(CREATE, &create("not a slug!")).await;
        assert_eq!(refused.status, "3", "{refused:?}");
        assert!(has_reason(&refused, "INVALID_FIELD"), "{refused:?}");
        let anonymous = Browser { token: String::new(), ..browser };
        let refused = anonymous.call(CREATE, &create("anonymous")).await;
        assert_eq!(refused.status, "16", "{refused:?}");
        assert!(has_reason(&refused, "MISSING_CREDENTIAL"), "{refused:?}");
        let refused = anonymous.send(CREATE, vec![0; 5 << 20]).await;
        assert_eq!(refused.status, "8", "{refused:?}");
        assert!(has_reason(&refused, "MESSAGE_TOO_LARGE"), "{refused:?}");

        let guess = pb::LoginRequest { email: ann.email.clone(), password: "wrong".to_owned() };
        let address = if slug == "text" { "192.0.2.8" } else { "192.0.2.9" };
        let guesser = Browser { address, ..anonymous };
        let mut statuses = vec![];
        for _ in 0..21 {
            statuses.push(guesser.call(LOGIN, &guess).await.status);
        }
        assert_eq!(statuses.last().unwrap(), "8", "{statuses:?}");
    }
    let created = suite.count("select count(*) from identity.organization").await;
    assert_eq!(created, 2);
    suite.finish().await;
}

/// Only scripts of configured origins may call; without the setting none.
#[tokio::test(flavor = "multi_thread")]
async fn origins_of_scripts_are_configured() {
    const ALLOWED: &str = "https://app.example.com";
    for (web_origins, origin, is_allowed) in [
        (vec![ALLOWED.to_owned()], ALLOWED, true),
        (vec![ALLOWED.to_owned()], "https://evil.example.com", false),
        (vec![], ALLOWED, false),
    ] {
        let suite = Suite::start_with(Options { web_origins, ..Options::default() }).await;
        let url = format!("http://{}/{CREATE}", suite.address);
        let preflight = reqwest::Client::new()
            .request(Method::OPTIONS, url)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,x-grpc-web")
            .send()
            .await
            .unwrap();
        let header = |name: &str| preflight.headers().get(name).and_then(|it| it.to_str().ok());
        let allowed = header("access-control-allow-origin");
        assert_eq!(allowed, is_allowed.then_some(origin));
        if is_allowed {
            let headers = header("access-control-allow-headers").unwrap();
            assert!(["authorization", "x-grpc-web"].iter().all(|it| headers.contains(it)));
        }
        suite.finish().await;
    }
}
