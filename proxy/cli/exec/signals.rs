//! The signals that are passed on to the application.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use nix::sys::signal::Signal as Kind;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that are always passed on.
const ALWAYS: [Kind; 5] = [Kind::SIGTERM, Kind::SIGINT, Kind::SIGQUIT, Kind::SIGUSR2, Kind::SIGWINCH];
/// Those that mean something to a sidecar: a reload of its configuration, and a new file of its access log.
const OF_SIDECAR: [Kind; 2] = [Kind::SIGHUP, Kind::SIGUSR1];

pub(super) struct Signals {
    all: Vec<(Kind, Signal)>,
    /// Whether one has come that tells a process to end.
    has_asked: bool,
}

impl Signals {
    /// Catches the signals from now on. `has_sidecar`: this process is the sidecar, too.
    pub(super) fn catch(has_sidecar: bool) -> io::Result<Self> {
        let more = if has_sidecar { &[][..] } else { &OF_SIDECAR };
        let all = ALWAYS.iter().chain(more);
        let all = all.map(|kind| Ok((*kind, signal(SignalKind::from_raw(*kind as i32))?)));
        Ok(Self { all: all.collect::<io::Result<_>>()?, has_asked: false })
    }

    /// The next signal. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Kind {
        let kind = poll_fn(|cx| self.poll_next(cx)).await;
        self.has_asked |= matches!(kind, Kind::SIGTERM | Kind::SIGINT);
        kind
    }

    /// Waits for the signal that ends a drain at once: the second one that tells this process to end. An application that
    /// ended by itself has left none behind.
    pub(super) async fn second(&mut self) {
        if !self.has_asked {
            self.ending().await;
            tracing::info!("draining already; a second signal ends at once");
        }
        self.ending().await;
    }

    /// The next signal that asks a program to end.
    pub(super) async fn ending(&mut self) -> Kind {
        loop {
            let kind = self.next().await;
            if matches!(kind, Kind::SIGTERM | Kind::SIGINT | Kind::SIGQUIT) {
                return kind;
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Kind> {
        for (kind, signal) in &mut self.all {
            if let Poll::Ready(Some(())) = signal.poll_recv(cx) {
                return Poll::Ready(*kind);
            }
        }
        Poll::Pending
    }
}
