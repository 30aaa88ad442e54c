//! The table: how a cell must end, by what the documentation says of its settings and nothing else.

use http::Version;

use super::{Caller, Cell, Hop, Protocol, Way};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    /// What the application's sidecar is spoken to in. `None`: nobody speaks to it.
    pub(super) arriving: Option<Version>,
    /// What the application is spoken to in, whether it understands that or not.
    pub(super) spoken: Option<Version>,
    pub(super) answer: Answer,
}

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The application's, as it comes, with its trailers.
    Echo,
    /// 502, or UNAVAILABLE: the application does not speak what it was declared to.
    Failed,
    /// gRPC, where HTTP/1.1 is declared.
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
            // By ALPN, where sidecars prefer `pillion-h2`.
            Protocol::Auto if self.is_mutual => Some(Version::HTTP_2),
            Protocol::Auto => Some(caller.version()),
        }
    }
}

impl Protocol {
    /// What inbound makes of it, whatever the sidecars spoke between them.
    fn towards_application(self, caller: Caller) -> Option<Version> {
        match (self, caller) {
            (Self::Auto, Caller::Grpc) | (Self::Http2, _) => Some(Version::HTTP_2),
            (Self::Http1, Caller::Grpc) => None,
            (Self::Auto | Self::Http1, Caller::Http1 | Caller::Http2) => Some(Version::HTTP_11),
        }
    }
}
