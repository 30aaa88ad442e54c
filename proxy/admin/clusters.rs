//! `/clusters`: the current state of each service and of its endpoints, or of the one service that the request names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pillion_model::Config;
use pillion_model::cluster::Discovery;
use pillion_model::endpoint::Problem;
use serde_json::{Value, json};

use super::config::NoSuchService;
use super::console::{Console, Published};
use crate::api_server::Known;
use pillion_sidecar::state::Snapshot;
use pillion_tls::identity::unix_now;
use pillion_upstream::cluster::Cluster;

/// Parses a query: `service=NAME`, or nothing for all services. The names of services need no decoding.
///
/// # Errors
/// Returns a sentence that says what to ask for instead.
pub(super) fn service_of(query: &str) -> Result<Option<String>, String> {
    match query.split_once('=') {
        Some(("service", name)) if !name.contains('&') => Ok(Some(name.to_owned())),
        None if query.is_empty() => Ok(None),
        _ => Err("the only parameter is service=NAME".to_owned()),
    }
}

/// The page for one service, or for all services if `service` is `None`.
pub(super) fn page(console: &Console, service: Option<&str>, now: Instant) -> Result<Value, NoSuchService> {
    let now = Moment::of(console, now);
    let mut clusters: Vec<_> =
        now.snapshot.clusters().filter(|cluster| service.is_none_or(|name| *cluster.name == *name)).collect();
    if let (Some(name), true) = (service, clusters.is_empty()) {
        return Err(NoSuchService(name.to_owned()));
    }
    clusters.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(json!({ "generation": now.snapshot.generation, "clusters": now.pictures(clusters) }))
}

/// The services with these names, in their order. Names that no service has are left out.
pub(super) fn named<'a>(console: &Console, names: impl Iterator<Item = &'a str>, now: Instant) -> Vec<Value> {
    let now = Moment::of(console, now);
    now.pictures(names.filter_map(|name| now.snapshot.services.get(name)).map(|route| &route.cluster))
}

/// What the pictures of all services are made of.
struct Moment {
    published: Arc<Published>,
    snapshot: Arc<Snapshot>,
    kubernetes: Arc<Known>,
    at: Instant,
    unix_now: i64,
}

impl Moment {
    fn of(console: &Console, at: Instant) -> Self {
        let (published, snapshot) = (console.published(), console.store.load_full());
        Self { published, snapshot, kubernetes: console.kubernetes.clone(), at, unix_now: unix_now() }
    }

    fn pictures<'a>(&self, clusters: impl IntoIterator<Item = &'a Arc<Cluster>>) -> Vec<Value> {
        let learnt = discovered(&self.published.config);
        let picture = |cluster: &Arc<Cluster>| {
            let mut picture = cluster.picture(self.at);
            picture["endpoints_from"] =
                learnt.get(&*cluster.name).map_or_else(|| json!("static"), |by| self.source(cluster, by));
            picture
        };
        clusters.into_iter().map(picture).collect()
    }

    /// Where the endpoints of a service come from, and how that source is.
    fn source(&self, cluster: &Cluster, by: &Discovery) -> Value {
        let endpoints = cluster.endpoints();
        let problem = endpoints.said.problem.as_ref().map(Problem::text);
        let mut source = json!({ (by.key()): by.to_string(), "problem": problem });
        if let Some(service) = by.kubernetes() {
            source["port"] = json!(service.dialled);
            source["watches"] = self.kubernetes.watches(&service.namespace, self.unix_now);
        }
        source
    }
}

/// The services that discover their endpoints, each with its source.
fn discovered(config: &Config) -> HashMap<&str, &Discovery> {
    let learnt = config.clusters.iter().filter_map(|of| Some((of, of.discovery.as_ref()?)));
    learnt.map(|(of, by)| (of.name.as_str(), by)).collect()
}
