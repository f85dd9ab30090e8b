//! HTTP endpoint of push webhooks. It checks the signature of each delivery, and forwards the push in it to
//! `ProjectService/ReceivePush`. The body is parsed only if it is signed.

use api::project::{PushFormat, ReceivePushRequest, project_service_client::ProjectServiceClient};
use chassis::{Db, channel::ServiceChannel, key::DerivedKeys};
use host::web::{Page, PageHandler, PageRequest, page};
use http::{Method, StatusCode};
use project_rules::push::{CondensedDelivery, Delivery, Ignored, is_readable, parse};
use tonic::Code;

use super::secret;

/// Prefix of the path; the id of the project follows.
pub(crate) const PATHS: &[&str] = &["/hooks/push/"];

/// Largest body, in bytes: the maximum of GitHub. Bodies are in memory; the server limits the sum of all
/// incoming bodies, and the sum of those from one address.
const BODY_BYTES_MAX: usize = 25 << 20;

/// Handler of the endpoint.
pub(crate) struct Hook {
    /// The project service.
    pub(crate) project: ServiceChannel,
    pub(crate) db: Db,
    /// Key that seals the secrets of push webhooks.
    pub(crate) secret_keys: DerivedKeys,
}

/// Result of reading a delivery.
enum Reading {
    /// A push to a branch.
    Push(CondensedDelivery),
    /// The delivery is ignored, for the reason in the text.
    Ignored(&'static str),
}

impl Hook {
    /// Checks the signature of a delivery and parses its body.
    async fn read(&self, request: &PageRequest, id: &str) -> chassis::Result<Reading> {
        let headers = DeliveryHeaders::of(request);
        let delivery = Delivery {
            project_id: id.parse()?,
            format: headers.format,
            signature: headers.signature,
            body: &request.body,
        };
        let authenticated = secret::authenticate(&self.db, &self.secret_keys, &delivery).await?;
        Ok(match parse(headers.event, &request.body) {
            Ok(push) => Reading::Push(push.condensed(&authenticated.secret)),
            Err(Ignored(reason)) => Reading::Ignored(reason),
        })
    }
}

#[tonic::async_trait]
impl PageHandler for Hook {
    async fn handle(&self, request: PageRequest) -> Page {
        if request.method != Method::POST {
            let text = "this is the endpoint of push webhooks; send a POST request";
            return text_page(StatusCode::METHOD_NOT_ALLOWED, text);
        }
        if !is_readable(request.header("content-type")) {
            let text =
                "the content type must be application/json or application/x-www-form-urlencoded";
            return text_page(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
        }
        let project_id = request.path.trim_start_matches(PATHS[0]);
        let condensed = match self.read(&request, project_id).await.map_err(tonic::Status::from) {
            Ok(Reading::Push(condensed)) => condensed,
            Ok(Reading::Ignored(reason)) => return text_page(StatusCode::OK, reason),
            Err(status) => return error_page(&status),
        };
        let message = ReceivePushRequest {
            project_id: project_id.to_owned(),
            format: PushFormat::Gitea.into(),
            event: "push".to_owned(),
            signature: condensed.signature,
            body: condensed.body,
        };
        let mut project = ProjectServiceClient::new(self.project.clone());
        let received = project.receive_push(request.forward(message, None)).await;
        match received.map(tonic::Response::into_inner) {
            Ok(it) if !it.ignored.is_empty() => text_page(StatusCode::OK, &it.ignored),
            Ok(it) => {
                let text = format!("{} deployed, {} waiting", it.deployments, it.waiting);
                text_page(StatusCode::ACCEPTED, &text)
            }
            Err(status) => error_page(&status),
        }
    }

    fn raw_body_bytes_max(&self) -> Option<usize> {
        Some(BODY_BYTES_MAX)
    }
}

fn text_page(status: StatusCode, text: &str) -> Page {
    page(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn error_page(status: &tonic::Status) -> Page {
    match status.code() {
        Code::Unauthenticated | Code::InvalidArgument => {
            let text = "the signature is not valid for the push secret of this project";
            text_page(StatusCode::UNAUTHORIZED, text)
        }
        Code::Unavailable | Code::DeadlineExceeded => {
            text_page(StatusCode::SERVICE_UNAVAILABLE, status.message())
        }
        _ => {
            let text = "internal error; see the log of the project service";
            text_page(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

/// Headers of a delivery. Gitea also sends the headers of GitHub, so its own are tried first.
struct DeliveryHeaders<'a> {
    format: PushFormat,
    event: &'a str,
    signature: &'a str,
}

impl<'a> DeliveryHeaders<'a> {
    fn of(request: &'a PageRequest) -> Self {
        let header = |name: &str| request.header(name);
        if !header("x-gitlab-event").is_empty() {
            Self {
                format: PushFormat::Gitlab,
                event: header("x-gitlab-event"),
                signature: header("x-gitlab-token"),
            }
        } else if !header("x-gitea-event").is_empty() {
            Self {
                format: PushFormat::Gitea,
                event: header("x-gitea-event"),
                signature: header("x-gitea-signature"),
            }
        } else {
            Self {
                format: PushFormat::Github,
                event: header("x-github-event"),
                signature: header("x-hub-signature-256"),
            }
        }
    }
}
