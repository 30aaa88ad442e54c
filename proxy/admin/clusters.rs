//! `/clusters`: each service as it is at this moment, endpoint by endpoint.

use std::collections::HashMap;
use std::time::Instant;

use pillion_config::Setting;
use serde_json::{Value, json};

use super::console::Console;

pub(super) fn page(console: &Console, now: Instant) -> Value {
    let (told, snapshot) = (console.told(), console.store.load_full());
    let asked = asked_of_dns(&told.settings);
    let cluster = |cluster: &std::sync::Arc<crate::cluster::Cluster>| {
        let mut picture = cluster.picture(now);
        picture["endpoints_from"] = asked.get(&*cluster.name).map_or_else(
            || json!("static"),
            |name| json!({ "dns": name, "problem": cluster.unlearnt.as_deref() }),
        );
        picture
    };
    json!({ "generation": snapshot.generation, "clusters": snapshot.clusters().map(cluster).collect::<Vec<_>>() })
}

/// Which services learn their endpoints, and by which name.
fn asked_of_dns(settings: &[Setting]) -> HashMap<&str, &Value> {
    let asked = settings.iter().filter_map(|setting| {
        let service = setting.key.strip_prefix("services.")?.strip_suffix(".endpoints.dns")?;
        Some((service, &setting.value))
    });
    asked.collect()
}
