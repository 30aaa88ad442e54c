//! The result of a look-up, made of the A and the AAAA records of a name, or of its SRV records and the addresses of
//! their targets.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn record(self) -> &'static str {
        match self {
            Self::V4 => "A",
            Self::V6 => "AAAA",
        }
    }
}

/// The result of one question, for A or for AAAA records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FamilyAnswer {
    /// Never empty. With the time for which they may be used; see [`Answer::Found`].
    Addresses(Vec<IpAddr>, Option<Duration>),
    /// The server says that there are none: NXDOMAIN, or an answer without such records.
    Nothing(String),
    /// The server could not tell: SERVFAIL, refused, no answer, no route.
    Failed(String),
}

/// The result of a look-up of a name. The texts are for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Found {
        /// In the server's order. IPv4-mapped IPv6 addresses are converted to IPv4.
        addresses: Vec<IpAddr>,
        /// The family whose question failed, and why.
        unanswered: Option<(Family, String)>,
        /// How long the records may be used: the least of their times to live. `None` when no record says it, because
        /// the hosts file has none, and 0 means that there is nothing to count down.
        lifetime: Option<Duration>,
    },
    /// SRV records of which at least one target has an address.
    Services {
        /// Sorted by priority, and at most [`super::membership::MOST`].
        services: Vec<Service>,
        /// Whether there were more.
        too_many: bool,
        /// As in [`Answer::Found`], over all records and their targets.
        lifetime: Option<Duration>,
    },
    /// The server says that the name has no addresses, or no SRV records whose targets have some.
    Nothing(String),
    /// The SRV record says that the service is not offered at this name, so no other name is searched.
    NotOffered(String),
    /// The server could not be asked, or could not answer.
    Failed(String),
}

/// One SRV record, with the answer for its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub record: SrvRecord,
    /// Never [`Answer::Services`].
    pub addresses: Answer,
}

/// One SRV record (RFC 2782). The derived order is by priority first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrvRecord {
    pub priority: u16,
    /// The absolute name in lower case.
    pub target: Arc<str>,
    /// Never 0.
    pub port: u16,
    pub weight: u16,
}

impl FamilyAnswer {
    /// Leaves out addresses to which nothing can be sent: filtering servers answer 0.0.0.0 for blocked names.
    pub(super) fn from_addresses(found: impl Iterator<Item = IpAddr>, lifetime: Option<Duration>) -> Self {
        let usable: Vec<IpAddr> = found
            .map(|ip| ip.to_canonical())
            .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
            .collect();
        if usable.is_empty() {
            return Self::Nothing("the answer holds no usable address".into());
        }
        Self::Addresses(usable, lifetime)
    }
}

impl Answer {
    /// Joins the two families. Addresses of one family are enough. When one question failed, the other's "none" is not
    /// used: the name may have addresses.
    pub(super) fn join(v4: FamilyAnswer, v6: FamilyAnswer) -> Self {
        match (v4, v6) {
            (FamilyAnswer::Addresses(mut addresses, one), FamilyAnswer::Addresses(more, other)) => {
                addresses.extend(more);
                Self::Found { addresses, unanswered: None, lifetime: shorter(one, other) }
            }
            (FamilyAnswer::Addresses(addresses, lifetime), other) => {
                Self::Found { addresses, unanswered: unanswered(other, Family::V6), lifetime }
            }
            (other, FamilyAnswer::Addresses(addresses, lifetime)) => {
                Self::Found { addresses, unanswered: unanswered(other, Family::V4), lifetime }
            }
            (FamilyAnswer::Failed(why), _) | (_, FamilyAnswer::Failed(why)) => Self::Failed(why),
            (FamilyAnswer::Nothing(why), FamilyAnswer::Nothing(_)) => Self::Nothing(why),
        }
    }

    /// Joins the answers for the targets of SRV records. One target with addresses is enough. When a question failed,
    /// the "none" of the other targets is not used.
    /// `lifetime`: that of the SRV records.
    pub(super) fn of_services(services: Vec<Service>, too_many: bool, lifetime: Option<Duration>) -> Self {
        let is_found = |service: &Service| matches!(service.addresses, Self::Found { .. });
        if services.iter().any(is_found) {
            let targets = services.iter().filter_map(|service| service.addresses.lifetime());
            let lifetime = targets.chain(lifetime).min();
            return Self::Services { services, too_many, lifetime };
        }
        let mut nothing = None;
        for Service { record, addresses } in services {
            match addresses {
                Self::Failed(why) => return Self::Failed(format!("target {}: {why}", record.target)),
                Self::Nothing(why) => nothing = Some(format!("target {}: {why}", record.target)),
                Self::Found { .. } | Self::Services { .. } | Self::NotOffered(_) => {}
            }
        }
        Self::Nothing(nothing.unwrap_or_else(|| "the answer holds no usable SRV record".into()))
    }

    /// How long the answer may be used.
    pub(super) const fn lifetime(&self) -> Option<Duration> {
        match self {
            Self::Found { lifetime, .. } | Self::Services { lifetime, .. } => *lifetime,
            Self::Nothing(_) | Self::NotOffered(_) | Self::Failed(_) => None,
        }
    }
}

/// Why one family was not answered, if its question failed.
fn unanswered(answer: FamilyAnswer, family: Family) -> Option<(Family, String)> {
    match answer {
        FamilyAnswer::Failed(why) => Some((family, format!("{} records: {why}", family.record()))),
        FamilyAnswer::Addresses(..) | FamilyAnswer::Nothing(_) => None,
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_address(ip: &str) -> FamilyAnswer {
        FamilyAnswer::from_addresses([ip.parse().unwrap()].into_iter(), None)
    }

    fn failed() -> FamilyAnswer {
        FamilyAnswer::Failed("timed out".into())
    }

    fn nothing() -> FamilyAnswer {
        FamilyAnswer::Nothing("NXDOMAIN".into())
    }

    #[test]
    fn both_families_are_judged_together() {
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        let found = |ips: &[&str], unanswered: Option<Family>| Answer::Found {
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            unanswered: unanswered.map(|family| (family, format!("{} records: timed out", family.record()))),
            lifetime: None,
        };
        let cases = [
            (one_address(v4), one_address(v6), found(&[v4, v6], None)),
            (one_address(v4), nothing(), found(&[v4], None)),
            (nothing(), one_address(v6), found(&[v6], None)),
            (one_address(v4), failed(), found(&[v4], Some(Family::V6))),
            (failed(), one_address(v6), found(&[v6], Some(Family::V4))),
            (nothing(), nothing(), Answer::Nothing("NXDOMAIN".into())),
            (nothing(), failed(), Answer::Failed("timed out".into())),
            (failed(), nothing(), Answer::Failed("timed out".into())),
        ];
        for (v4, v6, expected) in cases {
            assert_eq!(Answer::join(v4, v6), expected);
        }
    }

    #[test]
    fn targets_of_srv_records_are_judged_together() {
        let service = |answer: &Answer| Service {
            record: SrvRecord { priority: 0, target: "a.test.".into(), port: 80, weight: 1 },
            addresses: answer.clone(),
        };
        let found = Answer::join(one_address("192.0.2.1"), nothing());
        let (failed, none) = (Answer::Failed("timed out".into()), Answer::Nothing("NXDOMAIN".into()));
        let judged =
            |all: &[&Answer]| Answer::of_services(all.iter().map(|it| service(it)).collect(), false, None);
        let both = Answer::Services {
            services: vec![service(&failed), service(&found)],
            too_many: false,
            lifetime: None,
        };
        assert_eq!(judged(&[&failed, &found]), both);
        assert_eq!(judged(&[&none, &failed]), Answer::Failed("target a.test.: timed out".into()));
        assert_eq!(judged(&[&none, &none]), Answer::Nothing("target a.test.: NXDOMAIN".into()));
        assert!(matches!(judged(&[]), Answer::Nothing(_)));
    }

    #[test]
    fn an_answer_may_be_used_as_long_as_all_of_its_records() {
        let secs = |secs| Some(Duration::from_secs(secs));
        let family = |lifetime| {
            let ip: IpAddr = "192.0.2.1".parse().unwrap();
            FamilyAnswer::from_addresses([ip].into_iter(), lifetime)
        };
        assert_eq!(Answer::join(family(secs(9)), family(secs(4))).lifetime(), secs(4));
        assert_eq!(Answer::join(family(None), family(secs(4))).lifetime(), secs(4));
        assert_eq!(Answer::join(family(secs(9)), failed()).lifetime(), secs(9));
        let service = |lifetime| Service {
            record: SrvRecord { priority: 0, target: "a.test.".into(), port: 80, weight: 1 },
            addresses: Answer::join(family(lifetime), nothing()),
        };
        let of = |own, targets: [Option<Duration>; 2]| {
            Answer::of_services(targets.map(service).into(), false, own).lifetime()
        };
        assert_eq!(of(secs(7), [secs(9), secs(8)]), secs(7));
        assert_eq!(of(secs(7), [secs(3), None]), secs(3));
        assert_eq!(of(None, [None, None]), None);
    }

    #[test]
    fn unspecified_and_multicast_addresses_are_left_out() {
        assert!(matches!(one_address("0.0.0.0"), FamilyAnswer::Nothing(_)));
        assert!(matches!(one_address("ff02::1"), FamilyAnswer::Nothing(_)));
        assert_eq!(one_address("::ffff:192.0.2.1"), one_address("192.0.2.1"));
    }
}
