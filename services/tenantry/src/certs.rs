//! `tenantry certs`: creates the certificates with which the services of a deployment authenticate to each
//! other (mutual TLS).

use std::path::PathBuf;

use anyhow::{Context, Result};
use chassis::key::write_private;
use host::tls::SPIFFE;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// Arguments of `certs`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Output directory for `ca.pem` and, for each service, `<name>.pem` and `<name>.key`; with --split for
    /// one directory for each service.
    #[arg(long, default_value = "certs")]
    out: PathBuf,
    /// Writes a directory `<name>` for each service with the files that only this service may read: `ca.pem`,
    /// `tls.pem` and `tls.key`.
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
    /// Additional host names and IP addresses of all services.
    #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1")]
    hosts: Vec<String>,
}

/// Creates a certificate authority and a certificate for each service. The authority's key is not stored, so
/// no further certificates can be issued.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let files: Vec<_> = arguments.services.iter().map(|it| Files::new(arguments, it)).collect();
    if arguments.if_missing && files.iter().all(|it| it.key.exists()) {
        return crate::tools::print("there are certificates; nothing to do\n");
    }
    let authority = new_authority()?;
    for (service, files) in arguments.services.iter().zip(&files) {
        write_certificate(&authority, service, &arguments.hosts, files)
            .with_context(|| format!("cannot create the certificate of {service}"))?;
    }
    crate::tools::print(&format!("certificates written to {}\n", arguments.out.display()))
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
    let mut parameters = CertificateParams::new(vec![])?;
    parameters.distinguished_name.push(DnType::CommonName, "Tenantry services");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?)
}

fn write_certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    service: &str,
    hosts: &[String],
    files: &Files,
) -> Result<()> {
    if let Some(folder) = files.key.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&files.authority, authority.pem())?;
    let mut names = vec![service.to_owned()];
    names.extend(hosts.iter().cloned());
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, service);
    parameters.subject_alt_names.push(SanType::URI(format!("{SPIFFE}{service}").try_into()?));
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, authority)?;
    std::fs::write(&files.certificate, certificate.pem())?;
    write_private(&files.key, key.serialize_pem().as_bytes())?;
    Ok(())
}
