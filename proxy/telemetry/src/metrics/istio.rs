//! Istio's metrics, and the workloads that their labels name.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::Metrics;
use crate::istio::{IstioLabels, IstioRequests, Own};
use crate::symbols::Symbol;
use pillion_model::Workload;

impl Metrics {
    /// Whether Istio's metrics are counted.
    pub fn has_istio(&self) -> bool {
        self.detail.has_istio
    }

    /// Names the workload of this sidecar, whose identity may come later or change.
    pub fn set_own(&self, workload: &Workload, id: Option<&str>) {
        if self.has_istio() {
            *self.own.write() = Own::new(workload, id, &self.symbols);
            self.note_identities();
        }
    }

    /// Takes a lock that workers share. The data path uses its [`Recorder`](crate::Recorder) instead.
    pub(crate) fn own(&self) -> Own {
        *self.own.read()
    }

    /// Notes the verified identity of a service's endpoint.
    pub fn note_server(&self, service: Symbol, address: SocketAddr, id: &str) {
        if self.servers.note(service, address, self.intern_peer(id)) {
            self.note_identities();
        }
    }

    pub(super) fn note_identities(&self) {
        self.identities.fetch_add(1, Ordering::Release);
    }

    /// Changes with each change of [`Self::own`] and [`Self::server`].
    pub(crate) fn identities(&self) -> u64 {
        self.identities.load(Ordering::Acquire)
    }

    /// The identity that was noted; [`Symbol::EMPTY`] without one. It takes a lock that workers share. The data path uses
    /// its [`Recorder`](crate::Recorder) instead.
    pub(crate) fn server(&self, service: Symbol, address: SocketAddr) -> Symbol {
        self.servers.of(service, address)
    }

    /// Istio's series of requests. The data path uses its [`Recorder`](crate::Recorder) instead.
    pub(crate) fn istio_requests(&self, labels: IstioLabels) -> IstioRequests {
        self.families.istio.requests(labels)
    }

    /// An opaque connection began.
    pub fn istio_began(&self, labels: IstioLabels) {
        self.families.istio.began(labels);
    }

    /// An opaque connection ended; `bytes`: received from the client, and sent to it.
    pub fn istio_ended(&self, labels: IstioLabels, bytes: (u64, u64)) {
        self.families.istio.ended(labels, bytes);
    }
}
