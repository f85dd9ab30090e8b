//! Requests of certificates from an ACME authority (RFC 8555), and their renewal. The runner proves each host
//! name by a record that the project service publishes on the DNS server of the organization (DNS-01), so
//! neither port 80 nor a public address is needed. Account and orders are in `order`.

mod order;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    certificate::CertificateStore,
    client::TaskClient,
    driver::{Driver, EnvironmentHostname},
    settings::{Settings, Tls},
};
use order::{Authority, OrderError};

/// Pause between two looks for host names without a valid certificate.
const INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of orders at a time.
const ORDERS_MAX: usize = 4;

/// First pause after an attempt that did not reach the authority, and its maximum.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// First pause after a refusal of the authority. Let's Encrypt allows five failures in an hour for a host
/// name.
const REFUSAL_PAUSE_MIN: Duration = Duration::from_secs(120);

/// Failed attempts for a host name.
#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    next: Instant,
}

/// The loop that requests certificates, and renews them after two thirds of their lifetime.
pub(crate) struct Renewal {
    client: Arc<dyn TaskClient>,
    driver: Arc<dyn Driver>,
    certificates: Arc<CertificateStore>,
    authority: Authority,
    /// Name of the runner.
    runner: String,
    /// By host name.
    failures: Mutex<BTreeMap<String, Failures>>,
}

impl Renewal {
    /// Returns the loop; `None` if the runner requests no certificates.
    pub(crate) fn new(
        settings: &Settings,
        client: Arc<dyn TaskClient>,
        driver: Arc<dyn Driver>,
    ) -> Option<Self> {
        let Tls::AcmeDns(authority) = &settings.proxy.as_ref()?.tls else { return None };
        let certificates = driver.certificates()?;
        Some(Self {
            client,
            authority: Authority::new(authority.clone(), certificates.account_file()),
            driver,
            certificates,
            runner: settings.name.clone(),
            failures: Mutex::default(),
        })
    }

    /// Requests certificates until `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.renew_all() => sleep(INTERVAL).await,
            }
        }
    }

    async fn renew_all(&self) {
        let all = self.driver.hostnames().await;
        let names: BTreeSet<_> = all.iter().map(|it| it.hostname.as_str()).collect();
        self.certificates.retain(&names);
        self.lock_failures().retain(|it, _| names.contains(it.as_str()));
        let due = all.iter().filter(|it| self.is_due(&it.hostname));
        futures::stream::iter(due).for_each_concurrent(ORDERS_MAX, |it| self.renew(it)).await;
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "certificates expire by the clock of the machine"
    )]
    fn is_due(&self, hostname: &str) -> bool {
        let is_paused =
            self.lock_failures().get(hostname).is_some_and(|it| it.next > Instant::now());
        let renewal = self.certificates.get(hostname).map(|it| it.renewal_time);
        !is_paused && renewal.is_none_or(|it| it <= SystemTime::now())
    }

    async fn renew(&self, host: &EnvironmentHostname) {
        let hostname = &host.hostname;
        let proof = order::Proof { client: self.client.as_ref(), runner: &self.runner, host };
        let ordered = self.authority.order(&proof).await.and_then(|it| {
            self.certificates.put(hostname, &it.chain, &it.key).map_err(OrderError::from)
        });
        match ordered {
            Ok(()) => {
                tracing::info!(hostname, "certificate received");
                self.lock_failures().remove(hostname);
            }
            Err(failure) => {
                let pause = self.record_failure(hostname, failure.is_refusal);
                let (error, next_attempt_s) = (format!("{:#}", failure.error), pause.as_secs());
                tracing::warn!(hostname, error, next_attempt_s, "no certificate for a host name");
            }
        }
    }

    /// Returns the pause before the next attempt.
    fn record_failure(&self, hostname: &str, is_refusal: bool) -> Duration {
        let mut failures = self.lock_failures();
        let count = failures.get(hostname).map_or(0, |it| it.count);
        let first = if is_refusal { REFUSAL_PAUSE_MIN } else { PAUSE_MIN };
        let pause = first.saturating_mul(2_u32.saturating_pow(count)).min(PAUSE_MAX);
        let next = Instant::now() + pause;
        failures.insert(hostname.to_owned(), Failures { count: count.saturating_add(1), next });
        pause
    }

    fn lock_failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
