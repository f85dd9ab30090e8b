//! SMTP client (RFC 5321) with kept connections. A failure has the command that it answers: only the reply to
//! RCPT TO, or a reply about the mailbox to DATA, is about the recipient.

use std::{
    borrow::Cow,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use lettre::{
    Message,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt, Rset},
        extension::ClientId,
    },
};
use percent_encoding::percent_decode_str;
use url::Url;

/// Time limit of connecting to the SMTP server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of one mail, from the connection to the reply to its content. Shorter than the first back-off,
/// so that no mail is sent twice at a time.
const SEND_TIMEOUT: Duration = Duration::from_secs(25);

/// Idle time after which a kept connection is not used any more: servers close idle connections.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// Largest number of kept connections.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Reply codes about the order of commands and about authentication. They are not about a recipient, whatever
/// command they answer.
const SESSION_CODES: [&str; 5] = ["503", "530", "534", "535", "538"];

/// An SMTP server.
pub(super) struct SmtpServer {
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
    hello_name: ClientId,
    idle: Mutex<Vec<Session>>,
}

/// Encryption of connections.
enum Tls {
    None,
    /// From the first byte (port 465).
    Implicit(TlsParameters),
    /// By STARTTLS.
    OnRequest {
        parameters: TlsParameters,
        is_required: bool,
    },
}

/// An open connection, after EHLO and authentication.
struct Session {
    connection: AsyncSmtpConnection,
    used_at: Instant,
}

/// Part of a session to which a failure belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connection, greeting, EHLO, STARTTLS or AUTH.
    Session,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA and the content.
    Content,
}

/// A mail that was not accepted.
#[derive(Debug)]
pub(super) struct SmtpFailure {
    pub(super) stage: Stage,
    /// Error message, with the reply of the server if there was one.
    pub(super) message: String,
    /// True if the server has permanently rejected the recipient.
    pub(super) is_bounce: bool,
}

impl Stage {
    /// Name in logs and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Content => "DATA",
        }
    }
}

impl fmt::Display for SmtpFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage.name(), self.message)
    }
}

impl SmtpServer {
    /// Parses the URL of a server: `smtp` without encryption unless the query has `tls=required` or
    /// `tls=opportunistic`, `smtps` with TLS from the first byte. The path is the name in EHLO.
    pub(super) fn from_url(url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(url)?;
        let host = url.host_str().context("the URL has no host")?.to_owned();
        let tls =
            url.query_pairs().find(|(key, _)| key == "tls").map(|(_, value)| value.into_owned());
        let parameters = || TlsParameters::new(host.clone());
        let (default_port, tls) = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) => (25, Tls::None),
            ("smtp", Some(mode @ ("required" | "opportunistic"))) => {
                let is_required = mode == "required";
                (587, Tls::OnRequest { parameters: parameters()?, is_required })
            }
            ("smtps", _) => (465, Tls::Implicit(parameters()?)),
            _ => bail!("the scheme must be smtp or smtps, and tls required or opportunistic"),
        };
        let decode = |text: &str| percent_decode_str(text).decode_utf8().map(Cow::into_owned);
        let credentials = match url.password() {
            Some(password) => Some(Credentials::new(decode(url.username())?, decode(password)?)),
            None => None,
        };
        let name = url.path().trim_matches('/');
        let hello_name =
            if name.is_empty() { ClientId::default() } else { ClientId::Domain(name.to_owned()) };
        let port = url.port().unwrap_or(default_port);
        Ok(Self { host, port, tls, credentials, hello_name, idle: Mutex::default() })
    }

    /// Sends a mail.
    pub(super) async fn send(&self, message: &Message) -> Result<(), SmtpFailure> {
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.try_send(message)).await;
        sent.unwrap_or_else(|_| {
            let message = format!("no reply within {} s", SEND_TIMEOUT.as_secs());
            Err(SmtpFailure { stage: Stage::Session, message, is_bounce: false })
        })
    }

    /// Connects, and authenticates if there are credentials.
    pub(super) async fn examine(&self) -> Result<(), SmtpFailure> {
        let mut session =
            self.connect().await.map_err(|it| SmtpFailure::of(Stage::Session, &it))?;
        session.connection.abort().await;
        Ok(())
    }

    async fn try_send(&self, message: &Message) -> Result<(), SmtpFailure> {
        if let Some(mut session) = self.take_idle() {
            match session.begin(message).await {
                Ok(()) => return self.finish(session, message).await,
                // The server has closed the kept connection, or does not accept further mails on it.
                Err(failure) if failure.stage != Stage::Recipient => {
                    session.connection.abort().await;
                }
                Err(failure) => return self.refuse(session, failure).await,
            }
        }
        let mut session =
            self.connect().await.map_err(|it| SmtpFailure::of(Stage::Session, &it))?;
        match session.begin(message).await {
            Ok(()) => self.finish(session, message).await,
            Err(failure) => self.refuse(session, failure).await,
        }
    }

    /// Connects, and authenticates if there are credentials.
    async fn connect(&self) -> Result<Session, lettre::transport::smtp::Error> {
        let implicit_tls = match &self.tls {
            Tls::Implicit(parameters) => Some(parameters.clone()),
            Tls::None | Tls::OnRequest { .. } => None,
        };
        let server = (self.host.trim_start_matches('[').trim_end_matches(']'), self.port);
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            server,
            Some(CONNECT_TIMEOUT),
            &self.hello_name,
            implicit_tls,
            None,
        )
        .await?;
        if let Tls::OnRequest { parameters, is_required } = &self.tls
            && (*is_required || connection.can_starttls())
        {
            connection.starttls(parameters.clone(), &self.hello_name).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await?;
        }
        Ok(Session { connection, used_at: Instant::now() })
    }

    /// Sends the content, and keeps the connection.
    async fn finish(&self, mut session: Session, message: &Message) -> Result<(), SmtpFailure> {
        match session.content(message).await {
            Ok(()) => {
                self.keep(session);
                Ok(())
            }
            Err(failure) => self.refuse(session, failure).await,
        }
    }

    /// Resets the session after a refused recipient, so that it can be used for the next mail; closes it
    /// after any other failure.
    async fn refuse(&self, mut session: Session, failure: SmtpFailure) -> Result<(), SmtpFailure> {
        let is_usable = failure.stage == Stage::Recipient && !session.connection.has_broken();
        if is_usable && session.connection.command(Rset).await.is_ok() {
            self.keep(session);
        } else {
            session.connection.abort().await;
        }
        Err(failure)
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|it| it.used_at.elapsed() < IDLE_MAX);
        idle.pop()
    }

    fn keep(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(Session { used_at: Instant::now(), ..session });
        }
    }
}

impl Session {
    /// Begins a mail: sender and recipients.
    async fn begin(&mut self, message: &Message) -> Result<(), SmtpFailure> {
        let envelope = message.envelope();
        let sender = Mail::new(envelope.from().cloned(), vec![]);
        let answer = self.connection.command(sender).await;
        answer.map_err(|it| SmtpFailure::of(Stage::Sender, &it))?;
        for recipient in envelope.to() {
            let recipient = Rcpt::new(recipient.clone(), vec![]);
            let answer = self.connection.command(recipient).await;
            answer.map_err(|it| SmtpFailure::of(Stage::Recipient, &it))?;
        }
        Ok(())
    }

    async fn content(&mut self, message: &Message) -> Result<(), SmtpFailure> {
        let failure = |it| SmtpFailure::of(Stage::Content, &it);
        self.connection.command(Data).await.map_err(failure)?;
        self.connection.message(&message.formatted()).await.map_err(failure)?;
        Ok(())
    }
}

impl SmtpFailure {
    fn of(stage: Stage, error: &lettre::transport::smtp::Error) -> Self {
        let reply = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let code = error.status().map(|it| it.to_string()).unwrap_or_default();
        let is_about_mailbox = match stage {
            Stage::Session | Stage::Sender => false,
            Stage::Recipient => !SESSION_CODES.contains(&code.as_str()),
            // Enhanced status codes (RFC 3463) of the address and of the mailbox.
            Stage::Content => reply.starts_with("5.1.") || reply.starts_with("5.2."),
        };
        // A connection that breaks during RCPT TO says nothing about the recipient.
        let stage =
            if stage == Stage::Recipient && code.is_empty() { Stage::Session } else { stage };
        Self {
            stage,
            message: error.to_string(),
            is_bounce: error.is_permanent() && is_about_mailbox,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_selects_port_encryption_and_name() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = |url: &str| SmtpServer::from_url(url);
        assert_eq!(server("smtp://mail.example.com").unwrap().port, 25);
        assert_eq!(server("smtps://mail.example.com").unwrap().port, 465);
        assert_eq!(server("smtp://mail.example.com?tls=required").unwrap().port, 587);
        let named = server("smtps://a%40b:p%2F@mail.example.com:2465/relay.example.com").unwrap();
        assert_eq!(
            (named.port, named.hello_name.to_string().as_str()),
            (2465, "relay.example.com")
        );
        assert!(named.credentials == Some(Credentials::new("a@b".to_owned(), "p/".to_owned())));
        for url in ["mail.example.com", "http://mail.example.com", "smtp://x?tls=maybe"] {
            assert!(server(url).is_err(), "{url}");
        }
    }
}
