//! The threads that hash passwords.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc::Sender};

use api::error::Reason;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use chassis::{
    Error, Result,
    key::{self, Key, Secret},
};
use data_encoding::BASE64_NOPAD;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, oneshot};

/// How many hashes may wait for a thread; more are refused.
const WAITING_MAX: usize = 32;

/// How many of the waiting hashes may be for new accounts, which anybody may ask for: the rest is left to
/// those who sign in.
const NEW_ACCOUNTS_MAX: usize = WAITING_MAX / 2;

/// How a hash of today's making begins: which pepper, and the parameters of argon2id (I-02).
const TODAY: &str = "p1$argon2id$v=19$m=19456,t=2,p=1$";

/// How far the hashing threads yield to others: a little. At the lowest priority nobody would sign in while
/// the machine is full of other work.
const NICE: i32 = 5;

/// The password that an unknown account seems to have.
const DECOY: &str = "decoy";

type Job = Box<dyn FnOnce() + Send>;

/// What stands before the hash of a peppered password.
const PEPPERED: &str = "p1";

/// Hashes and verifies passwords.
pub(crate) struct Passwords {
    threads: Sender<Job>,
    places: Arc<Semaphore>,
    new_accounts: Arc<Semaphore>,
    /// Without it, which is not in the database, a stolen hash cannot even be guessed at.
    pepper: Secret,
    /// What an unknown account's password is compared with, so that it takes as long.
    decoy: Arc<OnceLock<String>>,
}

impl Passwords {
    pub(crate) fn new(key: &Key) -> Self {
        Self::peppered(key.derive("password pepper"))
    }

    fn peppered(pepper: Secret) -> Self {
        // One core is left to everything else.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = cores.saturating_sub(1).max(1);
        Self {
            threads: start(cores),
            places: Arc::new(Semaphore::new(cores + WAITING_MAX)),
            new_accounts: Arc::new(Semaphore::new(NEW_ACCOUNTS_MAX)),
            pepper,
            decoy: Arc::default(),
        }
    }

    /// The hash of a new password, with its parameters.
    pub(crate) async fn hash(&self, password: SecretString) -> Result<String> {
        let pepper = self.pepper;
        self.run(move || hash(&pepper, &password)).await
    }

    /// The same for an account that somebody opens, whom nothing is known of yet.
    pub(crate) async fn hash_for_new_account(&self, password: SecretString) -> Result<String> {
        let Ok(_place) = self.new_accounts.try_acquire() else { return Err(full()) };
        self.hash(password).await
    }

    /// Whether a password is right. `None` stands for an unknown account, or one without a password: the same
    /// work, and never right.
    pub(crate) async fn verify(
        &self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool> {
        let (decoy, pepper) = (self.decoy.clone(), self.pepper);
        self.run(move || {
            let known = stored.is_some();
            let decoy = || decoy.get_or_init(|| hash(&pepper, &DECOY.into())).clone();
            // First, so that nothing is left out for an account that is not there.
            let right = matches(&pepper, &password, &stored.unwrap_or_else(decoy));
            right && known
        })
        .await
    }

    /// Refuses while there is no place in the queue: before anything is read for somebody who must wait
    /// anyway.
    pub(crate) fn check_place(&self) -> Result<()> {
        if self.places.available_permits() == 0 { Err(full()) } else { Ok(()) }
    }

    /// Whether a hash is to be made anew when its password is at hand.
    #[expect(clippy::unused_self, reason = "a question about passwords, asked of what makes them")]
    pub(crate) fn is_old(&self, stored: &str) -> bool {
        !stored.starts_with(TODAY)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Ok(_place) = self.places.try_acquire() else { return Err(full()) };
        let (done, outcome) = oneshot::channel();
        let job: Job = Box::new(move || _ = done.send(work()));
        self.threads.send(job).map_err(|_| anyhow::anyhow!("the hashing threads have ended"))?;
        Ok(outcome.await.map_err(anyhow::Error::from)?)
    }
}

fn full() -> Error {
    Error::Limited {
        reason: Reason::RateLimited,
        message: "too many people sign in at this moment; retry in a few seconds".to_owned(),
        retry_after: std::time::Duration::from_secs(2),
    }
}

/// Starts the threads. They yield to everybody else, so that a flood of sign-ins does not stall decisions.
fn start(count: usize) -> Sender<Job> {
    let (jobs, waiting) = std::sync::mpsc::channel::<Job>();
    let waiting = Arc::new(Mutex::new(waiting));
    for number in 0..count {
        let waiting = waiting.clone();
        let work = move || {
            // Of this thread only. Where it is not allowed, it works on at its usual priority.
            let _ = rustix::process::setpriority_process(None, NICE);
            loop {
                let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                job();
            }
        };
        let thread = std::thread::Builder::new().name(format!("password {number}"));
        thread.spawn(work).expect("the machine gives a thread");
    }
    jobs
}

fn hash(pepper: &Secret, password: &SecretString) -> String {
    let hash = Argon2::default().hash_password(peppered(pepper, password).as_bytes());
    format!("{PEPPERED}{}", hash.expect("argon2 hashes any password"))
}

fn matches(pepper: &Secret, password: &SecretString, stored: &str) -> bool {
    let verify = |password: &str, stored: &str| {
        Argon2::default().verify_password(password.as_bytes(), stored).is_ok()
    };
    match stored.strip_prefix(PEPPERED) {
        Some(stored) => verify(&peppered(pepper, password), stored),
        // Of an older making.
        None => verify(password.expose_secret(), stored),
    }
}

fn peppered(pepper: &Secret, password: &SecretString) -> String {
    BASE64_NOPAD.encode(&key::mac(pepper, &[password.expose_secret().as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I-04: an unknown account's password is compared with a hash of the same making, and is never right.
    #[tokio::test]
    async fn an_unknown_account_is_the_same_work_and_never_right() {
        let passwords = Passwords::peppered([7; 32]);
        assert!(!passwords.verify(DECOY.into(), None).await.unwrap());
        let decoy = passwords.decoy.get().expect("it was compared");
        assert!(decoy.starts_with(TODAY) && !passwords.is_old(decoy), "{decoy}");
        assert!(passwords.verify(DECOY.into(), Some(decoy.clone())).await.unwrap());
    }

    /// However many accounts are opened, who signs in finds a place. On one thread a place is given back only
    /// when its task runs again, which is after the last line.
    #[tokio::test]
    async fn new_accounts_leave_places_to_those_who_sign_in() {
        let passwords = Arc::new(Passwords::peppered([7; 32]));
        let mut opened = tokio::task::JoinSet::new();
        for _ in 0..4 * WAITING_MAX {
            let passwords = passwords.clone();
            opened.spawn(async move { passwords.hash_for_new_account("a password".into()).await });
        }
        tokio::task::yield_now().await;
        assert_eq!(passwords.new_accounts.available_permits(), 0, "there are too many");
        passwords.check_place().unwrap();
        assert!(!passwords.verify("a password".into(), None).await.unwrap());
    }

    /// I-02.
    #[test]
    fn a_hash_says_how_it_was_made_and_an_older_one_still_verifies() {
        let (pepper, password) = ([7; 32], SecretString::from("correct horse battery"));
        let today = hash(&pepper, &password);
        assert!(today.starts_with(TODAY), "{today}");
        assert!(matches(&pepper, &password, &today));
        assert!(!matches(&[8; 32], &password, &today), "the pepper counts");
        assert!(!matches(&pepper, &"another".into(), &today));
        let plain = Argon2::default().hash_password(b"correct horse battery").unwrap().to_string();
        assert!(matches(&pepper, &password, &plain));
        assert!(!plain.starts_with(TODAY));
    }
}
