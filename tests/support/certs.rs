//! Certificates for the tests, from the product's own CA.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pillion_tls::identity::issue::{Ca, IssuedPem};
use pillion_tls::identity::parse;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A CA of the trust domain `cluster.local`.
pub(crate) struct Authority(Ca);

impl Authority {
    pub(crate) fn new() -> Self {
        Self(Ca::generate("cluster.local").expect("a CA"))
    }

    /// The certificate of one service account.
    pub(crate) fn issue(&self, account: &str) -> IssuedPem {
        self.issue_for(account, DAY)
    }

    pub(crate) fn issue_for(&self, account: &str, ttl: Duration) -> IssuedPem {
        let id = spiffe(account).parse().expect("an identity");
        self.0.issue(&id, &[], ttl).expect("a certificate")
    }

    /// The authority's own certificate, as PEM.
    pub(crate) fn certificate(&self) -> &str {
        self.0.certificate_pem()
    }

    /// A list that revokes this certificate, as PEM.
    pub(crate) fn revoking(&self, certificate: &str) -> String {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
        let serial = parse(&der).expect("a certificate").raw_serial().to_vec();
        self.0.revoke(&[serial], time::OffsetDateTime::now_utc() + DAY).expect("a list")
    }

    /// Issues a certificate into a directory for `identity.directory`.
    pub(crate) fn issue_into(&self, directory: &Path, account: &str) {
        fs::create_dir_all(directory).expect("a directory for certificates");
        for (name, content) in files(&self.issue(account)) {
            fs::write(directory.join(name), content).expect("a certificate file");
        }
    }
}

fn files(issued: &IssuedPem) -> [(&'static str, &str); 3] {
    [("tls.crt", &issued.certificate), ("tls.key", &issued.key), ("ca.crt", &issued.bundle)]
}

/// A directory of certificates as the kubelet mounts a Secret: links into `..data`, which is a link to the set in use.
pub(crate) struct Secret {
    directory: PathBuf,
    sets: usize,
}

impl Secret {
    /// Makes it from a directory that holds the files themselves.
    pub(crate) fn of(directory: PathBuf, issued: &IssuedPem) -> Self {
        let mut secret = Self { directory, sets: 0 };
        secret.swap(issued);
        for (name, _) in files(issued) {
            let (link, next) = (secret.directory.join(name), secret.directory.join("..link"));
            symlink(Path::new("..data").join(name), &next).expect("a link");
            fs::rename(next, link).expect("a link in the place of a file");
        }
        secret
    }

    /// Replaces all files at once, as the kubelet does.
    pub(crate) fn swap(&mut self, issued: &IssuedPem) {
        let before = self.directory.join(format!("..set-{}", self.sets));
        self.sets += 1;
        let set = format!("..set-{}", self.sets);
        fs::create_dir(self.directory.join(&set)).expect("a directory for a set");
        for (name, content) in files(issued) {
            fs::write(self.directory.join(&set).join(name), content).expect("a certificate file");
        }
        symlink(set, self.directory.join("..data_tmp")).expect("a link");
        fs::rename(self.directory.join("..data_tmp"), self.directory.join("..data")).expect("a swap");
        drop(fs::remove_dir_all(before)); // at the first swap there is none
    }

    /// Overwrites the certificate with the first half of a new one.
    pub(crate) fn write_half(&self, issued: &IssuedPem) {
        let half = &issued.certificate[..issued.certificate.len() / 2];
        fs::write(self.directory.join("tls.crt"), half).expect("a certificate file");
    }

    /// Writes the files one by one, in place.
    pub(crate) fn write(&self, issued: &IssuedPem) {
        for (name, content) in files(issued) {
            fs::write(self.directory.join(name), content).expect("a certificate file");
        }
    }
}

pub(crate) fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}
