//! A real stack with one layer left out, serving a connection.

use std::sync::Arc;

use crate::app;
use crate::http::server::{self, Version};
use crate::layers::Name;
use crate::net::own::OwnListeners;
use crate::net::{Network, Prefixed, Stream, Transport};
use crate::runtime::drain::Drain;
use crate::runtime::worker::Worker;
use crate::serve::{Connection, Destination};
use crate::telemetry::{Direction, Metrics};
use crate::{inbound, outbound};

use super::mesh::{self, Mesh, at};
use super::peer::Peer;

pub(super) struct Bench {
    worker: Arc<Worker>,
    direction: Direction,
}

impl Bench {
    /// As [`Mesh::caller`].
    pub(super) fn caller(mesh: &Mesh, orders: &str) -> Self {
        Self::new(mesh, Direction::Outbound, &mesh::caller(orders))
    }

    /// As [`Mesh::application`].
    pub(super) fn application(mesh: &Mesh, inbound: &str) -> Self {
        Self::new(mesh, Direction::Inbound, &mesh::application(inbound))
    }

    fn new(mesh: &Mesh, direction: Direction, yaml: &str) -> Self {
        let (config, metrics) = (mesh::parse(yaml), Metrics::new(10_000));
        let network = Network::Memory(mesh.memory.clone());
        let services = app::services(&config, None, &metrics, 1).expect("services without TLS");
        let store = Arc::new(app::store(&config, &services, OwnListeners::default(), &metrics, 1));
        let worker = Worker::new(0, network, store, metrics, None, Drain::default(), "bench");
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

    fn client_without(&self, layer: Option<Name>) -> Peer {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let io = Prefixed::new(Transport::Plain(Prefixed::new(Stream::Memory(far, None))));
        let mut connection = Connection::new(self.direction, at("192.0.2.7:4711"), None);
        if let Some(application) = &self.worker.state.load().application {
            connection.destination = Destination::Route(application.clone());
        }
        let connection = Arc::new(connection);
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

    pub(super) fn sum(&self, series: &str) -> u64 {
        mesh::sum(&self.worker.metrics, series)
    }
}
