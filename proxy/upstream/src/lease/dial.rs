//! Opens one HTTP connection over a transport, and offers it to the waiting requests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::endpoint::{Endpoint, Speaks};
use crate::cluster::outlier::Cause;
use crate::connect::{Connected, connect, opened, tls_failed};
use crate::pool::http1::Http1;
use crate::pool::http2::Http2;
use crate::pool::shard::{Shard, Ticket};
use crate::pool::{About, Want, reason_http2};
use crate::slots::Slot;
use pillion_base::error::{Error, Sent};
use pillion_base::ground::Ground;
use pillion_base::net::{Io, Prefixed};
use pillion_http::h1::client::ClientFailure;
use pillion_http::h2;
use pillion_http::head::HeadLimits;
use pillion_model::Reason;
use pillion_telemetry::{ConnectionOutcome, Held, Protocol};
use pillion_tls::Alpn;
use pillion_tls::admission::Admission;
use pillion_tls::client::Purpose;

/// Dials on a task of its own, and serves the request that waits longest. A failure that no request waits for any more
/// counts against the endpoint here: else one that never connects would stay in use where requests give up sooner.
pub(super) fn start(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    ground: &Arc<Ground>,
    shard: &Arc<Shard>,
    ticket: Ticket,
    slot: Slot,
    most_fields: u32,
) {
    let (cluster, endpoint, ground, shard) =
        (cluster.clone(), endpoint.clone(), ground.clone(), shard.clone());
    let dialling = shard.dialling();
    tokio::spawn(async move {
        let dial = Dial {
            cluster: &cluster,
            endpoint: &endpoint,
            ground: &ground,
            shard: &shard,
            want: ticket.want,
            most_fields,
        };
        let began = Instant::now();
        match dial.run(slot).await {
            Ok(()) => dialling.connected(),
            Err(error) => {
                drop(dialling);
                if !ticket.fail(&error)
                    && let Some(cause) = Cause::of(&error)
                {
                    endpoint.failed(began.elapsed(), cause, &cluster, Instant::now().into_std());
                }
            }
        }
    });
}

/// How an endpoint has ended a connection that it has just accepted. Bytes that it sent unasked are kept for the next
/// read.
fn has_ended(io: &mut Io) -> Option<ClientFailure> {
    let mut room = [0];
    let mut read = ReadBuf::new(&mut room);
    match Pin::new(&mut *io).poll_read(&mut Context::from_waker(Waker::noop()), &mut read) {
        Poll::Pending => None,
        Poll::Ready(Err(error)) => Some(ClientFailure::Io(error)),
        Poll::Ready(Ok(())) if read.filled().is_empty() => Some(ClientFailure::Left),
        Poll::Ready(Ok(())) => {
            io.put_back(read.filled().to_vec().into());
            None
        }
    }
}

struct Dial<'a> {
    cluster: &'a Arc<Cluster>,
    endpoint: &'a Arc<Endpoint>,
    ground: &'a Arc<Ground>,
    /// The shard with the waiting requests.
    shard: &'a Arc<Shard>,
    want: Want,
    /// `limits.response_header_count`.
    most_fields: u32,
}

impl Dial<'_> {
    async fn run(&self, slot: Slot) -> Result<(), Error> {
        let purpose = if self.want == Want::OnlyHttp1 { Purpose::Http1 } else { Purpose::Http };
        let began = Instant::now();
        let connected = connect(self.cluster, self.endpoint.address, self.ground, purpose).await;
        let Connected { transport, alpn, admission } = connected?;
        let io = Prefixed::new(transport);
        let about = About::new(self.cluster.verifies_peers() && alpn.is_some_and(Alpn::is_sidecar), began);
        match self.speaks(alpn) {
            Speaks::Http1 => self.http1(io, about, admission, slot),
            Speaks::Http2 => self.http2(io, about, admission, slot).await,
        }
    }

    /// The HTTP version of the connection. ALPN decides it; a peer without ALPN gets the declared version, otherwise
    /// HTTP/1.
    fn speaks(&self, alpn: Option<Alpn>) -> Speaks {
        let is_http2 = alpn.map_or(self.want == Want::Http2, Alpn::is_http2);
        if is_http2 { Speaks::Http2 } else { Speaks::Http1 }
    }

    fn http1(
        &self,
        mut io: Io,
        about: About,
        admission: Option<Arc<Admission>>,
        slot: Slot,
    ) -> Result<(), Error> {
        if let Some(ended) = has_ended(&mut io) {
            return Err(self.not_http((Reason::ConnectRefused, Sent::Never), &ended, admission.as_ref()));
        }
        let limits = HeadLimits::of_answers(self.most_fields, about.is_sidecar);
        let guards = (slot, self.opened(Protocol::Http1, admission.as_ref()), self.endpoint.pool.count());
        if self.want != Want::OnlyHttp1 {
            self.endpoint.learn(Speaks::Http1);
        }
        self.shard.offer_http1(Box::new(Http1::new(io, limits, about, admission, guards)));
        if self.want.is_shared() {
            self.shard.wake_stream_waiters();
        }
        Ok(())
    }

    async fn http2(
        &self,
        io: Io,
        about: About,
        admission: Option<Arc<Admission>>,
        slot: Slot,
    ) -> Result<(), Error> {
        let limits = HeadLimits::of_answers(self.most_fields, about.is_sidecar);
        let opened = h2::client::open(io, limits, self.ground).await;
        let (send, driver) = opened.map_err(|error| {
            let reason = reason_http2(&error);
            self.not_http(
                (reason, sent_before_settings(reason, about.is_sidecar)),
                &error,
                admission.as_ref(),
            )
        })?;
        let guards = (slot, self.opened(Protocol::Http2, admission.as_ref()), self.endpoint.pool.count());
        tokio::spawn(async move {
            driver.await;
            drop(guards);
        });
        self.endpoint.learn(Speaks::Http2);
        self.shard.offer_http2(Http2::new(send, about, admission));
        if !self.want.is_shared() {
            self.shard.wake_http1_waiters();
        }
        Ok(())
    }

    fn opened(&self, protocol: Protocol, admission: Option<&Arc<Admission>>) -> Held {
        opened(self.cluster, self.ground, protocol, admission);
        Held::of(&self.ground.connections_active(self.cluster.direction(), protocol))
    }

    fn not_http(
        &self,
        (reason, sent): (Reason, Sent),
        error: &dyn std::error::Error,
        admission: Option<&Arc<Admission>>,
    ) -> Error {
        let (address, name) = (self.endpoint.address, &self.cluster.name);
        if let Some(failure) = admission.and_then(|admission| admission.failure()) {
            self.cluster.connection_opened(self.ground, Protocol::Unknown, ConnectionOutcome::TlsError);
            return tls_failed(address, name, &failure.error);
        }
        self.cluster.connection_opened(self.ground, Protocol::Unknown, ConnectionOutcome::Failed);
        let detail = format!(
            "{address} of \"{name}\" broke off before a request: {error}; check its port, and the service's `protocol`"
        );
        Error::new(reason, detail).sent(sent)
    }
}

/// Whether the request may be sent elsewhere, with any method, when its HTTP/2 connection ended before the peer's
/// SETTINGS. A sidecar that closes then is about to end, and has received nothing. Another peer may not speak HTTP/2 at
/// all, and the other endpoints of its cluster may not either.
const fn sent_before_settings(reason: Reason, is_sidecar: bool) -> Sent {
    match reason {
        Reason::UpstreamClosed | Reason::UpstreamReset if is_sidecar => Sent::Never,
        _ => Sent::Perhaps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sidecar_that_closes_before_its_settings_has_surely_received_no_request() {
        for (reason, is_sidecar, expected) in [
            (Reason::UpstreamClosed, true, Sent::Never),
            (Reason::UpstreamReset, true, Sent::Never),
            (Reason::ProtocolError, true, Sent::Perhaps),
            (Reason::UpstreamClosed, false, Sent::Perhaps),
            (Reason::UpstreamReset, false, Sent::Perhaps),
        ] {
            assert_eq!(sent_before_settings(reason, is_sidecar), expected, "{reason:?} {is_sidecar}");
        }
    }
}
