//! `tenantry certs`: creates the certificates with which the services of a deployment authenticate to each
//! other (mutual TLS).

use std::path::PathBuf;

use anyhow::{Context, Result};
use chassis::key::write_private;
use host::tls::SPIFFE;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::tools::{self, Owner};

/// Arguments of `certs`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Output directory for `ca.pem` and, for each service, `<name>.pem` and `<name>.key`; with --split for
    /// one directory for each service.
    #[arg(long, default_value = "certs")]
    out: PathBuf,
    /// Writes a directory `<name>` for each service with the files that only this service may read: `ca.pem`,
    /// `tls.pem` and `tls.key`; and a directory `authority` with `ca.pem`, for clients.
    #[arg(long)]
    split: bool,
    /// Does nothing if there are certificates, so that a start job can be repeated.
    #[arg(long)]
    if_missing: bool,
    /// Names of the services, and of the billing and monitoring systems.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "identity,project,invitation,audit,runner,billing,monitoring"
    )]
    services: Vec<String>,
    /// Names of proxies in front of the services. Their certificates have no name of a service, so they
    /// authenticate a server to its clients and nothing else.
    #[arg(long, value_delimiter = ',')]
    proxies: Vec<String>,
    /// Additional host names and IP addresses of all services.
    #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1")]
    hosts: Vec<String>,
    /// Account that owns the files, as numbers: `uid:gid`. Default: the account of this process.
    #[arg(long)]
    owner: Option<Owner>,
}

/// Creates a certificate authority and a certificate for each service. The authority's key is not stored, so
/// no further certificates can be issued.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let services = arguments.services.iter().map(|it| (it, Holder::Service));
    let proxies = arguments.proxies.iter().map(|it| (it, Holder::Proxy));
    let holders: Vec<_> = services.chain(proxies).collect();
    let files: Vec<_> = holders.iter().map(|(name, _)| Files::new(arguments, name)).collect();
    if arguments.if_missing && files.iter().all(|it| it.key.exists()) {
        return tools::print("there are certificates; nothing to do\n");
    }
    let authority = new_authority()?;
    for ((name, holder), files) in holders.iter().zip(&files) {
        write_certificate(&authority, name, *holder, &arguments.hosts, files)
            .with_context(|| format!("cannot create the certificate of {name}"))?;
        for file in [&files.authority, &files.certificate, &files.key] {
            tools::set_owner(file, arguments.owner)?;
        }
    }
    if arguments.split {
        let folder = arguments.out.join("authority");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("ca.pem");
        std::fs::write(&file, authority.pem())?;
        tools::set_owner(&file, arguments.owner)?;
    }
    tools::print(&format!("certificates written to {}\n", arguments.out.display()))
}

/// Holder of a certificate.
#[derive(Clone, Copy)]
pub(crate) enum Holder {
    /// A service: the certificate authenticates it to its clients and, by its URI name, to other services.
    Service,
    /// A proxy: the certificate authenticates it to its clients only.
    Proxy,
}

/// Files of one service.
struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(arguments: &Arguments, service: &str) -> Self {
        let (folder, name) = if arguments.split {
            (arguments.out.join(service), "tls")
        } else {
            (arguments.out.clone(), service)
        };
        Self {
            authority: folder.join("ca.pem"),
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        }
    }
}

fn new_authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    Ok(CertifiedIssuer::self_signed(authority_parameters()?, KeyPair::generate()?)?)
}

/// Contents of the certificate of an authority.
pub(crate) fn authority_parameters() -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(vec![])?;
    parameters.distinguished_name.push(DnType::CommonName, "Tenantry services");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

/// Certificate and private key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Signs a certificate with a new key for the server `name`, which is also reached at `hosts`. Without
/// `not_after` it does not expire.
pub(crate) fn sign(
    authority: &Issuer<'_, KeyPair>,
    name: &str,
    holder: Holder,
    hosts: &[String],
    not_after: Option<OffsetDateTime>,
) -> Result<Pair> {
    let mut names = vec![name.to_owned()];
    names.extend(hosts.iter().cloned());
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if matches!(holder, Holder::Service) {
        parameters.subject_alt_names.push(SanType::URI(format!("{SPIFFE}{name}").try_into()?));
        parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if let Some(not_after) = not_after {
        parameters.not_after = not_after;
    }
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, authority)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn write_certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    holder: Holder,
    hosts: &[String],
    files: &Files,
) -> Result<()> {
    if let Some(folder) = files.key.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&files.authority, authority.pem())?;
    let pair = sign(authority, name, holder, hosts, None)?;
    std::fs::write(&files.certificate, pair.certificate)?;
    write_private(&files.key, pair.key.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_certificate_of_a_proxy_has_no_name_of_a_service() {
        let folder = tempfile::tempdir().unwrap();
        let out = format!("--out={}", folder.path().display());
        let flags = ["certs", &out, "--split", "--services=audit", "--proxies=gateway"];
        run(&Program::parse_from(flags).arguments).unwrap();
        let has_service_name = |name: &str| {
            let file = folder.path().join(name).join("tls.pem");
            let certificate = CertificateDer::from_pem_file(file).unwrap();
            certificate.windows(SPIFFE.len()).any(|it| it == SPIFFE.as_bytes())
        };
        assert!(has_service_name("audit"));
        assert!(!has_service_name("gateway"));
        assert!(folder.path().join("authority/ca.pem").exists());
    }
}
