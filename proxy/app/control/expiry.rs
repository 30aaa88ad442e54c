//! Warns of certificates that are about to expire, and publishes when they do.

use std::time::SystemTime;

use super::Controller;
use crate::app::own::Identity;
use crate::preflight::{Certificate, CertificateOwner};
use pillion_telemetry::CertificateUse;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::{Validity, date, expires_soon, is_due};
use pillion_tls::material::Place;

/// The last warnings about the expiry of certificates.
#[derive(Default)]
pub(super) struct Warned {
    of_own: Option<Expiry>,
    /// Those of services and ports, by the place of the configuration that names them.
    of_others: Vec<(Place, Expiry)>,
}

impl Controller {
    /// Warns once for each certificate that should have been replaced by a newer one, again when it expires soon, and again
    /// when it is no longer valid.
    pub(in crate::app) fn warn_of_expiry(&mut self, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.warn_of_others(now);
        let Identity::Known(credentials) = &self.identity else { return };
        let expiry = Expiry::of(credentials.validity(), now)
            .filter(|expiry| self.warned.of_own.as_ref() != Some(expiry));
        match &expiry {
            None => return,
            Some(Expiry::Due(not_after)) => {
                let ends = date(*not_after);
                tracing::warn!(
                    ends,
                    "less than a third of the lifetime of the sidecar's own certificate is left, and no newer one has \
                     been found"
                );
            }
            Some(Expiry::Near(not_after)) => {
                let ends = date(*not_after);
                tracing::warn!(
                    ends,
                    "the sidecar's own certificate expires soon, and no newer one has been found"
                );
            }
            Some(Expiry::Invalid(_, why)) => tracing::warn!("not ready: {why}; peers refuse it"),
        }
        self.warned.of_own = expiry;
    }

    /// The same warnings for the certificates of services.
    fn warn_of_others(&mut self, now: i64) {
        let expires = |(place, validity): (&Place, _)| Some((place.clone(), Expiry::of(validity, now)?));
        let next: Vec<(Place, Expiry)> = self.material.validities().filter_map(expires).collect();
        for (place, expiry) in &next {
            if self.warned.of_others.iter().any(|(known, of)| (known, of) == (place, expiry)) {
                continue;
            }
            match expiry {
                Expiry::Due(ends) | Expiry::Near(ends) => {
                    let ends = date(*ends);
                    tracing::warn!(%place, ends, "a certificate expires, and no newer one has been found");
                }
                Expiry::Invalid(_, why) => tracing::warn!(%place, "{why}; peers may refuse it"),
            }
        }
        self.warned.of_others = next;
    }

    pub(super) fn publish_expiry(&self) {
        let metrics = &self.around.metrics;
        for of in [CertificateUse::Service, CertificateUse::Port] {
            let all = self.material.validities().filter(|(place, _)| used_as(place) == of);
            metrics.set_certificate_not_after(of, all.map(|(_, validity)| validity.not_after).min());
        }
        let own = self.credentials();
        metrics.set_certificate_not_after(CertificateUse::Own, own.map(|own| own.not_after));
        let authorities = own.into_iter().flat_map(Credentials::all_cas);
        let ends = authorities.filter_map(|ca| pillion_tls::identity::not_after(ca).ok());
        metrics.set_certificate_not_after(CertificateUse::Ca, ends.min());
    }

    /// The certificates in use, and until when they are valid.
    pub(in crate::app) fn certificates(&self) -> Vec<Certificate> {
        let of = |(place, validity): (&Place, _)| Certificate {
            of: CertificateOwner::Other(place.to_string()),
            validity,
        };
        let own = self.credentials().map(Certificate::of_identity).unwrap_or_default();
        own.into_iter().chain(self.material.validities().map(of)).collect()
    }

    /// The certificates of services, as the page `/certs` shows them.
    pub(in crate::app) fn other_certificates(&self) -> Vec<serde_json::Value> {
        self.material.to_json()
    }
}

/// What a warning about a certificate says, with the certificate's last second.
#[derive(Debug, PartialEq, Eq)]
enum Expiry {
    /// A newer certificate is due.
    Due(i64),
    /// It expires soon.
    Near(i64),
    /// It is not valid, for the given reason.
    Invalid(i64, String),
}

impl Expiry {
    fn of(certificate: Validity, now: i64) -> Option<Self> {
        let Validity { not_before, not_after } = certificate;
        match certificate.why_not(now) {
            Some(why) => Some(Self::Invalid(not_after, why)),
            None if expires_soon(not_before, not_after, now) => Some(Self::Near(not_after)),
            None => is_due(not_before, not_after, now).then_some(Self::Due(not_after)),
        }
    }
}

const fn used_as(place: &Place) -> CertificateUse {
    match place {
        Place::Service(_) => CertificateUse::Service,
        Place::Port(_) => CertificateUse::Port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_there_is_a_warning_when_the_own_certificate_expires_soon_and_when_it_has_expired() {
        let of = |now| Expiry::of(Validity { not_before: 0, not_after: 1000 }, now);
        assert_eq!(of(700), None);
        assert_eq!(of(720), Some(Expiry::Due(1000)));
        assert_eq!(of(800), Some(Expiry::Near(1000)));
        assert!(matches!(of(1001), Some(Expiry::Invalid(1000, why)) if why.contains("expired at")));
        assert!(matches!(of(-1), Some(Expiry::Invalid(1000, why)) if why.contains("is valid only from")));
    }
}
