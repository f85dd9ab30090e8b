//! HTTP endpoint of push webhooks. It forwards each delivery to `ProjectService/ReceivePush`.

use api::project::{PushFormat, ReceivePushRequest, project_service_client::ProjectServiceClient};
use chassis::channel::ServiceChannel;
use host::web::{PageHandler, PageRequest, page};
use http::{Method, Response, StatusCode};
use tonic::Code;

/// Prefix of the path; the id of the project follows.
pub(crate) const PATHS: &[&str] = &["/hooks/push/"];

/// Handler of the endpoint.
pub(crate) struct Hook {
    /// The project service.
    pub(crate) project: ServiceChannel,
}

#[tonic::async_trait]
impl PageHandler for Hook {
    async fn handle(&self, request: PageRequest) -> Response<String> {
        let text_page =
            |status, text: &str| page(status, "text/plain; charset=utf-8", format!("{text}\n"));
        if request.method != Method::POST {
            let text = "this is the endpoint of push webhooks; send a POST request";
            return text_page(StatusCode::METHOD_NOT_ALLOWED, text);
        }
        let headers = DeliveryHeaders::of(&request);
        let message = ReceivePushRequest {
            project_id: request.path.trim_start_matches(PATHS[0]).to_owned(),
            format: headers.format.into(),
            event: headers.event.to_owned(),
            signature: headers.signature.to_owned(),
            body: request.body.to_vec(),
        };
        let mut project = ProjectServiceClient::new(self.project.clone());
        let received = project.receive_push(request.forward(message, None)).await;
        match received.map(tonic::Response::into_inner) {
            Ok(it) if !it.ignored.is_empty() => text_page(StatusCode::OK, &it.ignored),
            Ok(it) => {
                let text = format!("{} deployed, {} waiting", it.deployments, it.waiting);
                text_page(StatusCode::ACCEPTED, &text)
            }
            Err(status) => match status.code() {
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
            },
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
