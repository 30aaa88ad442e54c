//! A client whose first bytes are read until they show what it speaks.

use std::future::{pending, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::bytes::BytesMut;
use pillion_model::listener::DownstreamLimits;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::bytes::{self, LooksLike, Reader};
use super::early::EarlyServer;
use super::{Detected, Found, Undecided, hello};
use crate::exchange::DialFailure;
use crate::worker::Worker;
use pillion_base::drain::Work;
use pillion_base::net::Io;
use pillion_base::unfinished::{Share, Side};

/// Bytes per read, 4 KiB: a first request or ClientHello is seldom longer.
const CHUNK: usize = 4096;

/// A client with the bytes that it has sent so far.
pub struct PeekedClient<'a> {
    pub(super) io: Io,
    worker: &'a Worker,
    /// When the detection began.
    since: Instant,
    /// What [`Io::received`] was then.
    received: u32,
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
    pub(super) unfinished: Option<Share>,
    /// The connection is set to end with a reset while the sidecar waits for it: its protocol is not known yet, and may
    /// have no framing that shows a cut.
    resets: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// Until no byte has come for this time.
    Silence(Duration),
    /// As long as an undecided connection may last.
    Whole,
}

pub(super) enum ClientRead {
    Bytes,
    /// The client has ended its direction; it may still read.
    End,
}

impl<'a> PeekedClient<'a> {
    /// `began`: when the client's first byte came, if it came before this call.
    pub fn new(io: Io, worker: &'a Worker, side: Side, began: Option<Instant>) -> Self {
        Self {
            received: io.received(),
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
    /// unlikely to be HTTP is carried without further delay, and is watched by [`Watched`](super::Watched).
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

    pub(super) const fn has_sent_nothing(&self) -> bool {
        self.began.is_none()
    }

    /// Reads until the client's bytes decide. `None`: they have not decided within `patience`.
    pub(super) async fn listen(
        &mut self,
        work: &Work,
        patience: Patience,
    ) -> Result<Option<Found>, Undecided> {
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
    pub(super) fn until(&self, patience: Patience) -> Instant {
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
    pub(super) async fn read(
        &mut self,
        work: &Work,
        until: Instant,
    ) -> Result<Option<ClientRead>, Undecided> {
        let (silent, is_first) = (self.has_sent_nothing(), self.seen.is_empty());
        self.account();
        let Self { io, seen, unfinished, since, received, resets, .. } = self;
        let some = poll_fn(|cx| {
            let read = poll_some(io, seen, cx);
            if read.is_pending() && !std::mem::replace(resets, true) {
                io.get_ref().reset_on_drop(); // only here, so that a client whose bytes are there costs no system call
            }
            read
        });
        let ended = tokio::select! { // a reader that is dropped has read nothing
            biased;
            () = given_up(unfinished) => return Err(Undecided::GivenUp),
            read = timeout_at(until, some) => read.map_err(|_elapsed| Ok(None)),
            () = work.dismissed(*since), if silent => Err(Err(Undecided::Drained)),
        };
        let read = match ended {
            Ok(read) => Ok(read),
            // a first request that came just now gets its answer: the runtime may not have seen its bytes yet
            Err(_) if silent && (io.received() != *received || io.has_come()) => {
                work.wake();
                let until = Instant::now() + self.worker.limits().header_timeout;
                timeout_at(until, poll_fn(|cx| poll_some(io, seen, cx))).await
            }
            Err(ended) => return ended,
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
    pub(super) async fn alone<D: EarlyServer>(
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
    pub(super) fn settled<D: EarlyServer>(
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

    pub(super) fn decided<D: EarlyServer>(
        mut self,
        found: Found,
        early: Option<Result<D, DialFailure>>,
    ) -> Detected<D> {
        let (is_silent, is_undecided) = (self.has_sent_nothing(), self.is_undecided);
        if self.resets {
            self.io.get_ref().end_on_drop(); // `tcp` sets opaque connections to end with a reset again
        }
        self.io.put_back(self.seen.freeze());
        Detected { found, io: self.io, early, is_silent, is_undecided, began: self.began }
    }
}

/// Returns when the client's connection has to be closed to free memory for others.
pub(super) async fn given_up(unfinished: &mut Option<Share>) {
    match unfinished {
        Some(share) => share.given_up().await,
        None => pending().await,
    }
}

fn hung_up() -> Undecided {
    Undecided::Ended(io::ErrorKind::UnexpectedEof.into())
}

/// Reads into a buffer on the stack, so that a connection that waits holds no buffer.
pub(super) fn poll_some(io: &mut Io, into: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut room = [MaybeUninit::uninit(); CHUNK];
    let mut read = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    into.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}
