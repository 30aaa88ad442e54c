//! The sentence for an exchange that broke off while bytes flowed, or whose client left. The sidecar does not answer it,
//! so no error has a sentence for it.

use super::Facts;
use pillion_model::Reason;

/// What was under way when an exchange broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderWay {
    /// The client still waited for the head of an answer.
    Wait,
    /// The body of an answer.
    Answer,
    /// Opaque bytes.
    Bytes,
}

/// Who broke the exchange off, or which limit, and where to look.
pub fn sentence(reason: Reason, under_way: UnderWay, facts: &Facts) -> String {
    let (of, timeouts) = (upstream(facts), facts.route.as_ref().map(|route| &*route.timeouts));
    let idle = timeouts.and_then(|timeouts| match under_way {
        UnderWay::Bytes => timeouts.stream_idle.tunnel(),
        UnderWay::Wait | UnderWay::Answer => timeouts.stream_idle.body(),
    });
    let (idle, most) =
        (idle.unwrap_or_default(), timeouts.and_then(|of| of.max_duration).unwrap_or_default());
    match (reason, under_way) {
        (Reason::StreamIdleTimeout, UnderWay::Bytes) => {
            format!("the client and {of} sent no byte for {idle:?} (stream_idle_timeout)")
        }
        (Reason::StreamIdleTimeout, _) => {
            format!("{of} sent no byte of its answer for {idle:?} (stream_idle_timeout)")
        }
        (Reason::MaxDuration, _) => {
            format!("the exchange with {of} did not end within {most:?} (max_duration)")
        }
        (Reason::ClientGone, UnderWay::Wait) => {
            format!("the client left before {of} answered: its own timeout may be shorter")
        }
        (Reason::ClientGone, _) => {
            format!("the client left before it had everything from {of}: its own timeout may be shorter")
        }
        (Reason::UpstreamReset | Reason::UpstreamClosed, UnderWay::Bytes) => {
            format!("{of} reset the connection: its own log may say why")
        }
        (Reason::UpstreamReset | Reason::UpstreamClosed, _) => {
            format!("{of} broke off its answer: its own log may say why")
        }
        (Reason::ProtocolError, UnderWay::Answer) => {
            format!("{of} sent bytes within its answer that are not valid HTTP: its own log may say why")
        }
        (Reason::BadRequest, UnderWay::Bytes) => {
            format!("the client sent HTTP in a tunnel to {of}, where no rule would judge it")
        }
        (Reason::Overloaded, _) => {
            format!("the sidecar has no memory left for further bytes between the client and {of}")
        }
        (other, _) => format!("the exchange with {of} broke off ({})", other.code()),
    }
}

/// The last endpoint and its service, as far as they are known.
fn upstream(facts: &Facts) -> String {
    let name = facts.route.as_ref().map(|route| &*route.cluster.name);
    let endpoint = facts.attempts.last_picked().and_then(|attempt| attempt.endpoint);
    match (endpoint, name) {
        (Some(endpoint), Some(name)) => format!("{endpoint} of \"{name}\""),
        (_, Some(name)) => format!("\"{name}\""),
        (_, None) => "an upstream".to_owned(),
    }
}
