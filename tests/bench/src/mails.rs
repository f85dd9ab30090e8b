//! Rate of mails to a mail server that accepts each mail at once.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use api::{identity as id, invitation as inv};
use sqlx::{Connection, Executor, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{median, mutation, noop, print, suite::Suite};

/// Number of mails in one measurement.
const MAILS: usize = 2_000;

/// Largest number of addresses in one call.
const BATCH: usize = 100;

/// Runs the measurement three times.
pub(crate) async fn run() -> Result<()> {
    let mut rates = vec![];
    for _ in 0..3 {
        rates.push(measure().await?);
    }
    let rate = median(rates);
    print(&format!("| mails to a server that accepts at once | {rate:.0}/s | | | ≥ 300/s |\n"));
    Ok(())
}

/// Mails received by the sink.
#[derive(Default)]
struct Received {
    count: AtomicUsize,
    /// Times of the first and of the last mail.
    times: Mutex<Option<(Instant, Instant)>>,
}

async fn measure() -> Result<f64> {
    let received = Arc::<Received>::default();
    let sink = start_sink(received.clone()).await?;
    let installs = noop::without_audit();
    let smtp_url = format!("smtp://{sink}");
    let suite = Suite::start_with(&installs, |it| {
        it.smtp_url = Some(smtp_url.into());
        it.invitation_mails_max = 0;
    })
    .await?;
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let token = sign_in_unconfirmed(&suite, &mut connection).await?;
    suite.hold_mails().await?;
    let sample = mutation::create_sample_project(&suite, &token).await?;
    let ann = suite.client.with_token(&token);
    for batch in 0..MAILS / BATCH {
        let email = |number: usize| format!("guest{number}@example.com");
        let create = inv::BatchCreateInvitationsRequest {
            org_id: sample.org_id.clone(),
            emails: (batch * BATCH..(batch + 1) * BATCH).map(email).collect(),
            role: id::OrgRole::Viewer.into(),
            ..Default::default()
        };
        let method = "tenantry.invitation.v1.InvitationService/BatchCreateInvitations";
        let _: inv::BatchCreateInvitationsResponse = ann.call(method, create).await?;
    }
    suite.analyze().await?;
    let before = received.count.load(Ordering::Relaxed);
    *received.times.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let release = "update invitation.mail set due_at = now() where template = 'invitation'";
    connection.execute(release).await?;
    for _ in 0..1_200 {
        if received.count.load(Ordering::Relaxed) - before >= MAILS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(received.count.load(Ordering::Relaxed) - before >= MAILS, "not all mails were sent");
    let times = *received.times.lock().unwrap_or_else(PoisonError::into_inner);
    let took = times.map(|(first, last)| last - first).unwrap_or_default();
    suite.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "the number of mails is small")]
    Ok(MAILS as f64 / took.as_secs_f64())
}

/// Registers a user, confirms the address in the database, and signs in: the mails go to the sink.
async fn sign_in_unconfirmed(suite: &Suite, connection: &mut PgConnection) -> Result<String> {
    let (email, password) = ("ann@example.com".to_owned(), "a long enough password".to_owned());
    let register = id::RegisterRequest {
        email: email.clone(),
        password: password.clone(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.UserService/Register";
    let _: id::RegisterResponse = suite.client.call(method, register).await?;
    connection.execute("update identity.account set email_verified_at = now()").await?;
    let method = "tenantry.identity.v1.SessionService/Login";
    let login = id::LoginRequest { email, password };
    let session: id::LoginResponse = suite.client.call(method, login).await?;
    Ok(session.token)
}

/// Starts an SMTP server that accepts everything.
async fn start_sink(received: Arc<Received>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    #[expect(clippy::disallowed_methods, reason = "a benchmark has no host that drains its tasks")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(receive(stream, received.clone()));
        }
    });
    Ok(address)
}

async fn receive(stream: TcpStream, received: Arc<Received>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink ESMTP\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if line.starts_with("DATA") {
            stream.write_all(b"354 go on\r\n").await?;
            while line != ".\r\n" {
                line.clear();
                ensure!(stream.read_line(&mut line).await? > 0, "the connection was closed");
            }
            received.count.fetch_add(1, Ordering::Relaxed);
            let now = Instant::now();
            let mut times = received.times.lock().unwrap_or_else(PoisonError::into_inner);
            *times = Some((times.map_or(now, |(first, _)| first), now));
            drop(times);
        }
        stream.write_all(b"250 ok\r\n").await?;
    }
}
