//! Connects the admin port to the task that runs the sidecar: that task publishes the state, and the port sends orders.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use pillion_base::drain::Drain;
use pillion_base::net::Network;
use pillion_config::Written;
use pillion_model::{Config, Direction};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::config;
use crate::api_server::Known;
use crate::explained::{self, BadQuestion, Query, Source};
use crate::listening::Listening;
use crate::preflight::{Certificate, Subject};
use pillion_sidecar::state::{Snapshot, Store};
use pillion_sidecar::taps::Taps;
use pillion_telemetry::Timelines;

/// The most orders that may wait; people give one at a time.
const MAX_WAITING_ORDERS: usize = 16;
/// The longest time from `POST /reload` to its response.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an explanation reads what a reload publishes, and the pause between. Between its swap and its publication, a
/// reload reads its file once more, which takes less than 100 ms.
const MOST_READS: usize = 10;
const UNTIL_PUBLISHED: Duration = Duration::from_millis(10);

/// An order to a running sidecar.
#[derive(Debug)]
pub(crate) enum Order {
    /// The answer is the result of the reload.
    Reload(oneshot::Sender<Result<String, String>>),
    /// Drain and end, as on SIGTERM.
    Drain,
    /// Drain and end without `drain.delay`.
    Quit,
}

pub(crate) struct Console {
    /// The state that the pages show.
    published: ArcSwap<Published>,
    orders: mpsc::Sender<Order>,
    /// The clusters with their current state.
    pub(super) store: Arc<Store>,
    /// `None`: `explain: off`.
    pub(super) timelines: Option<Timelines>,
    pub(super) taps: Arc<Taps>,
    pub(super) drain: Drain,
    /// What is known of services in Kubernetes.
    pub(crate) kubernetes: Arc<Known>,
}

/// What the pages show about the current configuration. It is replaced as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    /// When the configuration was applied.
    pub(crate) loaded_at: Option<SystemTime>,
    /// `None`: built-in defaults and flags.
    pub(crate) file: Option<PathBuf>,
    pub(crate) config: Arc<Config>,
    /// The text of the file, in which the origins of values are found.
    pub(crate) text: Option<Arc<str>>,
    /// Keys that the command line set over the file, with their flags.
    pub(crate) flags: Vec<(&'static str, &'static str)>,
    /// Why a later configuration was refused. `None` once a configuration was accepted.
    pub(crate) last_refusal: Option<Refusal>,
    /// Why later certificates were refused. `None` once certificates were accepted.
    pub(crate) certificates_refused: Option<Refusal>,
    /// The addresses on which the sidecar listens.
    pub(crate) listening: Vec<Listening>,
    /// The credentials as they describe themselves, without keys.
    pub(crate) credentials: Vec<Value>,
    /// The same for the checks: until when each is valid.
    pub(crate) certificates: Vec<Certificate>,
    /// The certificates that are used beside the identity, in the same form.
    pub(crate) other_certificates: Vec<Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) at: SystemTime,
    /// The whole message, as `pillion check` prints it.
    pub(crate) why: String,
}

/// Why an order was not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("{MAX_WAITING_ORDERS} orders are waiting already")]
    Full,
    #[error("this sidecar takes no orders (it is not run by `pillion run`, or it is ending)")]
    NotRunning,
    #[error("no answer within {} s; /config and the log show its result", RELOAD_TIMEOUT.as_secs())]
    TooLate,
    #[error("{0}")]
    Refused(String),
}

impl Published {
    /// The last refusal of a configuration or of certificates.
    pub(super) fn latest_refusal(&self) -> Option<&Refusal> {
        let all = self.last_refusal.iter().chain(&self.certificates_refused);
        all.max_by_key(|refusal| refusal.at)
    }
}

impl Console {
    /// The receiver gets the orders. After it is dropped, orders are refused.
    pub(crate) fn new(
        store: Arc<Store>,
        timelines: Option<Timelines>,
        taps: Arc<Taps>,
        drain: Drain,
    ) -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(MAX_WAITING_ORDERS);
        let (published, kubernetes) = (ArcSwap::default(), Arc::default());
        (Arc::new(Self { published, orders, store, timelines, taps, drain, kubernetes }), receiver)
    }

    /// Replaces what the pages show.
    pub(crate) fn publish(&self, published: Published) {
        self.published.store(Arc::new(published));
    }

    /// Changes a part of what the pages show. Only one caller may do this at a time.
    pub(crate) fn amend(&self, change: impl FnOnce(&mut Published)) {
        let mut published = Published::clone(&self.published.load());
        change(&mut published);
        self.publish(published);
    }

    /// A part of the configuration. It parses the text of the file, so only one caller may do this at a time, on a
    /// thread that may block.
    ///
    /// # Errors
    /// The service does not exist.
    pub(super) fn config(&self, asked: &config::Selection) -> Result<Value, config::NoSuchService> {
        config::page(&self.published(), self.store.load().generation, asked)
    }

    /// What would happen to a request. It parses the text of the file, as [`Self::config`] does.
    ///
    /// # Errors
    /// The question cannot be read.
    pub(super) fn explain(&self, query: &Query, now: Instant) -> Result<Value, BadQuestion> {
        self.explain_after(query, now, || std::thread::sleep(UNTIL_PUBLISHED))
    }

    /// `wait`: between two reads, where a reload is under way.
    fn explain_after(&self, query: &Query, now: Instant, wait: impl Fn()) -> Result<Value, BadQuestion> {
        let (published, snapshot) = self.pair(wait);
        let is_pair = Arc::ptr_eq(&published.config, &snapshot.config);
        let file = published.file.as_ref().map(|file| file.display().to_string());
        let written =
            file.as_deref().zip(published.text.as_deref()).map(|(name, text)| Written { name, text });
        let written = written.filter(|_| is_pair);
        let source = Source { config: &snapshot.config, written, flags: &published.flags, is_live: true };
        explained::answer(query, &snapshot, &source, now)
    }

    /// The current snapshot, and what is published of its configuration. A reload swaps the snapshot first and then
    /// publishes, so both are read again, after `wait`, if they are of two configurations. Gives up after
    /// [`MOST_READS`].
    fn pair(&self, wait: impl Fn()) -> (Arc<Published>, Arc<Snapshot>) {
        let read = || (self.published(), self.store.load_full());
        let mut pair = read();
        for _ in 1..MOST_READS {
            if Arc::ptr_eq(&pair.0.config, &pair.1.config) {
                break;
            }
            wait();
            pair = read();
        }
        pair
    }

    /// Called after every check of the files; does nothing if no refusal is shown.
    pub(crate) fn forget_refused_certificates(&self) {
        if self.published.load().certificates_refused.is_some() {
            self.amend(|published| published.certificates_refused = None);
        }
    }

    /// What a check looks at.
    pub(super) fn subject(&self, network: Network, why_not_ready: Option<String>) -> Subject {
        let published = self.published();
        let seen = |direction| self.store.redirected.has_seen(direction);
        Subject {
            network,
            snapshot: self.store.load_full(),
            listening: published.listening.clone(),
            certificates: published.certificates.clone(),
            why_not_ready,
            refusal: published.latest_refusal().map(|refusal| refusal.why.clone()),
            redirected: [Direction::Inbound, Direction::Outbound].map(seen),
        }
    }

    pub(super) fn certificates(&self) -> Value {
        let published = self.published();
        let refusal = published.certificates_refused.as_ref().map(config::refusal);
        json!({
            "identities": published.credentials,
            "others": published.other_certificates,
            "last_refusal": refusal,
        })
    }

    pub(super) fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// Gives an order that may end the process, which must not overtake the answer to whoever has asked: it is given when the
    /// task that answers has written and rests. Tasks of the admin thread run one at a time.
    pub(super) fn order_after_the_answer(&self, order: Order) -> Result<(), NotTaken> {
        let place = self.orders.clone().try_reserve_owned().map_err(not_taken)?;
        drop(tokio::spawn(async move { drop(place.send(order)) }));
        Ok(())
    }

    /// A sentence with the result of the reload.
    pub(super) async fn reload(&self) -> Result<String, NotTaken> {
        let (answer, answered) = oneshot::channel();
        self.orders.try_send(Order::Reload(answer)).map_err(not_taken)?;
        match tokio::time::timeout(RELOAD_TIMEOUT, answered).await {
            Ok(Ok(done)) => done.map_err(NotTaken::Refused),
            Ok(Err(_gone)) => Err(NotTaken::NotRunning),
            Err(_elapsed) => Err(NotTaken::TooLate),
        }
    }
}

fn not_taken<T>(error: mpsc::error::TrySendError<T>) -> NotTaken {
    match error {
        mpsc::error::TrySendError::Full(_) => NotTaken::Full,
        mpsc::error::TrySendError::Closed(_) => NotTaken::NotRunning,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pillion_telemetry::Metrics;

    use super::*;
    use crate::app::unserved_snapshot;

    fn file(route: &str) -> String {
        format!(
            "inbound: off\nservices: {{ orders: {{ endpoints: [\"127.0.0.1:80\"] }} }}\n\
             routes: [{{ name: {route}, hosts: [orders], timeout: 2s, to: orders }}]\n"
        )
    }

    fn snapshot(route: &str) -> Snapshot {
        let (config, _) = pillion_config::parse(&file(route), Path::new("")).expect("a good file");
        unserved_snapshot(&config)
    }

    fn publish(console: &Console, route: &str, config: &Arc<Config>) {
        let (file, text) = (Some("p.yaml".into()), Some(file(route).into()));
        console.publish(Published { config: config.clone(), file, text, ..Published::default() });
    }

    #[test]
    fn an_explanation_during_a_reload_has_names_and_places_of_one_configuration() {
        let store = crate::app::store(&Config::default(), &Metrics::new(0));
        let (console, _orders) = Console::new(store.clone(), None, Arc::default(), Drain::default());
        let (before, after) = (snapshot("before"), snapshot("after"));
        publish(&console, "before", &before.config);
        drop((store.swap(before), store.swap(after)));
        let config = store.load().config.clone();
        let query = Query { method: "GET".into(), url: "http://orders/".into(), ..Query::default() };
        let explain =
            |wait: &dyn Fn()| console.explain_after(&query, Instant::now(), wait).expect("a question");
        let found = explain(&|| ());
        assert_eq!(
            (&found["route"], &found["policies"]["timeout"]["value"]),
            (&json!("after"), &json!("2s"))
        );
        assert_eq!(found["policies"]["timeout"]["from"], "default", "the text is that of the former file");
        let found = explain(&|| publish(&console, "after", &config));
        assert_eq!(
            (&found["route"], &found["policies"]["timeout"]["from"]),
            (&json!("after"), &json!("p.yaml:3:51"))
        );
    }

    #[tokio::test]
    async fn an_order_to_end_is_given_after_the_task_that_answers_has_rested() {
        let store = crate::app::store(&Config::default(), &Metrics::new(0));
        let (console, mut orders) = Console::new(store, None, Arc::default(), Drain::default());
        console.order_after_the_answer(Order::Quit).expect("there is room");
        assert!(orders.try_recv().is_err(), "the answer is not written yet");
        assert!(matches!(orders.recv().await, Some(Order::Quit)));
        drop(orders);
        assert_eq!(console.order_after_the_answer(Order::Quit), Err(NotTaken::NotRunning));
    }
}
