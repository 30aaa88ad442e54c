//! A real stack with one layer left out, serving a connection.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::http::server::{self, Version};
use crate::layers::Name;
use crate::net::{Network, Prefixed, Stream, Transport};
use crate::runtime::drain::Drain;
use crate::runtime::worker::Worker;
use crate::serve::Connection;
use crate::state::{HostTable, Route, Snapshot, Store};
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
        let (config, metrics) = (mesh::parse(&mesh::caller(orders)), Metrics::new(10_000));
        let mut hosts = HostTable::default();
        for service in &config.clusters {
            let route = Route::to(Cluster::service(service, None, &metrics, 1));
            service.hosts.iter().for_each(|host| hosts.add(host, &route));
        }
        Self::new(mesh, Direction::Outbound, metrics, Snapshot { hosts, application: None })
    }

    /// As [`Mesh::application`].
    pub(super) fn application(mesh: &Mesh, inbound: &str) -> Self {
        let (config, metrics) = (mesh::parse(&mesh::application(inbound)), Metrics::new(10_000));
        let inbound = config.inbound.expect("an inbound side");
        let application = Cluster::application(&inbound, &metrics, 1).map(Route::to);
        Self::new(mesh, Direction::Inbound, metrics, Snapshot { hosts: HostTable::default(), application })
    }

    fn new(mesh: &Mesh, direction: Direction, metrics: Arc<Metrics>, snapshot: Snapshot) -> Self {
        let network = Network::Memory(mesh.memory.clone());
        let store = Arc::new(Store::new(snapshot));
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
        let io = Prefixed::new(Transport::Plain(Prefixed::new(Stream::Memory(far))));
        let connection = Arc::new(Connection::new(self.direction, at("192.0.2.7:4711")));
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
