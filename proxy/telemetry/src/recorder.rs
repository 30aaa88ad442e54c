//! The data path's quick access to the request counter: each worker has a cache, so that workers share no lock.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use super::family::IntCounter;
use super::istio::{IstioLabels, IstioRequests, Own};
use super::labels::{EndpointLabels, RequestLabels};
use super::metrics::Metrics;
use super::symbols::Symbol;

/// The most label sets that one worker caches. When the cache is full it is emptied, which costs one shared lock for
/// each label set in use.
const REMEMBERED: usize = 4096;

/// Counts finished requests. Each data-path thread has one.
pub struct Recorder {
    metrics: Arc<Metrics>,
    /// The last label set, because equal requests often follow each other.
    last: Option<(RequestLabels, IntCounter)>,
    known: Known<RequestLabels, IntCounter>,
    tries: Known<EndpointLabels, IntCounter>,
    istio: Known<IstioLabels, IstioRequests>,
    identities: Identities,
    /// The value of [`Metrics::removals`] when the cached handles were resolved.
    as_of: u64,
}

impl Recorder {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let as_of = metrics.removals();
        Self {
            metrics,
            last: None,
            known: Known::default(),
            tries: Known::default(),
            istio: Known::default(),
            identities: Identities::default(),
            as_of,
        }
    }

    /// The workload of this sidecar, for Istio's metrics.
    pub fn own(&mut self) -> Own {
        self.refresh_identities().own
    }

    /// The verified identity of a service's endpoint; [`Symbol::EMPTY`] where none is known.
    pub fn server(&mut self, service: Symbol, address: SocketAddr) -> Symbol {
        self.refresh_identities();
        self.identities.servers.get((service, address), || self.metrics.server(service, address))
    }

    fn refresh_identities(&mut self) -> &Identities {
        let now = self.metrics.identities();
        if self.identities.as_of != Some(now) {
            self.identities.servers.0.clear();
            (self.identities.as_of, self.identities.own) = (Some(now), self.metrics.own());
        }
        &self.identities
    }

    /// Adds one to the request counter of `labels`.
    pub fn count(&mut self, labels: RequestLabels) {
        self.refresh();
        match &self.last {
            Some((last, counter)) if *last == labels => counter.inc(),
            _ => self.count_other(labels),
        }
    }

    fn count_other(&mut self, labels: RequestLabels) {
        let counter = self.known.get(labels, || self.metrics.requests(labels));
        counter.inc();
        self.last = Some((labels, counter));
    }

    /// Adds one to the tries at an endpoint, with `metrics.endpoints`.
    pub fn count_try(&mut self, labels: EndpointLabels) {
        self.refresh();
        self.tries.get(labels, || self.metrics.tries(labels)).inc();
    }

    /// Records a request in Istio's metrics. `bytes`: those of its body, and of its answer's.
    pub fn count_istio(&mut self, labels: IstioLabels, seconds: f64, bytes: (u64, u64)) {
        self.refresh();
        self.istio.get(labels, || self.metrics.istio_requests(labels)).observe(seconds, bytes);
    }

    /// Drops handles whose series may have been removed.
    fn refresh(&mut self) {
        let now = self.metrics.removals();
        if now != self.as_of {
            (self.as_of, self.last) = (now, None);
            self.known.0.clear();
            self.tries.0.clear();
            self.istio.0.clear();
        }
    }
}

/// Who takes part in the traffic.
#[derive(Default)]
struct Identities {
    /// The value of [`Metrics::identities`] before these were read.
    as_of: Option<u64>,
    own: Own,
    servers: Known<(Symbol, SocketAddr), Symbol>,
}

/// The handles of some label sets.
struct Known<K, V>(HashMap<K, V, BuildHasherDefault<QuickHasher>>);

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Known<K, V> {
    fn get(&mut self, labels: K, resolve: impl FnOnce() -> V) -> V {
        if let Some(handle) = self.0.get(&labels) {
            return handle.clone();
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let handle = resolve();
        self.0.insert(labels, handle.clone());
        handle
    }
}

/// A hasher for small keys, with one multiplication for each word. Peers could make keys collide, so tables that use it
/// must be bounded.
#[derive(Default)]
pub struct QuickHasher(u64);

impl QuickHasher {
    /// An odd number with well mixed bits: the fractional part of the golden ratio.
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(Self::MIX);
    }
}

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }
    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }
    fn write_u16(&mut self, word: u16) {
        self.mix(u64::from(word));
    }
    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }
    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }
    fn write_isize(&mut self, word: isize) {
        self.mix(word.cast_unsigned() as u64);
    }

    /// The table chooses a bucket by the low bits, which a product mixes least, so the high bits are folded in.
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::MethodLabel;
    use crate::metrics::Detail;
    use pillion_model::{Direction, Workload};

    fn labels(status: u16, service: Symbol) -> RequestLabels {
        RequestLabels {
            direction: Direction::Inbound,
            service,
            route: Symbol::EMPTY,
            method: MethodLabel::Get,
            status,
            grpc_status: None,
            reason: None,
            peer: Symbol::EMPTY,
        }
    }

    #[test]
    fn a_worker_learns_of_identities_that_have_changed() {
        let metrics = Metrics::with(1_000, Detail { has_istio: true, ..Detail::default() });
        let mut worker = Recorder::new(metrics.clone());
        let (service, address) = (metrics.intern("orders"), SocketAddr::from(([10, 0, 0, 1], 80)));
        assert_eq!((worker.own(), worker.server(service, address)), (Own::default(), Symbol::EMPTY));
        for id in ["spiffe://a/orders", "spiffe://a/others"] {
            metrics.note_server(service, address, id);
            assert_eq!(worker.server(service, address), metrics.intern_peer(id));
            metrics.set_own(&Workload::default(), Some(id));
            assert_eq!(worker.own(), metrics.own());
            assert_ne!(worker.own(), Own::default());
        }
    }

    #[test]
    fn two_workers_count_into_the_same_series() {
        let metrics = Metrics::new(1_000);
        let mut workers = [Recorder::new(metrics.clone()), Recorder::new(metrics.clone())];
        for status in [200, 200, 503, 200] {
            workers.iter_mut().for_each(|worker| worker.count(labels(status, Symbol::APP)));
        }
        let counts = [200, 503].map(|status| metrics.requests(labels(status, Symbol::APP)).get());
        assert_eq!(counts, [6, 2]);
    }

    #[test]
    fn a_flood_of_label_sets_is_counted_completely_with_bounded_memory() {
        let metrics = Metrics::new(500);
        let mut worker = Recorder::new(metrics.clone());
        let calls = 3 * REMEMBERED as u64;
        for number in 0..calls {
            let service = metrics.intern(&number.to_string());
            worker.count(labels(100 + (number % 500) as u16, service));
            assert!(worker.known.0.len() <= REMEMBERED);
        }
        let text = metrics.encode();
        let counted = text.lines().filter(|line| line.starts_with("pillion_requests_total{"));
        let sum: u64 = counted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
        assert_eq!(sum, calls);
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(series <= 501, "{series} series");
    }

    #[test]
    fn the_hash_spreads_keys_that_differ_in_few_bits() {
        let build = BuildHasherDefault::<QuickHasher>::default();
        let metrics = Metrics::new(10_000);
        let services: Vec<_> = (0..32).map(|number| metrics.intern(&number.to_string())).collect();
        let mut filled = [0_u32; 1024];
        for (service, status) in
            services.iter().flat_map(|service| (200..232).map(move |status| (*service, status)))
        {
            filled[(build.hash_one(labels(status, service)) % 1024) as usize] += 1;
        }
        let worst = filled.into_iter().max().unwrap_or_default();
        assert!(worst <= 10, "{worst} of 1024 keys share one of 1024 places");
    }
}
