//! What an undeclared connection speaks: by its first bytes, or because its server speaks first.
//!
//! Silence never decides. The destination is dialled early, where that is allowed, once the client has been silent
//! for [`Early::after`]: a server that speaks first settles it as opaque, and a client that turns out to speak HTTP
//! leaves the early connection unused. [`bytes`] and [`hello`] judge bytes and do nothing else.

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

use crate::exchange::DialFailure;
use crate::worker::Worker;
use bytes::{LooksLike, Reader};
use hello::Hello;
use pillion_base::drain::Work;
use pillion_base::error::Error;
use pillion_base::net::Io;
use pillion_base::unfinished::{Share, Side};
use pillion_model::{Direction, Reason};
use pillion_telemetry::{ConnectionOutcome, DetectionVerdict};
pub use watch::Watched;

/// A server that hangs up within this time after it was dialled early meant it; one that does so later was waiting
/// for a request, as HTTP servers do.
const REFUSES_WITHIN: Duration = Duration::from_secs(10);
/// A client that speaks first does so within this time: long for a busy machine, short for who waits for a server
/// that is not there.
const SPEAKS_WITHIN: Duration = Duration::from_secs(1);
/// Read at once; a first request or ClientHello seldom has more.
const CHUNK: usize = 4096;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// What it speaks, with what was learned on the way.
#[derive(Debug)]
pub enum Found {
    Http1,
    Http2,
    /// Names it offers, where its ClientHello could be read.
    Tls(Option<Hello>),
    Opaque,
}

impl Found {
    pub const fn is_http(&self) -> bool {
        matches!(self, Self::Http1 | Self::Http2)
    }

    /// How it is read where it must be HTTP: what is none is told so by HTTP/1.
    pub const fn version(&self) -> Version {
        match self {
            Self::Http2 => Version::Http2,
            _ => Version::Http1,
        }
    }

    /// Counts what the bytes of an undeclared connection were found to be, and tells whoever asked for it.
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
    /// With the bytes that were looked at.
    pub io: Io,
    /// The early connection, or why there is none: nobody dials once more at once.
    pub early: Option<Result<D, DialFailure>>,
    /// Neither end has said anything: that tells nothing of the destination.
    pub is_silent: bool,
    /// It is opaque for now, and its first line may still become HTTP: see [`Watched`].
    pub is_undecided: bool,
    /// When its first byte came, as far as it has.
    pub began: Option<Instant>,
}

impl<D> Detected<D> {
    /// Opaque by declaration: its bytes are not looked at.
    pub fn declared(io: Io, early: Option<D>) -> Self {
        let early = early.map(Ok);
        Self { found: Found::Opaque, io, early, is_silent: false, is_undecided: false, began: None }
    }

    /// HTTP as both sidecars have agreed before anything was said.
    pub fn agreed(io: Io, is_http2: bool) -> Self {
        let found = if is_http2 { Found::Http2 } else { Found::Http1 };
        Self { found, is_silent: true, ..Self::declared(io, None) }
    }

    /// Which server the client's TLS asks for.
    pub fn server_name(&self) -> Option<&str> {
        match &self.found {
            Found::Tls(Some(hello)) => hello.server_name.as_deref(),
            _ => None,
        }
    }

    /// Whether the destination speaks HTTP, if this connection tells.
    pub fn tells_http(&self) -> Option<bool> {
        (!self.is_silent).then_some(self.found.is_http())
    }
}

impl Detected<Nobody> {
    /// What was detected without an early connection, for who might have had one.
    pub fn alone<D>(self) -> Detected<D> {
        let Self { found, io, is_silent, is_undecided, began, .. } = self;
        Detected { found, io, early: None, is_silent, is_undecided, began }
    }
}

/// Why a connection ended undecided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// By the client, or by time.
    #[error("the client ended it, or time did: {0}")]
    Ended(io::Error),
    #[error("it takes nothing new any more, and the client has said nothing")]
    Drained,
    #[error("the client was silent, and there is no server that might speak first: {0}")]
    NoServer(DialFailure),
    #[error("the client was silent, and the server hung up as soon as it was dialled: {0}")]
    HungUp(DialFailure),
    #[error("beginnings that are not whole hold all the memory that they may, and this one is the oldest")]
    GivenUp,
}

impl Undecided {
    /// What it counts as among connections.
    pub fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Ended(error) if error.kind() == io::ErrorKind::TimedOut => ConnectionOutcome::Timeout,
            Self::Drained | Self::GivenUp => ConnectionOutcome::Refused,
            Self::Ended(_) | Self::NoServer(_) | Self::HungUp(_) => ConnectionOutcome::Failed,
        }
    }

    /// What is recorded of it, where a server was dialled for it in vain.
    pub fn failure(self) -> Option<DialFailure> {
        match self {
            Self::NoServer(failure) | Self::HungUp(failure) => Some(failure),
            Self::Ended(_) | Self::Drained | Self::GivenUp => None,
        }
    }
}

/// A destination that is dialled before the client has said what it speaks.
pub struct Early<F> {
    /// How long the client has to be silent first.
    pub after: Duration,
    /// Makes the dial when its time has come: it is the largest thing that an undecided connection might hold.
    pub dial: F,
    /// The last connection to this destination spoke HTTP: a server that hangs up only tired of waiting.
    pub expects_http: bool,
    /// The dial is done already, and is kept for a client that speaks no HTTP.
    pub is_at_hand: bool,
}

/// What an early dial brings.
pub trait EarlyServer: Unpin {
    fn io(&mut self) -> &mut Io;

    /// Why TLS with it failed after it was dialled.
    fn tls_failure(&self) -> Option<Error>;

    /// It could not be used, for this reason.
    fn failed(self, error: Error) -> DialFailure;
}

/// No early dial.
pub const NEVER: Option<Early<NoDial>> = None;

type NoDial = fn() -> Ready<Result<Nobody, DialFailure>>;

/// The server of [`NEVER`].
pub enum Nobody {}

impl EarlyServer for Nobody {
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

/// Waits until it shows what `client` speaks.
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
    // Most clients have sent their first bytes by now, or will before anybody is dialled.
    match client.listen(work, Patience::Silence(early.after)).await? {
        Some(found) if early.is_at_hand && !found.is_http() => {
            let dialled = (early.dial)().await;
            Ok(client.decided(found, Some(dialled)))
        }
        Some(found) => Ok(client.decided(found, None)),
        None => Box::pin(race(client, work, early)).await,
    }
}

/// Waits for a first byte, holding no buffer meanwhile.
pub async fn first_byte(io: Io, worker: &Worker, work: &Work) -> Result<Io, Undecided> {
    let mut client = PeekedClient::new(io, worker, Side::Strangers, None);
    match client.read(work, client.until(Patience::Whole)).await? {
        Some(Heard::Bytes) => Ok(client.decided::<Nobody>(Found::Opaque, None).io),
        Some(Heard::End) => Err(Undecided::Ended(io::ErrorKind::UnexpectedEof.into())),
        None => Err(Undecided::Ended(io::ErrorKind::TimedOut.into())),
    }
}

/// The client is silent, or slow: whoever speaks first, client or server, decides.
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
    let dialled = tokio::select! { // a dial that is dropped was for a server that speaks first, and HTTP is spoken
        found = client.listen(work, Patience::Whole) => match found? {
            Some(found) if found.is_http() => return Ok(client.decided(found, None)),
            found => {
                let dialled = tokio::select! { // a client that is given up needs no server
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
        Err(error) if !early.expects_http && client.said_nothing() => {
            return unserved(client, work, error).await;
        }
        Err(error) => return client.alone(work, Some(error)).await,
    };
    let since = Instant::now();
    let first = tokio::select! { // what either reader has read is kept with its stream
        found = client.listen(work, Patience::Whole) => return client.settled(found?, Some(Ok(server))),
        first = first_bytes(server.io()) => first,
    };
    let was_reset = first.is_err();
    let first = first.unwrap_or_default();
    // In TLS 1.3 a server refuses us when the handshake has ended for us: as if it could not be dialled.
    if let Some(error) = server.tls_failure().filter(|_| !early.expects_http && client.said_nothing()) {
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

/// There is no server. A client of HTTP that is only slow hears why from the HTTP side; another sees what a client
/// sees whose server refuses it.
async fn unserved<D: EarlyServer>(
    mut client: PeekedClient<'_>,
    work: &Work,
    why: DialFailure,
) -> Result<Detected<D>, Undecided> {
    let found = client.listen(work, Patience::Silence(SPEAKS_WITHIN)).await?;
    match found {
        _ if client.said_nothing() => Err(Undecided::NoServer(why)),
        Some(found) => Ok(client.decided(found, Some(Err(why)))),
        None => client.alone(work, Some(why)).await,
    }
}

/// The server hung up before anybody had said anything. Its client sees what one without a sidecar would see.
async fn hung_up_on<D: EarlyServer>(mut client: PeekedClient<'_>, server: D, was_reset: bool) -> Undecided {
    let (reason, detail) = match was_reset {
        true => (Reason::UpstreamReset, "the server reset the connection before anybody had said anything"),
        false => (Reason::UpstreamClosed, "the server ended the connection before anybody had said anything"),
    };
    if !was_reset && matches!(timeout(SPEAKS_WITHIN, client.io.shutdown()).await, Ok(Ok(()))) {
        client.io.get_ref().end_on_drop();
    }
    Undecided::HungUp(server.failed(Error::new(reason, detail)))
}

#[derive(Debug, PartialEq, Eq)]
enum SpeaksFirst {
    /// The first byte settles it.
    Opaque,
    /// It hung up as soon as it was dialled.
    Refuses,
    /// An HTTP server that said so, or tired of waiting for a request.
    Waited,
}

/// What the server's first bytes say; none: it hung up.
fn judge(first: &[u8], after: Duration, expects_http: bool) -> SpeaksFirst {
    match first {
        [] if expects_http || after > REFUSES_WITHIN => SpeaksFirst::Waited,
        [] => SpeaksFirst::Refuses,
        first if bytes::server_speaks_http(first) == Some(true) => SpeaksFirst::Waited,
        _ => SpeaksFirst::Opaque,
    }
}

/// A client as far as it has spoken.
pub struct PeekedClient<'a> {
    io: Io,
    worker: &'a Worker,
    /// Since when it is looked at.
    since: Instant,
    seen: BytesMut,
    /// By the limits of when its first bytes came.
    reader: Reader,
    is_said_to_be_opaque: bool,
    is_undecided: bool,
    /// All but TLS is opaque at its first byte.
    is_declared_opaque: bool,
    /// Its first byte came.
    began: Option<Instant>,
    side: Side,
    /// Some of its bytes came, and they do not decide.
    unfinished: Option<Share>,
    /// It is waited for, and whatever ends it meanwhile is a reset: nobody knows whether its bytes have framing that
    /// would show a cut.
    resets: bool,
}

#[derive(Clone, Copy)]
enum Patience {
    /// Until nothing has come for so long.
    Silence(Duration),
    /// As long as an undecided connection may last.
    Whole,
}

enum Heard {
    Bytes,
    /// The client has ended its direction; it may still want to hear.
    End,
}

impl<'a> PeekedClient<'a> {
    /// `began`: when its first byte came, if that was before.
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

    /// The peer says that its bytes are opaque. That is not for a peer to decide, but what is hardly HTTP is not made
    /// to wait until it cannot be: it is watched instead.
    pub fn said_to_be_opaque(self) -> Self {
        Self { is_said_to_be_opaque: true, ..self }
    }

    /// The application's bytes are declared opaque, so that only TLS of our own would be something else.
    pub fn declared_opaque(self) -> Self {
        Self { is_declared_opaque: true, ..self }
    }

    /// Not looked at.
    pub fn into_io(self) -> Io {
        self.io
    }

    const fn said_nothing(&self) -> bool {
        self.began.is_none()
    }

    /// Reads until the client's bytes decide. `None`: out of patience.
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
                Some(Heard::Bytes) => {}
                Some(Heard::End) => return Ok(Some(self.look_at_all())),
                None => return Ok(None),
            }
        }
    }

    /// By the limits of now. Whatever comes in between, from the first byte on there is one end.
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

    /// What it holds while it is waited for once more.
    fn account(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        let (worker, side) = (self.worker, self.side);
        let share = self.unfinished.get_or_insert_with(|| worker.ground.unfinished.begin(side));
        share.hold(self.seen.capacity().max(CHUNK));
    }

    /// `None`: nothing came `until` then.
    async fn read(&mut self, work: &Work, until: Instant) -> Result<Option<Heard>, Undecided> {
        let (silent, is_first) = (self.said_nothing(), self.seen.is_empty());
        self.account();
        let Self { io, seen, unfinished, since, resets, .. } = self;
        let some = poll_fn(|cx| {
            let read = poll_some(io, seen, cx);
            if read.is_pending() && !std::mem::replace(resets, true) {
                io.get_ref().reset_on_drop(); // not before: a client whose bytes are there costs no call to the kernel
            }
            read
        });
        let read = tokio::select! { // what a drained client had sent is not read: it hears that we are gone
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
            Ok(Err(error)) => Err(Undecided::Ended(error)),
            Ok(Ok(0)) => Ok(Some(Heard::End)),
            Ok(Ok(_)) => {
                if is_first {
                    self.reader = Reader::new(self.worker.limits().header_bytes as usize);
                    self.began.get_or_insert_with(Instant::now);
                }
                Ok(Some(Heard::Bytes))
            }
        }
    }

    /// Nobody was dialled, or nobody who would speak first. Where the dial has failed for a client that has begun to
    /// speak, it is not made once more for the rest of its first bytes; one who speaks later is dialled for anew.
    async fn alone<D: EarlyServer>(
        mut self,
        work: &Work,
        failed: Option<DialFailure>,
    ) -> Result<Detected<D>, Undecided> {
        let failed = failed.filter(|_| !self.said_nothing());
        let found = self.listen(work, Patience::Whole).await?;
        match found {
            Some(_) if self.said_nothing() => Err(hung_up()),
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

    /// The client has ended its direction.
    fn look_at_all(&mut self) -> Found {
        match self.reader.look_at_all(&self.seen) {
            LooksLike::Http1 => Found::Http1,
            _ => Found::Opaque,
        }
    }

    /// Out of patience with bytes that could still become TLS or HTTP. What begins like a request is HTTP's to refuse, and
    /// the rest is opaque: watched, where it is a piece of a line, so that nobody gets around the rules of HTTP by being
    /// slow. TLS needs no watching: no server reads HTTP in what begins with its first byte.
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
        let (is_silent, is_undecided) = (self.said_nothing(), self.is_undecided);
        if self.resets {
            self.io.get_ref().end_on_drop(); // what is opaque is a reset again where it goes on
        }
        self.io.put_back(self.seen.freeze());
        Detected { found, io: self.io, early, is_silent, is_undecided, began: self.began }
    }
}

/// Returns when a client has to make room for others.
async fn given_up(unfinished: &mut Option<Share>) {
    match unfinished {
        Some(share) => share.given_up().await,
        None => pending().await,
    }
}

fn hung_up() -> Undecided {
    Undecided::Ended(io::ErrorKind::UnexpectedEof.into())
}

/// What comes first, until it tells whether a server of HTTP said it; empty: the other end hung up.
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

/// Reads into a buffer on the stack: a connection that waits holds none.
fn poll_some(io: &mut Io, into: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut room = [MaybeUninit::uninit(); CHUNK];
    let mut read = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    into.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}
