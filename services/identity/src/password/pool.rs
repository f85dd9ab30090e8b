//! The pool of threads that hash passwords. It bounds the processor time and the memory that a flood of
//! sign-ins can take from other calls.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc::Sender};

use api::error::Reason;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use chassis::{
    Error, Result,
    key::{self, DerivedKeys, Key, Secret},
};
use data_encoding::BASE64_NOPAD;
use identity_rules::password::{NewPassword, Password};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, oneshot};

/// Jobs that may wait for a thread; more are refused.
const QUEUED_MAX: usize = 32;

/// Jobs for new accounts at most. Anybody can register, so the rest of the queue is reserved for sign-ins.
const NEW_ACCOUNTS_MAX: usize = QUEUED_MAX / 2;

/// Prefix of hashes with pepper: a secret key that is mixed in before hashing. The pepper is derived from the
/// original secret key of the deployment.
const ORIGINAL_PREFIX: &str = "p1";

/// Prefix of hashes with the pepper of a later secret key. `$` and the id of that key follow.
const LATER_PREFIX: &str = "p2$";

/// Current parameters of argon2id; hashes with others, or with the pepper of a previous secret key, are
/// replaced at the next sign-in.
const PARAMETERS: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

/// Niceness of the hashing threads: below other work, but not so low that nobody can sign in on a busy
/// machine.
const NICE: i32 = 5;

/// Purpose of the peppers.
pub(crate) const PEPPER: &str = "password pepper";

/// The password behind the decoy hash.
const DECOY_PASSWORD: &str = "decoy";

/// The result of a comparison of a password with a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Another password, or no account.
    None,
    /// The hash is of the prepared password.
    Current,
    /// The hash is of the password as it was typed, and should be replaced.
    Former,
}

type Job = Box<dyn FnOnce() + Send>;

/// Hashes and verifies passwords.
pub(crate) struct PasswordHasher {
    jobs: Sender<Job>,
    /// Permits for running and queued jobs.
    permits: Arc<Semaphore>,
    /// Permits for jobs of new accounts.
    new_account_permits: Arc<Semaphore>,
    /// The peppers. They are not in the database: without them, stolen hashes cannot be attacked offline.
    peppers: DerivedKeys,
    /// The hash with which the password of an unknown account is compared, so that the reply takes as long
    /// as for a known one.
    decoy: Arc<OnceLock<String>>,
}

impl PasswordHasher {
    /// Starts the threads; the peppers are derived from the deployment's keys.
    pub(crate) fn new(key: &Key) -> Self {
        // One core is reserved for other work.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = cores.saturating_sub(1).max(1);
        Self {
            jobs: start_threads(cores),
            permits: Arc::new(Semaphore::new(cores + QUEUED_MAX)),
            new_account_permits: Arc::new(Semaphore::new(NEW_ACCOUNTS_MAX)),
            peppers: key.derive(PEPPER),
            decoy: Arc::default(),
        }
    }

    /// Returns the hash of a new password, with its parameters.
    pub(crate) async fn hash(&self, password: &NewPassword) -> Result<String> {
        self.rehash(password.password()).await
    }

    /// Returns another hash of a password that an account has already.
    pub(crate) async fn rehash(&self, password: &Password) -> Result<String> {
        let peppers = self.peppers.clone();
        let prepared = password.prepared().clone();
        self.run(move || hash(&peppers, &prepared)).await
    }

    /// Like [`Self::hash`], within the share of the queue for new accounts.
    pub(crate) async fn hash_for_new_account(&self, password: &NewPassword) -> Result<String> {
        let Ok(_permit) = self.new_account_permits.try_acquire() else { return Err(overloaded()) };
        self.hash(password).await
    }

    /// Compares a password with the stored hash. `None` stands for an unknown account, or one without a
    /// password: takes as long, and does not match.
    pub(crate) async fn verify(
        &self,
        password: &Password,
        stored: Option<String>,
    ) -> Result<Match> {
        let decoy = self.decoy.clone();
        let peppers = self.peppers.clone();
        let password = password.clone();
        self.run(move || {
            let has_password = stored.is_some();
            let decoy = || decoy.get_or_init(|| hash(&peppers, &DECOY_PASSWORD.into())).clone();
            let stored = stored.unwrap_or_else(decoy);
            // Computed before `has_password` is tested: the time must not reveal if the account exists.
            let is_match = matches(&peppers, password.prepared(), &stored);
            // Former versions have hashed the password as it was typed.
            let is_former = !is_match
                && password.typed_if_different().is_some_and(|it| matches(&peppers, it, &stored));
            match (is_match, is_former) {
                (true, _) if has_password => Match::Current,
                (_, true) if has_password => Match::Former,
                _ => Match::None,
            }
        })
        .await
    }

    /// Refuses while the queue is full. Called before the account is read, to save the read.
    pub(crate) fn require_capacity(&self) -> Result<()> {
        if self.permits.available_permits() == 0 { Err(overloaded()) } else { Ok(()) }
    }

    /// Returns true if a hash has another pepper or other parameters than the current ones, and should be
    /// replaced.
    pub(crate) fn is_outdated(&self, stored: &str) -> bool {
        let parameters = stored.strip_prefix(&current_prefix(&self.peppers));
        !parameters.is_some_and(|it| it.starts_with(PARAMETERS))
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Ok(_permit) = self.permits.try_acquire() else { return Err(overloaded()) };
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move || _ = sender.send(work()));
        self.jobs.send(job).map_err(|_| anyhow::anyhow!("the hashing threads have ended"))?;
        Ok(receiver.await.map_err(anyhow::Error::from)?)
    }
}

fn overloaded() -> Error {
    Error::Limited {
        reason: Reason::RateLimited,
        message: "too many sign-ins are in progress; retry in a few seconds".to_owned(),
        retry_after: std::time::Duration::from_secs(2),
    }
}

/// Starts the threads, at a lower priority than other work.
fn start_threads(count: usize) -> Sender<Job> {
    let (jobs, queue) = std::sync::mpsc::channel::<Job>();
    let queue = Arc::new(Mutex::new(queue));
    for number in 0..count {
        let queue = queue.clone();
        let work = move || {
            // On Linux this sets the priority of the calling thread. Without permission it stays as it is.
            let _ = rustix::process::setpriority_process(None, NICE);
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                job();
            }
        };
        let thread = std::thread::Builder::new().name(format!("password {number}"));
        thread.spawn(work).expect("a thread can be started");
    }
    jobs
}

fn hash(peppers: &DerivedKeys, password: &SecretString) -> String {
    let peppered = apply_pepper(&peppers.current(), password);
    let hash = Argon2::default().hash_password(peppered.as_bytes());
    format!("{}{}", current_prefix(peppers), hash.expect("argon2 hashes any password"))
}

/// Returns the prefix that names the current pepper.
fn current_prefix(peppers: &DerivedKeys) -> String {
    if peppers.is_original() {
        ORIGINAL_PREFIX.to_owned()
    } else {
        format!("{LATER_PREFIX}{}", peppers.id())
    }
}

/// Returns true if a password matches a hash, with or without pepper.
fn matches(peppers: &DerivedKeys, password: &SecretString, stored: &str) -> bool {
    let verify = |password: &str, stored: &str| {
        Argon2::default().verify_password(password.as_bytes(), stored).is_ok()
    };
    if let Some((id, stored)) = split_later(stored) {
        // An unknown pepper takes as long as a known one.
        let pepper = peppers.with_id(id).unwrap_or_else(|| peppers.current());
        return verify(&apply_pepper(&pepper, password), stored);
    }
    match stored.strip_prefix(ORIGINAL_PREFIX) {
        Some(stored) => verify(&apply_pepper(&peppers.original(), password), stored),
        // A hash from before the pepper was introduced.
        None => verify(password.expose_secret(), stored),
    }
}

/// Splits a hash with the pepper of a later secret key into the id of that key and the hash.
fn split_later(stored: &str) -> Option<(&str, &str)> {
    let rest = stored.strip_prefix(LATER_PREFIX)?;
    rest.split_at_checked(rest.find('$')?)
}

fn apply_pepper(pepper: &Secret, password: &SecretString) -> String {
    BASE64_NOPAD.encode(&key::mac(pepper, &[password.expose_secret().as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I-04: the password of an unknown account is compared with a hash of the current parameters, and never
    /// matches.
    #[tokio::test]
    async fn an_unknown_account_is_the_same_work_and_never_right() {
        let passwords = PasswordHasher::new(&Key::new(&[[7; 32]]));
        let password = Password::new(DECOY_PASSWORD);
        assert_eq!(passwords.verify(&password, None).await.unwrap(), Match::None);
        let decoy = passwords.decoy.get().expect("the decoy was compared");
        assert!(decoy.starts_with("p1$argon2id$") && !passwords.is_outdated(decoy), "{decoy}");
        let known = passwords.verify(&password, Some(decoy.clone())).await.unwrap();
        assert_eq!(known, Match::Current);
    }

    /// A hash of a password as a former version has received it, with decomposed letters.
    #[tokio::test]
    async fn a_hash_of_the_typed_password_matches_once_more() {
        let passwords = PasswordHasher::new(&Key::new(&[[7; 32]]));
        let decomposed = "a cafe\u{301} in Vienna";
        let former = hash(&passwords.peppers, &decomposed.into());
        let verify = async |typed: &str, stored: &str| {
            let password = Password::new(typed);
            passwords.verify(&password, Some(stored.to_owned())).await.unwrap()
        };
        assert_eq!(verify(decomposed, &former).await, Match::Former);
        let current = passwords.rehash(&Password::new(decomposed)).await.unwrap();
        for typed in [decomposed, "a café in Vienna", "a\u{a0}café in Vienna"] {
            assert_eq!(verify(typed, &current).await, Match::Current, "{typed}");
        }
    }

    /// Registrations cannot fill the queue for sign-ins. The test runtime has one thread, so no permit is
    /// returned before the test ends.
    #[tokio::test]
    async fn registrations_leave_capacity_for_sign_ins() {
        let passwords = Arc::new(PasswordHasher::new(&Key::new(&[[7; 32]])));
        let mut registrations = tokio::task::JoinSet::new();
        for _ in 0..4 * QUEUED_MAX {
            let passwords = passwords.clone();
            let password = NewPassword::new("a long password", "ann@example.com").unwrap();
            registrations.spawn(async move { passwords.hash_for_new_account(&password).await });
        }
        tokio::task::yield_now().await;
        assert_eq!(passwords.new_account_permits.available_permits(), 0);
        passwords.require_capacity().unwrap();
        let unknown = passwords.verify(&Password::new("a long password"), None).await;
        assert_eq!(unknown.unwrap(), Match::None);
    }

    /// I-02.
    #[test]
    fn a_hash_states_its_parameters_and_an_outdated_one_still_verifies() {
        let peppers = Key::new(&[[7; 32]]).derive(PEPPER);
        let password = SecretString::from("correct horse battery");
        let current = hash(&peppers, &password);
        assert!(current.starts_with("p1$argon2id$v=19$m=19456,t=2,p=1$"), "{current}");
        assert!(matches(&peppers, &password, &current));
        let others = Key::new(&[[8; 32]]).derive(PEPPER);
        assert!(!matches(&others, &password, &current), "the pepper matters");
        assert!(!matches(&peppers, &"another".into(), &current));
        let unpeppered =
            Argon2::default().hash_password(b"correct horse battery").unwrap().to_string();
        assert!(matches(&peppers, &password, &unpeppered));
        assert!(PasswordHasher::new(&Key::new(&[[7; 32]])).is_outdated(&unpeppered));
    }

    /// Hashes with the pepper of a previous secret key match, and are replaced at the next sign-in.
    #[test]
    fn a_hash_names_its_pepper_after_a_rotation() {
        let (old, key) = (Key::new(&[[7; 32]]), Key::new(&[[8; 32], [7; 32]]));
        key.set_original(PEPPER, old.check_value());
        let password = SecretString::from("correct horse battery");
        let hasher = PasswordHasher::new(&key);
        let former = hash(&old.derive(PEPPER), &password);
        assert!(matches(&hasher.peppers, &password, &former) && hasher.is_outdated(&former));
        let current = hash(&hasher.peppers, &password);
        let prefix = format!("p2${}$argon2id$", key.ids()[0]);
        assert!(current.starts_with(&prefix) && !hasher.is_outdated(&current), "{current}");
        assert!(matches(&hasher.peppers, &password, &current));
        // A replica of the old order, and a later key.
        let before = Key::new(&[[7; 32], [8; 32]]).derive(PEPPER);
        assert!(matches(&before, &password, &current));
        let third = Key::new(&[[9; 32], [8; 32]]);
        third.set_original(PEPPER, old.check_value());
        assert!(matches(&third.derive(PEPPER), &password, &current));
        assert!(!matches(&third.derive(PEPPER), &password, &former));
        third.retain(PEPPER, old.check_value(), old.derive(PEPPER).current());
        assert!(matches(&third.derive(PEPPER), &password, &former));
    }
}
