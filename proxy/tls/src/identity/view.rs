//! Certificates and revocation lists as text for the page `/certs`.
//!
//! Deliberately absent: keys. Every peer that does a handshake with us can see what is shown here.

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::credentials::Credentials;
use super::revocation::RevocationList;
use super::{NotAnIdentity, date, due, key_algorithm, late, names, only_spiffe_id, parse};
use crate::{hex, sha256};

/// The role of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRole {
    Own,
    /// Sent along with our own certificate, so that peers find the path to a root.
    Intermediate,
    TrustBundle,
    /// Of the trust bundle of another trust domain.
    Federated,
}

impl CertificateRole {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Intermediate => "intermediate",
            Self::TrustBundle => "trust_bundle",
            Self::Federated => "federated",
        }
    }
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateView {
    pub used_as: CertificateRole,
    /// The trust domain whose workloads a CA of a trust bundle may vouch for.
    pub trust_domain: Option<String>,
    /// The distinguished name. A workload's is often empty.
    pub subject: String,
    pub spiffe_id: Option<String>,
    pub issuer: String,
    /// Hexadecimal, with colons between the bytes.
    pub serial: String,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// The SHA-256 of the DER certificate, in hexadecimal.
    pub sha256: String,
    /// `ecdsa-256`, `rsa-2048`, `ed25519`, or the algorithm's object identifier.
    pub key_algorithm: String,
}

/// One revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationListView {
    pub issuer: String,
    /// Unix seconds.
    pub this_update: i64,
    /// Unix seconds.
    pub next_update: Option<i64>,
    /// The number of certificates that the list revokes.
    pub revoked: usize,
}

impl Credentials {
    /// Our own certificate first, then the intermediates, then the trust bundle, then those of other trust domains.
    pub fn describe(&self) -> Vec<CertificateView> {
        let chain = self.chain().iter().enumerate().map(|(index, der)| match index {
            0 => (CertificateRole::Own, None, der),
            _ => (CertificateRole::Intermediate, None, der),
        });
        let own = self.trust_domain();
        let bundle = self.bundle.iter().map(|der| (CertificateRole::TrustBundle, Some(own), der));
        let federated = self.federated.iter().flat_map(|(domain, bundle)| {
            bundle.certificates.iter().map(|der| (CertificateRole::Federated, Some(domain.as_str()), der))
        });
        // an intermediate that cannot be read is left out: a peer cannot use it either
        let read = |(used_as, domain, der)| CertificateView::read(used_as, domain, der).ok();
        chain.chain(bundle).chain(federated).filter_map(read).collect()
    }

    pub fn describe_revocations(&self) -> Vec<RevocationListView> {
        self.revocations.iter().map(RevocationListView::of).collect()
    }

    /// The certificates and the revocation lists, as the page `/certs` shows them.
    pub fn to_json(&self) -> Value {
        let certificates: Vec<Value> = self.describe().iter().map(CertificateView::to_json).collect();
        let lists: Vec<Value> = self.describe_revocations().iter().map(RevocationListView::to_json).collect();
        json!({ "spiffe_id": self.id.as_str(), "certificates": certificates, "revocation_lists": lists })
    }
}

impl CertificateView {
    /// A chain, its own certificate first.
    pub(super) fn chain(chain: &[CertificateDer<'_>]) -> Vec<Self> {
        let roles =
            std::iter::once(CertificateRole::Own).chain(std::iter::repeat(CertificateRole::Intermediate));
        chain.iter().zip(roles).filter_map(|(der, role)| Self::read(role, None, der).ok()).collect()
    }

    fn read(
        used_as: CertificateRole,
        trust_domain: Option<&str>,
        der: &CertificateDer<'_>,
    ) -> Result<Self, NotAnIdentity> {
        let certificate = parse(der)?;
        Ok(Self {
            used_as,
            trust_domain: trust_domain.map(str::to_owned),
            subject: certificate.subject().to_string(),
            spiffe_id: names(&certificate).and_then(only_spiffe_id).ok().map(|id| id.to_string()),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial_as_string(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            sha256: hex(&sha256(der)),
            key_algorithm: key_algorithm(&certificate),
        })
    }

    pub fn to_json(&self) -> Value {
        json!({
            "use": self.used_as.name(),
            "trust_domain": self.trust_domain,
            "subject": self.subject,
            "spiffe_id": self.spiffe_id,
            "issuer": self.issuer,
            "serial": self.serial,
            "not_before": date(self.not_before),
            "not_after": date(self.not_after),
            "due": date(due(self.not_before, self.not_after)),
            "late": date(late(self.not_before, self.not_after)),
            "sha256": self.sha256,
            "key_algorithm": self.key_algorithm,
        })
    }
}

impl RevocationListView {
    fn of(list: &RevocationList) -> Self {
        let RevocationList { issuer_name, this_update, next_update, revoked, .. } = list;
        Self {
            issuer: issuer_name.clone(),
            this_update: *this_update,
            next_update: *next_update,
            revoked: *revoked,
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "this_update": date(self.this_update),
            "next_update": self.next_update.map(date),
            "revoked": self.revoked,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::OffsetDateTime;

    use super::*;
    use crate::identity::issue::Ca;

    const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

    #[test]
    fn the_page_shows_our_certificate_the_trust_bundle_and_the_lists_and_no_key() {
        let ca = Ca::generate("cluster.local").expect("a CA");
        let pem = ca.issue(&WEB.parse().expect("an ID"), &[], Duration::from_secs(3600)).expect("issued");
        let next_update = OffsetDateTime::now_utc() + Duration::from_secs(60);
        let crl = ca.revoke(&[vec![1], vec![2]], next_update).expect("a list");
        let own =
            pem.credentials().expect("usable").with_crl("crl".as_ref(), crl.as_bytes(), 0).expect("a list");
        let [leaf, root] = &*own.describe() else { unreachable!("two certificates") };
        assert_eq!((leaf.used_as, leaf.spiffe_id.as_deref()), (CertificateRole::Own, Some(WEB)));
        assert_eq!((leaf.key_algorithm.as_str(), leaf.sha256.len()), ("ecdsa-256", 64));
        assert_eq!((root.used_as, &root.subject), (CertificateRole::TrustBundle, &leaf.issuer));
        assert_eq!(root.subject, "CN=Pillion CA of cluster.local");
        let shown = own.to_json();
        assert_eq!(shown["certificates"][0]["not_after"], date(own.not_after));
        let (begin, end) = (leaf.not_before, leaf.not_after);
        assert_eq!(shown["certificates"][0]["due"], date(due(begin, end)));
        assert_eq!(shown["certificates"][0]["late"], date(late(begin, end)));
        assert_eq!(shown["certificates"][1]["use"], "trust_bundle");
        assert_eq!(shown["revocation_lists"][0]["revoked"], 2);
        assert_eq!(shown["revocation_lists"][0]["next_update"], date(next_update.unix_timestamp()));
        assert!(!shown.to_string().to_lowercase().contains("private"));
    }
}
