//! Tests of all balancers, over endpoints that are not real.

mod hashed;
mod levels;
mod slow_start;

use pillion_model::cluster::HashKey;
use proptest::prelude::*;

use super::*;

/// Every balancer. Those that hash get a key of its own for each pick, unless a test says otherwise.
fn all_rules() -> [LoadBalancer; 6] {
    [
        LoadBalancer::PeakEwma,
        LoadBalancer::LeastRequest,
        LoadBalancer::RoundRobin,
        LoadBalancer::Random,
        LoadBalancer::RingHash(Box::new(HashKey::Path)),
        LoadBalancer::Maglev(Box::new(HashKey::Path)),
    ]
}

#[derive(Debug, Clone)]
struct Fake {
    id: usize,
    weight: NonZeroU32,
    in_flight: u32,
    latency: Option<f64>,
    usable: bool,
    ready_for: Option<Duration>,
}

impl Candidate for Fake {
    fn id(&self) -> usize {
        self.id
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 1000 + self.id as u16))
    }

    fn weight(&self) -> NonZeroU32 {
        self.weight
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn latency(&self, _: Instant) -> Option<f64> {
        self.latency
    }

    fn is_usable(&self, _: Instant) -> bool {
        self.usable
    }

    fn ready_for(&self, _: Instant) -> Option<Duration> {
        self.ready_for
    }
}

fn fake(id: usize, weight: u32) -> Fake {
    let weight = NonZeroU32::new(weight).expect("tests use weights above zero");
    Fake { id, weight, in_flight: 0, latency: Some(1e6), usable: true, ready_for: None }
}

struct Cluster {
    balancer: Balancer,
    hashes: bool,
    endpoints: Vec<Arc<Fake>>,
    rng: fastrand::Rng,
}

impl Cluster {
    fn new(rule: &LoadBalancer, fakes: impl IntoIterator<Item = Fake>) -> Self {
        let endpoints: Vec<_> = fakes.into_iter().map(Arc::new).collect();
        let balancer = Balancer::new(rule, None, &endpoints);
        Self { balancer, hashes: rule.hash_key().is_some(), endpoints, rng: fastrand::Rng::with_seed(7) }
    }

    fn pick(&mut self, tried: &[usize]) -> Option<usize> {
        let avoid = tried_already(tried);
        let key = self.hashes.then(|| KeyHash::of(&self.rng.u64(..).to_le_bytes()));
        self.balancer.pick(&self.endpoints, &avoid, key, Instant::now(), &mut self.rng).map(|e| e.id)
    }

    fn picks(&mut self, times: usize) -> Vec<usize> {
        (0..times).filter_map(|_| self.pick(&[])).collect()
    }
}

fn tried_already(ids: &[usize]) -> Tried {
    let mut tried = Tried::default();
    ids.iter().for_each(|&id| tried.insert(id));
    tried
}

#[test]
fn without_a_usable_endpoint_there_is_no_pick() {
    for rule in &all_rules() {
        assert_eq!(Cluster::new(rule, []).pick(&[]), None);
        let resting = Fake { usable: false, ..fake(0, 1) };
        assert_eq!(Cluster::new(rule, [resting.clone()]).pick(&[]), None);
        assert_eq!(Cluster::new(rule, [resting.clone(), Fake { id: 1, ..resting }]).pick(&[0, 1]), None);
    }
}

#[test]
fn a_balancer_of_a_longer_list_still_finds_a_usable_endpoint() {
    for rule in [LoadBalancer::PeakEwma, LoadBalancer::LeastRequest, LoadBalancer::Random] {
        let mut cluster = Cluster::new(&rule, [fake(0, 1), fake(1, 1), fake(2, 1)]);
        cluster.endpoints.truncate(2);
        assert!(cluster.picks(100).iter().all(|&id| id < 2));
        assert_eq!(cluster.picks(100).len(), 100);
    }
}

#[test]
fn a_single_endpoint_is_picked_again_after_it_was_tried() {
    for rule in &all_rules() {
        assert_eq!(Cluster::new(rule, [fake(4, 1)]).pick(&[4]), Some(4));
    }
}

#[test]
fn smooth_round_robin_spreads_the_turns_of_a_heavy_endpoint() {
    let mut cluster = Cluster::new(&LoadBalancer::RoundRobin, [fake(0, 5), fake(1, 1), fake(2, 1)]);
    assert_eq!(cluster.picks(7), [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn endpoints_of_equal_weight_take_turns_and_an_ejected_one_is_skipped() {
    let resting = Fake { usable: false, ..fake(1, 3) };
    let mut cluster = Cluster::new(&LoadBalancer::RoundRobin, [fake(0, 3), resting, fake(2, 3)]);
    assert_eq!(cluster.picks(4), [0, 2, 0, 2]);
    assert_eq!(cluster.pick(&[0]), Some(2));
}

#[test]
fn a_turn_among_equal_weights_looks_at_one_endpoint_and_not_at_every_one() {
    let endpoints: Vec<_> = (0..1000).map(|id| Arc::new(fake(id, 1))).collect();
    let (mut next, looks) = (0, std::cell::Cell::new(0));
    let fits = |_: &Fake| {
        looks.set(looks.get() + 1);
        true
    };
    let picked: Vec<_> = (0..1001).filter_map(|_| after_last(&mut next, &endpoints, fits)).collect();
    assert_eq!((picked.first().map(|e| e.id), picked.last().map(|e| e.id)), (Some(0), Some(0)));
    assert_eq!(looks.get(), 1001);
}

#[test]
fn the_endpoint_with_the_shorter_expected_wait_is_picked() {
    let slow = Fake { latency: Some(9e6), ..fake(0, 1) };
    let busy = Fake { in_flight: 3, ..fake(1, 1) };
    let mut cluster = Cluster::new(&LoadBalancer::PeakEwma, [slow.clone(), busy.clone()]);
    assert!(cluster.picks(50).iter().all(|&id| id == 1), "4 × 1 ms before 1 × 9 ms");
    let mut cluster = Cluster::new(&LoadBalancer::LeastRequest, [slow, busy]);
    assert!(cluster.picks(50).iter().all(|&id| id == 0), "the shorter queue, whatever the latency");
}

#[test]
fn the_oldest_tried_endpoint_is_forgotten_when_the_list_is_full() {
    let tried = tried_already(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!tried.contains(0));
    assert!((1..=8).all(|id| tried.contains(id)));
    assert!(!Tried::default().contains(0));
}

fn fakes() -> impl Strategy<Value = Vec<Fake>> {
    let one = (1..1000_u32, 0..50_u32, prop::option::of(1e3..1e9_f64), any::<bool>());
    prop::collection::vec(one, 1..12).prop_map(|all| {
        let describe = |(id, (weight, in_flight, latency, usable))| Fake {
            in_flight,
            latency,
            usable,
            ..fake(id, weight)
        };
        all.into_iter().enumerate().map(describe).collect()
    })
}

/// Lists of different weights, and of equal weights, which take another code path.
fn weights() -> impl Strategy<Value = Vec<u32>> {
    let equal = (1..20_u32, 2..7_usize).prop_map(|(weight, count)| vec![weight; count]);
    prop_oneof![prop::collection::vec(1..20_u32, 2..7), equal]
}

/// Those whose shares are near the weights. A ring's are not; see `hashed`.
fn even_rules() -> impl Strategy<Value = LoadBalancer> {
    let is_even = |rule: &LoadBalancer| !matches!(rule, LoadBalancer::RingHash(_));
    prop::sample::select(all_rules().into_iter().filter(is_even).collect::<Vec<_>>())
}

fn rules() -> impl Strategy<Value = LoadBalancer> {
    prop::sample::select(all_rules().to_vec())
}

proptest! {
    #[test]
    fn a_usable_endpoint_is_picked_if_there_is_one_and_an_untried_one_if_possible(
        all in fakes(), rule in rules(), tried in prop::collection::vec(0..12_usize, 0..6), seed: u64,
    ) {
        let mut cluster = Cluster::new(&rule, all.clone());
        cluster.rng.seed(seed);
        let usable: Vec<_> = all.iter().filter(|e| e.usable).map(|e| e.id).collect();
        let fresh: Vec<_> = usable.iter().copied().filter(|id| !tried.contains(id)).collect();
        for _ in 0..20 {
            match cluster.pick(&tried) {
                None => prop_assert!(usable.is_empty()),
                Some(id) if fresh.is_empty() => prop_assert!(usable.contains(&id)),
                Some(id) => prop_assert!(fresh.contains(&id)),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equally_fast_idle_endpoints_are_used_by_weight(
        weights in weights(), rule in even_rules(), resting in 0..7_usize,
    ) {
        let all = weights.iter().enumerate();
        let all = all.map(|(id, &weight)| Fake { usable: id != resting, ..fake(id, weight) });
        let used: u32 = weights.iter().enumerate().filter(|(id, _)| *id != resting).map(|(_, w)| w).sum();
        let picks = Cluster::new(&rule, all).picks(20_000);
        for (id, &weight) in weights.iter().enumerate().filter(|(id, _)| *id != resting) {
            let share = picks.iter().filter(|&&picked| picked == id).count() as f64 / 20_000.0;
            let due = f64::from(weight) / f64::from(used);
            prop_assert!((share - due).abs() < 0.02, "endpoint {id}: {share} instead of {due}");
        }
    }

    #[test]
    fn under_load_the_queues_are_proportional_to_the_weights(
        weights in prop::collection::vec(1..6_u32, 2..5),
        rule in prop::sample::select(vec![LoadBalancer::PeakEwma, LoadBalancer::LeastRequest]),
    ) {
        let all = weights.iter().enumerate().map(|(id, &weight)| fake(id, weight));
        let mut cluster = Cluster::new(&rule, all);
        for _ in 0..2_000 {
            let picked = cluster.pick(&[]).expect("all are usable");
            Arc::make_mut(&mut cluster.endpoints[picked]).in_flight += 1;
        }
        let sum: u32 = weights.iter().sum();
        for endpoint in &cluster.endpoints {
            let share = f64::from(endpoint.in_flight) / 2_000.0;
            let due = f64::from(endpoint.weight.get()) / f64::from(sum);
            prop_assert!((share - due).abs() < 0.02, "{endpoint:?}: {share} instead of {due}");
        }
    }
}
