//! `/clusters`: the current state of each service and of its endpoints.

use std::collections::HashMap;
use std::time::Instant;

use pillion_model::Config;
use serde_json::{Value, json};

use super::console::Console;

pub(super) fn page(console: &Console, now: Instant) -> Value {
    let (published, snapshot) = (console.published(), console.store.load_full());
    let asked = asked_of_dns(&published.config);
    let cluster = |cluster: &std::sync::Arc<pillion_upstream::cluster::Cluster>| {
        let mut picture = cluster.picture(now);
        picture["endpoints_from"] = asked.get(&*cluster.name).map_or_else(
            || json!("static"),
            |name| json!({ "dns": name, "problem": cluster.endpoints().said.problem.as_deref() }),
        );
        picture
    };
    let mut clusters: Vec<_> = snapshot.clusters().collect();
    clusters.sort_by(|one, other| one.name.cmp(&other.name));
    let pictures: Vec<Value> = clusters.into_iter().map(cluster).collect();
    json!({ "generation": snapshot.generation, "clusters": pictures })
}

/// The services that discover their endpoints by DNS, each with the name that is looked up.
fn asked_of_dns(config: &Config) -> HashMap<&str, String> {
    let asked = config.clusters.iter().filter_map(|of| Some((of, of.discovery.as_ref()?)));
    asked.map(|(of, by)| (of.name.as_str(), format!("{}:{}", by.name, by.port))).collect()
}
