//! `/metrics`: expositions are written one after the other on a separate thread, and each is the response to all
//! requests that were waiting for it.
//!
//! Writing 20,000 series takes tens of milliseconds. On the admin thread a few dozen scrapers would delay `/live` for
//! seconds, and each unread exposition would take memory of its own. With `metrics.merge` the sources are scraped first,
//! all at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pillion_telemetry::merge::{Merged, Owners, written};
use pillion_telemetry::{Format, Metrics};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::sources::{Scraped, Sources, Told};

/// The pause after each exposition, as a multiple of the time that its writing took: clients that ask all the time get a
/// quarter of a core, and the data path keeps the rest.
const PAUSE: u32 = 3;

/// Requests expositions.
#[derive(Clone)]
pub(super) struct Expositions(mpsc::Sender<Asker>);

/// A request that waits for an exposition.
struct Asker {
    format: Format,
    to: oneshot::Sender<Bytes>,
}

/// Writes expositions.
pub(super) struct Writer {
    registry: Arc<Metrics>,
    sources: Sources,
    asked: mpsc::Receiver<Asker>,
    kept: Kept,
}

/// What is kept from one exposition to the next.
struct Kept {
    told: Told,
    owners: Owners,
}

impl Kept {
    fn new(registry: &Metrics) -> Self {
        Self { told: Told::default(), owners: Owners::new(registry.has_istio()) }
    }
}

/// `most` is how many requests may wait at once.
pub(super) fn expositions(registry: Arc<Metrics>, sources: Sources, most: usize) -> (Expositions, Writer) {
    let (ask, asked) = mpsc::channel(most);
    let kept = Kept::new(&registry);
    (Expositions(ask), Writer { registry, sources, asked, kept })
}

impl Expositions {
    /// An exposition whose writing began after this call. `None`: it could not be written.
    pub(super) async fn next(&self, format: Format) -> Option<Bytes> {
        let (to, written) = oneshot::channel();
        self.0.send(Asker { format, to }).await.ok()?;
        written.await.ok()
    }
}

impl Writer {
    pub(super) async fn run(mut self) {
        while let Some(first) = self.asked.recv().await {
            let mut askers = vec![first];
            askers.extend(std::iter::from_fn(|| self.asked.try_recv().ok()));
            askers.retain(|asker| !asker.to.is_closed());
            if !askers.is_empty() {
                sleep(self.write_for(askers).await * PAUSE).await;
            }
        }
    }

    /// Returns how long the writing took, without the wait for sources.
    async fn write_for(&mut self, askers: Vec<Asker>) -> Duration {
        let scraped = self.sources.scrape().await;
        let (registry, began) = (self.registry.clone(), Instant::now());
        let kept = std::mem::replace(&mut self.kept, Kept::new(&registry));
        match tokio::task::spawn_blocking(move || write(&registry, &scraped, askers, kept)).await {
            Ok((kept, texts)) => {
                self.kept = kept;
                // a client that left does not need it
                texts.into_iter().for_each(|(asker, text)| drop(asker.send(text)));
            }
            Err(error) => tracing::error!(%error, "the metrics could not be written"),
        }
        began.elapsed()
    }
}

/// The exposition for each asker, in its format.
fn write(
    registry: &Metrics,
    scraped: &[Scraped],
    askers: Vec<Asker>,
    mut kept: Kept,
) -> (Kept, Vec<(oneshot::Sender<Bytes>, Bytes)>) {
    let own = registry.encode();
    let merged = Merged::of(&own, scraped.iter().map(Scraped::answer).collect(), &mut kept.owners);
    kept.told.tell(&merged.verdicts);
    let in_format = |format| {
        let is_asked = askers.iter().any(|asker| asker.format == format);
        if is_asked { Bytes::from(written(&own, &merged, format)) } else { Bytes::new() }
    };
    let [text, open] = Format::ALL.map(in_format);
    let of_format = |format| match format {
        Format::Text => text.clone(),
        Format::OpenMetrics => open.clone(),
    };
    let texts = askers.into_iter().map(|asker| (asker.to, of_format(asker.format))).collect();
    (kept, texts)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use pillion_base::net::Network;
    use pillion_base::net::memory::MemoryNetwork;

    use super::*;

    fn no_sources() -> Sources {
        Sources::new(&Network::Memory(MemoryNetwork::default()), &[])
    }

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
        let (expositions, writer) = expositions(registry, no_sources(), 96);
        let asking: Vec<_> = (0..70)
            .map(|_| {
                let expositions = expositions.clone();
                tokio::spawn(async move { expositions.next(Format::Text).await.expect("an exposition") })
            })
            .collect();
        tokio::task::yield_now().await; // all of them have asked
        tokio::spawn(writer.run());
        for asked in asking {
            assert!(asked.await.expect("it was answered").starts_with(b"# HELP"));
        }
        assert_eq!(written.load(Relaxed), 1);
        expositions.next(Format::Text).await.expect("an exposition");
        assert_eq!(written.load(Relaxed), 2, "a later request gets a later exposition");
    }

    #[tokio::test(start_paused = true)]
    async fn a2_no_exposition_is_written_for_clients_that_left() {
        let registry = Metrics::new(1_000);
        let written = counting(&registry);
        let (expositions, writer) = expositions(registry, no_sources(), 96);
        let asker = expositions.clone();
        let left = tokio::spawn(async move { asker.next(Format::Text).await });
        tokio::task::yield_now().await;
        left.abort();
        assert!(left.await.is_err());
        tokio::spawn(writer.run());
        expositions.next(Format::Text).await.expect("an exposition");
        assert_eq!(written.load(Relaxed), 1);
    }
}
