//! A real stack with one layer left out, which serves one connection.

use std::sync::Arc;

use crate::app;
use pillion_base::drain::Drain;
use pillion_base::ground::Ground;
use pillion_base::net::memory::Pipe;
use pillion_base::net::{Io, Network, Stream};
use pillion_model::Direction;
use pillion_sidecar::connection::{Connection, Destination, Place};
use pillion_sidecar::detect::Version;
use pillion_sidecar::http::{h1_server, server};
use pillion_sidecar::layers::Name;
use pillion_sidecar::state::{Arrival, DestinationKey};
use pillion_sidecar::worker::{Records, Worker};
use pillion_sidecar::{inbound, outbound};
use pillion_telemetry::{Held, Metrics, Protocol};

use super::mesh::{self, Mesh, at};
use super::peer::Peer;

pub(super) struct Bench {
    worker: Arc<Worker>,
    direction: Direction,
}

impl Bench {
    /// Like [`Mesh::caller`].
    pub(super) fn caller(mesh: &Mesh, orders: &str) -> Self {
        Self::new(mesh, Direction::Outbound, &mesh::caller(orders))
    }

    /// Like [`Mesh::application`].
    pub(super) fn application(mesh: &Mesh, inbound: &str) -> Self {
        Self::new(mesh, Direction::Inbound, &mesh::application(inbound))
    }

    fn new(mesh: &Mesh, direction: Direction, yaml: &str) -> Self {
        let (config, metrics) = (mesh::parse(yaml), Metrics::new(10_000));
        let network = Network::Memory(mesh.memory.clone());
        let store = app::store(&config, &metrics);
        let worker = Worker::new(
            Ground::new((0, 1), network, metrics, <_>::default()),
            store,
            Records::default(),
            Drain::default(),
            "bench",
        );
        Self { worker, direction }
    }

    /// A connection served by the whole stack.
    pub(super) fn client(&self) -> Peer {
        self.client_without(None)
    }

    /// A connection served by the stack without one of its layers.
    pub(super) fn without(&self, layer: Name) -> Peer {
        self.client_without(Some(layer))
    }

    /// The size of the task that serves an HTTP/1 connection of a caller's application.
    pub(super) fn size_of_a_task(&self) -> usize {
        let (connection, io, _near) = self.connection();
        let (worker, stack) = (self.worker.clone(), outbound::stack(None));
        let open = Held::of(&worker.ground.connections_active(Direction::Outbound, Protocol::Http1));
        std::mem::size_of_val(&h1_server::serve(io, connection, worker, stack, open))
    }

    fn client_without(&self, layer: Option<Name>) -> Peer {
        let (connection, io, near) = self.connection();
        let worker = self.worker.clone();
        match self.direction {
            Direction::Outbound => {
                let stack = outbound::stack(layer);
                tokio::spawn(server::serve(io, Version::Http1, connection, worker, stack));
            }
            Direction::Inbound => {
                let stack = inbound::stack(layer);
                tokio::spawn(server::serve(io, Version::Http1, connection, worker, stack));
            }
        }
        Peer::new(near)
    }

    fn connection(&self) -> (Arc<Connection>, Io, Pipe) {
        let (near, far) = Pipe::pair(64 * 1024);
        let io = Io::plain(Stream::Memory(far, None));
        let place = Place::unlimited(self.worker.work(self.direction));
        let mut connection = Connection::new(at("192.0.2.7:4711"), place);
        let snapshot = self.worker.state.load();
        if let Some(fixed) = snapshot.fixed(DestinationKey::Application(Arrival::default())) {
            connection.destination = Destination::Route(fixed);
        }
        (Arc::new(connection), io, near)
    }

    pub(super) fn sum(&self, series: &str) -> u64 {
        mesh::sum(&self.worker.ground.metrics, series)
    }
}
