//! Who everybody is: certificates from the product's own CA.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pillion::identity::issue::{Ca, IssuedPem};

const DAY: Duration = Duration::from_secs(86_400);

/// A CA of the trust domain `cluster.local`.
pub(crate) struct Authority(Ca);

impl Authority {
    pub(crate) fn new() -> Self {
        Self(Ca::generate("cluster.local").expect("a CA"))
    }

    /// The certificate of one service account.
    pub(crate) fn issue(&self, account: &str) -> IssuedPem {
        let id = spiffe(account).parse().expect("an identity");
        self.0.issue(&id, &[], DAY).expect("a certificate")
    }

    /// The same as a directory that `identity.directory` takes.
    pub(crate) fn issue_into(&self, directory: &Path, account: &str) {
        let issued = self.issue(account);
        fs::create_dir_all(directory).expect("a directory for certificates");
        for (name, content) in
            [("tls.crt", issued.certificate), ("tls.key", issued.key), ("ca.crt", issued.bundle)]
        {
            fs::write(directory.join(name), content).expect("a certificate file");
        }
    }
}

pub(crate) fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}
