//! Sends batches to one sink, and reads what it says of them.

mod answer;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Response};
use http_body_util::Full;
use pillion_base::ground::Ground;
use pillion_base::net::Transport;
use pillion_companion::asking::{AGENT, AskError, Content, Kept, Server, connect_by};
use pillion_companion::pieces::in_pieces;
use pillion_model::Workload;
use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::TlsPolicy;
use pillion_model::logs::{Destination, Sink, SinkUrl, SyslogOver};
use pillion_model::tracing::HiddenText;
use pillion_tls::SetupError;
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_upstream::discovery::Resolver;
use tokio::time::{Instant, timeout_at};

use crate::encode::{Batch, Encoder, MongodbAnswer};
use stream::{Datagrams, Messages, Mongodb};

/// From the connection to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// 16 MiB: an answer of Elasticsearch has 30 bytes for each document, and 300 for one that it refuses.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// 1 KiB: what an answer of Elasticsearch or MongoDB may have for each document. It names reasons of some hundred bytes, and of up to
/// 600 where a queue of Elasticsearch is full.
const BYTES_OF_DOCUMENT: usize = 1024;
/// 64 KiB: an answer that has nothing for each document, or whose content only says what is wrong.
const FEW_BYTES: usize = 64 * 1024;
/// Servers close a connection that is idle for longer; five seconds is the shortest usual time.
const LONGEST_IDLE: Duration = Duration::from_secs(4);
/// After what time without a byte the kernel asks whether the server is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// A shorter word of a header's value, such as `Basic`, is not hidden by itself.
const SHORTEST_SECRET: usize = 8;

/// What a sink has made of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Taken,
    /// All but so many, which it does not name, for this reason.
    TakenBut(u64, String),
    /// What became of each record.
    Each(Vec<Fate>),
    /// It does not take this batch; perhaps it takes parts of it.
    Refused(String),
    /// Its answer is too long to be read. That for a part of the batch is shorter.
    Long(String),
    /// It has said nothing in time, perhaps because the batch is too much for it or for the way to it.
    Slow(String),
    /// It has taken nothing, and is to be asked again, after the time for which it asks.
    Failed(String, Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Taken,
    Again(String),
    /// It comes back however long that lasts.
    Busy(String),
    Refused(String),
}

impl Outcome {
    fn failed(why: impl ToString) -> Self {
        Self::Failed(why.to_string(), Duration::ZERO)
    }

    /// Whether it has taken a record.
    pub(crate) fn takes_any(&self) -> bool {
        match self {
            Self::Taken => true,
            Self::Each(fates) => fates.contains(&Fate::Taken),
            Self::TakenBut(..) | Self::Refused(_) | Self::Long(_) | Self::Slow(_) | Self::Failed(..) => false,
        }
    }

    fn unanswered(error: &AskError) -> Self {
        let why = error.to_string();
        if matches!(error, AskError::Slow) { Self::Slow(why) } else { Self::failed(why) }
    }

    fn broken(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Slow(AskError::Slow.to_string()),
            _ => Self::failed(error),
        }
    }

    fn map_reasons(self, change: &dyn Fn(String) -> String) -> Self {
        let fate = |fate| match fate {
            Fate::Taken => Fate::Taken,
            Fate::Again(why) => Fate::Again(change(why)),
            Fate::Busy(why) => Fate::Busy(change(why)),
            Fate::Refused(why) => Fate::Refused(change(why)),
        };
        match self {
            Self::Taken => Self::Taken,
            Self::TakenBut(count, why) => Self::TakenBut(count, change(why)),
            Self::Each(fates) => Self::Each(fates.into_iter().map(fate).collect()),
            Self::Refused(why) => Self::Refused(change(why)),
            Self::Long(why) => Self::Long(change(why)),
            Self::Slow(why) => Self::Slow(change(why)),
            Self::Failed(why, rest) => Self::Failed(change(why), rest),
        }
    }
}

/// A reason without the values of the configured headers, and without the words of which they are made: a sink may repeat what
/// it was sent.
fn without(headers: &[(String, HiddenText)], mut why: String) -> String {
    for (_, value) in headers {
        let words = value.0.split(' ').filter(|word| word.len() >= SHORTEST_SECRET);
        for secret in std::iter::once(value.0.as_str()).filter(|value| !value.is_empty()).chain(words) {
            if why.contains(secret) {
                why = why.replace(secret, "(hidden)");
            }
        }
    }
    why
}

/// The way to a sink.
pub(crate) struct Delivery {
    sink: Sink,
    encoder: Encoder,
    workload: Workload,
    /// A listener of the sidecar that leads to the sink's host.
    way: Option<SocketAddr>,
    /// The most bytes of an answer: it stands in the memory beside its batch.
    most_of_answer: usize,
    ground: Arc<Ground>,
    resolver: Resolver,
    open: Open,
}

/// The connection that is open.
enum Open {
    None,
    Http(Box<Kept>, Instant),
    Messages(Messages),
    Datagrams(Datagrams),
    Mongodb(Mongodb),
}

impl Delivery {
    pub(crate) fn new(
        sink: &Sink,
        encoder: Encoder,
        workload: &Workload,
        way: Option<SocketAddr>,
        most_of_answer: usize,
        ground: &Arc<Ground>,
    ) -> Self {
        Self {
            sink: sink.clone(),
            encoder,
            workload: workload.clone(),
            way,
            most_of_answer,
            ground: ground.clone(),
            resolver: Resolver::system(),
            open: Open::None,
        }
    }

    /// What is sent for a batch.
    pub(crate) fn body(&self, batch: &Batch) -> Bytes {
        self.encoder.body(batch, &self.workload)
    }

    /// Sends a batch.
    pub(crate) async fn send(&mut self, batch: &Batch, body: Bytes) -> Outcome {
        let until = Instant::now() + PATIENCE;
        let over = match &self.sink.to {
            Destination::Syslog { url } => Some(url.over),
            _ => None,
        };
        let outcome = match (&self.sink.to, over) {
            (_, Some(SyslogOver::Udp)) => self.datagrams(batch).await,
            (_, Some(SyslogOver::Tcp | SyslogOver::Tls)) => self.messages(&body, until).await,
            (Destination::Mongodb { .. }, _) => self.mongodb(&body, batch, until).await,
            _ => self.request(batch, body, until).await,
        };
        outcome.map_reasons(&|why| without(&self.sink.headers, why))
    }

    /// Whether the sink tells what it has taken: the kernel takes datagrams for anyone.
    pub(crate) fn is_answered(&self) -> bool {
        !matches!(&self.sink.to, Destination::Syslog { url } if url.over == SyslogOver::Udp)
    }

    /// Ends the connection that is open.
    pub(crate) async fn close(self) {
        if let Open::Messages(open) = self.open {
            open.close().await;
        }
    }

    async fn connect(&self, purpose: Purpose, until: Instant) -> Result<Transport, AskError> {
        let (is_tls, host, port) = self.sink.to.server();
        let connecting = async {
            if let Some(way) = self.way {
                let server = Server { is_tls: false, host: &way.ip().to_string(), port: way.port() };
                return connect_by((None, purpose), server, Some(KEEPALIVE), &self.ground, &self.resolver)
                    .await;
            }
            let tls = if is_tls { self.tls(host)? } else { None };
            let server = Server { is_tls, host, port };
            connect_by((tls.as_ref(), purpose), server, Some(KEEPALIVE), &self.ground, &self.resolver).await
        };
        timeout_at(until, connecting).await.unwrap_or(Err(AskError::Slow)).map(in_pieces)
    }

    /// Made anew for each connection, so that new authorities are used.
    fn tls(&self, host: &str) -> Result<Option<ClientTls>, SetupError> {
        let trust_bundle = self.sink.trust_bundle.clone();
        let simple = UpstreamTls::Simple { sni: None, trust_bundle, own: None };
        ClientTls::new(None, &simple, &TlsPolicy::default(), Some(host), AlpnOffer::Http1)
    }

    async fn request(&mut self, batch: &Batch, body: Bytes, until: Instant) -> Outcome {
        let kept = match std::mem::replace(&mut self.open, Open::None) {
            Open::Http(kept, used) if kept.is_open() && used.elapsed() < LONGEST_IDLE => Some(kept),
            _ => None,
        };
        if let Some(kept) = kept {
            // the server may have closed it meanwhile: then a new connection carries the same request
            match self.ask(kept, batch, body.clone(), until).await {
                Err(AskError::BrokeOff(_)) => {}
                asked => return asked.unwrap_or_else(|error| Outcome::unanswered(&error)),
            }
        }
        let asked = async {
            let transport = self.connect(Purpose::Http1, until).await?;
            self.ask(Box::new(Kept::new(transport).await?), batch, body, until).await
        };
        asked.await.unwrap_or_else(|error| Outcome::unanswered(&error))
    }

    async fn ask(
        &mut self,
        mut kept: Box<Kept>,
        batch: &Batch,
        body: Bytes,
        until: Instant,
    ) -> Result<Outcome, AskError> {
        let question = match self.question(body) {
            Ok(question) => question,
            Err(error) => return Ok(Outcome::failed(error)),
        };
        let most = match self.sink.to {
            Destination::Elasticsearch { .. } => room(batch.documents.len(), self.most_of_answer),
            _ => FEW_BYTES,
        };
        let answer = kept.ask(question, most, until).await?;
        if kept.is_open() {
            self.open = Open::Http(kept, Instant::now());
        }
        if let Some(outcome) = unreadable(&self.sink.to, &answer) {
            return Ok(outcome);
        }
        let content = answer.body().as_deref().unwrap_or_default();
        Ok(answer::judge(
            &self.sink.to,
            answer.status(),
            answer.headers(),
            content,
            batch.documents.len(),
            SystemTime::now(),
        ))
    }

    fn question(&self, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        const LINES: &str = "application/x-ndjson";
        let target = |url: &SinkUrl, signal: &str| (url.path_to(signal), url.authority());
        let ((path, authority), kind) = match &self.sink.to {
            Destination::Elasticsearch { url, .. } => {
                let (path, authority) = target(url, "/_bulk");
                // the parts of the answer that are read
                (
                    (
                        format!(
                            "{path}?filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.index"
                        ),
                        authority,
                    ),
                    LINES,
                )
            }
            Destination::Loki { url, .. } => (target(url, "/loki/api/v1/push"), "application/json"),
            Destination::Otlp { url } => (target(url, "/v1/logs"), "application/x-protobuf"),
            Destination::Http { url } => (target(url, ""), LINES),
            Destination::Syslog { .. } | Destination::Mongodb { .. } => Default::default(),
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let mut question =
            Request::post(path).header(HOST, authority).header(USER_AGENT, AGENT).header(CONTENT_TYPE, kind);
        for (name, value) in &self.sink.headers {
            question = question.header(name, &value.0);
        }
        question.body(Full::new(body))
    }

    async fn messages(&mut self, body: &[u8], until: Instant) -> Outcome {
        let open = match std::mem::replace(&mut self.open, Open::None) {
            Open::Messages(mut open) => open.is_open().await.then_some(open),
            _ => None,
        };
        let mut open = match open {
            Some(open) => open,
            None => match self.connect(Purpose::Tcp, until).await {
                Ok(transport) => Messages(transport),
                Err(error) => return Outcome::unanswered(&error),
            },
        };
        match open.send(body, until).await {
            Ok(()) => {
                self.open = Open::Messages(open);
                Outcome::Taken
            }
            Err(error) => Outcome::broken(&error),
        }
    }

    async fn datagrams(&mut self, batch: &Batch) -> Outcome {
        let (_, host, port) = self.sink.to.server();
        let open = match std::mem::replace(&mut self.open, Open::None) {
            Open::Datagrams(open) if !open.is_old() => Ok(open),
            _ => Datagrams::open(self.way, host, port, &self.resolver).await,
        };
        match open {
            Ok(mut open) => {
                let outcome = open.send(batch).await;
                self.open = Open::Datagrams(open);
                outcome
            }
            Err(why) => Outcome::failed(why),
        }
    }

    async fn mongodb(&mut self, body: &[u8], batch: &Batch, until: Instant) -> Outcome {
        let documents = batch.documents.len();
        let most = room(documents, self.most_of_answer);
        let open = match std::mem::replace(&mut self.open, Open::None) {
            Open::Mongodb(open) => Some(open),
            _ => None,
        };
        if let Some(mut open) = open
            && let Ok(answer) = open.ask(body, documents, most, until).await
        {
            return self.answered(open, answer, batch);
        }
        let mut open = match self.connect(Purpose::Tcp, until).await {
            Ok(transport) => Mongodb(transport),
            Err(error) => return Outcome::unanswered(&error),
        };
        match open.ask(body, documents, most, until).await {
            Ok(answer) => self.answered(open, answer, batch),
            Err(error) => Outcome::broken(&error),
        }
    }

    /// What an answer of MongoDB means, which may be too long to be read.
    fn answered(&mut self, open: Mongodb, answer: Option<MongodbAnswer>, batch: &Batch) -> Outcome {
        let Some(answer) = answer else { return Outcome::Long("its answer is too long".to_owned()) };
        self.open = Open::Mongodb(open);
        answer::of_mongodb(&answer, batch.documents.len())
    }
}

/// What an answer means of which the content cannot be read, where that would say which records are refused.
fn unreadable(to: &Destination, answer: &Response<Content>) -> Option<Outcome> {
    let says_which = matches!(to, Destination::Elasticsearch { .. } | Destination::Otlp { .. });
    let error = answer.body().as_ref().err().filter(|_| says_which && answer.status().is_success())?;
    Some(match error {
        AskError::TooLong(_) => Outcome::Long(error.to_string()),
        error => Outcome::unanswered(error),
    })
}

/// The most bytes of an answer that says what became of each of so many documents.
fn room(documents: usize, most: usize) -> usize {
    let needed = documents.saturating_mul(BYTES_OF_DOCUMENT).saturating_add(FEW_BYTES);
    needed.min(MOST_BYTES).min(most.max(FEW_BYTES))
}

#[cfg(test)]
mod tests {
    use pillion_model::logs::IndexName;

    use super::*;

    #[test]
    fn a_reason_has_no_value_of_a_header() {
        let headers = [("authorization".to_owned(), HiddenText("Bearer s3cr3t-token".to_owned()))];
        let fates = vec![Fate::Taken, Fate::Refused("no Bearer s3cr3t-token".to_owned())];
        let outcome = Outcome::Each(fates).map_reasons(&|why| without(&headers, why));
        assert_eq!(outcome, Outcome::Each(vec![Fate::Taken, Fate::Refused("no (hidden)".to_owned())]));
        assert_eq!(without(&headers, "bad token s3cr3t-token".to_owned()), "bad token (hidden)");
    }

    #[test]
    fn what_cannot_be_read_of_an_answer_counts_as_taken_only_where_it_says_nothing() {
        let url = SinkUrl::new("http://sink").unwrap();
        let hook = Destination::Http { url: url.clone() };
        let otlp = Destination::Otlp { url: url.clone() };
        let search = Destination::Elasticsearch { url, index: IndexName::new("app").unwrap() };
        let answer = |status: u16, content| Response::builder().status(status).body(content).unwrap();
        let long = || Err(AskError::TooLong(1024));
        let broken = || Err(AskError::SlowToConnect(([127, 0, 0, 1], 1).into()));
        for (to, answer, expected) in [
            (&search, answer(200, long()), "Long"),
            (&otlp, answer(200, long()), "Long"),
            (&search, answer(200, Err(AskError::Slow)), "Slow"),
            (&otlp, answer(200, Err(AskError::Slow)), "Slow"),
            (&otlp, answer(200, broken()), "Failed"),
            (&search, answer(500, long()), ""),
            (&otlp, answer(200, Ok(Vec::new())), ""),
            (&hook, answer(200, long()), ""),
        ] {
            let said = unreadable(to, &answer).map(|outcome| format!("{outcome:?}"));
            let said = said.as_deref().and_then(|said| said.split('(').next()).unwrap_or_default();
            assert_eq!(said, expected, "{to:?} {answer:?}");
        }
    }

    #[test]
    fn an_answer_has_room_for_each_document_within_the_memory() {
        assert_eq!(room(100, usize::MAX), FEW_BYTES + 100 * BYTES_OF_DOCUMENT);
        assert_eq!(room(usize::MAX, usize::MAX), MOST_BYTES);
        assert_eq!(room(10_000, 2 << 20), 2 << 20);
        assert_eq!(room(10_000, 16), FEW_BYTES);
    }
}
