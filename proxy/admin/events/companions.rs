//! The companions of the application in an event: shipped logs, synced files, and the caches of services.

use pillion_telemetry::companions::{Board, CompanionKind};
use pillion_telemetry::overview::{LogsOverview, Overview};
use pillion_upstream::cluster::Cluster;
use serde_json::{Value, json};

use super::super::companions;
use super::super::console::Console;

/// How many of each kind an event has.
const MOST: usize = 50;

/// What the dashboard shows of them. Each list is empty where the configuration has none.
pub(super) fn picture(console: &Console, board: &Board, overview: &Overview) -> Value {
    let [mut sinks, mut sync] = [Vec::new(), Vec::new()];
    board.each(|kind, name, state| {
        let of = companions::companion(kind.as_str(), name, state);
        match kind {
            CompanionKind::Logs => sinks.push(of),
            CompanionKind::Sync => sync.push(of),
        }
    });
    let snapshot = console.store.load();
    let mut caches: Vec<_> = snapshot.clusters().filter_map(|of| cache(of, overview)).collect();
    caches.sort_by(|one, other| one["service"].as_str().cmp(&other["service"].as_str()));
    let mut logs: Vec<_> = overview.logs.iter().map(shipped).collect();
    let [more_sinks, more_logs, more_sync, more_caches] =
        [&mut sinks, &mut logs, &mut sync, &mut caches].map(shorten);
    let left_out =
        json!({ "sinks": more_sinks, "logs": more_logs, "sync": more_sync, "caches": more_caches });
    json!({ "sinks": sinks, "logs": logs, "sync": sync, "caches": caches, "left_out": left_out })
}

/// Leaves out those beyond the bound. Returns how many.
fn shorten(list: &mut Vec<Value>) -> usize {
    let more = list.len().saturating_sub(MOST);
    list.truncate(MOST);
    more
}

fn shipped(of: &LogsOverview) -> Value {
    json!({
        "source": of.source,
        "sink": of.sink,
        "lag": of.lag,
        "delivered": of.delivered,
        "refused": of.refused,
    })
}

/// The cache of a service; `None`: it has none.
fn cache(of: &Cluster, overview: &Overview) -> Option<Value> {
    let mut cache = of.cache_picture()?;
    let counts = overview.caches.get(&*of.name).copied().unwrap_or_default();
    cache["service"] = json!(*of.name);
    cache["requests"] = counts.requests.into();
    cache["hits"] = counts.hits.into();
    Some(cache)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;
    use std::sync::Arc;

    use pillion_base::drain::Drain;
    use pillion_telemetry::Metrics;

    use super::*;

    fn shown(file: &str, registry: &Arc<Metrics>) -> Value {
        let (config, _) = pillion_config::parse(file, Path::new("")).expect("a good file");
        let console =
            Console::new(crate::app::store(&config, registry), None, Arc::default(), Drain::default()).0;
        picture(&console, registry.companions(), &registry.overview())
    }

    #[tokio::test]
    async fn without_companions_the_lists_are_empty() {
        let file = "inbound: off\nservices:\n  orders: { endpoints: [\"10.0.0.1:80\"] }\n";
        let none = json!({ "sinks": 0, "logs": 0, "sync": 0, "caches": 0 });
        let expected = json!({ "sinks": [], "logs": [], "sync": [], "caches": [], "left_out": none });
        assert_eq!(shown(file, &Metrics::new(1_000)), expected);
    }

    #[tokio::test]
    async fn each_companion_is_shown_with_its_state_and_figures() {
        let file =
            "inbound: off\nservices:\n  orders: { endpoints: [\"10.0.0.1:80\"], cache: { max: 1MiB } }\n";
        let registry = Metrics::new(1_000);
        let settings = registry.companions().register(CompanionKind::Sync, "settings", false);
        settings.note("version", "7");
        settings.down("connection refused");
        let loki = registry.companions().register(CompanionKind::Logs, "loki", false);
        loki.up();
        registry.logs_lag(registry.intern("app"), registry.intern("loki")).set(9);
        let shown = shown(file, &registry);
        let cache = json!({ "service": "orders", "bytes": 0, "max": 1 << 20, "entries": 0, "requests": 0, "hits": 0 });
        assert_eq!(shown["caches"], json!([cache]));
        let of = &shown["sync"][0];
        assert_eq!(
            (&of["name"], &of["version"], &of["problem"]),
            (&json!("settings"), &json!("7"), &json!("connection refused"))
        );
        assert_eq!((&shown["sinks"][0]["name"], &shown["sinks"][0]["up"]), (&json!("loki"), &json!(true)));
        let pair = json!({ "source": "app", "sink": "loki", "lag": 9, "delivered": 0, "refused": 0 });
        assert_eq!(shown["logs"], json!([pair]));
    }

    #[tokio::test]
    async fn an_event_has_a_bounded_number_of_each_kind_and_says_how_many_it_leaves_out() {
        let mut file = "inbound: off\nservices:\n".to_owned();
        for nth in 0..MOST + 3 {
            writeln!(file, "  s{nth}: {{ endpoints: [\"10.0.0.1:80\"], cache: {{}} }}")
                .expect("into a string");
        }
        let shown = shown(&file, &Metrics::new(1_000));
        let left_out = json!({ "sinks": 0, "logs": 0, "sync": 0, "caches": 3 });
        assert_eq!((shown["caches"].as_array().map(Vec::len), &shown["left_out"]), (Some(MOST), &left_out));
    }
}
