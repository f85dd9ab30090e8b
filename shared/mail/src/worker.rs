//! The mail worker: sends the queued mails of one service, several at a time. Links go before notices, and
//! organizations take turns, so that many mails of one delay no other.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::worker::{Progress, Schedule};
use chassis::{
    Db, Result, Tx,
    trace::{self, Kind},
};
use health::Readiness;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    MailRenderer, Mailer, Priority, QueuedMail, RenderOutcome,
    mailer::SendOutcome,
    smtp::Stage,
    store::{self, Attempt, Claim},
};

/// Sends the queued mails of one service.
pub struct MailWorker {
    db: Db,
    mailer: Arc<Mailer>,
    renderer: Arc<dyn MailRenderer>,
    /// Readiness of the process, with a detail while the mail server refuses mails.
    readiness: Readiness,
    /// For each priority, the organization whose mail was claimed last.
    turns: [Mutex<Option<Uuid>>; 2],
    attempts: Counter<u64>,
    delay: Histogram<f64>,
}

/// Largest number of mails that one process sends at a time.
const IN_FLIGHT_MAX: usize = 24;

/// Number of these that are kept free of notices.
const LINKS_RESERVED: usize = 8;

/// Longest pause between two searches for due mails: commits of other processes do not end it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time for which a mail is retried (RFC 5321, 4.5.4.1).
const RETRY_TIME: time::Duration = time::Duration::days(5);

/// Largest number of characters of an error message in the readiness.
const DETAIL_CHARS_MAX: usize = 200;

/// Outcome of an attempt.
enum Outcome {
    Sent,
    /// The mail server has permanently rejected the recipient, with its reply.
    Bounced(String),
    /// Not sent, with the reason of the renderer.
    Suppressed(&'static str),
    /// Not accepted; a later attempt can succeed.
    Retry {
        stage: Option<Stage>,
        message: String,
    },
}

impl MailWorker {
    /// Creates the worker of a service.
    pub fn new(db: Db, mailer: Mailer, renderer: impl MailRenderer, readiness: Readiness) -> Self {
        let meter = global::meter("tenantry");
        Self {
            db,
            mailer: Arc::new(mailer),
            renderer: Arc::new(renderer),
            readiness,
            turns: [Mutex::default(), Mutex::default()],
            attempts: meter.u64_counter("tenantry.mail.attempts").build(),
            delay: meter.f64_histogram("tenantry.mail.delay").with_unit("s").build(),
        }
    }

    /// Runs until the process ends; mails that are being sent are completed.
    pub async fn run(self, stop: CancellationToken) {
        let schedule = Schedule::woken_by(&self.db, POLL_INTERVAL);
        let worker = Arc::new(self);
        let tasks = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let step = || async {
            // Waits until a slot is free.
            drop(slots.acquire().await?);
            let mails = worker.claim(slots.available_permits()).await?;
            let progress = Progress::busy_if(!mails.is_empty());
            for mail in mails {
                let slot = slots.clone().acquire_owned().await?;
                let worker = worker.clone();
                tasks.spawn(async move {
                    let span = trace::continued(Kind::Client, "send mail", &mail.traceparent);
                    trace::set(&span, "tenantry.mail.template", mail.template.clone());
                    worker.deliver(&mail).instrument(span).await;
                    drop(slot);
                });
            }
            Ok(progress)
        };
        ::worker::run("mail".to_owned(), schedule, stop, step).await;
        tasks.close();
        tasks.wait().await;
    }

    /// Claims at most `free` mails that are due, links first.
    async fn claim(&self, free: usize) -> Result<Vec<QueuedMail>> {
        let claim = async |tx: &mut Tx| {
            let mut mails = self.claim_in_turn(tx, Priority::Link, free).await?;
            let rest = free.saturating_sub(mails.len()).saturating_sub(LINKS_RESERVED);
            mails.extend(self.claim_in_turn(tx, Priority::Notice, rest).await?);
            Ok(mails)
        };
        self.db.write_as_system("mail", claim).await
    }

    /// Claims mails of one priority, beginning with the organization after the one that was served last.
    async fn claim_in_turn(
        &self,
        tx: &mut Tx,
        priority: Priority,
        limit: usize,
    ) -> Result<Vec<QueuedMail>> {
        if limit == 0 {
            return Ok(vec![]);
        }
        let turn = &self.turns[priority as usize - 1];
        let after_org = *turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mails = store::claim(tx, &Claim { priority, after_org, limit }).await?;
        let mut last_org = mails.iter().map(|it| it.org_id).max();
        let rest = limit - mails.len();
        if rest > 0 && after_org.is_some() {
            let from_start = Claim { priority, after_org: None, limit: rest };
            let others = store::claim(tx, &from_start).await?;
            last_org = others.iter().map(|it| it.org_id).max();
            mails.extend(others);
        }
        // With free slots left, everything that is due was claimed.
        let is_full = mails.len() == limit;
        *turn.lock().unwrap_or_else(PoisonError::into_inner) = last_org.filter(|_| is_full);
        Ok(mails)
    }

    /// Sends a mail and stores its outcome.
    async fn deliver(&self, mail: &QueuedMail) {
        let outcome = self.attempt(mail).await;
        self.report(mail, &outcome);
        let stored = worker::record("mail", || self.record(mail, &outcome)).await;
        if let Err(error) = stored {
            let error = chassis::error::causes(&error);
            tracing::warn!(mail = %mail.id, error, "the outcome of a mail is not stored; it is sent again");
        }
    }

    async fn record(&self, mail: &QueuedMail, outcome: &Outcome) -> Result<()> {
        let store = async |tx: &mut Tx| self.store_outcome(tx, mail, outcome).await;
        match outcome {
            // Without waiting for the disk: after a crash the mail is sent again with the same Message-ID.
            Outcome::Sent => self.db.write_relaxed(store).await,
            _ => self.db.write_as_system("mail", store).await,
        }
    }

    async fn attempt(&self, mail: &QueuedMail) -> Outcome {
        let message = match self.renderer.render(mail).await {
            Ok(RenderOutcome::Send(message)) => message,
            Ok(RenderOutcome::Suppress(reason)) => return Outcome::Suppressed(reason),
            Err(error) => return Outcome::Retry { stage: None, message: format!("{error:#}") },
        };
        match self.mailer.send(mail.id, &message).await {
            SendOutcome::Accepted => Outcome::Sent,
            SendOutcome::Bounced(reply) => Outcome::Bounced(reply),
            SendOutcome::Retry { stage, message } => Outcome::Retry { stage, message },
        }
    }

    /// Reports an attempt in the metrics, in the log, and in the readiness of the process.
    fn report(&self, mail: &QueuedMail, outcome: &Outcome) {
        let (name, stage) = match outcome {
            Outcome::Sent => ("sent", None),
            Outcome::Bounced(_) => ("bounced", Some(Stage::Recipient)),
            Outcome::Suppressed(_) => ("suppressed", None),
            Outcome::Retry { stage, .. } => ("retry", *stage),
        };
        let stage_name = stage.map_or("none", Stage::name);
        let labels = [KeyValue::new("outcome", name), KeyValue::new("stage", stage_name)];
        self.attempts.add(1, &labels);
        let detail = format!("mail of {}", self.db.name());
        let id = mail.id;
        match outcome {
            Outcome::Sent => {
                self.delay.record((self.db.now() - mail.created_at).as_seconds_f64(), &[]);
                self.readiness.set_detail(&detail, None);
            }
            Outcome::Retry { stage: Some(Stage::Session | Stage::Sender), message } => {
                tracing::error!(
                    mail = %id, message,
                    "the mail server accepts no mails of this sender, so mails wait; check --smtp-url and \
                     --mail-from"
                );
                let printable = |it: char| if it.is_control() { ' ' } else { it };
                let message: String =
                    message.chars().take(DETAIL_CHARS_MAX).map(printable).collect();
                self.readiness.set_detail(&detail, Some(format!("mails wait: {message}")));
            }
            Outcome::Retry { message, .. } => {
                let template = &mail.template;
                tracing::warn!(mail = %id, template, message, "a mail was not sent; it is retried");
            }
            Outcome::Bounced(_) | Outcome::Suppressed(_) => {}
        }
    }

    async fn store_outcome(&self, tx: &mut Tx, mail: &QueuedMail, outcome: &Outcome) -> Result<()> {
        let (outcome, error) = match outcome {
            Outcome::Sent => ("SENT", None),
            Outcome::Suppressed(reason) => ("SUPPRESSED", Some(*reason)),
            Outcome::Bounced(reply) => {
                self.renderer.bounced(tx, mail, reply).await?;
                ("BOUNCED", Some(reply.as_str()))
            }
            Outcome::Retry { message, .. } if mail.created_at + RETRY_TIME <= tx.now => {
                self.renderer.failed(tx, mail, message).await?;
                ("FAILED", Some(message.as_str()))
            }
            Outcome::Retry { message, .. } => ("QUEUED", Some(message.as_str())),
        };
        let ended_at = (outcome != "QUEUED").then_some(tx.now);
        store::record(tx, &Attempt { mail_id: mail.id, outcome, error, ended_at }).await
    }
}
