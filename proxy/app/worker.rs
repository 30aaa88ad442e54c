//! The thread of one worker, with its listeners, which reloads open and close.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::listeners::{Use, WorkerPort};
use crate::listening;
use pillion_base::accept::Hold;
use pillion_base::ground::Shared;
use pillion_base::limits::Limit;
use pillion_base::net::Stream;
use pillion_model::Direction;
use pillion_sidecar::connection::Place;
use pillion_sidecar::inbound::Inbound;
use pillion_sidecar::outbound::Outbound;
use pillion_sidecar::serve::{Accepting, Serving};
use pillion_sidecar::worker::Worker;

/// A command of the controller to every worker. Connections in the backlog of a closing listener are accepted first.
pub(super) type Command = listening::Command<WorkerPort>;

/// The limits against which the accept loops count connections.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) inbound: Arc<Limit>,
    pub(super) outbound: Arc<Limit>,
    /// Clients that are told why they are refused.
    pub(super) told: Arc<Limit>,
    /// What is not admitted or not complete, and the memory for all.
    pub(super) shared: Shared,
}

/// Serves until the process ends.
pub(super) async fn run(worker: Arc<Worker>, connections: Connections, commands: mpsc::Receiver<Command>) {
    let open = |port, held| accept_on(port, &worker, &connections, held);
    listening::obey(commands, |port| port.id, open).await;
}

fn accept_on(port: WorkerPort, worker: &Arc<Worker>, connections: &Connections, held: Hold) {
    let direction = port.use_.load().direction();
    let (worker, use_, told) = (worker.clone(), port.use_, connections.told.clone());
    match (port.bound.listen(), direction) {
        (Err(error), _) => tracing::error!(%error, "a bound listener could not be used"),
        (Ok(listener), Direction::Inbound) => {
            let (connections, of) = (connections.inbound.clone(), worker.clone());
            let serve = Box::new(move |stream, from, place| serve_inbound(&of, &use_, stream, from, place));
            tokio::spawn(Accepting { worker, direction, connections, serve, told }.run(listener, held));
        }
        (Ok(listener), Direction::Outbound) => {
            let (connections, of) = (connections.outbound.clone(), worker.clone());
            let serve = Box::new(move |stream, from, place| serve_outbound(&of, &use_, stream, from, place));
            tokio::spawn(Accepting { worker, direction, connections, serve, told }.run(listener, held));
        }
    }
}

fn serve_inbound(
    worker: &Arc<Worker>,
    use_: &ArcSwap<Use>,
    stream: Stream,
    from: SocketAddr,
    place: Place,
) -> Serving {
    let port = match **use_.load() {
        Use::Inbound(port) => port,
        Use::Outbound | Use::Service(_) => None,
    };
    Inbound { worker: worker.clone(), port }.serve(stream, from, place)
}

fn serve_outbound(
    worker: &Arc<Worker>,
    use_: &ArcSwap<Use>,
    stream: Stream,
    from: SocketAddr,
    place: Place,
) -> Serving {
    let service = match &**use_.load() {
        Use::Service(name) => Some(name.clone()),
        Use::Inbound(_) | Use::Outbound => None,
    };
    Outbound { worker: worker.clone(), service }.serve(stream, from, place)
}
