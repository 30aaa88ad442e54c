//! `/server_info`: what this process is, since when it runs, and what it uses.

use std::time::SystemTime;

use pillion_base::net::Network;
use pillion_model::{SpiffeId, Workload};
use pillion_telemetry::metrics::REVISION;
use pillion_telemetry::process::{self, Usage};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::config::summary;
use super::console::{Console, Published};
use super::requests::moment;

/// When the process started. Ages are counted by the steady clock, because the wall clock may jump.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    pub(super) at: SystemTime,
    pub(super) instant: Instant,
}

impl Started {
    pub(super) fn now() -> Self {
        Self { at: SystemTime::now(), instant: Instant::now() }
    }
}

/// The workload that the configuration names, else that of the identity, which is returned, too.
pub(super) fn workload(published: &Published) -> (Workload, Option<SpiffeId>) {
    let own = published.credentials.first();
    let id: Option<SpiffeId> = own.and_then(|own| own["spiffe_id"].as_str()?.parse().ok());
    (published.config.workload.or_of(id.as_ref()), id)
}

/// The page. It reads files of `/proc`. `why_not` says why the sidecar is not ready.
pub(super) fn page(console: &Console, network: &Network, started: Started, why_not: Option<String>) -> Value {
    let usage = process::usage();
    let available = Some(network.host_memory()).filter(|bytes| *bytes < u64::MAX);
    written(console, started, Instant::now(), why_not, &usage, available)
}

/// `available`: how many bytes of memory the process may take.
fn written(
    console: &Console,
    started: Started,
    now: Instant,
    why_not: Option<String>,
    usage: &Usage,
    available: Option<u64>,
) -> Value {
    let published = console.published();
    let (workload, id) = workload(&published);
    let mut page = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "revision": REVISION,
        "architecture": std::env::consts::ARCH,
        "pid": std::process::id(),
        "started_at": moment(started.at),
        "uptime_s": now.saturating_duration_since(started.instant).as_secs(),
        "ready": why_not.is_none(),
        "not_ready_because": why_not,
        "workload": {
            "name": workload.name,
            "namespace": workload.namespace,
            "zone": workload.zone,
            "spiffe_id": id.as_ref().map(SpiffeId::as_str),
        },
        "memory": {
            "resident_bytes": usage.resident_bytes,
            "virtual_bytes": usage.virtual_bytes,
            "available_bytes": available,
        },
        "descriptors": { "open": usage.open_descriptors, "most": usage.max_descriptors },
        "threads": usage.threads,
        "cpu_s": usage.cpu_seconds,
    });
    if let (Some(page), Value::Object(rest)) =
        (page.as_object_mut(), summary(&published, console.store.load().generation))
    {
        page.extend(rest);
    }
    page
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use pillion_base::drain::Drain;
    use pillion_telemetry::Metrics;

    use super::*;

    #[test]
    fn the_page_says_who_this_is_since_when_and_what_it_uses() {
        let text = "workload: { zone: eu-1 }\n";
        let (config, _) = pillion_config::parse(text, std::path::Path::new("")).expect("a good file");
        let console = Console::new(
            crate::app::store(&config, &Metrics::new(100)),
            None,
            Arc::default(),
            Drain::default(),
        )
        .0;
        console.publish(Published {
            config: Arc::new(config),
            credentials: vec![json!({ "spiffe_id": "spiffe://cluster.local/ns/shop/sa/web" })],
            ..Published::default()
        });
        let started = Started { at: SystemTime::UNIX_EPOCH, instant: Instant::now() };
        let usage = Usage { resident_bytes: Some(7_000_000), open_descriptors: Some(12), ..Usage::default() };
        let later = started.instant + Duration::from_secs(90);
        let page = written(&console, started, later, Some("draining".to_owned()), &usage, Some(64 << 20));
        let expected = json!({
            "name": "web", "namespace": "shop", "zone": "eu-1", "spiffe_id": "spiffe://cluster.local/ns/shop/sa/web",
        });
        assert_eq!((&page["workload"], &page["uptime_s"]), (&expected, &json!(90)));
        assert_eq!((&page["ready"], &page["not_ready_because"]), (&json!(false), &json!("draining")));
        assert_eq!(
            page["memory"],
            json!({ "resident_bytes": 7_000_000, "virtual_bytes": null, "available_bytes": 64 << 20 })
        );
        assert_eq!(page["descriptors"], json!({ "open": 12, "most": null }));
        assert_eq!((&page["started_at"], &page["generation"]), (&json!("1970-01-01T00:00:00Z"), &json!(1)));
        for key in ["version", "revision", "architecture", "pid", "last_refusal", "loaded_at", "file"] {
            assert!(page.get(key).is_some(), "{key}: {page:#}");
        }
    }
}
