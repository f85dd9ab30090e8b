//! The threads that hash passwords.

use std::sync::{Arc, OnceLock};

use api::error::Reason;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use chassis::{Code, Error, Result};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// How many hashes may wait for a thread; more are refused.
const WAITING_MAX: usize = 32;

/// Hashes and verifies passwords.
pub(crate) struct Passwords {
    threads: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// What an unknown account's password is compared with, so that it takes as long.
    decoy: Arc<OnceLock<String>>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(cores + WAITING_MAX)),
            decoy: Arc::default(),
        }
    }

    /// The hash of a new password, with its parameters (PHC string).
    pub(crate) async fn hash(&self, password: SecretString) -> Result<String> {
        self.run(move || hash(&password)).await
    }

    /// Whether a password is right. `None` stands for an unknown account: the same work, and never right.
    pub(crate) async fn verify(
        &self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool> {
        let decoy = self.decoy.clone();
        self.run(move || {
            let known = stored.is_some();
            let stored =
                stored.unwrap_or_else(|| decoy.get_or_init(|| hash(&"decoy".into())).clone());
            let right = Argon2::default()
                .verify_password(password.expose_secret().as_bytes(), stored.as_str());
            right.is_ok() && known
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(Error::Refused {
                code: Code::ResourceExhausted,
                reason: Reason::RateLimited,
                message: "too many people sign in at this moment; retry in a few seconds"
                    .to_owned(),
                metadata: vec![],
            });
        };
        let _thread = self.threads.acquire().await.map_err(anyhow::Error::from)?;
        Ok(tokio::task::spawn_blocking(work).await.map_err(anyhow::Error::from)?)
    }
}

fn hash(password: &SecretString) -> String {
    let hash = Argon2::default().hash_password(password.expose_secret().as_bytes());
    hash.expect("argon2 hashes any password").to_string()
}
