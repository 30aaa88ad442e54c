//! The table of results, from what the documentation says of a cell's settings.

use http::Version;

use super::{Caller, Cell, Hop, Protocol, Way};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    /// The version in which the application's sidecar is addressed. `None`: no request reaches it.
    pub(super) arriving: Option<Version>,
    /// The version in which the application is addressed, whether or not it understands that.
    pub(super) spoken: Option<Version>,
    pub(super) answer: Answer,
}

/// The caller's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The application's echo, streamed, with its trailers.
    Echo,
    /// 502, or UNAVAILABLE: the application does not speak the declared version.
    Failed,
    /// UNIMPLEMENTED: the call is gRPC, and HTTP/1.1 is declared.
    Unimplemented,
}

pub(super) fn of(cell: &Cell) -> Expected {
    let arriving = match cell.way {
        Way::Sidecar(hop, _) => hop.spoken_for(cell.caller),
        Way::Plain | Way::Tls(_) => Some(cell.caller.version()),
    };
    let spoken = match cell.inbound {
        Some(inbound) => arriving.and_then(|_| inbound.protocol.towards_application(cell.caller)),
        None => arriving,
    };
    let answer = match spoken {
        None => Answer::Unimplemented,
        Some(version) if version == cell.app => Answer::Echo,
        Some(_) => Answer::Failed,
    };
    let arriving = arriving.filter(|_| cell.inbound.is_some());
    Expected { arriving, spoken, answer }
}

impl Hop {
    fn spoken_for(self, caller: Caller) -> Option<Version> {
        match self.protocol {
            Protocol::Http1 if caller == Caller::Grpc => None,
            Protocol::Http1 => Some(Version::HTTP_11),
            Protocol::Http2 => Some(Version::HTTP_2),
            // By ALPN; sidecars prefer `pillion-h2`.
            Protocol::Auto if self.is_mutual => Some(Version::HTTP_2),
            Protocol::Auto => Some(caller.version()),
        }
    }
}

impl Protocol {
    /// The version towards the application, which does not depend on the version between the sidecars.
    fn towards_application(self, caller: Caller) -> Option<Version> {
        match (self, caller) {
            (Self::Auto, Caller::Grpc) | (Self::Http2, _) => Some(Version::HTTP_2),
            (Self::Http1, Caller::Grpc) => None,
            (Self::Auto | Self::Http1, Caller::Http1 | Caller::Http2) => Some(Version::HTTP_11),
        }
    }
}
