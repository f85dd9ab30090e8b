//! A mail server that keeps what it gets, can refuse an address, and can be away. Speaks enough of RFC
//! 5321 to receive.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// A mail server; it ends with the test.
pub struct Smtp {
    port: u16,
    desk: Arc<Desk>,
    serving: Option<JoinHandle<()>>,
}

/// What every connection shares.
#[derive(Default)]
struct Desk {
    mails: Mutex<Vec<String>>,
    /// Refused for good.
    refused: String,
    /// Told of each mail, before it is acknowledged; then the connection is cut.
    cut: Option<mpsc::UnboundedSender<()>>,
}

impl Smtp {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::with(Desk::default()).await
    }

    /// One that knows no such address.
    pub async fn refusing(address: &str) -> Self {
        Self::with(Desk { refused: address.to_owned(), ..Desk::default() }).await
    }

    /// One that takes mails and never says so; it tells the test of each.
    pub async fn cutting() -> (Self, mpsc::UnboundedReceiver<()>) {
        let (send, taken) = mpsc::unbounded_channel();
        (Self::with(Desk { cut: Some(send), ..Desk::default() }).await, taken)
    }

    async fn with(desk: Desk) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mut it = Self { port, desk: Arc::new(desk), serving: None };
        it.serve(listener);
        it
    }

    fn serve(&mut self, listener: TcpListener) {
        let desk = self.desk.clone();
        self.serving = Some(tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn(receive(stream, desk.clone()));
            }
        }));
    }

    /// Goes away: whoever connects is refused.
    pub async fn go(&mut self) {
        let Some(serving) = self.serving.take() else { return };
        serving.abort();
        let _ = serving.await;
    }

    /// Comes back at the same port.
    pub async fn come_back(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its port");
        self.serve(listener);
    }

    /// How to reach it.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// What it got so far.
    pub fn mails(&self) -> Vec<String> {
        self.desk.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn receive(stream: TcpStream, desk: Arc<Desk>) -> std::io::Result<()> {
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
            "RCPT" if !desk.refused.is_empty() && line.contains(&desk.refused) => {
                b"550 5.1.1 no such mailbox\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while stream.read_line(&mut mail).await? != 0 && !mail.ends_with("\r\n.\r\n") {}
                desk.mails.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
                if let Some(cut) = &desk.cut {
                    let _ = cut.send(());
                    return Ok(());
                }
                b"250 kept\r\n"
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
