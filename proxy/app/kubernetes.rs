//! The services whose endpoints are those of a Service of Kubernetes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pillion_base::ground::Ground;
use pillion_kubernetes::merge::{Here, Merged};
use pillion_kubernetes::objects::Kind;
use pillion_model::cluster::Discovery;
use pillion_model::endpoint::Problem;
use pillion_model::{Config, EndpointUpdate};
use pillion_upstream::cluster::update::EndpointSource;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::control::Controller;
use crate::api_server::{Client, Environment, Known, Watcher};

/// How long the start waits for the first lists.
const PATIENCE: Duration = Duration::from_secs(5);

/// The source of endpoints from Kubernetes. It asks nothing while no service needs it.
pub(crate) struct KubernetesSource {
    known: Arc<Known>,
    ground: Arc<Ground>,
    client: Arc<Client>,
    namespaces: BTreeMap<Arc<str>, Watched>,
    /// What was learnt last, so that what has not changed is no news.
    learnt: HashMap<Arc<str>, EndpointUpdate>,
    /// The services with more endpoints than are used, which the log has said.
    crowded: HashSet<Arc<str>>,
    /// What the log is to say of the last update.
    untold: Option<Line>,
    /// The node of the pod.
    node: Option<Arc<str>>,
}

/// The watchers of a namespace. Each is woken when other services are followed.
struct Watched([(Arc<Notify>, AbortHandle); 2]);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, task)| task.abort());
    }
}

impl KubernetesSource {
    pub(crate) fn new(known: Arc<Known>, ground: Arc<Ground>, environment: Environment) -> Self {
        let node = environment.node.as_deref().map(Arc::from);
        let client = Arc::new(Client::new(ground.clone(), environment));
        Self {
            known,
            ground,
            client,
            namespaces: BTreeMap::new(),
            learnt: HashMap::new(),
            crowded: HashSet::new(),
            untold: None,
            node,
        }
    }

    /// Waits for the first lists for a bounded time, because an API server that does not answer must not keep a sidecar from
    /// starting.
    pub(crate) async fn first(&mut self, controller: &Controller) {
        let settled = timeout(PATIENCE, self.known.settled()).await;
        drop(settled); // after a timeout, what is known is used as well
        while let Some((cluster, merged)) = self.known.take() {
            if let Some(update) = self.update(cluster, merged) {
                controller.learn(update);
                self.tell();
            }
        }
    }

    /// Logs the last update, which its cluster has learnt meanwhile.
    fn tell(&mut self) {
        if let Some(line) = self.untold.take() {
            line.write();
        }
    }

    fn watch(&self, namespace: &Arc<str>) -> Watched {
        let watchers = Kind::ALL.map(|kind| {
            let (waker, of) = (Arc::new(Notify::new()), (namespace.clone(), kind));
            let watcher =
                Watcher::new(of, self.node.clone(), self.known.clone(), self.client.clone(), waker.clone());
            (waker, tokio::spawn(watcher.run()).abort_handle())
        });
        Watched(watchers)
    }

    /// The update, if it is news.
    fn update(&mut self, cluster: Arc<str>, merged: Merged) -> Option<EndpointUpdate> {
        let Merged { endpoints, left_out, problem } = merged;
        let update = match problem {
            Some(why) => EndpointUpdate::none(cluster.clone(), Problem::None(why.into())),
            None => EndpointUpdate::known(cluster.clone(), endpoints),
        };
        if self.learnt.get(&cluster) == Some(&update) {
            return None;
        }
        let is_crowded = left_out > 0 && self.crowded.insert(cluster.clone());
        if left_out == 0 {
            self.crowded.remove(&cluster);
        }
        let left_out = if is_crowded { left_out } else { 0 };
        let (endpoints, problem) = (update.endpoints.len(), update.problem.clone());
        self.untold = Some(Line { service: cluster.clone(), endpoints, left_out, problem });
        self.learnt.insert(cluster, update.clone());
        Some(update)
    }
}

/// What the log says of an update when its cluster has learnt it, which is before the next one is asked for.
struct Line {
    service: Arc<str>,
    endpoints: usize,
    problem: Option<Problem>,
    /// The number of endpoints that are not used, unless the log has said so.
    left_out: usize,
}

impl Line {
    fn write(self) {
        let Self { service, endpoints, problem, left_out } = self;
        let service = &*service;
        match problem {
            Some(why) => tracing::warn!(service, why = why.text(), "the service has no endpoints"),
            None if left_out > 0 => {
                tracing::warn!(service, endpoints, left_out, "the service has more endpoints than are used");
            }
            None => tracing::info!(service, endpoints, "endpoints changed"),
        }
    }
}

impl EndpointSource for KubernetesSource {
    /// Must be called on a runtime.
    fn follow(&mut self, config: &Config) {
        let services = config.clusters.iter().filter_map(|cluster| {
            Some((cluster.name.as_str(), cluster.discovery.as_ref().and_then(Discovery::kubernetes)?))
        });
        let is_followed: HashMap<_, _> = services.clone().collect();
        self.learnt.retain(|cluster, _| is_followed.contains_key(&**cluster));
        self.crowded.retain(|cluster| is_followed.contains_key(&**cluster));
        let here = Here { zone: config.workload.zone.as_deref() };
        let wanted = self.known.follow(services, here);
        let mut before = std::mem::take(&mut self.namespaces);
        let had_any = !before.is_empty();
        for (namespace, has_new_services) in wanted {
            let watched = match before.remove(&namespace) {
                Some(watched) => {
                    if has_new_services {
                        watched.0.iter().for_each(|(waker, _)| waker.notify_one());
                    }
                    watched
                }
                None => self.watch(&namespace),
            };
            self.namespaces.insert(namespace, watched);
        }
        drop(before); // namespaces that are no longer followed
        if had_any {
            self.known.tell(&self.ground.metrics);
        }
    }

    async fn next(&mut self) -> Option<EndpointUpdate> {
        self.tell();
        loop {
            let (cluster, merged) = self.known.next().await;
            // nothing is awaited until the update is returned, so that none is lost
            if let Some(update) = self.update(cluster, merged) {
                return Some(update);
            }
        }
    }
}
