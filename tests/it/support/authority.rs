//! A certificate authority that signs certificates of services again and again.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};

/// The authority of a deployment.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Creates an authority with this common name.
    pub(crate) fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    /// Its certificate (PEM).
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a certificate with a new key for a service, and writes `<name>.pem` and `<name>.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let uri = format!("spiffe://tenantry/svc/{name}");
        parameters.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        replace(&folder.join(format!("{name}.key")), &key.serialize_pem());
        replace(&folder.join(format!("{name}.pem")), &certificate.pem());
    }
}

/// Writes a file under another name and renames it, so that no reader finds a part of it.
pub(crate) fn replace(file: &Path, text: &str) {
    let part = file.with_extension("part");
    fs::write(&part, text).unwrap();
    fs::rename(part, file).unwrap();
}
