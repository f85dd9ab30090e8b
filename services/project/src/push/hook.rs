//! Where git servers post to: under the same port as everything else, and what it does it does by a call.

use api::project::{PushFormat, ReceivePushRequest, project_service_client::ProjectServiceClient};
use chassis::{
    link::Link,
    web::{Site, Visit, page},
};
use http::{Method, Response, StatusCode};
use tonic::Code;

/// Where they post to.
pub(crate) const PATHS: &[&str] = &["/hooks/push/"];

/// Takes what git servers say.
pub(crate) struct Hook {
    pub(crate) project: Link,
}

#[tonic::async_trait]
impl Site for Hook {
    async fn visit(&self, visit: Visit) -> Response<String> {
        let answer =
            |status, text: &str| page(status, "text/plain; charset=utf-8", format!("{text}\n"));
        if visit.method != Method::POST {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "git servers post pushes here");
        }
        let project_id = visit.path.trim_start_matches(PATHS[0]).to_owned();
        let (format, event, signature) = said(&visit);
        let body = visit.body.to_vec();
        let request = ReceivePushRequest {
            project_id,
            format: format.into(),
            event: event.to_owned(),
            signature: signature.to_owned(),
            body,
        };
        let mut project = ProjectServiceClient::new(self.project.clone());
        match project.receive_push(visit.ask(request, None)).await.map(tonic::Response::into_inner)
        {
            Ok(it) if !it.ignored.is_empty() => answer(StatusCode::OK, &it.ignored),
            Ok(it) => {
                let text = format!("{} deployed, {} waiting", it.deployments, it.waiting);
                answer(StatusCode::ACCEPTED, &text)
            }
            Err(status) => match status.code() {
                Code::Unauthenticated | Code::InvalidArgument => answer(
                    StatusCode::UNAUTHORIZED,
                    "the signature is not of this project's secret",
                ),
                Code::Unavailable | Code::DeadlineExceeded => {
                    answer(StatusCode::SERVICE_UNAVAILABLE, status.message())
                }
                _ => answer(StatusCode::INTERNAL_SERVER_ERROR, "it did not work; see the log"),
            },
        }
    }
}

/// Who says it, what happened, and the signature. Gitea says what GitHub says, too.
fn said(visit: &Visit) -> (PushFormat, &str, &str) {
    let header = |name: &str| visit.header(name);
    if !header("x-gitlab-event").is_empty() {
        (PushFormat::Gitlab, header("x-gitlab-event"), header("x-gitlab-token"))
    } else if !header("x-gitea-event").is_empty() {
        (PushFormat::Gitea, header("x-gitea-event"), header("x-gitea-signature"))
    } else {
        (PushFormat::Github, header("x-github-event"), header("x-hub-signature-256"))
    }
}
