//! The result of a look-up, made of the A and the AAAA records.

use std::net::IpAddr;

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
pub(super) enum Said {
    /// Never empty.
    Addresses(Vec<IpAddr>),
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
        unheard: Option<(Family, String)>,
    },
    /// The server says that the name has no addresses.
    Nothing(String),
    /// The server could not be asked, or could not answer.
    Failed(String),
}

impl Said {
    /// Leaves out addresses to which nothing can be sent: filtering servers answer 0.0.0.0 for blocked names.
    pub(super) fn from_addresses(found: impl Iterator<Item = IpAddr>) -> Self {
        let usable: Vec<IpAddr> = found
            .map(|ip| ip.to_canonical())
            .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
            .collect();
        if usable.is_empty() {
            return Self::Nothing("the answer holds no usable address".into());
        }
        Self::Addresses(usable)
    }
}

impl Answer {
    /// Joins the two families. Addresses of one family are enough. When one question failed, the other's "none" is not
    /// used: the name may have addresses.
    pub(super) fn join(v4: Said, v6: Said) -> Self {
        match (v4, v6) {
            (Said::Addresses(mut addresses), Said::Addresses(more)) => {
                addresses.extend(more);
                Self::Found { addresses, unheard: None }
            }
            (Said::Addresses(addresses), other) => Self::of_one(addresses, other, Family::V6),
            (other, Said::Addresses(addresses)) => Self::of_one(addresses, other, Family::V4),
            (Said::Failed(why), _) | (_, Said::Failed(why)) => Self::Failed(why),
            (Said::Nothing(why), Said::Nothing(_)) => Self::Nothing(why),
        }
    }

    fn of_one(addresses: Vec<IpAddr>, other: Said, family: Family) -> Self {
        let unheard = match other {
            Said::Failed(why) => Some((family, format!("{} records: {why}", family.record()))),
            Said::Addresses(_) | Said::Nothing(_) => None,
        };
        Self::Found { addresses, unheard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(ip: &str) -> Said {
        Said::from_addresses([ip.parse().unwrap()].into_iter())
    }

    fn failed() -> Said {
        Said::Failed("timed out".into())
    }

    fn nothing() -> Said {
        Said::Nothing("NXDOMAIN".into())
    }

    #[test]
    fn both_families_are_judged_together() {
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        let found = |ips: &[&str], unheard: Option<Family>| Answer::Found {
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            unheard: unheard.map(|family| (family, format!("{} records: timed out", family.record()))),
        };
        let cases = [
            (said(v4), said(v6), found(&[v4, v6], None)),
            (said(v4), nothing(), found(&[v4], None)),
            (nothing(), said(v6), found(&[v6], None)),
            (said(v4), failed(), found(&[v4], Some(Family::V6))),
            (failed(), said(v6), found(&[v6], Some(Family::V4))),
            (nothing(), nothing(), Answer::Nothing("NXDOMAIN".into())),
            (nothing(), failed(), Answer::Failed("timed out".into())),
            (failed(), nothing(), Answer::Failed("timed out".into())),
        ];
        for (v4, v6, expected) in cases {
            assert_eq!(Answer::join(v4, v6), expected);
        }
    }

    #[test]
    fn unspecified_and_multicast_addresses_are_left_out() {
        assert!(matches!(said("0.0.0.0"), Said::Nothing(_)));
        assert!(matches!(said("ff02::1"), Said::Nothing(_)));
        assert_eq!(said("::ffff:192.0.2.1"), said("192.0.2.1"));
    }
}
