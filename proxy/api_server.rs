//! Asks the API server of Kubernetes for EndpointSlices and Services, and keeps what is known of them.
//!
//! For each namespace there are two watches, whatever the number of its services: one of its EndpointSlices and one of its
//! Services. [`pillion_kubernetes`] decides what is asked and what the answers mean; [`watcher`] asks, over connections by
//! [`client`], and [`environment`] finds the server. Services whose endpoints may have changed are noted by name, so that
//! news have no queue, and are read when their turn comes ([`Known::next`]).
//!
//! Deliberately absent: the use of the endpoints (`app::kubernetes`), and writing to the API server.

mod client;
mod environment;
mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use pillion_kubernetes::merge::{Here, Merged, Wanted};
use pillion_kubernetes::namespace::Namespace;
use pillion_kubernetes::objects::Kind;
use pillion_model::cluster::KubernetesService;
use pillion_telemetry::{Metrics, WatchState};
use serde_json::{Value, json};
use tokio::sync::Notify;

pub(crate) use client::Client;
pub(crate) use environment::Environment;
pub(crate) use watcher::Watcher;

/// What is known of the services that are followed.
#[derive(Default)]
pub(crate) struct Known {
    state: Mutex<State>,
    /// Something was noted in `touched`.
    news: Notify,
}

#[derive(Default)]
struct State {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// The services by the clusters that have their endpoints.
    followed: BTreeMap<Arc<str>, KubernetesService>,
    /// The clusters whose endpoints may have changed.
    touched: BTreeSet<Arc<str>>,
    /// Where the sidecar runs.
    zone: Option<Arc<str>>,
    standings: BTreeMap<(Arc<str>, Kind), Standing>,
}

/// What a watcher does at present.
#[derive(Debug, Clone)]
struct Standing {
    state: WatchState,
    /// When the server was last heard, in Unix seconds.
    heard: Option<i64>,
    /// Why it waits.
    why: Option<Arc<str>>,
}

impl State {
    fn here(&self) -> Here<'_> {
        Here { zone: self.zone.as_deref() }
    }
}

impl Known {
    /// Follows these services from now on, each for the cluster of its name. Returns, for each namespace that is followed,
    /// whether services were added.
    pub(crate) fn follow<'a>(
        &self,
        services: impl Iterator<Item = (&'a str, &'a KubernetesService)>,
        here: Here<'_>,
    ) -> BTreeMap<Arc<str>, bool> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (before, has_moved) = (std::mem::take(&mut state.followed), state.here() != here);
        let mut added: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        for (cluster, service) in services {
            let namespace: Arc<str> = service.namespace.as_str().into();
            let is_new = state.namespaces.entry(namespace.clone()).or_default().follow(&service.name);
            *added.entry(namespace).or_default() |= is_new;
            if before.get(cluster) != Some(service) || has_moved {
                state.touched.insert(cluster.into());
            }
            state.followed.insert(cluster.into(), service.clone());
        }
        for service in before.values() {
            // after the new ones, so that what stays is not forgotten in between
            if let Some(namespace) = state.namespaces.get_mut(&*service.namespace) {
                namespace.forget(&service.name);
            }
        }
        state.zone = here.zone.map(Arc::from);
        state.namespaces.retain(|_, namespace| !namespace.is_unused());
        state.standings.retain(|(namespace, _), _| state.namespaces.contains_key(namespace));
        self.news.notify_one();
        added
    }

    /// The next cluster whose endpoints may have changed, with these. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> (Arc<str>, Merged) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.news.notified().await;
        }
    }

    /// Waits until everything has been listed, or asked for in vain.
    pub(crate) async fn settled(&self) {
        while !self.state.lock().namespaces.values().all(Namespace::is_settled) {
            self.news.notified().await;
        }
        self.news.notify_one(); // for `next`
    }

    /// A cluster whose endpoints may have changed, if there is one.
    pub(crate) fn take(&self) -> Option<(Arc<str>, Merged)> {
        let mut state = self.state.lock();
        while let Some(cluster) = state.touched.pop_first() {
            let Some(KubernetesService { name, namespace, port, dialled }) = state.followed.get(&cluster)
            else {
                continue;
            };
            let (wanted, said) = (Wanted { port: *port, dialled: *dialled }, format!("{name}.{namespace}"));
            let of = state.namespaces.get(&**namespace);
            let merged = of.and_then(|of| of.endpoints(name, &said, wanted, state.here()));
            if let Some(merged) = merged {
                return Some((cluster, merged));
            }
        }
        None
    }

    /// Changes what is known of a namespace, and notes the clusters of the services that it names.
    fn change(&self, namespace: &str, change: impl FnOnce(&mut Namespace) -> Touched) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(of) = state.namespaces.get_mut(namespace) else { return };
        let touched = change(of);
        let is_touched = |service: &&KubernetesService| {
            *service.namespace == *namespace
                && match &touched {
                    Touched::All => true,
                    Touched::Services(names) => names.contains(&service.name),
                }
        };
        let clusters = state.followed.iter().filter(|(_, service)| is_touched(service));
        state.touched.extend(clusters.map(|(cluster, _)| cluster.clone()));
        self.news.notify_one();
    }

    /// The selector with which a watcher asks. `None`: the namespace is no longer followed.
    fn selector(&self, namespace: &str, kind: Kind) -> Option<Option<(&'static str, String)>> {
        self.state.lock().namespaces.get(namespace).map(|of| of.selector(kind))
    }

    /// Notes what a watcher does. `heard`: the server has just been heard, in Unix seconds.
    fn note(&self, of: &(Arc<str>, Kind), now: (WatchState, Option<Arc<str>>), heard: Option<i64>) {
        let mut state = self.state.lock();
        if state.namespaces.contains_key(&of.0) {
            let before = state.standings.get(of).and_then(|standing| standing.heard);
            let standing = Standing { state: now.0, heard: heard.or(before), why: now.1 };
            state.standings.insert(of.clone(), standing);
        }
    }

    /// Sets the gauges.
    pub(crate) fn tell(&self, metrics: &Metrics) {
        let state = self.state.lock();
        for of in WatchState::ALL {
            let watches = state.standings.values().filter(|standing| standing.state == *of).count();
            metrics.kubernetes_watches(*of).set(i64::try_from(watches).unwrap_or(i64::MAX));
        }
        let heard = state.standings.values().map(|standing| standing.heard.unwrap_or(0));
        metrics.set_kubernetes_heard(heard.min());
    }

    /// The state of the watches of a namespace, for the admin page. `now` is in Unix seconds.
    pub(crate) fn watches(&self, namespace: &str, now: i64) -> Value {
        let state = self.state.lock();
        let of = |kind: Kind| {
            let key: (Arc<str>, Kind) = (namespace.into(), kind);
            let standing = state.standings.get(&key)?;
            Some(json!({
                "state": standing.state.as_str(),
                "heard_s_ago": standing.heard.map(|heard| now.saturating_sub(heard).max(0)),
                "why": standing.why.as_deref(),
            }))
        };
        Kind::ALL.into_iter().map(|kind| (kind.resource().to_owned(), json!(of(kind)))).collect()
    }
}

/// The services whose endpoints may have changed.
enum Touched {
    All,
    Services(BTreeSet<String>),
}

impl Touched {
    const fn nothing() -> Self {
        Self::Services(BTreeSet::new())
    }
}
