//! HTTP server of a witness (C2SP tlog-witness).
//!
//! | request | response |
//! |---|---|
//! | `POST /add-checkpoint` | the cosignature; 400, 403, 404, 409, 413 or 422 with the cause |
//! | `GET /<hash of the origin>/checkpoint` | the newest cosigned checkpoint |
//! | `GET /livez` | 200 |

use std::{convert::Infallible, io::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::cosigner::{Cosigner, Refusal};

/// Largest body of a request: 16 signatures of any specified type, and a proof.
const BODY_BYTES_MAX: usize = 128 * 1024;
/// Time-out of receiving the head of a request, on a connection that can wait for it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Time-out of receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest number of open connections; further ones wait.
const CONNECTIONS_MAX: usize = 256;
/// Pause after a failed accept, for example because of too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of the size in a response with the status 409.
const SIZE: &str = "text/x.tlog.size";

type Answer = Response<Full<Bytes>>;

/// Serves until `stop`, and then ends the requests in progress.
pub(super) async fn serve(listener: TcpListener, cosigner: Arc<Cosigner>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (cosigner, stop) = (cosigner.clone(), stop.clone());
            connections.spawn(async move {
                // A client that disconnects early is no error.
                let _ = serve_connection(stream, cosigner, stop).await;
                drop(permit);
            });
        }
    };
    stop.run_until_cancelled(accept).await;
    connections.close();
    connections.wait().await;
}

async fn serve_connection(
    stream: TcpStream,
    cosigner: Arc<Cosigner>,
    stop: CancellationToken,
) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let cosigner = cosigner.clone();
        async move { Ok::<_, Infallible>(respond(request, cosigner).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        served = &mut connection => return served,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn respond(request: Request<Incoming>, cosigner: Arc<Cosigner>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/add-checkpoint") => add_checkpoint(request, cosigner).await,
        (_, "/add-checkpoint") => not_allowed("POST"),
        (&Method::GET, "/livez") => answer(StatusCode::OK, TEXT, "alive\n"),
        (&Method::GET, path) => {
            let hash = path.strip_prefix('/').and_then(|it| it.strip_suffix("/checkpoint"));
            match hash.and_then(|it| cosigner.newest(it)) {
                Some(note) => answer(StatusCode::OK, TEXT, note),
                None => answer(StatusCode::NOT_FOUND, TEXT, "there is no such checkpoint\n"),
            }
        }
        _ => not_allowed("GET"),
    }
}

async fn add_checkpoint(request: Request<Incoming>, cosigner: Arc<Cosigner>) -> Answer {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return answer(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "the body is too large\n");
        }
        Err(_) => return answer(StatusCode::REQUEST_TIMEOUT, TEXT, "the body is too slow\n"),
    };
    // The disk is used under the lock of the log.
    let work = tokio::task::spawn_blocking(move || {
        let result = cosigner.add_checkpoint(&body);
        if let Ok(Err(refusal @ Refusal::Inconsistent(_))) = &result {
            report(&format!("REFUSED: {refusal}; the request can prove a fork"), &body);
        }
        result
    });
    match work.await.map_err(anyhow::Error::from).flatten() {
        Ok(Ok(line)) => answer(StatusCode::OK, TEXT, line),
        Ok(Err(refusal)) => refused(&refusal),
        Err(error) => {
            report(&format!("FAILED: {error:#}"), b"");
            let text = "the witness cannot store the checkpoint\n";
            answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, text)
        }
    }
}

fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal {
        Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
        Refusal::UnknownOrigin => StatusCode::NOT_FOUND,
        Refusal::NotSigned => StatusCode::FORBIDDEN,
        Refusal::Inconsistent(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::OtherSize { size } => {
            return answer(StatusCode::CONFLICT, SIZE, format!("{size}\n"));
        }
    };
    answer(status, TEXT, format!("{refusal}\n"))
}

/// Prints a line for the operator, and a request as evidence.
fn report(text: &str, body: &[u8]) {
    let body = String::from_utf8_lossy(body);
    let body = chassis::foreign_text::clean_block(body.trim_end(), 4_000);
    let _ = std::io::stderr().write_all(format!("tenantry: {text}\n{body}\n").as_bytes());
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("only {allowed}\n"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
