//! `tenantry cluster-secrets`: creates the keys and certificates of a deployment as Secrets of the Kubernetes
//! cluster in which it runs, and renews certificates.
//!
//! | Secret | keys | read by |
//! |---|---|---|
//! | `secret-key` | `secret.key` | the services, the migrations |
//! | `audit-key` | `audit.key` | the audit service, the migrations |
//! | `tls-<name>` | `tls.crt`, `tls.key`, `ca.crt`, as those of cert-manager | the service or proxy |
//! | `authority` | `tls.crt`, `tls.key` | this command |
//!
//! Existing keys stay, so that the command can be repeated. The key of the authority is kept: renewed
//! certificates are accepted by services that still use their old ones.

mod api_server;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use api_server::{ApiServer, Created, Secret};
use rcgen::{Issuer, KeyPair};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    certs::{self, Holder},
    keys, tools,
};

/// Validity of the authority's certificate.
const AUTHORITY_VALIDITY: Duration = Duration::days(10 * 365);

/// Annotation with the end of a certificate (RFC 3339).
const NOT_AFTER: &str = "tenantry/not-after";

/// Arguments of `cluster-secrets`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Names of the services, and of other systems that call as a service.
    #[arg(long, value_delimiter = ',', default_value = "identity,project,invitation,audit,runner")]
    services: Vec<String>,
    /// Names of proxies in front of the services. Their certificates have no name of a service.
    #[arg(long, value_delimiter = ',', default_value = "gateway,discovery")]
    proxies: Vec<String>,
    /// Additional host names and IP addresses of the proxies, for example that of the deployment.
    #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1")]
    hosts: Vec<String>,
    /// Creates the keys only; the certificates come from somewhere else, for example from cert-manager.
    #[arg(long)]
    keys_only: bool,
    /// Validity of a certificate, in days.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3_650))]
    valid_days: u16,
    /// Remaining validity at which a certificate is replaced, in days.
    #[arg(long, default_value_t = 60)]
    renew_days: u16,
}

/// Creates the Secrets that are missing in the namespace of the pod.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    ensure!(
        arguments.renew_days < arguments.valid_days,
        "--renew-days must be less than --valid-days, or each run replaces all certificates"
    );
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let api_server = ApiServer::of_the_pod()?;
    create_keys(&api_server).await?;
    if arguments.keys_only {
        return Ok(());
    }
    let authority = Authority::read_or_create(&api_server).await?;
    let services = arguments.services.iter().map(|it| (it, Holder::Service));
    let proxies = arguments.proxies.iter().map(|it| (it, Holder::Proxy));
    for (name, holder) in services.chain(proxies) {
        let renewed = renew(&api_server, &authority, &arguments, name, holder).await;
        renewed.with_context(|| format!("the certificate of {name}"))?;
    }
    Ok(())
}

async fn create_keys(api_server: &ApiServer) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot create a directory for new keys")?;
    let files = [("secret-key", "secret.key"), ("audit-key", "audit.key")];
    keys::create(&folder.path().join("secret.key"), &folder.path().join("audit.key"))?;
    for (name, file) in files {
        let secret = Secret::opaque(name, [(file, read(&folder.path().join(file))?)]);
        report(name, api_server.create(&secret).await?)?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Certificate authority of the deployment.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    #[expect(
        clippy::disallowed_methods,
        reason = "validity of a certificate, by the clock of the machine"
    )]
    async fn read_or_create(api_server: &ApiServer) -> Result<Self> {
        let name = "authority";
        if let Some(existing) = api_server.get(name).await? {
            return Self::read(&existing);
        }
        let not_after = OffsetDateTime::now_utc() + AUTHORITY_VALIDITY;
        let mut parameters = certs::authority_parameters()?;
        parameters.not_after = not_after;
        let key = KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?.pem();
        let files = [("tls.crt", certificate), ("tls.key", key.serialize_pem())];
        let secret = Secret::tls(name, files, &annotation(not_after)?);
        let created = api_server.create(&secret).await?;
        report(name, created)?;
        // Another run may have created it at the same time.
        let stored = api_server.get(name).await?;
        Self::read(&stored.context("the Secret `authority` was deleted")?)
    }

    fn read(secret: &Secret) -> Result<Self> {
        let key = KeyPair::from_pem(&secret.text("tls.key")?)
            .context("the key of the Secret `authority` cannot be used")?;
        let issuer = Issuer::new(certs::authority_parameters()?, key);
        Ok(Self { certificate: secret.text("tls.crt")?, issuer })
    }
}

/// Creates or replaces the certificate of a service or proxy, if it is missing or expires soon.
#[expect(
    clippy::disallowed_methods,
    reason = "validity of a certificate, by the clock of the machine"
)]
async fn renew(
    api_server: &ApiServer,
    authority: &Authority,
    arguments: &Arguments,
    name: &str,
    holder: Holder,
) -> Result<()> {
    let secret_name = format!("tls-{name}");
    let existing = api_server.get(&secret_name).await?;
    let now = OffsetDateTime::now_utc();
    let renewal = Duration::days(arguments.renew_days.into());
    // Without the annotation it is a certificate from somewhere else.
    let is_kept = |it: &Secret| not_after(it).is_none_or(|end| end - now > renewal);
    if existing.as_ref().is_some_and(is_kept) {
        return report(&secret_name, Created::Existed);
    }
    let not_after = now + Duration::days(arguments.valid_days.into());
    let local = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let hosts = match holder {
        Holder::Service => &local[..],
        Holder::Proxy => &arguments.hosts,
    };
    let pair = certs::sign(&authority.issuer, name, holder, hosts, Some(not_after))?;
    let authority = authority.certificate.clone();
    let files = [("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", authority)];
    let secret = Secret::tls(&secret_name, files, &annotation(not_after)?);
    if existing.is_some() {
        api_server.replace(&secret).await?;
        return tools::print(&format!("{secret_name} renewed\n"));
    }
    report(&secret_name, api_server.create(&secret).await?)
}

fn annotation(not_after: OffsetDateTime) -> Result<BTreeMap<String, String>> {
    Ok([(NOT_AFTER.to_owned(), not_after.format(&Rfc3339)?)].into())
}

/// Returns the end of the certificate that this command stored; `None` for others.
fn not_after(secret: &Secret) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(secret.annotation(NOT_AFTER)?, &Rfc3339).ok()
}

fn report(name: &str, created: Created) -> Result<()> {
    match created {
        Created::New => tools::print(&format!("{name} created\n")),
        Created::Existed => tools::print(&format!("{name} exists\n")),
    }
}
