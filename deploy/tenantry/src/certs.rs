//! Certificates with which the services of one deployment prove themselves to each other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chassis::{key::write_private, tls::SPIFFE};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to write `ca.pem` and, for each service, `<name>.pem` and `<name>.key`.
    #[arg(long, default_value = "certs")]
    out: PathBuf,
    /// The services, and the billing and monitoring systems.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "identity,project,invitation,audit,runner,billing,monitoring"
    )]
    services: Vec<String>,
    /// Further names and addresses under which the services are reached.
    #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1")]
    hosts: Vec<String>,
}

/// Makes an authority that forgets its key, and a certificate for each service.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    std::fs::create_dir_all(&arguments.out)?;
    let authority = authority()?;
    std::fs::write(arguments.out.join("ca.pem"), authority.pem())?;
    for service in &arguments.services {
        write(&authority, service, &arguments.hosts, &arguments.out)
            .with_context(|| format!("no certificate could be made for {service}"))?;
    }
    crate::tools::print(&format!("certificates are in {}\n", arguments.out.display()))
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut parameters = CertificateParams::new(vec![])?;
    parameters.distinguished_name.push(DnType::CommonName, "Tenantry services");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?)
}

fn write(
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
