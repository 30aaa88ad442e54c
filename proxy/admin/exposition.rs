//! `/metrics`: expositions are written one after the other on a separate thread, and each is the response to all
//! requests that were waiting for it.
//!
//! Writing 20,000 series takes tens of milliseconds. On the admin thread a few dozen scrapers would delay `/live` for
//! seconds, and each unread exposition would take memory of its own. With `metrics.merge` the sources are scraped first,
//! all at once, and at most once a second.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use pillion_telemetry::merge::{Merged, Owners, written};
use pillion_telemetry::{Format, Metrics};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::sources::{Scraped, Sources, Told};

/// The pause after each exposition, as a multiple of the time that its writing took: clients that ask all the time get a
/// quarter of a core, and the data path keeps the rest.
const PAUSE: u32 = 3;
/// Between two scrapes of the sources: any host that reaches the metrics port can ask without a pause, and the application
/// must not work for that. Scrapers that ask within this time get the last answers.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// How long Prometheus waits by default.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least time that a client can ask for, so that none makes the sources late for the others.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// What Prometheus sends with each scrape: how long it waits.
const TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// Requests expositions.
#[derive(Clone)]
pub(super) struct Expositions(mpsc::Sender<Asker>);

/// A request that waits for an exposition.
struct Asker {
    format: Format,
    /// Until then the sources may take their time.
    until: Instant,
    to: oneshot::Sender<Bytes>,
}

/// Writes expositions.
pub(super) struct Writer {
    registry: Arc<Metrics>,
    sources: Sources,
    asked: mpsc::Receiver<Asker>,
    /// The last answers of the sources, for [`LEAST_INTERVAL`] after they came.
    last: Option<(Instant, Arc<[Scraped]>)>,
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
    (Expositions(ask), Writer { registry, sources, asked, last: None, kept })
}

/// How long the client of a request waits.
pub(super) fn patience(headers: &HeaderMap) -> Duration {
    let said = headers.get(TIMEOUT).and_then(|said| said.to_str().ok()?.parse().ok());
    let said = said.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    said.map_or(PATIENCE, |said| said.clamp(LEAST_PATIENCE, PATIENCE))
}

impl Expositions {
    /// An exposition whose writing began after this call, for a client that waits so long. `None`: it could not be written.
    pub(super) async fn next(&self, format: Format, patience: Duration) -> Option<Bytes> {
        let (to, written) = oneshot::channel();
        let until = Instant::now() + patience * 4 / 5; // the rest is for the writing and the way
        self.0.send(Asker { format, until, to }).await.ok()?;
        written.await.ok()
    }
}

impl Writer {
    pub(super) async fn run(mut self) {
        while let Some(first) = self.first().await {
            let mut askers = vec![first];
            self.gather(&mut askers);
            let Some(until) = askers.iter().map(|asker| asker.until).max() else { continue };
            let scraped = self.scraped(until).await;
            self.gather(&mut askers); // those that came meanwhile share the answers
            sleep(self.write_for(scraped, askers).await * PAUSE).await;
        }
    }

    /// Waits for a request. Answers of the sources that are too old for it are dropped, because they take memory.
    async fn first(&mut self) -> Option<Asker> {
        if let Some((at, _)) = self.last {
            if let Ok(asker) = timeout_at(at + LEAST_INTERVAL, self.asked.recv()).await {
                return asker;
            }
            self.last = None;
        }
        self.asked.recv().await
    }

    /// Adds the requests that wait, and removes those whose clients have left.
    fn gather(&mut self, askers: &mut Vec<Asker>) {
        askers.extend(std::iter::from_fn(|| self.asked.try_recv().ok()));
        askers.retain(|asker| !asker.to.is_closed());
    }

    /// The last answers of the sources while they are fresh, otherwise new ones.
    async fn scraped(&mut self, until: Instant) -> Arc<[Scraped]> {
        if let Some((at, last)) = &self.last
            && at.elapsed() < LEAST_INTERVAL
        {
            return last.clone();
        }
        let most = until.saturating_duration_since(Instant::now());
        let scraped: Arc<[Scraped]> = self.sources.scrape(most).await.into();
        self.last = (!scraped.is_empty()).then(|| (Instant::now(), scraped.clone()));
        scraped
    }

    /// Returns how long the writing took.
    async fn write_for(&mut self, scraped: Arc<[Scraped]>, askers: Vec<Asker>) -> Duration {
        if askers.is_empty() {
            return Duration::ZERO;
        }
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
    kept.told.tell(&merged.verdicts, std::time::Instant::now());
    let exemplar_of = |direction: &str, service: &str, bound| registry.exemplar(direction, service, bound);
    let in_format = |format| {
        let is_asked = askers.iter().any(|asker| asker.format == format);
        if is_asked { Bytes::from(written(&own, &merged, &exemplar_of, format)) } else { Bytes::new() }
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
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use http::HeaderValue;
    use pillion_base::net::Network;
    use pillion_base::net::memory::MemoryNetwork;
    use pillion_model::telemetry::{MergeSource, SourceUrl};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
                tokio::spawn(
                    async move { expositions.next(Format::Text, PATIENCE).await.expect("an exposition") },
                )
            })
            .collect();
        tokio::task::yield_now().await; // all of them have asked
        tokio::spawn(writer.run());
        for asked in asking {
            assert!(asked.await.expect("it was answered").starts_with(b"# HELP"));
        }
        assert_eq!(written.load(Relaxed), 1);
        expositions.next(Format::Text, PATIENCE).await.expect("an exposition");
        assert_eq!(written.load(Relaxed), 2, "a later request gets a later exposition");
    }

    #[tokio::test(start_paused = true)]
    async fn a2_no_exposition_is_written_for_clients_that_left() {
        let registry = Metrics::new(1_000);
        let written = counting(&registry);
        let (expositions, writer) = expositions(registry, no_sources(), 96);
        let asker = expositions.clone();
        let left = tokio::spawn(async move { asker.next(Format::Text, PATIENCE).await });
        tokio::task::yield_now().await;
        left.abort();
        assert!(left.await.is_err());
        tokio::spawn(writer.run());
        expositions.next(Format::Text, PATIENCE).await.expect("an exposition");
        assert_eq!(written.load(Relaxed), 1);
    }

    /// The sources of a sidecar that are at these addresses.
    fn sources(memory: &MemoryNetwork, addresses: &[SocketAddr], timeout: Duration) -> Sources {
        let source = |address: &SocketAddr| MergeSource {
            name: format!("p{}", address.port()),
            url: SourceUrl::new(&format!("http://{address}/")).expect("an address"),
            timeout,
        };
        let all: Vec<_> = addresses.iter().map(source).collect();
        Sources::new(&Network::Memory(memory.clone()), &all)
    }

    /// A source that answers each connection after a while; the number of connections that it got.
    fn source(memory: &MemoryNetwork, address: SocketAddr, after: Duration) -> Arc<AtomicUsize> {
        let mut listener = memory.bind(address).expect("a free address");
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok(connection) = listener.accept().await {
                let nth = counted.fetch_add(1, Relaxed) + 1;
                tokio::spawn(async move {
                    let (mut io, mut head) = (connection.io, [0; 4096]);
                    drop(io.read(&mut head).await);
                    sleep(after).await;
                    let body = format!("scraped {nth}\n");
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    drop(io.write_all(answer.as_bytes()).await);
                    drop(io.read(&mut head).await);
                });
            }
        });
        count
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_sources_are_scraped_once_a_second_however_often_the_sidecar_is() {
        let memory = MemoryNetwork::default();
        let count = source(&memory, address(1), Duration::ZERO);
        let sources = sources(&memory, &[address(1)], PATIENCE);
        let (expositions, writer) = expositions(Metrics::new(1_000), sources, 96);
        tokio::spawn(writer.run());
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2_500) {
            let text = expositions.next(Format::Text, PATIENCE).await.expect("an exposition");
            assert!(String::from_utf8_lossy(&text).contains("\nscraped "));
            sleep(Duration::from_millis(50)).await;
        }
        assert!((2..=3).contains(&count.load(Relaxed)), "{count:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_during_a_scrape_of_the_sources_share_it() {
        let memory = MemoryNetwork::default();
        let count = source(&memory, address(1), Duration::from_secs(3));
        let sources = sources(&memory, &[address(1)], Duration::from_secs(4));
        let (expositions, writer) = expositions(Metrics::new(1_000), sources, 96);
        tokio::spawn(writer.run());
        let began = Instant::now();
        let asking: Vec<_> = (0..3)
            .map(|nth| {
                let expositions = expositions.clone();
                tokio::spawn(async move {
                    sleep(Duration::from_secs(nth)).await;
                    expositions.next(Format::Text, PATIENCE).await.expect("an exposition")
                })
            })
            .collect();
        for asked in asking {
            asked.await.expect("it was answered");
        }
        assert_eq!(count.load(Relaxed), 1);
        assert!(began.elapsed() < Duration::from_millis(3_500), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_source_is_left_out_before_its_scraper_gives_up() {
        let memory = MemoryNetwork::default();
        for (port, after) in [(1, 1), (2, 60)] {
            source(&memory, address(port), Duration::from_secs(after));
        }
        let sources = sources(&memory, &[address(1), address(2)], Duration::from_secs(4));
        let (expositions, writer) = expositions(Metrics::new(1_000), sources, 96);
        tokio::spawn(writer.run());
        let began = Instant::now();
        let text = expositions.next(Format::Text, Duration::from_secs(2)).await.expect("an exposition");
        let text = String::from_utf8_lossy(&text);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        for line in ["scraped 1", "pillion_merge_up{source=\"p1\"} 1", "pillion_merge_up{source=\"p2\"} 0"] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_scraper_says_how_long_it_waits() {
        let said = |value: &'static str| {
            patience(
                &[(TIMEOUT.parse().expect("a name"), HeaderValue::from_static(value))].into_iter().collect(),
            )
        };
        for (value, milliseconds) in [
            ("2.5", 2_500),
            ("0.001", 1_000),
            ("1e30", 10_000),
            ("-1", 10_000),
            ("NaN", 10_000),
            ("soon", 10_000),
        ] {
            assert_eq!(said(value), Duration::from_millis(milliseconds), "{value}");
        }
        assert_eq!(patience(&HeaderMap::new()), PATIENCE);
    }
}
