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

/// The flag of Envoy that is nearest to the reason. None: there is none.
pub(crate) fn flag(reason: Reason) -> Option<&'static str> {
    FLAGS.iter().find(|(_, reasons)| reasons.contains(&reason)).map(|(flag, _)| *flag)
}
