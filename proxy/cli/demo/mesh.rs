//! The demo's mesh: a CA, three replicas, a sidecar for each and one for the caller, all on loopback.
//!
//! The sidecars run on configuration texts like those of a user; only their certificates stay in memory.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use pillion_model::SpiffeId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::replica::Replica;
use super::schedule::{Period, ReplicaState, Schedule};
use crate::app::{App, Running};
use pillion_tls::identity::issue::Ca;

/// The last replica is the flaky one.
pub(crate) const REPLICAS: [&str; 3] = ["orders-1", "orders-2", "orders-3"];

/// A year, so that the certificates outlive every demo.
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);

const TRUST_DOMAIN: &str = "cluster.local";

/// The replicas end when this is dropped; the sidecars run until the process ends.
pub(crate) struct Mesh {
    /// The addresses of the caller's sidecar: this one and the next two.
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// The addresses of the replicas' sidecars, in the order of `REPLICAS`.
    pub(crate) replicas: Vec<SocketAddr>,
    /// The configurations of the sidecars: a title and the text of the file.
    pub(crate) configurations: Vec<(String, String)>,
    sidecars: Vec<Running>,
    state: watch::Receiver<ReplicaState>,
    _replicas: JoinSet<()>,
}

impl Mesh {
    /// Starts everything. The last replica follows `schedule`. Must be called on a runtime.
    ///
    /// # Errors
    /// There is no free port, thread or descriptor.
    pub(crate) fn start(schedule: Schedule) -> anyhow::Result<Self> {
        let mut building = Building::new()?;
        let [steady, too, flaky] = REPLICAS;
        building.replica(steady, std::iter::empty())?;
        building.replica(too, std::iter::empty())?;
        let state = building.replica(flaky, schedule)?;
        building.caller(state)
    }

    /// The current state of the flaky replica.
    pub(crate) fn state(&self) -> ReplicaState {
        *self.state.borrow()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.sidecars.iter().any(Running::is_broken)
    }
}

/// The parts of a mesh while it is built, from the replicas to the caller.
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

    /// Starts a replica and its sidecar. Returns the state of the replica.
    fn replica(
        &mut self,
        name: &'static str,
        periods: impl Iterator<Item = Period> + Send + 'static,
    ) -> anyhow::Result<watch::Receiver<ReplicaState>> {
        let replica = Replica::open(name).with_context(|| format!("{name} cannot listen"))?;
        let (address, state) = (replica.address(), replica.state());
        self.replicas.spawn(async move {
            let Err(error) = replica.live(periods).await; // it never ends without an error
            tracing::warn!(%error, name, "a replica of the demo could not open its port again");
        });
        let sidecar = self.sidecar(&format!("{name}'s sidecar"), "orders", inbound(address))?;
        self.endpoints.push(first(&sidecar.addresses().inbound)?);
        self.sidecars.push(sidecar);
        Ok(state)
    }

    fn caller(mut self, state: watch::Receiver<ReplicaState>) -> anyhow::Result<Mesh> {
        let sidecar = self.sidecar("the caller's sidecar", "web", outbound(&self.endpoints))?;
        let addresses = sidecar.addresses();
        let (outbound, admin, metrics) =
            (first(&addresses.outbound)?, first(&addresses.admin)?, first(&addresses.metrics)?);
        self.sidecars.push(sidecar);
        let Self { configurations, sidecars, replicas, endpoints, .. } = self;
        Ok(Mesh {
            outbound,
            admin,
            metrics,
            replicas: endpoints,
            configurations,
            sidecars,
            state,
            _replicas: replicas,
        })
    }

    /// Starts a sidecar like `pillion run -c FILE`, with credentials of the service account `account`.
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

/// Endpoints are chosen by requests in flight. The default, by latency, would avoid the flaky replica for half a minute
/// after its first failure, and the demo would show little.
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
    load_balancer: least_request         # the default would soon avoid the flaky replica
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
