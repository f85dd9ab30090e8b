//! An S3 server with one account, whose buckets are directories. Faults can be switched on.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    Body,
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Fault of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Fault {
    /// No fault.
    None,
    /// Writes are confirmed and not stored.
    ConfirmsWithoutWriting,
    /// Writes are refused, because the storage is full.
    Full,
    /// The connection ends in the middle of every response to a read.
    CutReads,
    /// Requests are redirected to another server.
    Redirects(SocketAddr),
}

/// A server on a loopback port; stops with the test.
pub struct S3Server {
    address: SocketAddr,
    folder: TempDir,
    state: Arc<State>,
}

struct State {
    service: S3Service,
    fault: Mutex<S3Fault>,
    has_requests: AtomicBool,
    written: Mutex<Vec<String>>,
}

impl S3Server {
    /// Id of the access key.
    pub const ACCESS_KEY_ID: &str = "test-access-key";
    /// Secret of the access key.
    pub const SECRET_ACCESS_KEY: &str = "test-s3cret-access-key";
    /// Bucket that exists.
    pub const BUCKET: &str = "archive";

    /// Starts a server.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(folder.path().join(Self::BUCKET)).expect("the bucket can be created");
        let files = FileSystem::new(folder.path()).expect("the directory exists");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(Self::ACCESS_KEY_ID, Self::SECRET_ACCESS_KEY));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an unused port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            service: builder.build(),
            fault: Mutex::new(S3Fault::None),
            has_requests: AtomicBool::new(false),
            written: Mutex::default(),
        });
        let shared = state.clone();
        tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::task::spawn(async move {
                    let respond = |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(state.respond(request).await) }
                    };
                    let builder = Builder::new(TokioExecutor::new());
                    // Fails for clients that close the connection.
                    let _ =
                        builder.serve_connection(TokioIo::new(stream), service_fn(respond)).await;
                });
            }
        });
        Self { address, folder, state }
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Address and port, for the setting of connection exceptions.
    pub fn exception(&self) -> String {
        self.address.to_string()
    }

    /// Switches a fault on; [`S3Fault::None`] switches it off.
    pub fn set_fault(&self, fault: S3Fault) {
        *self.state.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// True if it has received a request.
    pub fn has_requests(&self) -> bool {
        self.state.has_requests.load(Ordering::Relaxed)
    }

    /// Paths of all requests to write an object, in order, also of those that a fault refused.
    pub fn written(&self) -> Vec<String> {
        self.state.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Objects of the bucket: names and contents, by name.
    pub fn objects(&self) -> Vec<(String, Vec<u8>)> {
        crate::files_below(&self.folder.path().join(Self::BUCKET))
    }
}

impl State {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        self.has_requests.store(true, Ordering::Relaxed);
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if request.method() == Method::PUT {
            let path = request.uri().path().to_owned();
            self.written.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        }
        let response = |status: StatusCode, body: &str| {
            let mut response = Response::new(Body::from(body.to_owned()));
            *response.status_mut() = status;
            response
        };
        match fault {
            S3Fault::ConfirmsWithoutWriting if request.method() == Method::PUT => {
                return response(StatusCode::OK, "");
            }
            S3Fault::Full if request.method() == Method::PUT => {
                let body = "<Error><Code>XMinioStorageFull</Code><Message>Storage backend has \
                            reached its minimum free drive threshold.</Message></Error>";
                return response(StatusCode::INSUFFICIENT_STORAGE, body);
            }
            S3Fault::CutReads if request.method() == Method::GET => {
                let mut cut = response(StatusCode::OK, "begin");
                // More than the body has: the connection ends before the response does.
                cut.headers_mut().insert("content-length", 100.into());
                return cut;
            }
            S3Fault::Redirects(other) => {
                let mut redirect = response(StatusCode::TEMPORARY_REDIRECT, "");
                let location = format!("http://{other}{}", request.uri());
                let location = location.parse().expect("a URL is a valid header");
                redirect.headers_mut().insert("location", location);
                return redirect;
            }
            _ => {}
        }
        match self.service.call(request.map(Body::from)).await {
            Ok(response) => response,
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:?}")),
        }
    }
}
