//! The response flags of Envoy, for access logs in its syntax and for metrics under Istio's names.

use pillion_model::Reason;

/// The flags of Envoy for the reasons that have one.
pub(crate) const FLAGS: [(&str, &[Reason]); 16] = [
    ("NR", &[Reason::NoRoute, Reason::EgressDenied]),
    ("UH", &[Reason::NoEndpoints, Reason::AllUnhealthy]),
    ("UF", &[Reason::ConnectRefused, Reason::ConnectTimeout, Reason::TlsError, Reason::PeerIdentityMismatch]),
    ("DF", &[Reason::DnsError]),
    ("UR", &[Reason::UpstreamReset]),
    ("UC", &[Reason::UpstreamClosed]),
    ("UPE", &[Reason::ProtocolError, Reason::UpgradeFailed]),
    ("UT", &[Reason::RequestTimeout, Reason::PerTryTimeout]),
    ("SI", &[Reason::StreamIdleTimeout, Reason::RequestStalled]),
    ("UMSDR", &[Reason::MaxDuration]),
    ("UO", &[Reason::LimitPending, Reason::LimitRequests]),
    ("OM", &[Reason::Overloaded]),
    ("RL", &[Reason::RateLimited]),
    ("FI", &[Reason::FaultInjected]),
    ("DPE", &[Reason::BadRequest, Reason::UnsupportedCoding, Reason::HeadersTooLarge]),
    ("DC", &[Reason::ClientGone]),
];

/// The flag of a request that an external authorizer has refused, or has not answered.
pub(crate) const BY_EXTERNAL: &str = "UAEX";
/// The flag of an opaque connection that took too long.
pub(crate) const TOO_LONG: &str = "DT";

/// The flag of Envoy that is nearest to how an exchange ended. Empty: there is none.
///
/// `is_external`: the external authorizer decided; it is asked only where that matters. `is_request`: the exchange is no
/// opaque connection.
pub fn flag(reason: Option<Reason>, is_external: impl Fn() -> bool, is_request: bool) -> &'static str {
    let Some(reason) = reason else { return "" };
    match reason {
        Reason::AuthzDenied | Reason::AuthzUnavailable if is_external() => BY_EXTERNAL,
        Reason::MaxDuration if !is_request => TOO_LONG,
        _ => FLAGS.iter().find(|(_, reasons)| reasons.contains(&reason)).map_or("", |(flag, _)| *flag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_flag_of_envoy() {
        for (reason, is_external, is_request, expected) in [
            (None, true, true, ""),
            (Some(Reason::NoEndpoints), false, true, "UH"),
            (Some(Reason::AuthzDenied), false, true, ""),
            (Some(Reason::AuthzDenied), true, true, "UAEX"),
            (Some(Reason::AuthzUnavailable), true, true, "UAEX"),
            (Some(Reason::NoEndpoints), true, true, "UH"),
            (Some(Reason::MaxDuration), false, true, "UMSDR"),
            (Some(Reason::MaxDuration), false, false, "DT"),
        ] {
            assert_eq!(flag(reason, || is_external, is_request), expected, "{reason:?}");
        }
    }
}
