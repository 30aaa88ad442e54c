//! The endpoints of a cluster at one moment, with the balancer that was built for them. A set never changes. An update
//! makes the next set, which replaces this one while the rest of the cluster stays as it is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pillion_model::cluster::LoadBalancer;
use pillion_model::endpoint::Nearness;
use pillion_model::{Endpoint as Spec, EndpointUpdate};
use tokio::time::Instant;

use super::balance::levels::{Levels, Rank};
use super::balance::{Balancer, Tried};
use super::endpoint::Endpoint;
use super::hashing::KeyHash;
use super::outlier::{Ejections, Outlier};

pub struct EndpointSet {
    pub all: Box<[Arc<Endpoint>]>,
    choice: Choice,
    /// Whether there are endpoints of IPv4 and of IPv6.
    pub has_both_families: bool,
    /// The update that the source reported. Its endpoints are in the order of `all`.
    pub said: EndpointUpdate,
    /// Whether the source of these endpoints was replaced and the new source has not answered yet.
    pub(super) is_of_former_source: bool,
    /// An identifier that no endpoint of this set or of an earlier set has.
    next_id: usize,
}

/// How one of the endpoints is chosen.
enum Choice {
    OfAll(Balancer),
    ByLevel(Box<Levels<Endpoint>>),
}

/// The values that all endpoints of a cluster are made with.
pub(super) struct Make<'a> {
    pub(super) balancer: &'a LoadBalancer,
    /// The zone of this sidecar, whose endpoints are preferred.
    pub(super) zone: Option<&'a str>,
    /// How long an endpoint that has become ready gets fewer requests.
    pub(super) slow_start: Option<Duration>,
    pub(super) ejections: &'a Arc<Ejections>,
    /// The limit of connections for each endpoint.
    pub(super) max_connections: Option<u32>,
    /// Whether the cluster's endpoints are checked; else what a check had found is forgotten.
    pub(super) is_checked: bool,
    pub(super) workers: usize,
}

impl EndpointSet {
    /// The set that `said` describes. An address that is also in `before` keeps its endpoint, with its connections,
    /// load and standing. An address that is listed twice has two endpoints. `keeps` says whether the cluster still
    /// opens connections as it did when `before` was made; otherwise the address gets a new endpoint,
    /// which keeps what health checks have found and since when it has been ready.
    pub(super) fn new(said: EndpointUpdate, before: Option<&Self>, keeps: bool, make: &Make<'_>) -> Self {
        let mut known: HashMap<SocketAddr, Vec<&Arc<Endpoint>>> = HashMap::new();
        for endpoint in before.iter().flat_map(|before| before.all.iter().rev()) {
            known.entry(endpoint.address).or_default().push(endpoint);
        }
        let mut next_id = before.map_or(0, |before| before.next_id);
        let epoch = Instant::now().into_std();
        let joins_others = before.is_some_and(|before| !before.all.is_empty());
        let endpoint = |spec: &Spec| {
            let same = known.get_mut(&spec.address).and_then(Vec::pop);
            if let Some(endpoint) = same.filter(|_| !make.is_checked) {
                endpoint.forget_health();
            }
            if let Some(endpoint) = same.filter(|_| keeps) {
                endpoint.set_weight(spec.weight);
                endpoint.limit_connections(make.max_connections);
                return endpoint.clone();
            }
            let outlier = Outlier::new(make.ejections.clone(), epoch);
            next_id += 1;
            let since = same.map_or(epoch, |same| same.epoch());
            let endpoint = Endpoint::new(next_id - 1, spec, outlier, make.workers, since);
            endpoint.limit_connections(make.max_connections);
            match same {
                Some(same) => endpoint.inherit_readiness(same),
                None if joins_others => endpoint.start_slowly(epoch),
                None => {}
            }
            Arc::new(endpoint)
        };
        let all: Box<[_]> = said.endpoints.iter().map(endpoint).collect();
        let choice = choice(&all, &said, make);
        let has_both_families = all
            .windows(2)
            .any(|two| matches!(two, [one, next] if one.address.is_ipv4() != next.address.is_ipv4()));
        Self { all, choice, has_both_families, said, is_of_former_source: false, next_id }
    }

    /// The set of a cluster that has one endpoint and no source.
    pub(super) fn single(endpoint: Endpoint) -> Self {
        let said = EndpointUpdate::known("", [Spec::at(endpoint.address)]);
        let all = [Arc::new(endpoint)];
        let choice = Choice::OfAll(Balancer::new(&LoadBalancer::Random, None, &all));
        let has_both_families = false;
        Self { all: all.into(), choice, has_both_families, said, is_of_former_source: false, next_id: 1 }
    }

    /// See [`Balancer::pick`].
    pub(super) fn pick(
        &self,
        avoid: &Tried,
        key: Option<KeyHash>,
        now: std::time::Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Endpoint>> {
        match &self.choice {
            Choice::OfAll(balancer) => balancer.pick(&self.all, avoid, key, now, rng),
            Choice::ByLevel(levels) => levels.pick(avoid, key, now, rng),
        }
    }

    /// See [`Cluster::pick_of_other_family`](super::Cluster::pick_of_other_family).
    pub(super) fn pick_of_other_family(
        &self,
        than: &Endpoint,
        tried: &Tried,
        now: std::time::Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Endpoint>> {
        // An endpoint that is due for its probe is left to the requests that are sent to it alone.
        let fits = |endpoint: &Endpoint| {
            let is_other = endpoint.address.is_ipv4() != than.address.is_ipv4();
            is_other
                && endpoint.outlier.is_closed()
                && !endpoint.is_unhealthy()
                && !tried.contains(endpoint.id)
        };
        match &self.choice {
            Choice::OfAll(balancer) => balancer.pick_fitting(&self.all, now, rng, fits),
            Choice::ByLevel(levels) => levels.pick_beside(than.id, now, rng, fits),
        }
    }

    /// How many endpoints are on other levels than the last one.
    pub(super) fn before_last(&self) -> usize {
        match &self.choice {
            Choice::OfAll(_) => 0,
            Choice::ByLevel(levels) => self.all.len().saturating_sub(levels.last()),
        }
    }

    /// Marks the endpoints that are not in `next` as removed, so that they get no new request. Returns them.
    pub(super) fn leave_for(&self, next: Option<&Self>) -> Vec<Weak<Endpoint>> {
        let stays: std::collections::HashSet<usize> = next
            .iter()
            .flat_map(|next| next.all.iter().map(|endpoint| Arc::as_ptr(endpoint).addr()))
            .collect();
        let gone = self.all.iter().filter(|endpoint| !stays.contains(&Arc::as_ptr(endpoint).addr()));
        gone.inspect(|endpoint| endpoint.leave()).map(Arc::downgrade).collect()
    }
}

fn choice(all: &[Arc<Endpoint>], said: &EndpointUpdate, make: &Make<'_>) -> Choice {
    let rank = |spec: &Spec| Rank {
        priority: spec.priority,
        is_elsewhere: match spec.nearness {
            Nearness::ByZone => make.zone.is_none_or(|own| spec.zone.as_deref() != Some(own)),
            Nearness::Near => false,
            Nearness::Far => true,
        },
    };
    match Levels::new(make.balancer, make.slow_start, all, said.endpoints.iter().map(rank)) {
        Some(levels) => Choice::ByLevel(Box::new(levels)),
        None => Choice::OfAll(Balancer::new(make.balancer, make.slow_start, all)),
    }
}

#[cfg(test)]
mod tests {
    use pillion_model::policy::OutlierDetection;

    use super::super::balance::Candidate;
    use super::super::outlier::Cause;
    use super::*;

    fn make(ejections: &Arc<Ejections>) -> Make<'_> {
        Make {
            balancer: &LoadBalancer::Random,
            zone: None,
            slow_start: Some(Duration::from_secs(30)),
            ejections,
            max_connections: None,
            is_checked: false,
            workers: 1,
        }
    }

    fn said(ports: std::ops::Range<u16>) -> EndpointUpdate {
        EndpointUpdate::known("", ports.map(|port| Spec::at(([10, 0, 0, 1], port).into())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_how_connections_are_made_does_not_end_slow_start() {
        let ejections = Ejections::new(Arc::new(OutlierDetection::never()));
        let make = make(&ejections);
        let first = EndpointSet::new(said(1..2), None, true, &make);
        let second = EndpointSet::new(said(1..3), Some(&first), true, &make);
        tokio::time::advance(Duration::from_secs(10)).await;
        let third = EndpointSet::new(said(1..3), Some(&second), false, &make);
        let ready_for: Vec<_> =
            third.all.iter().map(|endpoint| endpoint.ready_for(Instant::now().into_std())).collect();
        assert_eq!(ready_for, [None, Some(Duration::from_secs(10))]);
    }

    const FOUR: &str = "192.0.2.1:1";

    /// The endpoints have these addresses and priorities. Whether one beside the first is picked.
    fn other_of(
        specs: &[(&str, u32)],
        prepare: impl FnOnce(&EndpointSet, std::time::Instant),
    ) -> Option<SocketAddr> {
        let policy =
            OutlierDetection { consecutive_errors: Some(1), max_ejected: 1.0, ..OutlierDetection::never() };
        let ejections = Ejections::new(Arc::new(policy));
        let spec = |(address, priority): &(&str, u32)| Spec {
            priority: *priority,
            ..Spec::at(address.parse().unwrap())
        };
        let set = EndpointSet::new(
            EndpointUpdate::known("", specs.iter().map(spec)),
            None,
            true,
            &make(&ejections),
        );
        ejections.allow_of(set.all.len(), 0);
        let now = Instant::now();
        prepare(&set, now.into_std());
        let first = set.all.iter().find(|endpoint| endpoint.address == FOUR.parse().unwrap()).unwrap();
        let mut tried = Tried::default();
        tried.insert(first.id);
        let later = now.into_std() + Duration::from_secs(3600);
        let picked = set.pick_of_other_family(first, &tried, later, &mut fastrand::Rng::with_seed(1));
        picked.map(|endpoint| endpoint.address)
    }

    #[test]
    fn an_endpoint_of_the_other_family_has_the_same_priority() {
        let six: SocketAddr = "[2001:db8::2]:1".parse().unwrap();
        let (four, level_0, level_1) = (("192.0.2.2:1", 0), ("[2001:db8::2]:1", 0), ("[2001:db8::2]:1", 1));
        let cases: [(&[_], _); 5] = [
            (&[(FOUR, 0), four], None),
            (&[(FOUR, 0), four, level_0], Some(six)),
            (&[(FOUR, 0), four, level_1], None),
            (&[(FOUR, 1), four, level_0], None),
            (&[(FOUR, 1), four, level_1], Some(six)),
        ];
        for (specs, expected) in cases {
            assert_eq!(other_of(specs, |_, _| {}), expected, "{specs:?}");
        }
    }

    #[test]
    fn no_endpoint_of_the_other_family_that_waits_for_its_probe_is_picked_beside_and_its_probe_stays() {
        let specs = [(FOUR, 0), ("[2001:db8::2]:1", 0)];
        let eject = |set: &EndpointSet, now| {
            let six = set.all.iter().find(|endpoint| endpoint.address.is_ipv6()).unwrap();
            assert!(six.outlier.on_error(now, Cause::Connect).is_some());
        };
        assert_eq!(other_of(&specs, eject), None);
    }

    #[test]
    fn the_endpoints_of_all_levels_but_the_last_are_counted() {
        let ejections = Ejections::new(Arc::new(OutlierDetection::never()));
        let make = make(&ejections);
        let of = |priorities: [u32; 3]| {
            let ports = (1..4).zip(priorities);
            let endpoints =
                ports.map(|(port, priority)| Spec { priority, ..Spec::at(([10, 0, 0, 1], port).into()) });
            EndpointSet::new(EndpointUpdate::known("", endpoints), None, true, &make).before_last()
        };
        assert_eq!([of([0, 0, 1]), of([0, 1, 2]), of([0, 0, 0])], [2, 2, 0]);
    }
}
