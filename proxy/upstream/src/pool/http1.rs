//! An HTTP/1 connection, which serves one request at a time.
//!
//! The code that runs an exchange reads and writes the connection directly ([`pillion_http::h1::client`]). No task
//! watches an idle connection: its end is noticed when it is taken for a request, and by the sweep.

use std::sync::Arc;
use std::time::Duration;

use pillion_model::policy::ConnectionPolicy;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::aftermath::{Patience, close_gracefully};
use super::send_failure::sent;
use super::{About, Counted, Idle, SendFailure};
use crate::slots::Slot;
use pillion_base::error::Sent;
use pillion_base::limits::Permit;
use pillion_base::net::Io;
use pillion_http::error::io_reason;
use pillion_http::h1::client::{ClientFailure, Connection, FailedRequest, Fault, Rest};
use pillion_http::head::HeadLimits;
use pillion_http::message::RequestHead;
use pillion_http::transfer::Observer;
use pillion_http::{Body, Response};
use pillion_model::Reason;
use pillion_telemetry::Held;
use pillion_tls::admission::{self, Admission};

pub(crate) struct Http1 {
    conn: Connection,
    pub(super) about: About,
    admission: Option<Arc<Admission>>,
    idle: Idle,
    /// What the connection holds while it is open, also when it has become a tunnel.
    _guards: (Slot, Held, Counted),
}

impl Http1 {
    /// Takes a connection on which nothing was sent yet. `guards` are held until the connection ends.
    pub(crate) fn new(
        io: Io,
        limits: HeadLimits,
        about: About,
        admission: Option<Arc<Admission>>,
        guards: (Slot, Held, Counted),
    ) -> Self {
        let conn = Connection::new(io, limits);
        Self { conn, about, admission, idle: Idle::default(), _guards: guards }
    }

    /// Limits the head of the next answer.
    pub(super) fn limit_answer(&self, most_fields: u32) {
        self.conn.limit(HeadLimits::of_answers(most_fields, self.about.is_sidecar));
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        head: &RequestHead,
        body: &mut Body,
        observer: &dyn Observer,
    ) -> Result<Response, SendFailure> {
        // The connection served a request before, so the peer may have closed it since.
        let was_used = self.about.uses > 0;
        self.about.uses += 1;
        match self.conn.send(head, body, observer).await {
            Ok(response) => Ok(response.map(Body::from)),
            Err(failed) => Err(explain(&failed, was_used)),
        }
    }

    /// The TLS failure of the connection, if there was one.
    pub(super) fn tls_failure(&self) -> Option<admission::AdmissionFailure> {
        self.admission.as_ref()?.failure()
    }

    /// Closes the connection in the middle of an exchange. `permit` is the request's place among `max_requests`, which
    /// it keeps until the upstream has finished.
    pub(super) fn cut(self, permit: Option<Permit>, patience: Patience) {
        if let (Some(io), Some(permit), Ok(runtime)) = (self.conn.take_io(), permit, Handle::try_current()) {
            runtime.spawn(close_gracefully(io, permit, patience));
        }
    }

    /// Whether the peer has closed the connection. Checked when an idle connection is about to be used.
    pub(super) fn is_closed(&self) -> bool {
        self.conn.is_closed()
    }

    /// Whether the connection must carry no further request.
    pub(super) fn is_worn(&self, policy: &ConnectionPolicy) -> bool {
        self.about.is_worn(policy)
    }

    /// What can be done with the connection after its exchange ended completely.
    pub(super) fn after(&self) -> Rest {
        self.conn.rest()
    }

    /// Writes the last bytes of a request that was already answered completely. Returns whether another request may
    /// follow.
    pub(super) async fn written(&self) -> bool {
        self.conn.written().await
    }

    /// Notes that the connection is not in use from now on.
    pub(super) fn rest(&mut self) {
        self.idle = Idle::default();
    }

    /// Whether the sweep must close the connection.
    pub(super) fn is_done(&mut self, idle_timeout: Option<Duration>, now: Instant) -> bool {
        self.is_closed() || self.idle.is_over(idle_timeout, now)
    }
}

/// Ends the connection towards the peer, unless its stream was taken over or cut.
impl Drop for Http1 {
    fn drop(&mut self) {
        self.conn.close();
    }
}

/// Why there is no answer, as a [`Reason`], and whether the request may have had an effect.
fn explain(failed: &FailedRequest, was_used: bool) -> SendFailure {
    let FailedRequest { error, has_answer_begun, is_unsent } = failed;
    if let ClientFailure::Unwritable(misuse) = error {
        return SendFailure::unwritable(misuse);
    }
    let reason = match error {
        ClientFailure::Io(error) => io_reason(error),
        ClientFailure::Left => Reason::UpstreamClosed,
        ClientFailure::Malformed(Fault::UnaskedSwitch) => Reason::UpgradeFailed,
        ClientFailure::Malformed(_) => Reason::ProtocolError,
        ClientFailure::Body | ClientFailure::Unwritable(_) => Reason::UpstreamReset,
    };
    let sent = match error {
        _ if *has_answer_begun => Sent::Perhaps,
        ClientFailure::Body => Sent::Perhaps, // the connection itself did not fail, so it was not stale
        _ => sent(reason, *is_unsent, was_used),
    };
    SendFailure {
        reason,
        detail: error.to_string(),
        sent,
        is_large_head: error.is_large_head(),
        is_our_fault: false,
        is_unsent: *is_unsent && sent == Sent::Never,
        is_cut: false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;
    use pillion_http::h1::client::Misuse;

    #[test]
    fn a_failure_names_its_reason_and_whether_the_request_may_have_had_an_effect() {
        use Sent::{Never, OnStaleConnection, Perhaps};
        let io = |kind: ErrorKind| ClientFailure::Io(Error::from(kind));
        for (error, has_answer_begun, was_used, is_unsent, expected) in [
            (ClientFailure::Left, false, true, false, (Reason::UpstreamClosed, OnStaleConnection)),
            (ClientFailure::Left, false, false, false, (Reason::UpstreamClosed, Perhaps)),
            (ClientFailure::Left, true, true, false, (Reason::UpstreamClosed, Perhaps)),
            (io(ErrorKind::BrokenPipe), false, true, true, (Reason::UpstreamClosed, Never)),
            (io(ErrorKind::ConnectionReset), false, true, false, (Reason::UpstreamReset, OnStaleConnection)),
            (io(ErrorKind::UnexpectedEof), false, false, false, (Reason::UpstreamClosed, Perhaps)),
            (ClientFailure::Malformed(Fault::Chunk), false, true, false, (Reason::ProtocolError, Perhaps)),
            (
                ClientFailure::Malformed(Fault::UnaskedSwitch),
                false,
                false,
                false,
                (Reason::UpgradeFailed, Perhaps),
            ),
            (ClientFailure::Body, false, false, false, (Reason::UpstreamReset, Perhaps)),
            (ClientFailure::Body, false, true, false, (Reason::UpstreamReset, Perhaps)),
            (ClientFailure::Unwritable(Misuse::Hosts), false, true, false, (Reason::InternalError, Perhaps)),
        ] {
            let is_ours = matches!(error, ClientFailure::Unwritable(_));
            let text = error.to_string();
            let failure = explain(&FailedRequest { error, has_answer_begun, is_unsent }, was_used);
            assert_eq!((failure.reason, failure.sent), expected, "{text}");
            assert_eq!((failure.is_unsent, failure.is_our_fault), (is_unsent, is_ours), "{text}");
        }
    }

    #[test]
    fn a_request_whose_head_cannot_be_written_is_not_sent_to_another_endpoint() {
        let failed = FailedRequest { error: Misuse::Hosts.into(), has_answer_begun: false, is_unsent: true };
        let failure = explain(&failed, true);
        assert_eq!((failure.sent, failure.is_unsent, failure.is_our_fault), (Sent::Perhaps, false, true));
    }
}
