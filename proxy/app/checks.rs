//! Asks the endpoints of services whether they are well, as their `health_check` says.
//!
//! There is one checker for the whole process. It runs beside the data path, and opens a connection of its own for each
//! check, with the TLS of the service's traffic. What a check means is decided in `pillion_upstream::cluster::health`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_model::Reason;
use pillion_model::listener::Question;
use pillion_model::policy::HealthCheck;
use pillion_sidecar::state::Store;
use pillion_tls::Alpn;
use pillion_tls::admission::Admission;
use pillion_tls::client::Purpose;
use pillion_upstream::cluster::endpoint::Endpoint;
use pillion_upstream::cluster::health::{first_pause, pause};
use pillion_upstream::cluster::set::EndpointSet;
use pillion_upstream::cluster::{Cluster, ClusterProtocol};
use pillion_upstream::connect::{Connected, connect_uncounted};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::admin::{ProbeFailure, put};

/// How often is looked for endpoints that came or left: a new endpoint is checked within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Checks under way at once. Each holds a descriptor, and a handshake takes about a millisecond of the thread.
const AT_ONCE: usize = 64;
/// Checks of one service under way at once: endpoints that never answer must not hold up the checks of other services.
const AT_ONCE_OF_A_SERVICE: usize = 8;

pub(super) struct Checker {
    store: Arc<Store>,
    asking: Asking,
    followed: HashMap<Arc<str>, Followed>,
}

/// A cluster whose endpoints are checked, each by a task of its own.
struct Followed {
    cluster: Arc<Cluster>,
    set: Arc<EndpointSet>,
    places: Arc<Semaphore>,
    /// By the endpoint's identifier.
    tasks: HashMap<usize, Task>,
}

struct Task {
    endpoint: Arc<Endpoint>,
    handle: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Followed {
    /// Whether nothing has changed since.
    fn is(&self, cluster: &Arc<Cluster>) -> bool {
        Arc::ptr_eq(&self.cluster, cluster) && Arc::ptr_eq(&self.set, &cluster.endpoints())
    }
}

impl Checker {
    pub(super) fn new(store: Arc<Store>, ground: Arc<Ground>) -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        let asking = Asking { ground, of_service: places(AT_ONCE_OF_A_SERVICE), places: places(AT_ONCE) };
        Self { store, asking, followed: HashMap::new() }
    }

    /// To the end of the process.
    pub(super) async fn run(mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    /// Takes up the endpoints that are new, and lets go of those that left or are not checked any more.
    fn look(&mut self) {
        let snapshot = self.store.load_full();
        let mut before = std::mem::take(&mut self.followed);
        for cluster in snapshot.clusters().filter(|cluster| cluster.health_check().is_some()) {
            let followed = match before.remove(&cluster.name) {
                Some(same) if same.is(cluster) => same,
                other => self.follow(cluster, other),
            };
            self.followed.insert(cluster.name.clone(), followed);
        }
        // A check that was under way may have ended after the reload that turned checks off, and nobody would correct it.
        for Followed { set, tasks, .. } in before.into_values() {
            drop(tasks);
            set.all.iter().for_each(|endpoint| endpoint.forget_health());
        }
    }

    /// Endpoints that were checked by the same rule go on with their task.
    fn follow(&self, cluster: &Arc<Cluster>, before: Option<Followed>) -> Followed {
        let set = cluster.endpoints().clone();
        let same = before.filter(|before| Arc::ptr_eq(&before.cluster, cluster));
        let (places, mut known) = match same {
            Some(same) => (same.places, same.tasks),
            None => (Arc::new(Semaphore::new(AT_ONCE_OF_A_SERVICE)), HashMap::new()),
        };
        let task = |endpoint: &Arc<Endpoint>| match known.remove(&endpoint.id) {
            Some(task) if Arc::ptr_eq(&task.endpoint, endpoint) => (endpoint.id, task),
            _ => (endpoint.id, self.start(cluster, endpoint, &places)),
        };
        let tasks = set.all.iter().map(task).collect();
        Followed { cluster: cluster.clone(), set, places, tasks }
    }

    fn start(&self, cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>, of_service: &Arc<Semaphore>) -> Task {
        let asking = Asking { of_service: of_service.clone(), ..self.asking.clone() };
        let (cluster, checked) = (cluster.clone(), endpoint.clone());
        let handle = tokio::spawn(async move { asking.keep(&cluster, &checked).await }).abort_handle();
        Task { endpoint: endpoint.clone(), handle }
    }
}

/// What a check came to.
#[derive(Debug)]
enum Outcome {
    Passed,
    Failed(String),
    /// We could not ask: our own certificate or a descriptor is missing. This says nothing of the endpoint.
    NotAsked,
}

/// What every check is made with.
#[derive(Clone)]
struct Asking {
    ground: Arc<Ground>,
    of_service: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Asking {
    /// Checks one endpoint again and again, until the task is aborted.
    async fn keep(&self, cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>) {
        let Some(rule) = cluster.health_check() else { return };
        let is_new = endpoint.health().last.is_none();
        let first =
            if is_new { first_pause(rule.interval, self.dice()) } else { rule.interval.mul_f64(self.dice()) };
        sleep(first).await;
        loop {
            // boxed: most of the time the task waits, and then it holds little
            match Box::pin(self.check(cluster, endpoint, rule)).await {
                Outcome::NotAsked => {}
                Outcome::Passed => endpoint.checked(None, rule, cluster, now()),
                Outcome::Failed(why) => endpoint.checked(Some(why.into()), rule, cluster, now()),
            }
            sleep(pause(rule.interval, self.dice())).await;
        }
    }

    fn dice(&self) -> f64 {
        self.ground.rng.lock().f64()
    }

    async fn check(&self, cluster: &Cluster, endpoint: &Endpoint, rule: &HealthCheck) -> Outcome {
        let Ok(_place_of_service) = self.of_service.acquire().await else { return Outcome::NotAsked };
        let Ok(_place) = self.places.acquire().await else { return Outcome::NotAsked };
        match timeout(rule.timeout, self.ask(cluster, endpoint, &rule.asks)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Outcome::Failed(format!("no answer within {:?}", rule.timeout)),
        }
    }

    async fn ask(&self, cluster: &Cluster, endpoint: &Endpoint, asks: &Question) -> Outcome {
        let address = endpoint.address;
        let connected = connect_uncounted(cluster, address, &self.ground, purpose(cluster, asks)).await;
        let Connected { transport, alpn, admission } = match connected {
            Ok(connected) => connected,
            Err(error) if is_shortage_of_ours(&error) => return Outcome::NotAsked,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        match (asks, speaks_http2(cluster, asks, alpn)) {
            (Question::Tcp, _) if admission.is_some() => admitted(transport, admission.as_deref()).await,
            (Question::Grpc { .. }, false) => {
                Outcome::Failed(format!("{address} speaks HTTP/1.1, and gRPC needs HTTP/2"))
            }
            (_, over_http2) => judged(asks, put(transport, asks, address, &cluster.name, over_http2).await),
        }
    }
}

/// How long a check of TCP waits for a refusal: a server of TLS 1.3 judges our certificate when the handshake has already
/// ended for us. One that accepts it may say nothing.
const LONGEST_REFUSAL: Duration = Duration::from_millis(200);

/// Whether the server has accepted our certificate.
async fn admitted(mut transport: impl AsyncRead + Unpin, admission: Option<&Admission>) -> Outcome {
    let mut byte = [0];
    // What is read is of no interest: the connection was made for this check alone.
    drop(timeout(LONGEST_REFUSAL, transport.read(&mut byte)).await);
    match admission.and_then(Admission::failure) {
        Some(failure) => Outcome::Failed(format!("TLS failed: {}", failure.error)),
        None => Outcome::Passed,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

const fn purpose(cluster: &Cluster, asks: &Question) -> Purpose {
    match (asks, cluster.protocol) {
        (Question::Tcp, ClusterProtocol::Tcp) => Purpose::Tcp,
        _ => Purpose::Http,
    }
}

/// ALPN settles it; without, what is declared and what the question needs.
fn speaks_http2(cluster: &Cluster, asks: &Question, alpn: Option<Alpn>) -> bool {
    let is_grpc = matches!(asks, Question::Grpc { .. });
    alpn.map_or(is_grpc || cluster.protocol == ClusterProtocol::Http2, Alpn::is_http2)
}

fn is_shortage_of_ours(error: &Error) -> bool {
    error.is_our_fault || error.reason == Reason::Overloaded
}

/// Judges the answer to a check. HTTP passes with 2xx and 3xx, as in Kubernetes' probes.
fn judged(asks: &Question, answered: Result<http::StatusCode, ProbeFailure>) -> Outcome {
    match (asks, answered) {
        (_, Err(why)) => Outcome::Failed(why.to_string()),
        (Question::Http { path }, Ok(status)) if !(status.is_success() || status.is_redirection()) => {
            Outcome::Failed(format!("GET {path} was answered {status}"))
        }
        (_, Ok(_)) => Outcome::Passed,
    }
}
