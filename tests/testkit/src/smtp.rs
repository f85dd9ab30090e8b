//! A mail server (the receiving part of RFC 5321, without SMTPUTF8) that records mails, can refuse commands,
//! cut connections, and be stopped and restarted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ReservedListener, ReservedPort};

/// A mail server; stops with the test.
pub struct Smtp {
    port: ReservedPort,
    state: Arc<State>,
    /// Tasks of the listener and of the connections.
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// State shared by all connections.
#[derive(Default)]
struct State {
    mails: Mutex<Vec<String>>,
    /// Commands of all connections.
    commands: Mutex<Vec<String>>,
    refusals: Mutex<Vec<Refusal>>,
    /// If set, gets a message for each received mail, and the connection is closed without acknowledgement.
    drop_acks: Option<mpsc::UnboundedSender<()>>,
}

/// A reply in place of the usual one.
#[derive(Clone)]
struct Refusal {
    /// First word of the command; `GREETING` for the greeting, `.` for the content of a mail.
    verb: String,
    /// Part of the command or of the content.
    part: String,
    reply: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The reply to a command, if it is refused.
    fn refusal(&self, verb: &str, text: &str) -> Option<String> {
        let refusals = lock(&self.refusals);
        let matching = refusals.iter().find(|it| it.verb == verb && text.contains(&it.part));
        matching.map(|it| format!("{}\r\n", it.reply))
    }
}

impl Smtp {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::with(State::default()).await
    }

    /// Starts a server that rejects one address.
    pub async fn rejecting(address: &str) -> Self {
        let server = Self::start().await;
        server.refuse("RCPT", address, "550 5.1.1 no such mailbox");
        server
    }

    /// Starts a server that stores mails and closes the connection instead of an acknowledgement; the
    /// receiver gets a message for each mail.
    pub async fn dropping_acks() -> (Self, mpsc::UnboundedReceiver<()>) {
        let (sender, received) = mpsc::unbounded_channel();
        (Self::with(State { drop_acks: Some(sender), ..State::default() }).await, received)
    }

    async fn with(state: State) -> Self {
        let mut server = Self {
            port: ReservedPort::new(),
            state: Arc::new(state),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        server.restart().await;
        server
    }

    /// From now on answers a command with this reply, if the command contains `part`. `verb` is the first
    /// word of the command, `GREETING` for the greeting of a connection, or `.` for the content of a mail.
    pub fn refuse(&self, verb: &str, part: &str, reply: &str) {
        let (verb, part, reply) = (verb.to_owned(), part.to_owned(), reply.to_owned());
        lock(&self.state.refusals).push(Refusal { verb, part, reply });
    }

    /// Refuses nothing any more.
    pub fn accept_all(&self) {
        lock(&self.state.refusals).clear();
    }

    /// Stops listening, and closes all connections: new ones are refused.
    pub async fn stop(&mut self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Listens on the port, again after a stop.
    pub async fn restart(&mut self) {
        let listener = self.port.listen().await;
        self.tasks = TaskTracker::new();
        self.stopping = CancellationToken::new();
        let (state, tasks) = (self.state.clone(), self.tasks.clone());
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            let accepting = accept(listener, state, tasks, stopping.clone());
            stopping.run_until_cancelled(accepting).await
        });
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port.number())
    }

    /// URL of the server with a user and a password.
    pub fn url_with_password(&self) -> String {
        format!("smtp://mailer:secret@127.0.0.1:{}", self.port.number())
    }

    /// Mails received so far.
    pub fn mails(&self) -> Vec<String> {
        lock(&self.state.mails).clone()
    }

    /// Commands received so far that begin with a word.
    pub fn commands(&self, verb: &str) -> Vec<String> {
        lock(&self.state.commands).iter().filter(|it| it.starts_with(verb)).cloned().collect()
    }
}

async fn accept(
    listener: ReservedListener,
    state: Arc<State>,
    tasks: TaskTracker,
    stopping: CancellationToken,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let receiving = receive(stream, state.clone());
        let stopping = stopping.clone();
        tasks.spawn(async move { stopping.run_until_cancelled(receiving).await });
    }
}

async fn receive(stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let greeting = state.refusal("GREETING", "");
    stream.write_all(greeting.as_deref().unwrap_or("220 test ESMTP\r\n").as_bytes()).await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        lock(&state.commands).push(line.trim_end().to_owned());
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        if let Some(refusal) = state.refusal(&verb, &line) {
            stream.write_all(refusal.as_bytes()).await?;
            continue;
        }
        let answer: String = match verb.as_str() {
            // A server without SMTPUTF8.
            _ if !line.is_ascii() => "553 5.6.7 the address is not ASCII\r\n".to_owned(),
            "EHLO" => "250-test\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n".to_owned(),
            "AUTH" => "235 2.7.0 authenticated\r\n".to_owned(),
            "DATA" => {
                stream.write_all(b"354 end with a line with a dot\r\n").await?;
                let mut mail = String::new();
                while stream.read_line(&mut mail).await? != 0 && !mail.ends_with("\r\n.\r\n") {}
                if let Some(refusal) = state.refusal(".", &mail) {
                    refusal
                } else {
                    lock(&state.mails).push(mail);
                    if let Some(dropped) = &state.drop_acks {
                        let _ = dropped.send(());
                        return Ok(());
                    }
                    "250 accepted\r\n".to_owned()
                }
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "250 ok\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}
