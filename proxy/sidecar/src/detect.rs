//! Detects the protocol of an undeclared connection: by the client's first bytes, or because the server speaks first.
//!
//! A client's silence alone never decides. Once the client has been silent for [`Early::after`], its destination is
//! dialled early, where that is allowed. If the server then speaks first, the connection is opaque; if the client then
//! speaks HTTP, the early connection is not used. [`bytes`] and [`hello`] judge bytes and do nothing else.

pub mod bytes;
pub mod hello;
#[cfg(test)]
mod lenient;
mod watch;

use std::future::{Future, Ready, pending, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::bytes::{Bytes, BytesMut};
use pillion_model::listener::DownstreamLimits;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use crate::exchange::{DialFailure, Facts};
use crate::worker::Worker;
use bytes::{LooksLike, Reader};
use hello::Hello;
use pillion_base::drain::Work;
use pillion_base::error::Error;
use pillion_base::net::Io;
use pillion_base::unfinished::{Share, Side};
use pillion_model::{Direction, Reason};
use pillion_telemetry::{ConnectionOutcome, DetectionVerdict};
use pillion_tls::TlsError;
pub use watch::Watched;

/// 10 s: a server that closes an early connection within this time refuses clients. One that closes it later probably
/// waited for a request until its own timeout, as HTTP servers do.
const REFUSES_WITHIN: Duration = Duration::from_secs(10);
/// 1 s: a client that speaks first is expected to do so within this time. That is enough on a busy machine, and not
/// long for a client that waits for a server that is not there.
const SPEAKS_WITHIN: Duration = Duration::from_secs(1);
/// Bytes per read, 4 KiB: a first request or ClientHello is seldom longer.
const CHUNK: usize = 4096;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// The detected protocol, with what its first bytes have shown.
#[derive(Debug)]
pub enum Found {
    Http1,
    Http2,
    /// TLS, with the contents of its ClientHello where that could be read.
    Tls(Option<Hello>),
    Opaque,
}

impl Found {
    pub const fn is_http(&self) -> bool {
        matches!(self, Self::Http1 | Self::Http2)
    }

    /// The version of HTTP by which the connection is served where it must be HTTP. Bytes that are not HTTP are served
    /// as HTTP/1, which answers 400.
    pub const fn version(&self) -> Version {
        match self {
            Self::Http2 => Version::Http2,
            _ => Version::Http1,
        }
    }

    /// Counts and logs the detected protocol of an undeclared connection.
    pub fn note(&self, direction: Direction, from: SocketAddr, worker: &Worker) {
        let verdict = self.verdict();
        tracing::debug!(direction = direction.as_str(), %from, protocol = verdict.as_str(), "protocol detected");
        worker.ground.metrics.detections(direction, verdict).inc();
    }

    const fn verdict(&self) -> DetectionVerdict {
        match self {
            Self::Http1 => DetectionVerdict::Http1,
            Self::Http2 => DetectionVerdict::Http2,
            Self::Tls(_) => DetectionVerdict::Tls,
            Self::Opaque => DetectionVerdict::Opaque,
        }
    }
}

/// A connection whose protocol is known.
pub struct Detected<D> {
    pub found: Found,
    /// The connection, which yields the examined bytes once more.
    pub io: Io,
    /// The early connection, or why its dial failed: the failed dial is not repeated at once.
    pub early: Option<Result<D, DialFailure>>,
    /// Neither end has sent a byte, so the connection shows nothing about the protocol of its destination.
    pub is_silent: bool,
    /// The connection is carried as opaque, but its first line may still become HTTP: see [`Watched`].
    pub is_undecided: bool,
    /// When the client's first byte came; `None` if it has not.
    pub began: Option<Instant>,
}

impl<D> Detected<D> {
    /// An opaque connection by declaration: its bytes are not examined.
    pub fn declared(io: Io, early: Option<D>) -> Self {
        let early = early.map(Ok);
        Self { found: Found::Opaque, io, early, is_silent: false, is_undecided: false, began: None }
    }

    /// An HTTP connection whose version both sidecars have agreed on by ALPN, before any byte was sent.
    pub fn agreed(io: Io, is_http2: bool) -> Self {
        let found = if is_http2 { Found::Http2 } else { Found::Http1 };
        Self { found, is_silent: true, ..Self::declared(io, None) }
    }

    /// The server name in the client's ClientHello.
    pub fn server_name(&self) -> Option<&str> {
        match &self.found {
            Found::Tls(Some(hello)) => hello.server_name.as_deref(),
            _ => None,
        }
    }

    /// Whether the destination speaks HTTP; `None` if this connection does not show it.
    pub fn shows_http(&self) -> Option<bool> {
        (!self.is_silent).then_some(self.found.is_http())
    }
}

impl Detected<NoEarlyServer> {
    /// Turns a result that was detected without an early dial into the type of results that may have one.
    pub fn alone<D>(self) -> Detected<D> {
        let Self { found, io, is_silent, is_undecided, began, .. } = self;
        Detected { found, io, early: None, is_silent, is_undecided, began }
    }
}

/// Why a connection ended undecided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The client closed the connection, or a timeout ended it.
    #[error("the client closed the connection, or a timeout ended it: {0}")]
    Ended(io::Error),
    /// The client broke its TLS session, or ended it by an alert.
    #[error("{0}")]
    Tls(TlsError),
    #[error("the sidecar is draining, and the client has sent nothing")]
    Drained,
    #[error("the client was silent, and there is no server that might speak first: {0}")]
    NoServer(DialFailure),
    #[error("the client was silent, and the server closed the connection soon after it was dialled: {0}")]
    HungUp(DialFailure),
    #[error(
        "the limit of memory for incomplete first bytes is reached, and this connection is the oldest of them"
    )]
    GivenUp,
}

impl Undecided {
    fn of(error: io::Error) -> Self {
        TlsError::inside(&error).map_or(Self::Ended(error), Self::Tls)
    }

    /// The outcome by which the connection is counted.
    pub fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Ended(error) if error.kind() == io::ErrorKind::TimedOut => ConnectionOutcome::Timeout,
            Self::Tls(_) => ConnectionOutcome::TlsError,
            Self::Drained | Self::GivenUp => ConnectionOutcome::Refused,
            Self::Ended(_) | Self::NoServer(_) | Self::HungUp(_) => ConnectionOutcome::Failed,
        }
    }

    /// What to record: a server that was dialled for the connection without success, or that the sidecar refused it.
    pub fn failure(self) -> Option<DialFailure> {
        match self {
            Self::NoServer(failure) | Self::HungUp(failure) => Some(failure),
            Self::GivenUp => {
                let error = Error::new(Reason::Overloaded, self.to_string());
                Some(DialFailure::new(error, Facts::default()))
            }
            Self::Ended(_) | Self::Tls(_) | Self::Drained => None,
        }
    }
}

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

/// Waits until the protocol that `client` speaks is known.
pub async fn detect<D, M, F>(
    mut client: PeekedClient<'_>,
    work: &Work,
    early: Option<Early<M>>,
) -> Result<Detected<D>, Undecided>
where
    D: EarlyServer,
    M: FnOnce() -> F,
    F: Future<Output = Result<D, DialFailure>>,
{
    let Some(early) = early else { return client.alone(work, None).await };
    // Most clients send their first bytes before the early dial would begin, so the race is needed seldom.
    match client.listen(work, Patience::Silence(early.after)).await? {
        Some(found) if early.is_at_hand && !found.is_http() => {
            let dialled = (early.dial)().await;
            Ok(client.decided(found, Some(dialled)))
        }
        Some(found) => Ok(client.decided(found, None)),
        None => Box::pin(race(client, work, early)).await,
    }
}

/// Waits for a first byte without holding a buffer.
pub async fn first_byte(io: Io, worker: &Worker, work: &Work) -> Result<Io, Undecided> {
    let mut client = PeekedClient::new(io, worker, Side::Strangers, None);
    match client.read(work, client.until(Patience::Whole)).await? {
        Some(ClientRead::Bytes) => Ok(client.decided::<NoEarlyServer>(Found::Opaque, None).io),
        Some(ClientRead::End) => Err(Undecided::Ended(io::ErrorKind::UnexpectedEof.into())),
        None => Err(Undecided::Ended(io::ErrorKind::TimedOut.into())),
    }
}

/// Dials the server of a client that is silent or slow: the side that speaks first, client or server, decides.
async fn race<D, M, F>(
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
    let first = tokio::select! { // what either reader has read is kept with its stream
        biased;
        found = client.listen(work, Patience::Whole) => return client.settled(found?, Some(Ok(server))),
        first = first_bytes(server.io()) => first,
    };
    let was_reset = first.is_err();
    let first = first.unwrap_or_default();
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
        SpeaksFirst::Refuses => Err(hung_up_on(client, server, was_reset).await),
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

/// Handles a server that closed or reset the connection before either side had sent a byte. The client sees the same
/// kind of end as it would without a sidecar.
async fn hung_up_on<D: EarlyServer>(mut client: PeekedClient<'_>, server: D, was_reset: bool) -> Undecided {
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

/// A client with the bytes that it has sent so far.
pub struct PeekedClient<'a> {
    io: Io,
    worker: &'a Worker,
    /// When the detection began.
    since: Instant,
    seen: BytesMut,
    /// Made with the limits that held when the first bytes came.
    reader: Reader,
    is_said_to_be_opaque: bool,
    is_undecided: bool,
    /// The first byte decides: everything but TLS is opaque.
    is_declared_opaque: bool,
    /// When the client's first byte came.
    began: Option<Instant>,
    side: Side,
    /// The share of the memory for incomplete first bytes, while bytes have come that do not decide.
    unfinished: Option<Share>,
    /// The connection is set to end with a reset while the sidecar waits for it: its protocol is not known yet, and may
    /// have no framing that shows a cut.
    resets: bool,
}

#[derive(Clone, Copy)]
enum Patience {
    /// Until no byte has come for this time.
    Silence(Duration),
    /// As long as an undecided connection may last.
    Whole,
}

enum ClientRead {
    Bytes,
    /// The client has ended its direction; it may still read.
    End,
}

impl<'a> PeekedClient<'a> {
    /// `began`: when the client's first byte came, if it came before this call.
    pub fn new(io: Io, worker: &'a Worker, side: Side, began: Option<Instant>) -> Self {
        Self {
            io,
            worker,
            since: Instant::now(),
            seen: BytesMut::new(),
            reader: Reader::new(worker.limits().header_bytes as usize),
            is_said_to_be_opaque: false,
            is_undecided: false,
            is_declared_opaque: false,
            began,
            side,
            unfinished: None,
            resets: false,
        }
    }

    /// For a peer that claims that its bytes are opaque. The claim is not trusted, but an undecided line that is
    /// unlikely to be HTTP is carried without further delay, and is watched by [`Watched`].
    pub fn said_to_be_opaque(self) -> Self {
        Self { is_said_to_be_opaque: true, ..self }
    }

    /// For an application whose bytes are declared opaque: only TLS of a sidecar would be something else.
    pub fn declared_opaque(self) -> Self {
        Self { is_declared_opaque: true, ..self }
    }

    /// The connection without detection.
    pub fn into_io(self) -> Io {
        self.io
    }

    const fn has_sent_nothing(&self) -> bool {
        self.began.is_none()
    }

    /// Reads until the client's bytes decide. `None`: they have not decided within `patience`.
    async fn listen(&mut self, work: &Work, patience: Patience) -> Result<Option<Found>, Undecided> {
        loop {
            if let Some(found) = self.look() {
                return Ok(Some(found));
            }
            if self.is_said_to_be_opaque && self.reader.is_hardly_http() {
                self.is_undecided = true;
                return Ok(Some(Found::Opaque));
            }
            match self.read(work, self.until(patience)).await? {
                Some(ClientRead::Bytes) => {}
                Some(ClientRead::End) => return Ok(Some(self.look_at_all())),
                None => return Ok(None),
            }
        }
    }

    /// When the wait ends, by the current limits. From the first byte on there is one deadline for the whole detection:
    /// further bytes do not extend it.
    fn until(&self, patience: Patience) -> Instant {
        let DownstreamLimits { header_timeout, idle_timeout, .. } = self.worker.limits();
        let whole = self.began.map(|began| began + header_timeout);
        match patience {
            Patience::Silence(most) => {
                let silent = Instant::now() + most;
                whole.map_or(silent, |whole| whole.min(silent))
            }
            Patience::Whole => whole.unwrap_or_else(|| Instant::now() + idle_timeout),
        }
    }

    /// Counts the memory of the bytes that are held during the next wait.
    fn account(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        let (worker, side) = (self.worker, self.side);
        let share = self.unfinished.get_or_insert_with(|| worker.ground.unfinished.begin(side));
        share.hold(self.seen.capacity().max(CHUNK));
    }

    /// Reads once. `None`: no byte came before `until`.
    async fn read(&mut self, work: &Work, until: Instant) -> Result<Option<ClientRead>, Undecided> {
        let (silent, is_first) = (self.has_sent_nothing(), self.seen.is_empty());
        self.account();
        let Self { io, seen, unfinished, since, resets, .. } = self;
        let some = poll_fn(|cx| {
            let read = poll_some(io, seen, cx);
            if read.is_pending() && !std::mem::replace(resets, true) {
                io.get_ref().reset_on_drop(); // only here, so that a client whose bytes are there costs no system call
            }
            read
        });
        let read = tokio::select! { // bytes that a drained client has just sent are not read: its connection is closed
            biased;
            () = given_up(unfinished) => return Err(Undecided::GivenUp),
            read = timeout_at(until, some) => read,
            () = work.dismissed(*since), if silent => return Err(Undecided::Drained),
        };
        if read.is_ok() {
            work.wake();
        }
        match read {
            Err(_elapsed) => Ok(None),
            Ok(Err(error)) => Err(Undecided::of(error)),
            Ok(Ok(0)) => Ok(Some(ClientRead::End)),
            Ok(Ok(_)) => {
                if is_first {
                    self.reader = Reader::new(self.worker.limits().header_bytes as usize);
                    self.began.get_or_insert_with(Instant::now);
                }
                Ok(Some(ClientRead::Bytes))
            }
        }
    }

    /// Waits for the client alone: no server was dialled, or the one that was dialled does not speak first. Where the
    /// dial failed after the client had begun to speak, the failure is kept and the dial is not repeated. A client that
    /// speaks later gets a new dial.
    async fn alone<D: EarlyServer>(
        mut self,
        work: &Work,
        failed: Option<DialFailure>,
    ) -> Result<Detected<D>, Undecided> {
        let failed = failed.filter(|_| !self.has_sent_nothing());
        let found = self.listen(work, Patience::Whole).await?;
        match found {
            Some(_) if self.has_sent_nothing() => Err(hung_up()),
            found => self.settled(found, failed.map(Err)),
        }
    }

    fn look(&mut self) -> Option<Found> {
        if self.is_declared_opaque && !self.seen.is_empty() && !bytes::begins_like_tls(&self.seen) {
            return Some(Found::Opaque);
        }
        match self.reader.look(&self.seen)? {
            LooksLike::Http1 => Some(Found::Http1),
            LooksLike::Http2 => Some(Found::Http2),
            LooksLike::Opaque => Some(Found::Opaque),
            LooksLike::Tls => match hello::read(&self.seen) {
                hello::Read::Whole(hello) => Some(Found::Tls(Some(hello))),
                hello::Read::Malformed => Some(Found::Tls(None)),
                hello::Read::NeedMore => None,
            },
        }
    }

    /// Judges the bytes of a client that has ended its direction.
    fn look_at_all(&mut self) -> Found {
        match self.reader.look_at_all(&self.seen) {
            LooksLike::Http1 => Found::Http1,
            _ => Found::Opaque,
        }
    }

    /// Decides at the deadline (`found` is `None`), when the bytes could still become TLS or HTTP. A line that begins
    /// like a request is HTTP, and the HTTP side refuses it. Other bytes are opaque; a piece of a line is watched, so
    /// that a client cannot avoid the rules for HTTP by sending slowly. The first byte of TLS needs no watching: no
    /// HTTP server reads a request that begins with it.
    fn settled<D: EarlyServer>(
        mut self,
        found: Option<Found>,
        early: Option<Result<D, DialFailure>>,
    ) -> Result<Detected<D>, Undecided> {
        match found {
            None if self.seen.iter().all(u8::is_ascii_whitespace) => {
                Err(Undecided::Ended(io::ErrorKind::TimedOut.into()))
            }
            Some(found) if found.is_http() => Ok(self.decided(found, None)),
            Some(found) => Ok(self.decided(found, early)),
            None if bytes::begins_like_tls(&self.seen) => Ok(self.decided(Found::Opaque, early)),
            None if self.reader.begins_like_a_request() => Ok(self.decided(Found::Http1, None)),
            None => {
                self.is_undecided = true;
                Ok(self.decided(Found::Opaque, early))
            }
        }
    }

    fn decided<D: EarlyServer>(mut self, found: Found, early: Option<Result<D, DialFailure>>) -> Detected<D> {
        let (is_silent, is_undecided) = (self.has_sent_nothing(), self.is_undecided);
        if self.resets {
            self.io.get_ref().end_on_drop(); // `tcp` sets opaque connections to end with a reset again
        }
        self.io.put_back(self.seen.freeze());
        Detected { found, io: self.io, early, is_silent, is_undecided, began: self.began }
    }
}

/// Returns when the client's connection has to be closed to free memory for others.
async fn given_up(unfinished: &mut Option<Share>) {
    match unfinished {
        Some(share) => share.given_up().await,
        None => pending().await,
    }
}

fn hung_up() -> Undecided {
    Undecided::Ended(io::ErrorKind::UnexpectedEof.into())
}

/// Reads the server's first bytes until they show whether they are HTTP. Empty: the server closed the connection.
async fn first_bytes(io: &mut Io) -> io::Result<Bytes> {
    let mut first = BytesMut::new();
    poll_fn(|cx| poll_some(io, &mut first, cx)).await?;
    while !first.is_empty() && bytes::server_speaks_http(&first).is_none() {
        match timeout(SPEAKS_WITHIN, poll_fn(|cx| poll_some(io, &mut first, cx))).await {
            Ok(Ok(more)) if more > 0 => {}
            _ended_or_silent => break,
        }
    }
    Ok(first.freeze())
}

/// Reads into a buffer on the stack, so that a connection that waits holds no buffer.
fn poll_some(io: &mut Io, into: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut room = [MaybeUninit::uninit(); CHUNK];
    let mut read = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    into.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_breaks_its_tls_session_is_counted_as_a_tls_error_and_not_as_closed() {
        let broken = Undecided::of(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError));
        assert_eq!(broken.outcome(), ConnectionOutcome::TlsError);
        assert_eq!(broken.to_string(), "TLS failed: cannot decrypt peer's message");
        let gone = Undecided::of(io::ErrorKind::UnexpectedEof.into());
        assert_eq!(gone.outcome(), ConnectionOutcome::Failed);
    }
}
