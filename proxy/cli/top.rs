//! `pillion top`: what the dashboard shows, in a terminal.
//!
//! [`feed`] reads the events of the admin port, [`picture`] makes them fit for a terminal, [`state`] is what follows from
//! them and from the keys, [`view`] draws it, and [`screen`] owns the terminal.

mod feed;
mod history;
mod picture;
mod screen;
mod state;
mod view;
mod words;

use std::io::{IsTerminal as _, stdout};

use anyhow::{Context as _, ensure};
use clap::Args;
use tokio::sync::mpsc;

use super::admin::{AdminPort, USUAL};
use super::ending::asked_to_end;
use feed::Feed;
use screen::{Screen, follow_keys};
use state::State;
use view::Theme;

/// Events and keys that may wait. They are handled faster than they come.
const MOST_WAITING: usize = 8;

#[derive(Debug, Args)]
pub struct Top {
    /// The admin port of the sidecar, also through `kubectl port-forward`
    #[arg(long, value_name = "URL", default_value = USUAL)]
    admin: AdminPort,
}

impl Top {
    /// # Errors
    /// The sidecar cannot be asked at the start, or standard output is not a terminal.
    pub fn run(self) -> anyhow::Result<()> {
        ensure!(
            stdout().is_terminal(),
            "pillion top needs a terminal on standard output; for programs the admin port has {}/events",
            self.admin
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.show())
    }

    async fn show(self) -> anyhow::Result<()> {
        let feed = Feed::open(&self.admin).await?; // before the terminal is taken: a wrong address is an error
        let asked_to_end = asked_to_end()?;
        let theme = Theme { has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
        let (to, mut inputs) = mpsc::channel(MOST_WAITING);
        let mut screen = Screen::take()?;
        follow_keys(to.clone())?;
        let mut following = tokio::spawn(feed.follow(self.admin, to));
        let shown = async {
            let mut state = State::default();
            while !state.has_ended {
                screen.show(&mut state, theme)?;
                let Some(input) = inputs.recv().await else { break };
                state.apply(input);
            }
            anyhow::Ok(())
        };
        let ended = tokio::select! { // what was drawn is given back with the terminal
            () = asked_to_end => Ok(()),
            ended = shown => ended,
            ended = &mut following => ended.context("the events are read no more"),
        };
        following.abort();
        ended
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    /// An event of a sidecar that has run for so many seconds, with an application and two services.
    pub(super) fn event(uptime_s: u64) -> Value {
        let latency = |requests: u64, upper: f64| json!({ "buckets": [[upper / 2.0, 0], [upper, requests]], "sum": 1.0, "count": requests });
        let service = |name: &str, direction: &str, each: u64, failed: u64, upper: f64| {
            let requests = each * uptime_s;
            json!({
                "name": name, "direction": direction, "requests": requests, "failed": failed * uptime_s, "client_gone": 0,
                "failures": {}, "active": 1, "latency": latency(requests, upper), "retries": {}, "rejections": {},
                "ejections": 0, "endpoints": {}, "bytes": {},
            })
        };
        let mut orders = service("orders", "outbound", 20, 2, 0.2);
        orders["retries"] = json!({ "succeeded": 2, "budget": 7 });
        orders["rejections"] = json!({ "max_requests": 4 });
        orders["endpoints"] = json!({ "healthy": 1, "ejected": 1, "unhealthy": 1, "draining": 0 });
        let endpoint = |address: &str, state: &str| json!({ "address": address, "state": state, "ejected_for_ms": null, "health_check": null });
        let mut ejected = endpoint("10.0.0.2:80", "ejected");
        ejected["ejected_for_ms"] = (20_000 - uptime_s * 1000).into();
        let mut unhealthy = endpoint("10.0.0.3:80", "unhealthy");
        unhealthy["health_check"] =
            json!({ "passed": false, "failure": "no answer within 1 s", "ago_ms": 3 });
        let certificate = |use_: &str, subject: &str, not_before: &str, not_after: &str| json!({ "use": use_, "subject": subject, "not_before": not_before, "not_after": not_after });
        let (begins, ends) = ("2026-11-28T10:00:00Z", "2026-11-29T10:00:00Z");
        json!({
            "at_ms": 1_795_860_700_000_u64 + uptime_s * 1000, "started_ms": 1, "uptime_ms": uptime_s * 1000, "version": "0.1.0",
            "workload": { "name": "web", "namespace": "shop", "zone": "eu-1" },
            "services": [service("app", "inbound", 10, 0, 0.002), orders],
            "callers": [
                { "peer": "spiffe://cluster.local/ns/shop/sa/web", "requests": 10 * uptime_s, "failed": 0, "client_gone": 0 },
                { "peer": "", "requests": uptime_s, "failed": uptime_s, "client_gone": 0 },
            ],
            "connections_open": 12,
            "clusters": [{
                "name": "orders", "endpoints": [endpoint("10.0.0.1:80", "healthy"), ejected, unhealthy],
                "limits": { "max_requests": { "used": 10, "max": 10 }, "max_retries": { "used": 1, "max": "off" } },
            }],
            "certificates": {
                "identities": [{ "certificates": [
                    certificate("own", "", begins, ends),
                    certificate("intermediate", "CN=between", begins, ends),
                    certificate("trust_bundle", "CN=ca", begins, "2036-11-29T10:00:00Z"),
                ] }],
                "others": [{ "used_by": "services.api.tls", "certificates": [certificate("own", "", "2026-11-28T00:00:00Z", "2026-11-28T12:00:00Z")] }],
            },
            "failures": failures(&["call-7"]),
            "config": { "generation": 3, "last_refusal": null },
        })
    }

    /// Failures with these IDs, newest first.
    pub(super) fn failures(ids: &[&str]) -> Value {
        let one = |id: &&str| {
            json!({
                "id": id, "time": "2026-11-28T10:11:12.123456Z", "direction": "outbound", "service": "orders", "method": "GET",
                "path": "/v2", "status": 503, "reason": "no_endpoints", "duration_ms": 10.0, "attempts": 1,
                "detail": "no endpoint of \"orders\" is known",
                "stages": [{ "stage": "route", "at_ms": 0.0, "took_ms": 10.0, "outcome": "ok", "detail": "service orders" }],
            })
        };
        ids.iter().map(one).collect()
    }
}
