//! A receiver of webhooks: an HTTP server that keeps what it gets, and answers as a test says.

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

/// What came.
#[derive(Clone, Debug)]
pub struct Post {
    /// The path, with the query.
    pub path: String,
    /// Headers, by their names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: String,
}

/// What a receiver answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// One more header line, without its end; empty for none.
    pub header: String,
    /// The body.
    pub body: String,
    /// How long it takes.
    pub delay: Duration,
    /// How much of the body never comes.
    pub missing: usize,
}

impl Answer {
    /// Just a status.
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

type Script = Arc<dyn Fn(&Post) -> Answer + Send + Sync>;

/// A receiver; it ends with the test.
pub struct Receiver {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Receiver {
    /// One that answers 200.
    pub async fn start() -> Self {
        Self::answering(|_| Answer::status(200)).await
    }

    /// One that answers as a script says.
    pub async fn answering(script: impl Fn(&Post) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let posts = Arc::<Mutex<Vec<Post>>>::default();
        let (kept, script): (_, Script) = (posts.clone(), Arc::new(script));
        tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn(receive(stream, kept.clone(), script.clone()));
            }
        });
        Self { address, posts }
    }

    /// Where it is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its address and port, as an exception for webhooks.
    pub fn exception(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it got so far.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it got so far at one path.
    pub fn posts_at(&self, path: &str) -> Vec<Post> {
        self.posts().into_iter().filter(|it| it.path == path).collect()
    }
}

async fn receive(
    stream: TcpStream,
    posts: Arc<Mutex<Vec<Post>>>,
    script: Script,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(post) = read(&mut stream).await? else { return Ok(()) };
        let answer = script(&post);
        posts.lock().unwrap_or_else(PoisonError::into_inner).push(post);
        tokio::time::sleep(answer.delay).await;
        let Answer { status, header, body, .. } = &answer;
        let end = if header.is_empty() { "" } else { "\r\n" };
        let length = body.len() + answer.missing;
        let text =
            format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{header}{end}\r\n{body}");
        stream.write_all(text.as_bytes()).await?;
        if answer.missing > 0 {
            return Ok(());
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Post>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
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
    Ok(Some(Post { path, headers, body }))
}
