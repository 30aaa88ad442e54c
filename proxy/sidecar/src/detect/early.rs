//! The early dial: the destination of a client is dialled before the client has said what it speaks.

use std::future::{Future, Ready, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use ::bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout};

use super::bytes;
use super::client::{Patience, PeekedClient, given_up, poll_some};
use super::{Detected, Found, Undecided};
use crate::exchange::DialFailure;
use pillion_base::drain::Work;
use pillion_base::error::Error;
use pillion_base::net::Io;
use pillion_model::Reason;

/// 10 s: a server that closes an early connection within this time refuses clients. One that closes it later probably
/// waited for a request until its own timeout, as HTTP servers do.
const REFUSES_WITHIN: Duration = Duration::from_secs(10);
/// 1 s: a client that speaks first is expected to do so within this time. That is enough on a busy machine, and not
/// long for a client that waits for a server that is not there.
const SPEAKS_WITHIN: Duration = Duration::from_secs(1);

/// A destination that is dialled before the client has said what it speaks.
pub struct Early<F> {
    /// How long the client has to be silent before the dial.
    pub after: Duration,
    /// Makes the future of the dial when it is needed, because that future is the largest thing that an undecided
    /// connection would hold.
    pub dial: F,
    /// The last connection to this destination spoke HTTP, so a server that closes the connection is assumed to have
    /// timed out while it waited for a request.
    pub expects_http: bool,
    /// The dial is done already, and is kept for a client that does not speak HTTP.
    pub is_at_hand: bool,
}

/// A server that was dialled early.
pub trait EarlyServer: Unpin {
    fn io(&mut self) -> &mut Io;

    /// Why TLS with the server failed after the dial.
    fn tls_failure(&self) -> Option<Error>;

    /// Turns a connection that could not be used, for this reason, into a failed dial.
    fn failed(self, error: Error) -> DialFailure;
}

/// No early dial.
pub const NO_EARLY_DIAL: Option<Early<NoDial>> = None;

type NoDial = fn() -> Ready<Result<NoEarlyServer, DialFailure>>;

/// The server type of [`NO_EARLY_DIAL`], which has no values.
pub enum NoEarlyServer {}

impl EarlyServer for NoEarlyServer {
    fn io(&mut self) -> &mut Io {
        match *self {}
    }

    fn tls_failure(&self) -> Option<Error> {
        match *self {}
    }

    fn failed(self, _error: Error) -> DialFailure {
        match self {}
    }
}

/// Dials the server of a client that is silent or slow: the side that speaks first, client or server, decides.
pub(super) async fn race<D, M, F>(
    mut client: PeekedClient<'_>,
    work: &Work,
    early: Early<M>,
) -> Result<Detected<D>, Undecided>
where
    D: EarlyServer,
    M: FnOnce() -> F,
    F: Future<Output = Result<D, DialFailure>>,
{
    let mut dial = pin!((early.dial)());
    let dialled = tokio::select! { // the dial is dropped where the client speaks HTTP: it was for a server that speaks first
        biased;
        found = client.listen(work, Patience::Whole) => match found? {
            Some(found) if found.is_http() => return Ok(client.decided(found, None)),
            found => {
                let dialled = tokio::select! { // the dial is dropped with its client, which needs no server any more
                    biased;
                    () = given_up(&mut client.unfinished) => return Err(Undecided::GivenUp),
                    dialled = &mut dial => dialled,
                };
                return client.settled(found, Some(dialled));
            }
        },
        dialled = &mut dial => dialled,
    };
    let mut server = match dialled {
        Ok(server) => server,
        Err(error) if !early.expects_http && client.has_sent_nothing() => {
            return unserved(client, work, error).await;
        }
        Err(error) => return client.alone(work, Some(error)).await,
    };
    let since = Instant::now();
    let mut first = BytesMut::new();
    let ended = tokio::select! { // what either reader has read is kept with its stream
        biased;
        found = client.listen(work, Patience::Whole) => {
            let found = found?;
            return client.settled(found, still_open(server, first).await.map(Ok));
        }
        ended = first_bytes(server.io(), &mut first) => ended,
    };
    let (was_reset, first) = (ended.is_err(), first.freeze());
    // With TLS 1.3 a server may refuse our certificate after the handshake has ended on our side: that counts as a
    // failed dial.
    if let Some(error) = server.tls_failure().filter(|_| !early.expects_http && client.has_sent_nothing()) {
        return unserved(client, work, server.failed(error)).await;
    }
    match judge(&first, since.elapsed(), early.expects_http) {
        SpeaksFirst::Opaque => {
            server.io().put_back(first);
            Ok(Detected { is_silent: false, ..client.decided(Found::Opaque, Some(Ok(server))) })
        }
        SpeaksFirst::Refuses => hung_up_on(client, work, server, was_reset).await,
        SpeaksFirst::Waited => {
            drop(server);
            client.alone(work, None).await
        }
    }
}

/// Handles a client whose server could not be dialled. A slow client that speaks HTTP is decided as HTTP, so that it
/// gets an answer with the reason. For a silent client the connection ends, as when a server refuses it.
async fn unserved<D: EarlyServer>(
    mut client: PeekedClient<'_>,
    work: &Work,
    why: DialFailure,
) -> Result<Detected<D>, Undecided> {
    let found = client.listen(work, Patience::Silence(SPEAKS_WITHIN)).await?;
    match found {
        _ if client.has_sent_nothing() => Err(Undecided::NoServer(why)),
        Some(found) => Ok(client.decided(found, Some(Err(why)))),
        None => client.alone(work, Some(why)).await,
    }
}

/// Handles a server that closed or reset the connection before either side had sent a byte. It may have been about to
/// end, and its client slow: nothing of what such a client then says is lost, so it gets another connection. A silent
/// client sees the same kind of end as it would without a sidecar.
async fn hung_up_on<D: EarlyServer>(
    mut client: PeekedClient<'_>,
    work: &Work,
    server: D,
    was_reset: bool,
) -> Result<Detected<D>, Undecided> {
    let found = client.listen(work, Patience::Silence(SPEAKS_WITHIN)).await?;
    match found {
        _ if client.has_sent_nothing() => Err(end_like(client, server, was_reset).await),
        Some(found) => Ok(client.decided(found, None)),
        None => {
            drop(server);
            client.alone(work, None).await
        }
    }
}

/// Ends a client's connection as its server has ended its own.
async fn end_like<D: EarlyServer>(mut client: PeekedClient<'_>, server: D, was_reset: bool) -> Undecided {
    let (reason, detail) = match was_reset {
        true => (Reason::UpstreamReset, "the server reset the connection before either side had sent a byte"),
        false => {
            (Reason::UpstreamClosed, "the server closed the connection before either side had sent a byte")
        }
    };
    if !was_reset && matches!(timeout(SPEAKS_WITHIN, client.io.shutdown()).await, Ok(Ok(()))) {
        client.io.get_ref().end_on_drop();
    }
    Undecided::HungUp(server.failed(Error::new(reason, detail)))
}

#[derive(Debug, PartialEq, Eq)]
enum SpeaksFirst {
    /// The server sent bytes that are not HTTP.
    Opaque,
    /// The server closed the connection soon after it was dialled.
    Refuses,
    /// The server sent bytes of HTTP, or its timeout ended while it waited for a request.
    Waited,
}

/// What the server's first bytes mean. An empty `first` means that the server closed the connection.
fn judge(first: &[u8], after: Duration, expects_http: bool) -> SpeaksFirst {
    match first {
        [] if expects_http || after > REFUSES_WITHIN => SpeaksFirst::Waited,
        [] => SpeaksFirst::Refuses,
        first if bytes::server_speaks_http(first) == Some(true) => SpeaksFirst::Waited,
        _ => SpeaksFirst::Opaque,
    }
}

/// Reads the server's first bytes until they show whether they are HTTP. Empty: the server closed the connection.
async fn first_bytes(io: &mut Io, first: &mut BytesMut) -> io::Result<()> {
    poll_fn(|cx| poll_some(io, first, cx)).await?;
    while !first.is_empty() && bytes::server_speaks_http(first).is_none() {
        match timeout(SPEAKS_WITHIN, poll_fn(|cx| poll_some(io, first, cx))).await {
            Ok(Ok(more)) if more > 0 => {}
            _ended_or_silent => break,
        }
    }
    Ok(())
}

/// The server with what it has said so far. `None`: it has closed the connection in the moment in which the client spoke, and
/// nothing was sent to it, so that another one can be dialled.
async fn still_open<D: EarlyServer>(mut server: D, mut first: BytesMut) -> Option<D> {
    let looked = poll_fn(|cx| Poll::Ready(poll_some(server.io(), &mut first, cx))).await;
    match looked {
        Poll::Ready(Ok(0) | Err(_)) if first.is_empty() => return None,
        _ if first.is_empty() => {}
        _ => server.io().put_back(first.freeze()),
    }
    Some(server)
}
