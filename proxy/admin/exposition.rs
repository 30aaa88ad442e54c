//! `/metrics`: written on a thread of its own, one exposition after the other, each for everybody who waits for it.
//!
//! Writing 20,000 series takes tens of milliseconds. On the thread of the admin side a few dozen scrapers would keep
//! `/live` waiting for seconds, and each exposition that nobody reads would be held in memory by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use pillion_telemetry::Metrics;

/// A pause after each exposition, in terms of how long it took: strangers who ask again and again get a quarter of
/// a core, and the data path keeps the rest.
const PAUSE: u32 = 3;

/// Asks for expositions.
#[derive(Clone)]
pub(super) struct Expositions(mpsc::Sender<oneshot::Sender<Bytes>>);

/// Writes them.
pub(super) struct Writer {
    registry: Arc<Metrics>,
    asked: mpsc::Receiver<oneshot::Sender<Bytes>>,
}

/// `most`: who may wait at once.
pub(super) fn expositions(registry: Arc<Metrics>, most: usize) -> (Expositions, Writer) {
    let (ask, asked) = mpsc::channel(most);
    (Expositions(ask), Writer { registry, asked })
}

impl Expositions {
    /// An exposition that was begun after this was called. `None`: it could not be written.
    pub(super) async fn next(&self) -> Option<Bytes> {
        let (asker, written) = oneshot::channel();
        self.0.send(asker).await.ok()?;
        written.await.ok()
    }
}

impl Writer {
    pub(super) async fn run(mut self) {
        while let Some(first) = self.asked.recv().await {
            let mut askers = vec![first];
            askers.extend(std::iter::from_fn(|| self.asked.try_recv().ok()));
            askers.retain(|asker| !asker.is_closed());
            if !askers.is_empty() {
                sleep(self.write_for(askers).await * PAUSE).await;
            }
        }
    }

    /// Returns how long it took.
    async fn write_for(&self, askers: Vec<oneshot::Sender<Bytes>>) -> Duration {
        let (registry, began) = (self.registry.clone(), Instant::now());
        match tokio::task::spawn_blocking(move || registry.encode()).await {
            Ok(text) => {
                let text = Bytes::from(text);
                askers.into_iter().for_each(|asker| drop(asker.send(text.clone()))); // who left needs it no more
            }
            Err(error) => tracing::error!(%error, "the metrics could not be written"),
        }
        began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// How many expositions were written so far: each counts itself.
    fn counting(registry: &Arc<Metrics>) -> Arc<AtomicUsize> {
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        registry.on_collect(move || {
            count.fetch_add(1, Relaxed);
        });
        written
    }

    #[tokio::test(start_paused = true)]
    async fn a2_seventy_who_ask_at_once_share_one_exposition() {
        let registry = Metrics::new(1_000);
        let written = counting(&registry);
        let (expositions, writer) = expositions(registry, 96);
        let asking: Vec<_> = (0..70)
            .map(|_| {
                let expositions = expositions.clone();
                tokio::spawn(async move { expositions.next().await.expect("an exposition") })
            })
            .collect();
        tokio::task::yield_now().await; // all of them have asked
        tokio::spawn(writer.run());
        for asked in asking {
            assert!(asked.await.expect("it was answered").starts_with(b"# HELP"));
        }
        assert_eq!(written.load(Relaxed), 1);
        expositions.next().await.expect("an exposition");
        assert_eq!(written.load(Relaxed), 2, "a later asker gets a later one");
    }

    #[tokio::test(start_paused = true)]
    async fn a2_nothing_is_written_for_those_who_left() {
        let registry = Metrics::new(1_000);
        let written = counting(&registry);
        let (expositions, writer) = expositions(registry, 96);
        let asker = expositions.clone();
        let left = tokio::spawn(async move { asker.next().await });
        tokio::task::yield_now().await;
        left.abort();
        assert!(left.await.is_err());
        tokio::spawn(writer.run());
        expositions.next().await.expect("an exposition");
        assert_eq!(written.load(Relaxed), 1);
    }
}
