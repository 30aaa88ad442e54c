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

pub(super) struct Signals(Vec<(Kind, Signal)>);

impl Signals {
    /// Catches the signals from now on. `has_sidecar`: this process is the sidecar, too.
    pub(super) fn catch(has_sidecar: bool) -> io::Result<Self> {
        let more = if has_sidecar { &[][..] } else { &OF_SIDECAR };
        let all = ALWAYS.iter().chain(more);
        all.map(|kind| Ok((*kind, signal(SignalKind::from_raw(*kind as i32))?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The next signal. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Kind {
        poll_fn(|cx| self.poll_next(cx)).await
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
        for (kind, signal) in &mut self.0 {
            if let Poll::Ready(Some(())) = signal.poll_recv(cx) {
                return Poll::Ready(*kind);
            }
        }
        Poll::Pending
    }
}
