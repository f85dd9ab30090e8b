//! A mail server (the receiving part of RFC 5321) that records mails, can reject an address, cut connections,
//! and be stopped and restarted.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// A mail server; stops with the test.
pub struct Smtp {
    port: u16,
    state: Arc<State>,
    serving: Option<JoinHandle<()>>,
}

/// State shared by all connections.
#[derive(Default)]
struct State {
    mails: Mutex<Vec<String>>,
    /// Address whose mails are rejected permanently (550); empty for none.
    rejected: String,
    /// If set, gets a message for each received mail, and the connection is closed without acknowledgement.
    drop_acks: Option<mpsc::UnboundedSender<()>>,
}

impl Smtp {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::with(State::default()).await
    }

    /// Starts a server that rejects one address.
    pub async fn rejecting(address: &str) -> Self {
        Self::with(State { rejected: address.to_owned(), ..State::default() }).await
    }

    /// Starts a server that stores mails and closes the connection instead of an acknowledgement; the
    /// receiver gets a message for each mail.
    pub async fn dropping_acks() -> (Self, mpsc::UnboundedReceiver<()>) {
        let (sender, received) = mpsc::unbounded_channel();
        (Self::with(State { drop_acks: Some(sender), ..State::default() }).await, received)
    }

    async fn with(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an unused port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let mut server = Self { port, state: Arc::new(state), serving: None };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let state = self.state.clone();
        self.serving = Some(tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn(receive(stream, state.clone()));
            }
        }));
    }

    /// Stops listening: new connections are refused.
    pub async fn stop(&mut self) {
        let Some(serving) = self.serving.take() else { return };
        serving.abort();
        let _ = serving.await;
    }

    /// Listens on the same port again.
    pub async fn restart(&mut self) {
        let listener =
            TcpListener::bind(("127.0.0.1", self.port)).await.expect("the port is still unused");
        self.serve(listener);
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Mails received so far.
    pub fn mails(&self) -> Vec<String> {
        self.state.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn receive(stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test ESMTP\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match verb.as_str() {
            "EHLO" => b"250-test\r\n250 8BITMIME\r\n",
            "RCPT" if !state.rejected.is_empty() && line.contains(&state.rejected) => {
                b"550 5.1.1 no such mailbox\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 end with a line with a dot\r\n").await?;
                let mut mail = String::new();
                while stream.read_line(&mut mail).await? != 0 && !mail.ends_with("\r\n.\r\n") {}
                state.mails.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
                if let Some(dropped) = &state.drop_acks {
                    let _ = dropped.send(());
                    return Ok(());
                }
                b"250 accepted\r\n"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => b"250 ok\r\n",
        };
        stream.write_all(answer).await?;
    }
}
