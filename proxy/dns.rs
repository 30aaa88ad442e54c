//! The DNS proxy for the application. It answers queries for the names of services itself. All other queries go to the
//! configured name servers, whose answers are cached for as long as their records live.
//!
//! It runs on its own thread, so that many queries do not slow down the workers, and a scrape of the metrics port
//! delays no answer. It runs until the drain has ended. [`query`] reads messages, [`answer`] writes responses,
//! [`cache`] stores answers, [`upstream`] knows the name servers and [`forward`] asks them; [`server`] has the sockets.
//! Deliberately absent: a parser (hickory reads and writes messages), recursion, and search domains, which the client
//! applies.

mod answer;
mod cache;
mod forward;
mod query;
mod server;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use hickory_resolver::proto::op::Message;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use cache::{Cache, Key, lifetime};
use pillion_base::net::Network;
use pillion_sidecar::state::Store;
use pillion_telemetry::{DnsOutcome, Metrics};
pub(crate) use query::read_any_message;
use query::{Over, ReceivedQuery};
pub(crate) use server::{Command, DnsPort, run};
pub(crate) use upstream::{Upstream, refuse_loop, servers_in, system_servers};

/// Queries that wait for name servers at the same time; each holds a socket. Beyond this number the answer is SERVFAIL,
/// and clients try again.
const IN_FLIGHT: usize = 256;

/// The answer of a name server, or why there is none.
type Answered = Result<Arc<[u8]>, Arc<str>>;

type Asking = HashMap<(Key, Over), Arc<OnceCell<Answered>>>;

pub(crate) struct Dns {
    network: Network,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    /// `None`: there is no DNS proxy.
    upstream: Mutex<Option<Upstream>>,
    cache: Mutex<Cache>,
    /// Queries in progress. An equal query waits for the same answer.
    asking: Mutex<Asking>,
    room: Arc<Semaphore>,
    /// The places of connections over TCP.
    connections: Arc<Semaphore>,
}

/// The result of looking at a message, without waiting.
enum Look {
    Answer(Vec<u8>),
    /// The message is not a query and gets no answer.
    Nothing,
    Ask(Box<ReceivedQuery>, OwnedSemaphorePermit),
}

impl Dns {
    pub(crate) fn new(network: Network, store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        Self {
            network,
            store,
            metrics,
            upstream: Mutex::new(None),
            cache: Mutex::default(),
            asking: Mutex::default(),
            room: Arc::new(Semaphore::new(IN_FLIGHT)),
            connections: Arc::new(Semaphore::new(server::CONNECTIONS)),
        }
    }

    /// The number of queries that wait for name servers, and of connections over TCP that are open.
    pub(crate) fn under_way(&self) -> usize {
        let waiting = IN_FLIGHT - self.room.available_permits();
        waiting + server::CONNECTIONS - self.connections.available_permits()
    }

    /// Replaces the name servers. Cached answers of the former servers are dropped.
    pub(crate) fn use_upstream(&self, next: Option<Upstream>) {
        let mut upstream = self.upstream.lock();
        if upstream.as_ref().map(Upstream::servers) != next.as_ref().map(Upstream::servers) {
            self.cache.lock().clear();
        }
        *upstream = next;
    }

    /// The answer to a message, once it is known. `None`: the message gets no answer.
    async fn answer(&self, message: &[u8], over: Over) -> Option<Vec<u8>> {
        match self.look(message, over) {
            Look::Answer(answer) => Some(answer),
            Look::Nothing => None,
            Look::Ask(asked, permit) => {
                let answer = self.ask(&asked, message).await;
                drop(permit);
                Some(answer)
            }
        }
    }

    fn look(&self, message: &[u8], over: Over) -> Look {
        let asked = match ReceivedQuery::read(message, over) {
            Ok(asked) => asked,
            Err(None) => return Look::Nothing,
            Err(Some(refusal)) => return self.tell(DnsOutcome::Failed, refusal),
        };
        if let Some(known) = asked.name().and_then(|name| self.store.load().names.find(&name).cloned()) {
            let outcome = if known.is_virtual { DnsOutcome::Virtual } else { DnsOutcome::Own };
            return self.tell(outcome, answer::own(&asked, &known));
        }
        if let Some(kept) = self.kept(&asked) {
            return self.tell(DnsOutcome::Cached, kept);
        }
        match self.room.clone().try_acquire_owned() {
            Ok(permit) => Look::Ask(Box::new(asked), permit),
            Err(_) => self.tell(DnsOutcome::Failed, answer::failed(&asked, "too many queries at once")),
        }
    }

    fn tell(&self, outcome: DnsOutcome, answer: Vec<u8>) -> Look {
        self.metrics.dns_queries(outcome).inc();
        Look::Answer(answer)
    }

    fn kept(&self, asked: &ReceivedQuery) -> Option<Vec<u8>> {
        let key = asked.key()?;
        let (raw, age) = self.cache.lock().find(&key, Instant::now())?;
        answer::again(asked, &raw, age)
    }

    async fn ask(&self, asked: &ReceivedQuery, message: &[u8]) -> Vec<u8> {
        let (answered, is_first) = match asked.key() {
            Some(key) => Box::pin(self.ask_together(key, asked, message)).await,
            None => (self.ask_alone(asked, message).await, true),
        };
        let answer = match answered {
            Ok(raw) if is_first => answer::passed_on(asked, &raw),
            Ok(raw) => answer::again(asked, &raw, std::time::Duration::ZERO)
                .unwrap_or_else(|| answer::passed_on(asked, &raw)),
            Err(why) => {
                self.metrics.dns_queries(DnsOutcome::Failed).inc();
                return answer::failed(asked, &why);
            }
        };
        self.metrics.dns_queries(DnsOutcome::Forwarded).inc();
        answer
    }

    /// The answer, and whether this query was the one that was sent.
    async fn ask_together(&self, key: Key, asked: &ReceivedQuery, message: &[u8]) -> (Answered, bool) {
        let of = (key, asked.over);
        let cell = self.asking.lock().entry(of.clone()).or_default().clone();
        let mut is_first = false;
        let answered = cell.get_or_init(|| {
            is_first = true;
            self.ask_alone(asked, message)
        });
        let answered = answered.await.clone();
        if is_first {
            self.asking.lock().remove(&of);
            self.keep(of.0, &answered); // atomic: there is no await in between, and only one thread
        }
        (answered, is_first)
    }

    async fn ask_alone(&self, asked: &ReceivedQuery, message: &[u8]) -> Answered {
        let Some(servers) = self.servers() else { return Err("there is no DNS proxy any more".into()) };
        let answered = forward::ask(&self.network, &servers, asked, message).await;
        answered.map(Into::into).map_err(|why| {
            tracing::debug!(name = %asked.question.name(), %why, "no name server answers");
            why.into()
        })
    }

    /// The name servers. A file is read again if it has changed: laptops change networks, and containers get other name
    /// servers.
    fn servers(&self) -> Option<Arc<upstream::Servers>> {
        let mut upstream = self.upstream.lock();
        let upstream = upstream.as_mut()?;
        if upstream.look(Instant::now(), SystemTime::now()) {
            self.cache.lock().clear();
        }
        Some(upstream.servers().clone())
    }

    fn keep(&self, key: Key, answered: &Answered) {
        let Ok(raw) = answered else { return };
        let Some(lifetime) = Message::from_vec(raw).ok().and_then(|message| lifetime(&message)) else {
            return;
        };
        self.cache.lock().keep(key, raw.clone(), lifetime, Instant::now());
    }
}
