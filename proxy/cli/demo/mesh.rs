//! The demo's mesh: a CA, three replicas, a sidecar for each and one for the caller, all on loopback.
//!
//! The sidecars run on configuration text like a user's own; only their certificates stay in memory.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use pillion_model::SpiffeId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::replica::Replica;
use super::schedule::{Mood, Schedule, Spell};
use crate::app::{App, Running};
use pillion_tls::identity::issue::Ca;

/// The last one is the flaky one.
pub(crate) const REPLICAS: [&str; 3] = ["orders-1", "orders-2", "orders-3"];

/// A year: no demo outlives its certificates.
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);

const TRUST_DOMAIN: &str = "cluster.local";

/// Lives until it is dropped; its sidecars until the process ends.
pub(crate) struct Mesh {
    /// This and the two below are addresses of the caller's sidecar.
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// What the sidecars run on: a title, and the text of the file.
    pub(crate) configurations: Vec<(String, String)>,
    sidecars: Vec<Running>,
    mood: watch::Receiver<Mood>,
    _replicas: JoinSet<()>,
}

impl Mesh {
    /// Starts everything; the last replica lives by `schedule`. Must be called on a runtime.
    ///
    /// # Errors
    /// No free port, thread or descriptor.
    pub(crate) fn start(schedule: Schedule) -> anyhow::Result<Self> {
        let mut building = Building::new()?;
        let [steady, too, flaky] = REPLICAS;
        building.replica(steady, std::iter::empty())?;
        building.replica(too, std::iter::empty())?;
        let mood = building.replica(flaky, schedule)?;
        building.caller(mood)
    }

    /// The flaky replica's mood.
    pub(crate) fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.sidecars.iter().any(Running::is_broken)
    }
}

/// What there is of a mesh while it grows, from the replicas towards the caller.
struct Building {
    ca: Ca,
    endpoints: Vec<SocketAddr>,
    configurations: Vec<(String, String)>,
    sidecars: Vec<Running>,
    replicas: JoinSet<()>,
}

impl Building {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            ca: Ca::generate(TRUST_DOMAIN)?,
            endpoints: Vec::new(),
            configurations: Vec::new(),
            sidecars: Vec::new(),
            replicas: JoinSet::new(),
        })
    }

    /// A replica and the sidecar beside it; gives the replica's mood.
    fn replica(
        &mut self,
        name: &'static str,
        spells: impl Iterator<Item = Spell> + Send + 'static,
    ) -> anyhow::Result<watch::Receiver<Mood>> {
        let replica = Replica::open(name).with_context(|| format!("{name} cannot listen"))?;
        let (address, mood) = (replica.address(), replica.mood());
        self.replicas.spawn(async move {
            let Err(error) = replica.live(spells).await; // it ends no other way
            tracing::warn!(%error, name, "a replica of the demo could not open its port again");
        });
        let sidecar = self.sidecar(&format!("{name}'s sidecar"), "orders", inbound(address))?;
        self.endpoints.push(first(&sidecar.addresses().inbound)?);
        self.sidecars.push(sidecar);
        Ok(mood)
    }

    fn caller(mut self, mood: watch::Receiver<Mood>) -> anyhow::Result<Mesh> {
        let sidecar = self.sidecar("the caller's sidecar", "web", outbound(&self.endpoints))?;
        let addresses = sidecar.addresses();
        let (outbound, admin, metrics) =
            (first(&addresses.outbound)?, first(&addresses.admin)?, first(&addresses.metrics)?);
        self.sidecars.push(sidecar);
        let Self { configurations, sidecars, replicas, .. } = self;
        Ok(Mesh { outbound, admin, metrics, configurations, sidecars, mood, _replicas: replicas })
    }

    /// As `pillion run -c FILE` would start it, with credentials of the service account `account`.
    fn sidecar(&mut self, title: &str, account: &str, text: String) -> anyhow::Result<Running> {
        let id: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{account}").parse()?;
        let credentials = self.ca.issue(&id, &[], TTL)?.credentials()?;
        let (config, _warnings) =
            pillion_config::parse(&text, Path::new("")).map_err(|faults| anyhow!("{faults}"))?;
        self.configurations.push((title.to_owned(), text));
        let app = App::build_with(config, credentials).with_context(|| title.to_owned())?;
        let running = app.start()?;
        running.set_ready();
        Ok(running)
    }
}

fn first(addresses: &[SocketAddr]) -> anyhow::Result<SocketAddr> {
    addresses.first().copied().context("a sidecar of the demo does not listen")
}

fn inbound(app: SocketAddr) -> String {
    format!(
        "\
identity: {{ directory: certs }}          # here from the demo's own CA, in memory
inbound: {{ listen: 127.0.0.1:0, app: {app} }}
outbound: off
admin: {{ listen: 127.0.0.1:0 }}
metrics: {{ listen: 127.0.0.1:0 }}
workers: 1
"
    )
}

/// Balanced by requests in flight, where the default goes by latency: that would avoid the flaky replica for
/// half a minute after its first failure, and there would be little to see.
fn outbound(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "\
identity: {{ directory: certs }}          # here from the demo's own CA, in memory
inbound: off
outbound: {{ listen: 127.0.0.1:0 }}
services:
  orders:
    endpoints: [{}]
    tls: spiffe://{TRUST_DOMAIN}/ns/default/sa/orders
    load_balancer: least_request         # the default soon learns to avoid a flaky replica: too dull for a demo
    outlier_detection: {{ base_ejection: 500ms }}      # for the same reason; the default is 30s
admin: {{ listen: 127.0.0.1:0 }}
metrics: {{ listen: 127.0.0.1:0 }}
workers: 1
",
        endpoints.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecars_run_on_files_without_faults_or_warnings() {
        let on = |port| SocketAddr::from(([127, 0, 0, 1], port));
        for text in [inbound(on(1)), outbound(&[on(2), on(3), on(4)])] {
            let (_, warnings) = pillion_config::parse(&text, Path::new("")).expect("valid");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }
}
