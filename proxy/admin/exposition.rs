//! `/metrics`: expositions are written one after the other on a separate thread, and each is the response to all
//! requests that were waiting for it.
//!
//! Writing 20,000 series takes tens of milliseconds. On the admin thread a few dozen scrapers would delay `/live` for
//! seconds, and each unread exposition would take memory of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use pillion_telemetry::Metrics;

/// The pause after each exposition, as a multiple of the time that it took: clients that ask all the time get a quarter
/// of a core, and the data path keeps the rest.
const PAUSE: u32 = 3;

/// Requests expositions.
#[derive(Clone)]
pub(super) struct Expositions(mpsc::Sender<oneshot::Sender<Bytes>>);

/// Writes expositions.
pub(super) struct Writer {
    registry: Arc<Metrics>,
    asked: mpsc::Receiver<oneshot::Sender<Bytes>>,
}

/// `most` is how many requests may wait at once.
pub(super) fn expositions(registry: Arc<Metrics>, most: usize) -> (Expositions, Writer) {
    let (ask, asked) = mpsc::channel(most);
    (Expositions(ask), Writer { registry, asked })
}

impl Expositions {
    /// An exposition whose writing began after this call. `None`: it could not be written.
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

    /// Returns how long the writing took.
    async fn write_for(&self, askers: Vec<oneshot::Sender<Bytes>>) -> Duration {
        let (registry, began) = (self.registry.clone(), Instant::now());
        match tokio::task::spawn_blocking(move || registry.encode()).await {
            Ok(text) => {
                let text = Bytes::from(text);
                // a client that left does not need it
                askers.into_iter().for_each(|asker| drop(asker.send(text.clone())));
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

    /// Counts the expositions that were written: the hook adds one for each.
    fn counting(registry: &Arc<Metrics>) -> Arc<AtomicUsize> {
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        registry.on_collect(move || {
            count.fetch_add(1, Relaxed);
        });
        written
    }

    #[tokio::test(start_paused = true)]
    async fn a2_seventy_requests_at_once_share_one_exposition() {
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
        assert_eq!(written.load(Relaxed), 2, "a later request gets a later exposition");
    }

    #[tokio::test(start_paused = true)]
    async fn a2_no_exposition_is_written_for_clients_that_left() {
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
