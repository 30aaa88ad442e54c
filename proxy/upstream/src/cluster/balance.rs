//! Chooses the endpoint for the next try.
//!
//! Pure: the endpoints, what was tried already, `now` and the random generator are arguments. A pick does not allocate.
//! Only `round_robin` takes a lock, for a short time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pillion_model::cluster::LoadBalancer;

use super::ewma;

/// Random draws before the whole list is searched. In a cluster with half of its endpoints ejected, all eight draws
/// fail once in 256 picks.
const DRAWS: usize = 8;

/// What the balancer needs to know about an endpoint.
pub trait Candidate {
    /// Unique in its cluster. [`Tried`] remembers it.
    fn id(&self) -> usize;
    fn weight(&self) -> NonZeroU32;
    /// Requests that were sent and have not ended. Used by peak_ewma and least_request.
    fn in_flight(&self) -> u32;
    /// See [`ewma::Ewma::latency`]. Used by peak_ewma only.
    fn latency(&self, now: Instant) -> Option<f64>;
    /// Whether the endpoint may be used: neither ejected nor waiting for its probe.
    fn is_usable(&self, now: Instant) -> bool;
}

/// The endpoints that were already tried for a request. Beyond [`Tried::ROOM`] the oldest one is forgotten.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    ids: [usize; Self::ROOM],
    count: usize,
}

impl Tried {
    /// 8, because the defaults need at most three tries and three replacements. More tries are rare.
    pub const ROOM: usize = 8;

    pub fn insert(&mut self, id: usize) {
        if let Some(place) = self.ids.get_mut(self.count % Self::ROOM) {
            *place = id;
            self.count += 1;
        }
    }

    pub fn contains(&self, id: usize) -> bool {
        self.ids.iter().take(self.count).any(|&tried| tried == id)
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The balancer of one cluster for one list of endpoints. A new list gets a new balancer.
#[derive(Debug)]
pub struct Balancer {
    rule: Rule,
    weights: Weights,
}

#[derive(Debug)]
enum Rule {
    /// Draws two by weight and takes the one with the shorter expected wait.
    PeakEwma,
    /// Draws two by weight and takes the one with the shorter queue for its weight.
    LeastRequest,
    /// Round robin among endpoints of equal weight: the index of the next one. `RoundRobin` would pick in the same
    /// order, but it looks at every endpoint for each pick.
    Equals(Mutex<usize>),
    /// nginx's smooth weighted round robin: each endpoint gains its weight, the one with the highest balance is picked,
    /// and pays the sum of the weights. This spreads the turns of a heavy endpoint instead of bunching them.
    RoundRobin(Mutex<Box<[i64]>>),
    Random,
}

impl Balancer {
    /// `weights` are those of the endpoints that [`pick`](Self::pick) will get, in the same order.
    pub fn new(rule: LoadBalancer, weights: impl IntoIterator<Item = NonZeroU32>) -> Self {
        let weights = Weights::new(weights);
        let rule = match rule {
            LoadBalancer::PeakEwma => Rule::PeakEwma,
            LoadBalancer::LeastRequest => Rule::LeastRequest,
            LoadBalancer::RoundRobin if weights.are_equal => Rule::Equals(Mutex::new(0)),
            LoadBalancer::RoundRobin => Rule::RoundRobin(Mutex::new(vec![0; weights.ends.len()].into())),
            LoadBalancer::Random => Rule::Random,
        };
        Self { rule, weights }
    }

    /// A usable endpoint that was not tried yet, otherwise a usable one that was, otherwise `None`.
    pub fn pick<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        avoid: &Tried,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&'a Arc<E>> {
        if let [only] = endpoints {
            return only.is_usable(now).then_some(only);
        }
        if avoid.is_empty() {
            return self.choose(endpoints, now, rng, |e| e.is_usable(now));
        }
        self.choose(endpoints, now, rng, |e| e.is_usable(now) && !avoid.contains(e.id()))
            .or_else(|| self.choose(endpoints, now, rng, |e| e.is_usable(now)))
    }

    fn choose<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        now: Instant,
        rng: &mut fastrand::Rng,
        fits: impl Fn(&E) -> bool,
    ) -> Option<&'a Arc<E>> {
        let load: fn(&E, Instant) -> f64 = match &self.rule {
            Rule::Equals(next) => return after_last(&mut next.lock(), endpoints, fits),
            Rule::RoundRobin(turns) => return in_turn(&mut turns.lock(), endpoints, fits),
            Rule::Random => return self.draw(endpoints, None, rng, &fits).map(|(_, e)| e),
            Rule::PeakEwma => |e, now| ewma::load(e.latency(now), e.in_flight(), e.weight()),
            Rule::LeastRequest => |e, _| ewma::load(Some(1.0), e.in_flight(), e.weight()),
        };
        let (index, first) = self.draw(endpoints, None, rng, &fits)?;
        let Some((_, second)) = self.draw(endpoints, Some(index), rng, &fits) else { return Some(first) };
        // On a tie the first one wins: it was drawn by weight alone, so idle endpoints are used by weight.
        Some(if load(second, now) < load(first, now) { second } else { first })
    }

    /// A usable endpoint and its index, drawn by weight, never `except`.
    fn draw<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        except: Option<usize>,
        rng: &mut fastrand::Rng,
        fits: &impl Fn(&E) -> bool,
    ) -> Option<(usize, &'a Arc<E>)> {
        for _ in 0..DRAWS {
            let index = self.weights.draw(except, rng)?;
            if let Some(endpoint) = endpoints.get(index).filter(|e| fits(e)) {
                return Some((index, endpoint));
            }
        }
        search(endpoints, except, rng, fits)
    }
}

/// Looks at all endpoints: each one that fits replaces the one before it with a probability of its weight in the sum so
/// far.
fn search<'a, E: Candidate>(
    endpoints: &'a [Arc<E>],
    except: Option<usize>,
    rng: &mut fastrand::Rng,
    fits: &impl Fn(&E) -> bool,
) -> Option<(usize, &'a Arc<E>)> {
    let mut sum = 0;
    let mut drawn = None;
    for (index, endpoint) in endpoints.iter().enumerate().filter(|(i, e)| Some(*i) != except && fits(e)) {
        let weight = u64::from(endpoint.weight().get());
        sum += weight;
        if rng.u64(0..sum) < weight {
            drawn = Some((index, endpoint));
        }
    }
    drawn
}

fn after_last<'a, E: Candidate>(
    next: &mut usize,
    endpoints: &'a [Arc<E>],
    fits: impl Fn(&E) -> bool,
) -> Option<&'a Arc<E>> {
    let (before, from_next) = endpoints.split_at_checked(*next).unwrap_or((&[], endpoints));
    let behind = endpoints.len() - from_next.len();
    let from_next = from_next.iter().enumerate().map(|(nth, endpoint)| (behind + nth, endpoint));
    let (index, endpoint) = from_next.chain(before.iter().enumerate()).find(|(_, e)| fits(e))?;
    *next = index + 1;
    Some(endpoint)
}

fn in_turn<'a, E: Candidate>(
    turns: &mut [i64],
    endpoints: &'a [Arc<E>],
    fits: impl Fn(&E) -> bool,
) -> Option<&'a Arc<E>> {
    let mut sum = 0;
    let mut richest: Option<(&mut i64, &Arc<E>)> = None;
    for (turn, endpoint) in turns.iter_mut().zip(endpoints).filter(|(_, e)| fits(e)) {
        let weight = i64::from(endpoint.weight().get());
        *turn += weight;
        sum += weight;
        if richest.as_ref().is_none_or(|(most, _)| **most < *turn) {
            richest = Some((turn, endpoint));
        }
    }
    richest.map(|(turn, endpoint)| {
        *turn -= sum;
        endpoint
    })
}

/// The endpoints as consecutive intervals, each as long as its weight. `ends` are the right ends of the intervals.
#[derive(Debug)]
struct Weights {
    ends: Box<[u64]>,
    /// Whether all weights are equal. A draw then needs no search for the interval of a point.
    are_equal: bool,
}

impl Weights {
    fn new(weights: impl IntoIterator<Item = NonZeroU32>) -> Self {
        let mut end = 0;
        let ends = weights.into_iter().map(|weight| {
            end += u64::from(weight.get());
            end
        });
        let ends: Box<[u64]> = ends.collect();
        let first = ends.first().copied().unwrap_or(0);
        let are_equal = ends.iter().zip(1..).all(|(end, nth)| *end == nth * first);
        Self { ends, are_equal }
    }

    /// An index drawn by weight, never `except`, whose interval is left out. `None` when no endpoint is left.
    fn draw(&self, except: Option<usize>, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.are_equal {
            let left = self.ends.len().saturating_sub(usize::from(except.is_some()));
            let index = (left > 0).then(|| rng.usize(0..left))?;
            return Some(index + usize::from(except.is_some_and(|except| except <= index)));
        }
        let (start, length) = except.map_or((0, 0), |index| self.stretch(index));
        let left = self.end(self.ends.len().checked_sub(1)) - length;
        if left == 0 {
            return None;
        }
        let point = rng.u64(0..left);
        let point = if point < start { point } else { point + length };
        Some(self.ends.partition_point(|&end| end <= point))
    }

    fn stretch(&self, index: usize) -> (u64, u64) {
        let start = self.end(index.checked_sub(1));
        (start, self.end(Some(index)).saturating_sub(start))
    }

    fn end(&self, index: Option<usize>) -> u64 {
        index.and_then(|index| self.ends.get(index)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: [LoadBalancer; 4] =
        [LoadBalancer::PeakEwma, LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, LoadBalancer::Random];

    #[derive(Debug, Clone)]
    struct Fake {
        id: usize,
        weight: NonZeroU32,
        in_flight: u32,
        latency: Option<f64>,
        usable: bool,
    }

    impl Candidate for Fake {
        fn id(&self) -> usize {
            self.id
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
    }

    fn fake(id: usize, weight: u32) -> Fake {
        let weight = NonZeroU32::new(weight).expect("tests use weights above zero");
        Fake { id, weight, in_flight: 0, latency: Some(1e6), usable: true }
    }

    struct Cluster {
        balancer: Balancer,
        endpoints: Vec<Arc<Fake>>,
        rng: fastrand::Rng,
    }

    impl Cluster {
        fn new(rule: LoadBalancer, fakes: impl IntoIterator<Item = Fake>) -> Self {
            let endpoints: Vec<_> = fakes.into_iter().map(Arc::new).collect();
            let balancer = Balancer::new(rule, endpoints.iter().map(|e| e.weight));
            Self { balancer, endpoints, rng: fastrand::Rng::with_seed(7) }
        }

        fn pick(&mut self, tried: &[usize]) -> Option<usize> {
            let avoid = tried_already(tried);
            self.balancer.pick(&self.endpoints, &avoid, Instant::now(), &mut self.rng).map(|e| e.id)
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
        for rule in RULES {
            assert_eq!(Cluster::new(rule, []).pick(&[]), None);
            let resting = Fake { usable: false, ..fake(0, 1) };
            assert_eq!(Cluster::new(rule, [resting.clone()]).pick(&[]), None);
            assert_eq!(Cluster::new(rule, [resting.clone(), Fake { id: 1, ..resting }]).pick(&[0, 1]), None);
        }
    }

    #[test]
    fn a_balancer_of_a_longer_list_still_finds_a_usable_endpoint() {
        for rule in [LoadBalancer::PeakEwma, LoadBalancer::LeastRequest, LoadBalancer::Random] {
            let mut cluster = Cluster::new(rule, [fake(0, 1), fake(1, 1), fake(2, 1)]);
            cluster.endpoints.truncate(2);
            assert!(cluster.picks(100).iter().all(|&id| id < 2));
            assert_eq!(cluster.picks(100).len(), 100);
        }
    }

    #[test]
    fn a_single_endpoint_is_picked_again_after_it_was_tried() {
        for rule in RULES {
            assert_eq!(Cluster::new(rule, [fake(4, 1)]).pick(&[4]), Some(4));
        }
    }

    #[test]
    fn smooth_round_robin_spreads_the_turns_of_a_heavy_endpoint() {
        let mut cluster = Cluster::new(LoadBalancer::RoundRobin, [fake(0, 5), fake(1, 1), fake(2, 1)]);
        assert_eq!(cluster.picks(7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn endpoints_of_equal_weight_take_turns_and_an_ejected_one_is_skipped() {
        let resting = Fake { usable: false, ..fake(1, 3) };
        let mut cluster = Cluster::new(LoadBalancer::RoundRobin, [fake(0, 3), resting, fake(2, 3)]);
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
        let mut cluster = Cluster::new(LoadBalancer::PeakEwma, [slow.clone(), busy.clone()]);
        assert!(cluster.picks(50).iter().all(|&id| id == 1), "4 × 1 ms before 1 × 9 ms");
        let mut cluster = Cluster::new(LoadBalancer::LeastRequest, [slow, busy]);
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

    fn rules() -> impl Strategy<Value = LoadBalancer> {
        prop::sample::select(RULES.to_vec())
    }

    proptest! {
        #[test]
        fn a_usable_endpoint_is_picked_if_there_is_one_and_an_untried_one_if_possible(
            all in fakes(), rule in rules(), tried in prop::collection::vec(0..12_usize, 0..6), seed: u64,
        ) {
            let mut cluster = Cluster::new(rule, all.clone());
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
            weights in weights(), rule in rules(), resting in 0..7_usize,
        ) {
            let all = weights.iter().enumerate();
            let all = all.map(|(id, &weight)| Fake { usable: id != resting, ..fake(id, weight) });
            let used: u32 = weights.iter().enumerate().filter(|(id, _)| *id != resting).map(|(_, w)| w).sum();
            let picks = Cluster::new(rule, all).picks(20_000);
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
            let mut cluster = Cluster::new(rule, all);
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
}
