//! Liveness, readiness and metrics of a process over plain HTTP, for the probes of container engines and for
//! Prometheus, and the client of the probes.
//!
//! | path | 200 | 503 |
//! |---|---|---|
//! | `/livez` | the process runs | |
//! | `/readyz` | it serves calls | it starts, drains, or lacks something; the body has the cause |
//! | `/metrics` | the metrics, in the text format of Prometheus | |
//!
//! The body of `/readyz` also has a line for each part of the process that needs attention while calls are
//! served, for example a mail server that refuses mails.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest duration of a probe's connection.
const CONNECTION_MAX: Duration = Duration::from_secs(5);
/// Largest number of open connections; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// Pause after a failed accept, for example because of too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Readiness of a process. Clones share their state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Debug)]
struct State {
    /// Cause for which the process is not ready.
    cause: Option<String>,
    /// Problems that do not keep the process from serving calls, by the part of the process.
    details: BTreeMap<String, String>,
}

impl Default for Readiness {
    /// The readiness of a process that starts.
    fn default() -> Self {
        let cause = Some("the process starts".to_owned());
        Self(Arc::new(watch::Sender::new(State { cause, details: BTreeMap::new() })))
    }
}

impl Readiness {
    /// Sets the process ready.
    pub fn set_ready(&self) {
        self.0.send_modify(|it| it.cause = None);
    }

    /// Sets the process not ready, with the cause.
    pub fn set_not_ready(&self, cause: impl Into<String>) {
        self.0.send_modify(|it| it.cause = Some(cause.into()));
    }

    /// Sets the problem of a part of the process; `None` after its end. Does not change the status.
    pub fn set_detail(&self, part: &str, problem: Option<String>) {
        self.0.send_if_modified(|state| match problem {
            Some(problem) => {
                let former = state.details.insert(part.to_owned(), problem.clone());
                former.as_ref() != Some(&problem)
            }
            None => state.details.remove(part).is_some(),
        });
    }

    /// Cause for which the process is not ready.
    pub fn cause(&self) -> Option<String> {
        self.0.borrow().cause.clone()
    }

    /// The lines of the problems, each with its part.
    pub fn details(&self) -> String {
        let state = self.0.borrow();
        state.details.iter().map(|(part, problem)| format!("{part}: {problem}\n")).collect()
    }

    fn respond(&self, path: &str, metrics: Option<&Metrics>) -> (StatusCode, String) {
        let details = self.details();
        if path == "/metrics"
            && let Some(metrics) = metrics
        {
            return (StatusCode::OK, metrics());
        }
        match (path, &self.0.borrow().cause) {
            ("/livez", _) => (StatusCode::OK, "alive\n".to_owned()),
            ("/readyz", None) => (StatusCode::OK, format!("ready\n{details}")),
            ("/readyz", Some(cause)) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {cause}\n{details}"))
            }
            _ => (
                StatusCode::NOT_FOUND,
                "this port has /livez and /readyz, and /metrics if the process has metrics\n"
                    .to_owned(),
            ),
        }
    }
}

/// Function that returns the metrics of the process in the text format of Prometheus.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Media type of the metrics.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves the health port until `stop`, without `/metrics` if there are none.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Option<Metrics>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the health port was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (readiness, metrics) = (readiness.clone(), metrics.clone());
            connections.spawn(async move {
                // A client that disconnects early is no error.
                let _ = timeout(CONNECTION_MAX, serve_connection(stream, readiness, metrics)).await;
                drop(permit);
            });
        }
    };
    stop.run_until_cancelled(accept).await;
}

async fn serve_connection(
    stream: TcpStream,
    readiness: Readiness,
    metrics: Option<Metrics>,
) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let (status, text) = readiness.respond(request.uri().path(), metrics.as_ref());
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let content_type = HeaderValue::from_static(METRICS_TYPE);
        response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Fails unless the process whose health port has this address is ready. An unspecified address (`0.0.0.0`)
/// means this machine.
pub async fn check(mut address: SocketAddr) -> anyhow::Result<()> {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let response = timeout(CONNECTION_MAX, get(address, "/readyz")).await;
    let (status, text) = response
        .with_context(|| format!("{address} does not respond"))?
        .with_context(|| format!("cannot connect to {address}"))?;
    ensure!(status == StatusCode::OK, "{}", text.trim());
    Ok(())
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let response = async {
        let response = client.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The response is complete before the connection is closed.
    let (response, _) = tokio::join!(response, connection);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_port_reports_liveness_and_readiness_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let stop = CancellationToken::new();
        let metrics: Metrics = Arc::new(|| "calls_total 1\n".to_owned());
        let serving = serve(listener, readiness.clone(), Some(metrics), stop.clone());
        let checks = async {
            let error = check(address).await.unwrap_err().to_string();
            assert_eq!(error, "not ready: the process starts");
            assert_eq!(get(address, "/livez").await.unwrap().0, StatusCode::OK);
            assert_eq!(get(address, "/metrics").await.unwrap().1, "calls_total 1\n");
            readiness.set_ready();
            check(address).await.unwrap();
            assert_eq!(get(address, "/").await.unwrap().0, StatusCode::NOT_FOUND);
            readiness.set_not_ready("the database does not respond");
            assert!(check(address).await.is_err());
            stop.cancel();
        };
        tokio::join!(serving, checks);
    }
}
