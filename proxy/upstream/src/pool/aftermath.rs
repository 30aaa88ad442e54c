//! Holds the place of a request on which the upstream still works and for which no client waits any more.
//!
//! The upstream may work on the request for some time, so the request keeps its place among `max_requests`: otherwise a
//! client that resets its requests could have any number of requests in the application at once. Over HTTP/1 the
//! upstream sees at once that no more bytes come; when it answers, it has finished. When it closes the connection without
//! an answer, and over HTTP/2, where the stream is reset at once, nothing tells when it has finished.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use pillion_base::limits::Permit;

/// How long an upstream may work on a request for which no client waits any more. Whole seconds in two bytes, because it
/// moves with each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    seconds: u16,
    /// Whether an upstream that has ended its connection without an answer may be at work: some servers (Node's) end it
    /// at once and let their handler work on. Said of the application alone: a service has other callers, too.
    works_after_end: bool,
}

impl Patience {
    /// The place is given back at once.
    pub const NONE: Self = Self { seconds: 0, works_after_end: false };
    /// As long as a request may take by default.
    const DEFAULT: Duration = Duration::from_secs(15);
    /// 5 minutes, even where the timeout is longer: a place that is held for hours would be lost to all other clients.
    const MOST: Duration = Duration::from_secs(300);
    /// Over HTTP/2, where most servers end what was reset, and no server tells: longer than most handlers that go on
    /// take, and short enough for the places of a client that resets many requests to come back.
    const RESET: Duration = Duration::from_secs(5);

    /// `timeout`: how long a request to the upstream may take, where this is configured.
    pub fn of(timeout: Option<Duration>) -> Self {
        let most = timeout.unwrap_or(Self::DEFAULT).min(Self::MOST);
        let seconds = most.as_secs() + u64::from(most.subsec_nanos() > 0);
        Self { seconds: u16::try_from(seconds).unwrap_or(u16::MAX), works_after_end: false }
    }

    /// For the application beside the sidecar.
    pub const fn of_application(self) -> Self {
        Self { works_after_end: true, ..self }
    }

    const fn time(self) -> Duration {
        Duration::from_secs(self.seconds as u64)
    }
}

/// Shuts an HTTP/1 connection down, and holds the permit until the upstream has finished.
pub(super) async fn close_gracefully<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: T,
    permit: Permit,
    patience: Patience,
) {
    let cut = Instant::now();
    let answer = async {
        io.shutdown().await?;
        io.read_u8().await
    };
    let answered = timeout(patience.time(), answer).await;
    if matches!(answered, Ok(Err(_))) && patience.works_after_end {
        sleep_until(cut + patience.time().min(Patience::RESET)).await;
    }
    drop(permit);
}

/// Holds the permit of a request whose stream was reset.
pub(super) fn outlast(permit: Permit, patience: Patience) {
    if let (true, Ok(runtime)) = (patience != Patience::NONE, Handle::try_current()) {
        runtime.spawn(async move {
            sleep(patience.time().min(Patience::RESET)).await;
            drop(permit);
        });
    }
}
