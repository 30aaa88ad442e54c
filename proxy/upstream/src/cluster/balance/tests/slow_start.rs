//! Tests of endpoints that have just become ready.

use super::super::super::hashing::{nth, unit};
use super::super::slow_start::{ramp, takes_part};
use super::*;

const WINDOW: Duration = Duration::from_secs(30);

fn new_since(seconds: f64, fake: Fake) -> Fake {
    Fake { ready_for: Some(Duration::from_secs_f64(seconds)), ..fake }
}

/// The share of the endpoint 0 in many picks, each with a key of its own.
fn share(rule: &LoadBalancer, fakes: Vec<Fake>) -> f64 {
    let mut cluster = Cluster::new(rule, fakes);
    cluster.balancer = Balancer::new(rule, Some(WINDOW), &cluster.endpoints);
    cluster.picks(10_000).iter().filter(|id| **id == 0).count() as f64 / 10_000.0
}

#[test]
fn the_ramp_goes_from_a_tenth_to_the_whole_share() {
    let at = |seconds| ramp(Some(Duration::from_secs(seconds)), WINDOW);
    assert_eq!([at(0), at(30), at(31), ramp(None, WINDOW)], [0.1, 1.0, 1.0, 1.0]);
    assert!((at(10) - 0.4).abs() < 1e-9 && (at(20) - 0.7).abs() < 1e-9);
}

#[test]
fn endpoints_that_all_have_just_come_share_everything() {
    for rule in &all_rules() {
        let fakes = (0..3).map(|id| new_since(0.0, fake(id, 1))).collect();
        assert!((share(rule, fakes) - 1.0 / 3.0).abs() < 0.06, "{rule:?}");
        assert!((share(rule, vec![new_since(0.0, fake(0, 1))]) - 1.0).abs() < f64::EPSILON, "{rule:?}");
        let only = vec![new_since(0.0, fake(0, 1)), Fake { usable: false, ..fake(1, 1) }];
        assert!((share(rule, only) - 1.0).abs() < f64::EPSILON, "{rule:?}: nothing else fits");
    }
}

#[test]
fn a_key_moves_to_a_new_endpoint_once_and_stays_there() {
    for rule in all_rules().iter().filter(|rule| rule.hash_key().is_some()) {
        let at = |second: u32| {
            let others = (1..4).map(|id| fake(id, 1));
            let new = new_since(f64::from(second), fake(0, 1));
            let endpoints: Vec<_> = [new].into_iter().chain(others).map(Arc::new).collect();
            let balancer = Balancer::new(rule, Some(WINDOW), &endpoints);
            let mut rng = fastrand::Rng::with_seed(1);
            let of = |nth: u32| {
                let key = Some(KeyHash::of(&nth.to_le_bytes()));
                let picked = balancer.pick(&endpoints, &Tried::default(), key, Instant::now(), &mut rng);
                picked.map(|endpoint| endpoint.id)
            };
            (0..300).map(of).collect::<Vec<_>>()
        };
        let moments = [0, 5, 10, 15, 20, 25, 30].map(at);
        let at_the_new_one = moments.each_ref().map(|of| of.iter().filter(|id| **id == Some(0)).count());
        assert!(at_the_new_one.is_sorted() && at_the_new_one[0] < 20, "{rule:?} {at_the_new_one:?}");
        for (before, after) in moments.iter().zip(moments.iter().skip(1)) {
            let moves = before.iter().zip(after).filter(|(before, after)| before != after);
            assert!(moves.into_iter().all(|(_, after)| *after == Some(0)), "{rule:?}");
        }
    }
}

#[test]
fn the_keys_of_a_new_endpoint_are_a_part_of_those_of_each_level() {
    let keys = (0..20_000_u32).map(|nth| KeyHash::of(&nth.to_le_bytes()).get());
    let of_the_level: Vec<_> = keys.filter(|key| unit(nth(*key, 1)) < 0.1).collect();
    for id in 0..4 {
        let new = new_since(0.0, fake(id, 1));
        let taken = of_the_level.iter().filter(|key| takes_part(&new, **key, WINDOW, Instant::now()));
        let part = taken.count() as f64 / of_the_level.len() as f64;
        assert!((part - 0.1).abs() < 0.04, "{id}: {part}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_new_endpoint_gets_a_part_of_its_share_that_grows_with_time(
        others in 1..8_usize, seconds in 0.0..30.0_f64, in_flight in 0..4_u32, rule in even_rules(),
    ) {
        let busy = (1..=others).map(|id| Fake { in_flight, ..fake(id, 1) });
        let fakes: Vec<_> = [new_since(seconds, fake(0, 1))].into_iter().chain(busy).collect();
        let (share, fair) = (share(&rule, fakes), 1.0 / (others + 1) as f64);
        let ramp = ramp(Some(Duration::from_secs_f64(seconds)), WINDOW);
        // A balancer that looks for the shortest queue takes an idle endpoint whenever it is one of the two drawn.
        prop_assert!(share <= 2.0 * ramp * fair + 0.02, "{rule:?}: {share}, {ramp} of {fair}");
        prop_assert!(share >= 0.8 * ramp * fair - 0.02, "{rule:?}: {share}, {ramp} of {fair}");
    }
}
