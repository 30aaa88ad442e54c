//! One worker's thread: its listeners, which reloads open and close.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::listeners::{Port, Use};
use crate::listening;
use pillion_base::limits::Limit;
use pillion_base::net::Listener;
use pillion_base::strangers::Strangers;
use pillion_model::Direction;
use pillion_sidecar::inbound::Inbound;
use pillion_sidecar::outbound::Outbound;
use pillion_sidecar::serve::Accepting;
use pillion_sidecar::worker::Worker;

/// What the controller tells every worker. What waits in the backlog of a listener that closes is served first.
pub(super) type Command = listening::Command<Port>;

/// What accept loops of either side count against.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) inbound: Arc<Limit>,
    /// Those of inbound that were not admitted yet.
    pub(super) strangers: Arc<Strangers>,
    pub(super) outbound: Arc<Limit>,
}

/// Serves until the process ends.
pub(super) async fn run(worker: Arc<Worker>, connections: Connections, commands: mpsc::Receiver<Command>) {
    let open = |port, closed| accept_on(port, &worker, &connections, closed);
    listening::obey(commands, |port| port.id, open).await;
}

fn accept_on(port: Port, worker: &Arc<Worker>, connections: &Connections, closed: oneshot::Receiver<()>) {
    let direction = port.use_.load().direction();
    match (port.bound.listen(), direction) {
        (Err(error), _) => tracing::error!(%error, "a bound listener could not be used"),
        (Ok(listener), Direction::Inbound) => {
            accept_inbound(listener, worker, connections.inbound.clone(), port.use_, closed);
        }
        (Ok(listener), Direction::Outbound) => {
            accept_outbound(listener, worker, connections.outbound.clone(), port.use_, closed);
        }
    }
}

fn accept_inbound(
    listener: Listener,
    worker: &Arc<Worker>,
    connections: Arc<Limit>,
    use_: Arc<ArcSwap<Use>>,
    closed: oneshot::Receiver<()>,
) {
    let of = worker.clone();
    let accepting = Accepting {
        worker: worker.clone(),
        direction: Direction::Inbound,
        connections,
        serve: move |stream, from, permit| {
            let side = of.state.load().inbound.clone();
            let port = match **use_.load() {
                Use::Inbound(port) => port,
                Use::Outbound | Use::Service(_) => None,
            };
            let inbound = side.map(|side| Inbound { worker: of.clone(), side, port });
            async move {
                if let Some(inbound) = inbound {
                    inbound.serve(stream, from, permit).await;
                }
            }
        },
    };
    tokio::spawn(accepting.run(listener, closed));
}

fn accept_outbound(
    listener: Listener,
    worker: &Arc<Worker>,
    connections: Arc<Limit>,
    use_: Arc<ArcSwap<Use>>,
    closed: oneshot::Receiver<()>,
) {
    let of = worker.clone();
    let accepting = Accepting {
        worker: worker.clone(),
        direction: Direction::Outbound,
        connections,
        serve: move |stream, from, permit| {
            let service = match &**use_.load() {
                Use::Service(name) => Some(name.clone()),
                Use::Inbound(_) | Use::Outbound => None,
            };
            Outbound { worker: of.clone(), service }.serve(stream, from, permit)
        },
    };
    tokio::spawn(accepting.run(listener, closed));
}
