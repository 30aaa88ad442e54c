//! Scrapes the sources of `metrics.merge`, all at once, while a scraper of the sidecar waits.
//!
//! A source is a program that the operator named. It may be dead, slow or endless, so the bytes and the time of each scrape
//! are bounded, and whatever goes wrong is a sentence about this source alone.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pillion_base::net::{Leg, Network, Transport};
use pillion_model::telemetry::MergeSource;
use pillion_telemetry::merge::{Answer, Verdict};
use pillion_telemetry::{Format, Seldom};
use tokio::time::timeout;

use super::probe::bounded::{bounded, is_too_long};

/// 2 MiB of one source: 20,000 samples of 100 bytes.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// What is read of a source at most, with interim responses, heads and framing.
const MOST_READ: usize = MOST_BYTES + 256 * 1024;
const HEAD_BYTES: usize = 64 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("pillion/", env!("CARGO_PKG_VERSION")));
/// Text is preferred, because it is merged into text without a change.
const ACCEPTED: &str = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1";
/// Renamed families that are remembered, so that each is logged once.
const MOST_TOLD: usize = 1000;

/// The configured sources.
#[derive(Clone)]
pub(super) struct Sources {
    network: Network,
    all: Vec<Arc<MergeSource>>,
}

/// What one source answered.
pub(super) struct Scraped {
    source: Arc<MergeSource>,
    text: Result<(Vec<u8>, Format), String>,
}

/// Why a source could not be scraped.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    #[error("no whole answer within {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("the connection broke off: {error}{}", cause(error))]
    BrokeOff {
        #[source]
        error: hyper::Error,
    },
    #[error("the request cannot be written: {0}")]
    Unaskable(#[from] http::Error),
    #[error("it answered {0}, where 200 is expected")]
    Status(StatusCode),
    #[error("its answer is encoded (content-encoding), which was not asked for")]
    Encoded,
    #[error("its content-type is neither text/plain nor application/openmetrics-text")]
    Kind,
    #[error("its answer has more than {mib} MiB", mib = MOST_BYTES / 1024 / 1024)]
    TooLong,
}

impl From<hyper::Error> for ScrapeError {
    fn from(error: hyper::Error) -> Self {
        if is_too_long(&error) { Self::TooLong } else { Self::BrokeOff { error } }
    }
}

/// What hyper's errors do not say themselves.
fn cause(error: &hyper::Error) -> String {
    error.source().map(|cause| format!(": {cause}")).unwrap_or_default()
}

impl Sources {
    pub(super) fn new(network: &Network, all: &[MergeSource]) -> Self {
        Self { network: network.clone(), all: all.iter().cloned().map(Arc::new).collect() }
    }

    /// Takes as long as the slowest source, and at most as long as the longest timeout, and `most`.
    pub(super) async fn scrape(&self, most: Duration) -> Vec<Scraped> {
        let ask = |source: &Arc<MergeSource>| asked(self.network.clone(), source.clone(), most);
        let asked = self.all.iter().map(|source| (source, tokio::spawn(ask(source))));
        let asked: Vec<_> = asked.collect(); // all of them are under way now
        let mut scraped = Vec::with_capacity(asked.len());
        for (source, answer) in asked {
            let text = match answer.await {
                Ok(answer) => answer.map_err(|why| why.to_string()),
                Err(error) => Err(error.to_string()),
            };
            scraped.push(Scraped { source: source.clone(), text });
        }
        scraped
    }
}

impl Scraped {
    pub(super) fn answer(&self) -> Answer<'_> {
        let text = self.text.as_ref().map(|(text, format)| (text.as_slice(), *format));
        Answer { source: &self.source.name, text: text.map_err(Clone::clone) }
    }
}

async fn asked(
    network: Network,
    source: Arc<MergeSource>,
    most: Duration,
) -> Result<(Vec<u8>, Format), ScrapeError> {
    let most = source.timeout.min(most);
    let answered = async {
        let connected = network.connect(source.url.address, Leg::Inbound, None).await;
        let stream = Transport::plain(connected.map_err(ScrapeError::Unreachable)?);
        ask(stream, &source).await
    };
    timeout(most, answered).await.unwrap_or(Err(ScrapeError::Slow(most)))
}

async fn ask(stream: Transport, source: &MergeSource) -> Result<(Vec<u8>, Format), ScrapeError> {
    let question = Request::get(&source.url.path)
        .header(HOST, source.url.address.to_string())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, ACCEPTED)
        .header(CONNECTION, "close")
        .body(Full::<Bytes>::default())?;
    let io = TokioIo::new(bounded(stream, MOST_READ));
    let (mut send, conn) = http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(io).await?;
    let answer = async { read(send.send_request(question).await?).await };
    let (mut conn, mut answer) = (pin!(conn), pin!(answer));
    tokio::select! {
        biased;
        answer = &mut answer => answer, // the connection is dropped, and closed with that
        _ = &mut conn => answer.await, // the answer has what the connection had read
    }
}

async fn read(answer: Response<Incoming>) -> Result<(Vec<u8>, Format), ScrapeError> {
    if answer.status() != StatusCode::OK {
        return Err(ScrapeError::Status(answer.status()));
    }
    let headers = answer.headers();
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(ScrapeError::Encoded);
    }
    let kind = headers.get(CONTENT_TYPE).map_or(Ok(""), HeaderValue::to_str);
    let format = kind.ok().and_then(Format::of_source).ok_or(ScrapeError::Kind)?;
    let (mut body, mut text) = (answer.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if text.len() + data.len() > MOST_BYTES {
                return Err(ScrapeError::TooLong);
            }
            text.extend_from_slice(&data);
        }
    }
    Ok((text, format))
}

/// What the log has said about sources, so that it says each thing once.
#[derive(Default)]
pub(super) struct Told {
    problems: HashMap<String, Problem>,
    families: HashSet<(String, String)>,
}

/// What the log has said of one source last.
#[derive(Default)]
struct Problem {
    why: Option<String>,
    line: Seldom,
}

impl Problem {
    /// Whether the log must say that this is so now; a source that comes and goes has a line every ten seconds.
    fn is_news(&mut self, why: Option<&str>, now: Instant) -> bool {
        let is_news = self.why.as_deref() != why && self.line.due(now).is_some();
        if is_news {
            self.why = why.map(str::to_owned);
        }
        is_news
    }
}

impl Told {
    /// Logs what is new.
    pub(super) fn tell(&mut self, verdicts: &[Verdict<'_>], now: Instant) {
        for Verdict { source, problem, renamed, left_out } in verdicts {
            self.tell_problem(source, problem.as_deref(), now);
            for family in self.new_of(source, renamed) {
                tracing::warn!(
                    source,
                    family,
                    "a merged metric was renamed, because its name is taken: SOURCE_NAME"
                );
            }
            for family in self.new_of(source, left_out) {
                tracing::warn!(
                    source,
                    family,
                    "a merged metric is left out, because its name is taken, also after its source's name"
                );
            }
        }
    }

    /// Logs a problem when it begins or changes, and its end.
    fn tell_problem(&mut self, source: &str, problem: Option<&str>, now: Instant) {
        if !self.problems.entry(source.to_owned()).or_default().is_news(problem, now) {
            return;
        }
        match problem {
            Some(why) => tracing::warn!(source, why, "a source of merged metrics is left out"),
            None => tracing::info!(source, "a source of merged metrics is exported again"),
        }
    }

    fn new_of<'f>(&mut self, source: &str, families: &'f [String]) -> Vec<&'f str> {
        let mut fresh = Vec::new();
        for family in families {
            let key = (source.to_owned(), family.clone());
            if self.families.len() < MOST_TOLD && self.families.insert(key) {
                fresh.push(family.as_str());
            }
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use pillion_base::net::memory::MemoryNetwork;
    use pillion_model::telemetry::SourceUrl;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What is said of a source that sends this again and again.
    async fn why_not(piece: &'static str) -> String {
        let (memory, address) = (MemoryNetwork::default(), ([127, 0, 0, 1], 1).into());
        let mut listener = memory.bind(address).expect("a free address");
        tokio::spawn(async move {
            let mut io = listener.accept().await.expect("a connection").io;
            while !piece.is_empty() && io.write_all(piece.as_bytes()).await.is_ok() {}
        });
        let url = SourceUrl::new(&format!("http://{address}/")).expect("an address");
        let source = MergeSource { name: "app".to_owned(), url, timeout: Duration::from_secs(1) };
        let sources = Sources::new(&Network::Memory(memory), &[source]);
        let scraped = sources.scrape(Duration::from_secs(1)).await;
        scraped[0].text.clone().expect_err("it is left out")
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_answer_is_called_so_and_other_ends_have_their_cause() {
        assert_eq!(why_not("HTTP/1.1 100 Continue\r\n\r\n").await, "its answer has more than 2 MiB");
        let why = why_not("HTTP/3 nonsense").await;
        assert!(why.starts_with("the connection broke off: invalid HTTP version parsed"), "{why}");
    }

    #[test]
    fn a_source_that_comes_and_goes_has_a_line_every_ten_seconds() {
        let (mut problem, began) = (Problem::default(), Instant::now());
        let lines = (0..60).filter(|second| {
            let why = (second % 2 == 1).then_some("refused");
            problem.is_news(why, began + Duration::from_secs(*second))
        });
        assert!((2..=6).contains(&lines.count()));
        assert!(
            problem.is_news(Some("another"), began + Duration::from_secs(600)),
            "a change is told at once"
        );
        assert!(!problem.is_news(Some("another"), began + Duration::from_secs(700)), "and once");
    }
}
