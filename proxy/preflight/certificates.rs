//! Certificates and the clock by which they are judged.

use super::Line;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::view::CertificateRole;
use pillion_tls::identity::{Validity, date, expires_soon, is_due};

const CHECK: &str = "certificates";
const RENEW: &str = "see whether the program that issues certificates still runs and may write its files";
const CLOCK: &str = "correct this machine's clock (NTP), or wait";
const BUNDLE: &str = "bring the new authority into the trust bundle before the old one ends";

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) of: CertificateOwner,
    pub(crate) validity: Validity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertificateOwner {
    /// The sidecar's own.
    Own,
    /// Of a service or of a port, by its place in the configuration.
    Other(String),
    /// A CA of a trust bundle.
    Authority(String),
}

impl Certificate {
    /// The sidecar's own, and the authorities that it trusts.
    pub(crate) fn of_identity(own: &Credentials) -> Vec<Self> {
        let all = own.describe().into_iter().filter_map(|view| {
            let of = match view.used_as {
                CertificateRole::Own => CertificateOwner::Own,
                CertificateRole::Intermediate => return None,
                CertificateRole::TrustBundle | CertificateRole::Federated => {
                    CertificateOwner::Authority(view.subject)
                }
            };
            let validity = Validity { not_before: view.not_before, not_after: view.not_after };
            Some(Self { of, validity })
        });
        all.collect()
    }

    fn name(&self) -> String {
        match &self.of {
            CertificateOwner::Own => "the sidecar's own certificate".to_owned(),
            CertificateOwner::Other(place) => format!("the certificate of {place}"),
            CertificateOwner::Authority(subject) => format!("the authority {subject}"),
        }
    }

    /// `None`: it is valid for long enough.
    fn fault(&self, now: i64) -> Option<Line> {
        let Validity { not_before, not_after } = self.validity;
        let (name, ends) = (self.name(), date(not_after));
        let is_authority = matches!(self.of, CertificateOwner::Authority(_));
        Some(match () {
            () if now < not_before => Line::bad(
                "clock",
                format!(
                    "{name} is valid only from {}, and this machine's clock says {}",
                    date(not_before),
                    date(now)
                ),
                CLOCK,
            ),
            () if now > not_after && is_authority => {
                Line::warning(CHECK, format!("{name} of the trust bundle has expired at {ends}"), BUNDLE)
            }
            () if now > not_after => Line::bad(CHECK, format!("{name} has expired at {ends}"), RENEW),
            () if expires_soon(not_before, not_after, now) && is_authority => {
                Line::warning(CHECK, format!("{name} of the trust bundle ends at {ends}"), BUNDLE)
            }
            () if is_authority => return None,
            () if expires_soon(not_before, not_after, now) => {
                Line::bad(CHECK, format!("{name} ends soon, at {ends}, and no newer one has come"), RENEW)
            }
            () if is_due(not_before, not_after, now) => Line::warning(
                CHECK,
                format!(
                    "less than a third of the lifetime of {name} is left, it ends at {ends}, and no newer one has come"
                ),
                RENEW,
            ),
            () => return None,
        })
    }
}

/// A line for each fault, or one for all certificates; and one for the clock. `now` is in Unix seconds.
pub(super) fn judge(all: &[Certificate], is_configured: bool, now: i64) -> Vec<Line> {
    let mut lines: Vec<Line> = all.iter().filter_map(|one| one.fault(now)).collect();
    if !lines.iter().any(|line| line.check == CHECK) {
        lines.insert(0, without_faults(all, is_configured));
    }
    let authorities = || all.iter().filter(|one| matches!(one.of, CertificateOwner::Authority(_)));
    if authorities().next().is_some() && authorities().all(|one| now > one.validity.not_after) {
        lines.push(Line::bad(
            CHECK,
            "every authority of the trust bundle has expired: no peer can be verified",
            BUNDLE,
        ));
    }
    if !lines.iter().any(|line| line.check == "clock") {
        lines.push(Line::good("clock", format!("{}, and no certificate begins later", date(now))));
    }
    lines
}

fn without_faults(all: &[Certificate], is_configured: bool) -> Line {
    let own = all.iter().find(|one| one.of == CertificateOwner::Own);
    match own {
        Some(own) => Line::good(CHECK, format!("valid until {}", date(own.validity.not_after))),
        None if is_configured => Line::bad(CHECK, "the sidecar has no certificate yet", RENEW),
        None => Line::warning(
            CHECK,
            "the sidecar has no identity: traffic between sidecars is plaintext",
            "write `identity` in its configuration",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Bad, Good, Warning};
    use super::*;

    fn with(of: CertificateOwner, not_before: i64, not_after: i64) -> Certificate {
        Certificate { of, validity: Validity { not_before, not_after } }
    }

    /// A certificate of a day, and an authority of a hundred.
    fn usual() -> Vec<Certificate> {
        let authority = CertificateOwner::Authority("CN=ca".into());
        vec![with(CertificateOwner::Own, 0, 86_400), with(authority, 0, 8_640_000)]
    }

    fn found(all: &[Certificate], now: i64) -> Vec<(&'static str, super::super::Verdict, String)> {
        judge(all, true, now).into_iter().map(|line| (line.check, line.verdict, line.what)).collect()
    }

    #[test]
    fn a_certificate_is_good_then_due_then_near_its_end_then_expired() {
        for (now, verdict, part) in [
            (100, Good, "valid until 1970-01-02T00:00:00Z"),
            (62_000, Warning, "less than a third"),
            (80_000, Bad, "ends soon"),
            (86_401, Bad, "has expired"),
        ] {
            let all = found(&usual(), now);
            let first = &all[0];
            assert!(first.0 == CHECK && first.1 == verdict && first.2.contains(part), "{now}: {all:?}");
            assert_eq!((all[1].0, all[1].1, all.len()), ("clock", Good, 2), "{all:?}");
        }
        let mut others = usual();
        others.push(with(CertificateOwner::Other("services.api.tls".into()), 0, 100));
        let all = found(&others, 200);
        assert!(all[0].1 == Bad && all[0].2.contains("services.api.tls has expired"), "{all:?}");
    }

    #[test]
    fn a_certificate_of_the_future_is_a_fault_of_the_clock() {
        let mut all = usual();
        all[0].validity = Validity { not_before: 1000, not_after: 87_000 };
        let all = found(&all, 10);
        let clock = all.iter().find(|line| line.0 == "clock").expect("a line");
        assert!(clock.1 == Bad && clock.2.contains("clock says 1970-01-01T00:00:10Z"), "{all:?}");
    }

    #[test]
    fn an_authority_that_ends_is_a_warning_and_no_authority_at_all_is_bad() {
        let mut all = usual();
        all[1].validity.not_after = 50;
        let lines = found(&all, 100);
        assert!(lines[0].1 == Warning && lines[0].2.contains("CN=ca"), "{lines:?}");
        assert!(lines.iter().any(|line| line.1 == Bad && line.2.starts_with("every authority")), "{lines:?}");
        all.push(with(CertificateOwner::Authority("CN=next".into()), 0, 8_640_000));
        assert!(found(&all, 100).iter().all(|line| line.1 != Bad));
    }

    #[test]
    fn a_sidecar_without_a_certificate_has_no_identity_or_waits_for_it() {
        let line = |is_configured| judge(&[], is_configured, 0).remove(0);
        assert_eq!((line(false).verdict, line(true).verdict), (Warning, Bad));
    }
}
