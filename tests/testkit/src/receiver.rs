//! A receiver of webhooks: an HTTP server that records requests and sends scripted responses.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// Headers by lower-case name.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: String,
}

/// A response of a receiver.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// An additional header line without its line end; empty for none.
    pub header: String,
    /// The body.
    pub body: String,
    /// Delay before the response.
    pub delay: Duration,
    /// Number of bytes by which `content-length` is larger than the body; then the connection is closed.
    pub missing: usize,
}

impl Response {
    /// A response with a status and the body `ok`.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            header: String::new(),
            body: "ok".to_owned(),
            delay: Duration::ZERO,
            missing: 0,
        }
    }
}

type Script = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// A receiver on a free port; stops with the test.
pub struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    /// Starts a receiver that responds with 200.
    pub async fn start() -> Self {
        Self::with_script(|_| Response::status(200)).await
    }

    /// Starts a receiver with a script that maps requests to responses.
    pub async fn with_script(
        script: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an unused port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let recorded = requests.clone();
        let script: Script = Arc::new(script);
        tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn(receive(stream, recorded.clone(), script.clone()));
            }
        });
        Self { address, requests }
    }

    /// URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Address and port, for the setting of webhook exceptions.
    pub fn exception(&self) -> String {
        self.address.to_string()
    }

    /// Port of the receiver.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Requests received so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests received so far at one path.
    pub fn requests_at(&self, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|it| it.path == path).collect()
    }
}

async fn receive(
    stream: TcpStream,
    requests: Arc<Mutex<Vec<Request>>>,
    script: Script,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(request) = read(&mut stream).await? else { return Ok(()) };
        let response = script(&request);
        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        tokio::time::sleep(response.delay).await;
        let Response { status, header, body, .. } = &response;
        let end = if header.is_empty() { "" } else { "\r\n" };
        let length = body.len() + response.missing;
        let text =
            format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{header}{end}\r\n{body}");
        stream.write_all(text.as_bytes()).await?;
        if response.missing > 0 {
            return Ok(());
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(Request { method, path, headers, body }))
}
