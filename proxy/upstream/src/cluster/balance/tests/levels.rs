//! Tests of zones and priorities.

use super::super::levels::{Levels, Rank};
use super::*;

fn rank(priority: u32, is_elsewhere: bool) -> Rank {
    Rank { priority, is_elsewhere }
}

/// The share of each endpoint in many picks.
fn shares(fakes: &[Fake], ranks: &[Rank]) -> Vec<f64> {
    let (all, mut rng) = (arcs(fakes), fastrand::Rng::with_seed(7));
    let levels =
        Levels::new(&LoadBalancer::Random, None, &all, ranks.iter().copied()).expect("several levels");
    let mut picked = vec![0_u32; fakes.len()];
    for _ in 0..PICKS {
        if let Some(endpoint) = levels.pick(&Tried::default(), None, Instant::now(), &mut rng) {
            picked[endpoint.id] += 1;
        }
    }
    picked.into_iter().map(|picks| f64::from(picks) / f64::from(PICKS)).collect()
}

const PICKS: u32 = 4_000;

fn arcs(fakes: &[Fake]) -> Vec<Arc<Fake>> {
    fakes.iter().cloned().map(Arc::new).collect()
}

/// The reference: each level in its order takes 1.4 times its usable part of what is left, and what remains is shared in
/// proportion.
fn due(fakes: &[Fake], ranks: &[Rank]) -> Vec<f64> {
    let mut levels: Vec<Rank> = ranks.to_vec();
    levels.sort_unstable();
    levels.dedup();
    let weight = |level: Rank, usable: bool| -> f64 {
        let of = fakes.iter().zip(ranks).filter(|(fake, of)| **of == level && (!usable || fake.usable));
        of.map(|(fake, _)| f64::from(fake.weight.get())).sum()
    };
    let mut left = 1.0;
    let mut parts = Vec::new();
    for level in levels {
        let part = f64::min(left, 1.4 * weight(level, true) / weight(level, false));
        left -= part;
        parts.push((level, part));
    }
    let sum: f64 = parts.iter().map(|(_, part)| part).sum();
    let of = |(fake, rank): (&Fake, &Rank)| {
        let part = parts.iter().find(|(level, _)| level == rank).map_or(0.0, |(_, part)| *part);
        if fake.usable { part / sum * f64::from(fake.weight.get()) / weight(*rank, true) } else { 0.0 }
    };
    fakes.iter().zip(ranks).map(of).collect()
}

#[test]
fn an_endpoint_that_has_just_come_and_is_alone_on_its_level_starts_slowly() {
    for rule in &all_rules() {
        let at = |second: u64| {
            let new = Fake { ready_for: Some(Duration::from_secs(second)), ..fake(0, 1) };
            let (all, mut rng) = (arcs(&[new, fake(1, 1), fake(2, 1)]), fastrand::Rng::with_seed(7));
            let ranks = [rank(0, false), rank(1, false), rank(1, false)];
            let levels = Levels::new(rule, Some(Duration::from_secs(30)), &all, ranks).expect("two levels");
            let keys = (0..PICKS).map(|nth| rule.hash_key().map(|_| KeyHash::of(&nth.to_le_bytes())));
            let picks = keys.map(|key| levels.pick(&Tried::default(), key, Instant::now(), &mut rng));
            picks.filter(|picked| picked.is_some_and(|endpoint| endpoint.id == 0)).count() as f64
                / f64::from(PICKS)
        };
        let (first, middle, last) = (at(0), at(15), at(30));
        assert!(first > 0.0 && first < 0.1, "{rule:?}: {first}");
        assert!((middle - 0.55 * 1.4 * 0.55).abs() < 0.04, "{rule:?}: {middle}");
        assert!((last - 1.0).abs() < f64::EPSILON, "{rule:?}: {last}");
    }
}

#[test]
fn one_level_needs_no_order() {
    let all = arcs(&[fake(0, 1), fake(1, 1)]);
    assert!(Levels::new(&LoadBalancer::Random, None, &all, [rank(1, true), rank(1, true)]).is_none());
}

#[test]
fn the_own_zone_keeps_its_requests_until_29_percent_of_it_are_out() {
    let with_out = |out: usize| {
        let here = (0..10).map(|id| Fake { usable: id >= out, ..fake(id, 1) });
        let all: Vec<_> = here.chain([fake(10, 5)]).collect();
        let ranks: Vec<_> = (0..11).map(|id| rank(0, id == 10)).collect();
        shares(&all, &ranks)[10]
    };
    assert_eq!([with_out(0), with_out(2)], [0.0, 0.0]);
    for (out, spilt) in [(3, 0.02), (5, 0.3), (9, 0.86), (10, 1.0)] {
        assert!((with_out(out) - spilt).abs() < 0.03, "{out} {}", with_out(out));
    }
}

#[test]
fn an_untried_endpoint_of_another_level_is_preferred_to_a_tried_one() {
    for rule in &all_rules() {
        let (all, mut rng) = (arcs(&[fake(0, 1), fake(1, 1)]), fastrand::Rng::with_seed(7));
        let levels = Levels::new(rule, None, &all, [rank(0, false), rank(1, false)]).expect("two levels");
        let key = rule.hash_key().map(|_| KeyHash::of(b"key"));
        let mut pick = |tried: &[usize]| {
            let picked = levels.pick(&tried_already(tried), key, Instant::now(), &mut rng);
            picked.map(|endpoint| endpoint.id)
        };
        assert_eq!([pick(&[]), pick(&[0]), pick(&[0, 1])], [Some(0), Some(1), Some(0)], "{rule:?}");
    }
}

#[test]
fn requests_with_one_key_stay_on_one_level() {
    let rule = LoadBalancer::Maglev(Box::new(HashKey::Path));
    let fakes: Vec<_> = (0..8).map(|id| Fake { usable: id != 0 && id != 1, ..fake(id, 1) }).collect();
    let (all, mut rng) = (arcs(&fakes), fastrand::Rng::with_seed(7));
    let ranks = (0..8).map(|id| rank(0, id >= 4));
    let levels = Levels::new(&rule, None, &all, ranks).expect("two levels");
    for key in 0..200_u32 {
        let key = Some(KeyHash::of(&key.to_le_bytes()));
        let mut pick = || levels.pick(&Tried::default(), key, Instant::now(), &mut rng).map(|e| e.id);
        let first = pick();
        assert!((0..10).all(|_| pick() == first));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_shares_are_those_of_the_reference(
        all in prop::collection::vec((1..4_u32, any::<bool>(), 0..3_u32, any::<bool>()), 2..10),
    ) {
        let fakes = all.iter().enumerate();
        let fakes: Vec<_> = fakes.map(|(id, &(weight, usable, ..))| Fake { usable, ..fake(id, weight) }).collect();
        let ranks: Vec<_> = all.iter().map(|&(_, _, priority, elsewhere)| rank(priority, elsewhere)).collect();
        prop_assume!(ranks.iter().any(|rank| *rank != ranks[0]));
        let (shares, due) = (shares(&fakes, &ranks), due(&fakes, &ranks));
        if fakes.iter().all(|fake| !fake.usable) {
            prop_assert!(shares.iter().all(|share| *share == 0.0));
        } else {
            for (share, due) in shares.iter().zip(&due) {
                prop_assert!((share - due).abs() < 0.04, "{shares:?} {due:?}");
            }
        }
    }
}
