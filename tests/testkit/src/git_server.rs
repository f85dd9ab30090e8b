//! A private git server: `git http-backend` behind HTTP basic authentication, with or without an API.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use data_encoding::BASE64;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

/// A request that a git server received.
#[derive(Clone, Debug)]
pub struct GitRequest {
    /// The path, with the query.
    pub path: String,
    /// The header `authorization`; empty if there is none.
    pub authorization: String,
    /// Command lines of all processes of this machine during the request.
    pub command_lines: Vec<String>,
}

/// Script of an API, which checks the access token itself.
type Api = Box<dyn Fn(&ApiRequest) -> ApiResponse + Send + Sync>;

/// A request to the API of a git server.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// Method and path with the query, for example `GET /api/v1/user/repos?page=1`.
    pub line: String,
    /// The header `authorization`; empty if there is none.
    pub authorization: String,
    /// The body; null if it is not JSON.
    pub body: serde_json::Value,
}

/// A response of the API of a git server.
pub struct ApiResponse {
    /// Status line without the version, for example `200 OK`.
    pub status: &'static str,
    /// True for a header `link` with a next page.
    pub has_next: bool,
    /// The body.
    pub body: serde_json::Value,
}

/// Content of a git server.
enum Content {
    /// A repository with a work tree in this folder.
    Repository(PathBuf),
    /// A redirect to this base URL.
    Redirect(String),
    /// A repository with a work tree in this folder, and an API below `/api/`.
    RepositoryWithApi(PathBuf, Api),
}

/// A server on a free loopback port; stops with the test.
pub struct GitServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<GitRequest>>>,
}

impl GitServer {
    /// Serves the repository in a folder to one account.
    pub async fn start(folder: impl Into<PathBuf>, username: &str, password: &str) -> Self {
        Self::serve(Content::Repository(folder.into()), username, password).await
    }

    /// Serves a repository as [`Self::start`], and an API below `/api/`.
    pub async fn start_with_api(
        folder: impl Into<PathBuf>,
        username: &str,
        password: &str,
        api: impl Fn(&ApiRequest) -> ApiResponse + Send + Sync + 'static,
    ) -> Self {
        let content = Content::RepositoryWithApi(folder.into(), Box::new(api));
        Self::serve(content, username, password).await
    }

    /// Redirects the requests of one account to another base URL.
    pub async fn redirecting(base_url: &str, username: &str, password: &str) -> Self {
        Self::serve(Content::Redirect(base_url.to_owned()), username, password).await
    }

    async fn serve(content: Content, username: &str, password: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an unused port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let requests = Arc::<Mutex<Vec<GitRequest>>>::default();
        let credential = BASE64.encode(format!("{username}:{password}").as_bytes());
        let handler = Arc::new(Handler {
            content,
            authorization: format!("Basic {credential}"),
            requests: requests.clone(),
        });
        tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let handler = handler.clone();
                tokio::task::spawn(async move { handler.respond(stream).await });
            }
        });
        Self { address, requests }
    }

    /// Base URL, without a path.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// URL of the repository.
    pub fn url(&self) -> String {
        format!("{}/shop.git", self.base_url())
    }

    /// Address and port, for the setting of connection exceptions.
    pub fn exception(&self) -> String {
        self.address.to_string()
    }

    /// Requests received so far.
    pub fn requests(&self) -> Vec<GitRequest> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Handler {
    content: Content,
    authorization: String,
    requests: Arc<Mutex<Vec<GitRequest>>>,
}

impl Handler {
    /// Reads one request, and closes the connection after the response.
    async fn respond(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = HashMap::new();
        loop {
            line.clear();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
        let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        let request = GitRequest {
            path: path.clone(),
            authorization: header("authorization"),
            command_lines: command_lines(),
        };
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let response = match &self.content {
            Content::RepositoryWithApi(_, api) if path.starts_with("/api/") => {
                let found = api(&ApiRequest {
                    line: format!("{method} {path}"),
                    authorization: header("authorization"),
                    body: serde_json::from_slice(&body).unwrap_or_default(),
                });
                let link = format!("Link: <{path}>; rel=\"next\"\r\n");
                let link = if found.has_next { link.as_str() } else { "" };
                response(found.status, link, found.body.to_string().as_bytes())
            }
            _ if header("authorization") != self.authorization => {
                let challenge = "WWW-Authenticate: Basic realm=\"git\"\r\n";
                response("401 Unauthorized", challenge, b"")
            }
            Content::Redirect(base_url) => {
                response("302 Found", &format!("Location: {base_url}{path}\r\n"), b"")
            }
            Content::Repository(folder) | Content::RepositoryWithApi(folder, _) => {
                let (path, query) = path.split_once('?').unwrap_or((&path, ""));
                let path = path.strip_prefix("/shop.git").unwrap_or(path);
                let mut backend = Command::new("git");
                backend.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped());
                backend.env("GIT_PROJECT_ROOT", folder).env("GIT_HTTP_EXPORT_ALL", "1");
                backend.env("PATH_INFO", format!("/.git{path}")).env("QUERY_STRING", query);
                backend.env("REQUEST_METHOD", method).env("CONTENT_TYPE", header("content-type"));
                backend.env("CONTENT_LENGTH", body.len().to_string());
                backend.env("HTTP_CONTENT_ENCODING", header("content-encoding"));
                backend.env("GIT_PROTOCOL", header("git-protocol"));
                run_cgi(backend, &body).await?
            }
        };
        stream.write_all(&response).await?;
        stream.shutdown().await
    }
}

/// Runs a CGI program (RFC 3875) and returns its response.
async fn run_cgi(mut program: Command, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut child = program.spawn()?;
    let mut input = child.stdin.take().expect("the input is piped");
    input.write_all(body).await?;
    drop(input);
    let output = child.wait_with_output().await?.stdout;
    let end = output.windows(4).position(|it| it == b"\r\n\r\n").unwrap_or(output.len());
    let headers = String::from_utf8_lossy(&output[..end]).into_owned();
    let (status, headers): (Vec<_>, Vec<_>) =
        headers.lines().partition(|it| it.starts_with("Status: "));
    let status = status.first().and_then(|it| it.strip_prefix("Status: ")).unwrap_or("200 OK");
    let headers: String = headers.iter().map(|it| format!("{it}\r\n")).collect();
    Ok(response(status, &headers, output.get(end + 4..).unwrap_or_default()))
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Command lines of all processes of this machine.
fn command_lines() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let command_line = |it: std::fs::DirEntry| std::fs::read(it.path().join("cmdline")).ok();
    processes
        .filter_map(command_line)
        .map(|it| String::from_utf8_lossy(&it).replace('\0', " "))
        .collect()
}
