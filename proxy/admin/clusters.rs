//! `/clusters`: the current state of each service and of its endpoints, or of the one service that the request names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pillion_model::Config;
use pillion_model::cluster::DnsRecords;
use serde_json::{Value, json};

use super::config::NoSuchService;
use super::console::{Console, Published};
use pillion_sidecar::state::Snapshot;
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
    at: Instant,
}

impl Moment {
    fn of(console: &Console, at: Instant) -> Self {
        Self { published: console.published(), snapshot: console.store.load_full(), at }
    }

    fn pictures<'a>(&self, clusters: impl IntoIterator<Item = &'a Arc<Cluster>>) -> Vec<Value> {
        let asked = asked_of_dns(&self.published.config);
        let picture = |cluster: &Arc<Cluster>| {
            let mut picture = cluster.picture(self.at);
            picture["endpoints_from"] = asked.get(&*cluster.name).map_or_else(
                || json!("static"),
                |records| json!({ (key(records)): records.to_string(), "problem": cluster.endpoints().said.problem.as_deref() }),
            );
            picture
        };
        clusters.into_iter().map(picture).collect()
    }
}

/// The services that discover their endpoints by DNS, each with the records that are looked up.
fn asked_of_dns(config: &Config) -> HashMap<&str, &DnsRecords> {
    let asked = config.clusters.iter().filter_map(|of| Some((of, of.discovery.as_ref()?)));
    asked.map(|(of, by)| (of.name.as_str(), &by.records)).collect()
}

/// The key of the configuration that names these records.
fn key(records: &DnsRecords) -> &'static str {
    match records {
        DnsRecords::Addresses { .. } => "dns",
        DnsRecords::Services { .. } => "srv",
    }
}
