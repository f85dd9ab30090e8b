//! Expiry of the certificates of environments, as the proxy presents them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::project::ServedCertificate;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Processes, directory::EnvironmentDir};
use crate::{
    domains::DomainList,
    proxy::presented_certificate::{self, Validity},
    settings::Tls,
};

/// Interval of the checks of an environment.
const INTERVAL: Duration = Duration::from_mins(10);

/// The same while a host name has no certificate.
const RETRY_INTERVAL: Duration = Duration::from_secs(20);

/// Result of the last check of an environment.
struct Checked {
    next: Instant,
    certificate: Option<ServedCertificate>,
}

/// Results of the last checks of all environments.
#[derive(Default)]
pub(super) struct CertificateChecks {
    checked: Mutex<HashMap<Uuid, Checked>>,
}

impl CertificateChecks {
    /// Returns the certificate of an environment that expires first.
    pub(super) fn first_to_expire(&self, id: Uuid) -> Option<ServedCertificate> {
        self.lock().get(&id).and_then(|it| it.certificate.clone())
    }

    /// Drops the results of environments that are not in `ids`.
    pub(super) fn retain_only(&self, ids: &[Uuid]) {
        self.lock().retain(|id, _| ids.contains(id));
    }

    fn is_due(&self, id: Uuid) -> bool {
        self.lock().get(&id).is_none_or(|it| Instant::now() >= it.next)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Processes {
    /// Checks the certificates of those environments whose last check is not recent.
    pub(super) async fn check_certificates(&self, environments: &[EnvironmentDir]) {
        let Some(proxy) = self.settings.proxy.as_ref().filter(|it| it.tls != Tls::Off) else {
            return;
        };
        let domains = DomainList::read(&self.settings.data_dir).await;
        for environment in environments {
            let id = environment.id();
            if self.certificate_checks.is_due(id) {
                let mut hostnames = super::address::hostnames_of(environment).await;
                hostnames.extend_from_slice(domains.of(&id.to_string()));
                let checked = check(proxy.https_port, &hostnames).await;
                self.certificate_checks.lock().insert(id, checked);
            }
        }
    }
}

/// Checks all host names of an environment. Those without a certificate are left out: the authority may need
/// time, and a custom domain may not point here yet.
async fn check(port: u16, hostnames: &[String]) -> Checked {
    let mut interval = INTERVAL;
    let mut first: Option<(&String, Validity)> = None;
    for hostname in hostnames {
        match presented_certificate::validity(port, hostname).await {
            Ok(validity) => {
                if first.is_none_or(|(_, it)| validity.end < it.end) {
                    first = Some((hostname, validity));
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::debug!(hostname, error, "no certificate to check");
                interval = RETRY_INTERVAL;
            }
        }
    }
    let certificate = first.map(|(hostname, validity)| ServedCertificate {
        hostname: hostname.clone(),
        start_time: Some(validity.start.into()),
        end_time: Some(validity.end.into()),
    });
    Checked { next: Instant::now() + interval, certificate }
}
