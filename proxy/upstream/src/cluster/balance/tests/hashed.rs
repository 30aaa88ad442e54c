//! Tests of `ring_hash` and `maglev`.

use std::collections::BTreeMap;

use super::*;

fn hashing() -> [LoadBalancer; 2] {
    [LoadBalancer::RingHash(Box::new(HashKey::Path)), LoadBalancer::Maglev(Box::new(HashKey::Path))]
}

fn keys(count: u32) -> impl Iterator<Item = KeyHash> {
    (0..count).map(|nth| KeyHash::of(&nth.to_le_bytes()))
}

/// The endpoint of each key.
fn map(rule: &LoadBalancer, fakes: &[Fake], count: u32) -> Vec<usize> {
    let cluster = Cluster::new(rule, fakes.to_vec());
    keys(count).map(|key| cluster.of(key, &[]).expect("one is usable")).collect()
}

fn shares(map: &[usize]) -> BTreeMap<usize, f64> {
    let mut shares = BTreeMap::new();
    map.iter().for_each(|id| *shares.entry(*id).or_insert(0.0) += 1.0 / map.len() as f64);
    shares
}

impl Cluster {
    fn of(&self, key: KeyHash, tried: &[usize]) -> Option<usize> {
        let (avoid, mut rng) = (tried_already(tried), fastrand::Rng::with_seed(1));
        self.balancer.pick(&self.endpoints, &avoid, Some(key), Instant::now(), &mut rng).map(|e| e.id)
    }

    fn load(&mut self, id: usize, in_flight: u32) {
        let at = self.endpoints.iter().position(|endpoint| endpoint.id == id).expect("an endpoint");
        Arc::make_mut(&mut self.endpoints[at]).in_flight = in_flight;
    }
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    for rule in &hashing() {
        let fakes: Vec<_> = (0..7).map(|id| fake(id, 1 + id as u32 % 3)).collect();
        let turned: Vec<_> = fakes.iter().rev().cloned().collect();
        assert_eq!(map(rule, &fakes, 2_000), map(rule, &turned, 2_000), "{rule:?}");
    }
}

/// The endpoints of these keys are those of every release: another value moves clients during an upgrade.
#[test]
fn the_endpoint_of_a_key_never_changes() {
    let [ring, maglev] = hashing();
    let fakes: Vec<_> = (0..5).map(|id| fake(id, 1)).collect();
    assert_eq!(map(&ring, &fakes, 12), RING_OF_FIVE);
    assert_eq!(map(&maglev, &fakes, 12), MAGLEV_OF_FIVE);
}

const RING_OF_FIVE: [usize; 12] = [0, 3, 0, 2, 1, 4, 3, 0, 2, 1, 3, 3];
const MAGLEV_OF_FIVE: [usize; 12] = [3, 4, 4, 4, 1, 4, 3, 0, 2, 1, 3, 4];

#[test]
fn a_key_whose_endpoint_was_tried_or_is_out_has_a_next_one_of_its_own() {
    for rule in &hashing() {
        let fakes: Vec<_> = (0..5).map(|id| fake(id, 1)).collect();
        let cluster = Cluster::new(rule, fakes.clone());
        let mut second = Vec::new();
        for key in keys(500) {
            let first = cluster.of(key, &[]).expect("usable");
            let next = cluster.of(key, &[first]).expect("usable");
            assert_ne!(first, next);
            let out = fakes.iter().map(|e| Arc::new(Fake { usable: e.id != first, ..e.clone() }));
            let mut rng = fastrand::Rng::with_seed(1);
            let out: Vec<_> = out.collect();
            let picked = cluster.balancer.pick(&out, &Tried::default(), Some(key), Instant::now(), &mut rng);
            assert_eq!(picked.map(|endpoint| endpoint.id), Some(next), "{rule:?}");
            second.push((first, next));
        }
        let of_the_first: Vec<_> =
            second.iter().filter(|(first, _)| *first == 0).map(|(_, next)| *next).collect();
        assert_eq!(
            shares(&of_the_first).len(),
            4,
            "{rule:?}: the keys of one endpoint spread over the others"
        );
    }
}

#[test]
fn a_service_of_which_few_endpoints_are_left_still_finds_them() {
    for rule in &hashing() {
        let fakes = (0..3_000).map(|id| Fake { usable: id == 1_234, ..fake(id, 1) });
        let cluster = Cluster::new(rule, fakes);
        assert!(keys(20).all(|key| cluster.of(key, &[]) == Some(1_234)), "{rule:?}");
    }
}

#[test]
fn without_a_key_endpoints_are_drawn_by_weight() {
    for rule in &hashing() {
        let mut cluster = Cluster::new(rule, [fake(0, 3), fake(1, 1)]);
        cluster.hashes = false;
        let share = cluster.picks(20_000).iter().filter(|id| **id == 0).count() as f64 / 20_000.0;
        assert!((share - 0.75).abs() < 0.02, "{rule:?}: {share}");
    }
}

#[test]
fn an_endpoint_above_its_bound_is_passed_over_on_the_ring_until_it_is_below_again() {
    let [ring, _] = hashing();
    let mut cluster = Cluster::new(&ring, (0..4).map(|id| fake(id, 1)));
    let key = KeyHash::of(b"everybody");
    let first = cluster.of(key, &[]).expect("usable");
    let mut placed = [0_u32; 4];
    for total in 1..=400_u32 {
        let picked = cluster.of(key, &[]).expect("usable");
        placed[picked] += 1;
        cluster.load(picked, placed[picked]);
        let bound = (1.25 * f64::from(total) / 4.0).ceil();
        assert!(f64::from(placed[picked]) <= bound, "{placed:?}");
    }
    assert_eq!(placed.iter().max(), Some(&placed[first]), "{placed:?}: the key's own endpoint has the most");
    (0..4).for_each(|id| cluster.load(id, 1));
    cluster.load(first, 0);
    assert_eq!(cluster.of(key, &[]), Some(first));
}

#[test]
fn an_address_that_is_listed_twice_has_two_endpoints_with_keys() {
    #[derive(Debug)]
    struct Twin(usize);
    impl Candidate for Twin {
        fn id(&self) -> usize {
            self.0
        }
        fn address(&self) -> SocketAddr {
            SocketAddr::from(([10, 0, 0, 1], 80))
        }
        fn weight(&self) -> NonZeroU32 {
            NonZeroU32::MIN
        }
        fn in_flight(&self) -> u32 {
            0
        }
        fn latency(&self, _: Instant) -> Option<f64> {
            None
        }
        fn is_usable(&self, _: Instant) -> bool {
            true
        }
        fn ready_for(&self, _: Instant) -> Option<Duration> {
            None
        }
    }
    for rule in &hashing() {
        let twins = [Arc::new(Twin(0)), Arc::new(Twin(1))];
        let balancer = Balancer::new(rule, None, &twins);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut of = |key| balancer.pick(&twins, &Tried::default(), Some(key), Instant::now(), &mut rng);
        let picked: Vec<_> = keys(1_000).filter_map(|key| of(key).map(|twin| twin.0)).collect();
        assert!(shares(&picked).values().all(|share| (0.3..0.7).contains(share)), "{rule:?}");
    }
}

#[test]
fn with_weights_in_hundreds_only_the_keys_of_an_endpoint_that_leaves_move() {
    let [ring, _] = hashing();
    let all = [fake(0, 100), fake(1, 100), fake(2, 50)];
    for (before, after) in map(&ring, &all, 5_000).into_iter().zip(map(&ring, &all[..2], 5_000)) {
        assert!(before == after || before == 2, "{before} {after}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn on_a_ring_only_the_keys_of_an_endpoint_that_leaves_move(
        weights in prop::collection::vec(1..4_u32, 2..12), leaves in 0..12_usize,
    ) {
        let [ring, _] = hashing();
        let all: Vec<_> = weights.iter().enumerate().map(|(id, weight)| fake(id, *weight)).collect();
        let leaves = leaves % all.len();
        let left: Vec<_> = all.iter().filter(|endpoint| endpoint.id != leaves).cloned().collect();
        for (before, after) in map(&ring, &all, 2_000).into_iter().zip(map(&ring, &left, 2_000)) {
            prop_assert!(before == after || before == leaves, "{before} {after}");
        }
    }

    #[test]
    fn shares_of_keys_are_near_the_weights(weights in prop::collection::vec(1..4_u32, 2..12)) {
        let all: Vec<_> = weights.iter().enumerate().map(|(id, weight)| fake(id, *weight)).collect();
        let sum = f64::from(weights.iter().sum::<u32>());
        for (rule, tolerance) in hashing().iter().zip([0.4, 0.05]) {
            let shares = shares(&map(rule, &all, 50_000));
            for (id, weight) in weights.iter().enumerate() {
                let (share, due) = (shares.get(&id).copied().unwrap_or(0.0), f64::from(*weight) / sum);
                let sampling = 4.0 * (due / 50_000.0).sqrt();
                prop_assert!((share - due).abs() < due * tolerance + sampling, "{rule:?} {id}: {share} {due}");
            }
        }
    }

    #[test]
    fn with_maglev_few_other_keys_move_when_an_endpoint_leaves(count in 3..30_usize, leaves in 0..30_usize) {
        let [_, maglev] = hashing();
        let all: Vec<_> = (0..count).map(|id| fake(id, 1)).collect();
        let leaves = leaves % count;
        let left: Vec<_> = all.iter().filter(|endpoint| endpoint.id != leaves).cloned().collect();
        let pairs = map(&maglev, &all, 10_000).into_iter().zip(map(&maglev, &left, 10_000));
        let moved = pairs.filter(|(before, after)| before != after && *before != leaves).count();
        prop_assert!(moved < 800, "{moved} of 10,000 keys of other endpoints moved");
    }
}
