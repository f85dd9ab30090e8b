//! `tenantry certs`: creates the certificates with which the services of a deployment authenticate to each
//! other (mutual TLS).

use std::path::{Path, PathBuf};

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
    /// Output directory for `ca.pem` and, for each service, `<name>.pem` and `<name>.key`.
    #[arg(long, default_value = "certs")]
    out: PathBuf,
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
    std::fs::create_dir_all(&arguments.out)?;
    let authority = new_authority()?;
    std::fs::write(arguments.out.join("ca.pem"), authority.pem())?;
    for service in &arguments.services {
        write_certificate(&authority, service, &arguments.hosts, &arguments.out)
            .with_context(|| format!("cannot create the certificate of {service}"))?;
    }
    crate::tools::print(&format!("certificates written to {}\n", arguments.out.display()))
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
    out: &Path,
) -> Result<()> {
    let mut names = vec![service.to_owned()];
    names.extend(hosts.iter().cloned());
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, service);
    parameters.subject_alt_names.push(SanType::URI(format!("{SPIFFE}{service}").try_into()?));
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, authority)?;
    std::fs::write(out.join(format!("{service}.pem")), certificate.pem())?;
    write_private(&out.join(format!("{service}.key")), key.serialize_pem().as_bytes())?;
    Ok(())
}
