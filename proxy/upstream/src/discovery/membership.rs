//! What is known of a name, and how each answer changes it. Pure: the caller passes `now` and a random number.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::repeat;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use pillion_model::Endpoint;
use tokio::time::Instant;

use super::answer::{Answer, Family, Service, SrvRecord};

/// The most endpoints of one name, and the most of its SRV records: ten times the size of a Kubernetes EndpointSlice. The first ones in sorted order are
/// used, so that every sidecar uses the same.
pub(super) const MOST: usize = 1000;

/// The last priority of endpoints, which all further priorities of SRV records share.
const LAST_PRIORITY: u32 = 127;

/// The number of "no such name" answers in a row after which the endpoints are removed. For a headless service that was
/// scaled to zero the answer is true. But a DNS server that restarts, or does not yet have the data of the API server,
/// gives it for a moment, and a cluster without endpoints fails every request. Until then requests to endpoints that
/// really ended simply fail.
pub(super) const DENIALS_BEFORE_REMOVAL: u32 = 3;

/// The shortest pause before the records of an answer end, so that a short time to live makes no storm of questions.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);

/// The longest pause after a first "no such name", so that a long `refresh` does not delay the decision.
const REFRESH_IN_DOUBT: Duration = Duration::from_secs(5);

/// The pause after the first failure. Each further failure doubles it.
const BACKOFF: Duration = Duration::from_secs(1);

/// The longest pause between failures, unless `refresh` is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The shortest and the longest `refresh`. Many clients share a DNS server, so it must not be asked too often.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Pauses vary by this share in both directions, so that sidecars that started together do not ask together.
const JITTER: f64 = 0.1;

/// The endpoints of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Sorted by priority and address, without duplicates, at most 1000. Kept through every failure. Empty if the name
    /// never resolved, or has no addresses any more.
    pub endpoints: Arc<[Endpoint]>,
    /// The addresses of each target of SRV records. They stay while the question for the target fails.
    targets: Arc<Targets>,
    /// When a server last reported them.
    pub learnt_at: Option<Instant>,
    /// Why the last look-up had no answer, or only one family.
    pub last_error: Option<String>,
}

type Targets = BTreeMap<Arc<str>, Vec<IpAddr>>;

impl Membership {
    /// What is known of a name before the first answer.
    pub fn unknown() -> Self {
        Self { endpoints: Arc::default(), targets: Arc::default(), learnt_at: None, last_error: None }
    }

    /// Whether the first look-up has ended, with or without an answer.
    pub fn was_asked(&self) -> bool {
        self.learnt_at.is_some() || self.last_error.is_some()
    }
}

/// A change that is worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Look-ups began to fail. Reported once.
    Lost,
    /// Look-ups work again.
    Back,
    /// "No such name" was answered often enough: the endpoints are removed.
    Emptied,
    /// The name has more addresses than are used.
    TooMany,
}

/// The effect of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) changed: bool,
    pub(super) news: Option<News>,
}

/// The state of one name between look-ups.
#[derive(Debug)]
pub(super) struct NameState {
    /// The port of addresses whose records carry none.
    port: u16,
    refresh: Duration,
    pub(super) membership: Membership,
    /// Failures in a row.
    failures: u32,
    /// "No such name" answers in a row.
    denials: u32,
    too_many: bool,
    /// How long the last answer may be used.
    lifetime: Option<Duration>,
}

impl NameState {
    pub(super) fn new(port: u16, refresh: Duration, before: Option<Membership>) -> Self {
        let refresh = refresh.clamp(SHORTEST, LONGEST);
        let membership = before.unwrap_or_else(Membership::unknown);
        Self { port, refresh, membership, failures: 0, denials: 0, too_many: false, lifetime: None }
    }

    pub(super) fn apply(&mut self, answer: Answer, now: Instant) -> Effect {
        self.lifetime = answer.lifetime();
        match answer {
            Answer::Found { addresses, unanswered, .. } => self.found(addresses, unanswered, now),
            Answer::Services { services, too_many, .. } => self.found_services(services, too_many, now),
            Answer::Nothing(why) | Answer::NotOffered(why) => self.denied(why, now),
            Answer::Failed(why) => self.failed(why),
        }
    }

    /// The pause until the next look-up. `luck` is a random number between 0 and 1.
    pub(super) fn pause(&self, luck: f64) -> Duration {
        self.exact_pause().mul_f64(1.0 - JITTER + 2.0 * JITTER * luck.clamp(0.0, 1.0))
    }

    fn exact_pause(&self) -> Duration {
        if self.failures > 0 {
            let doubled = BACKOFF.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX));
            return doubled.min(self.refresh.max(LONGEST_BACKOFF));
        }
        let in_doubt = self.denials > 0 && !self.membership.endpoints.is_empty();
        let most = if in_doubt { Some(REFRESH_IN_DOUBT) } else { self.lifetime };
        self.refresh.min(most.map_or(LONGEST, |most| most.max(SHORTEST_LIFETIME)))
    }

    /// Takes over an answer. If the question of one family failed, the endpoints of that family stay.
    fn found(
        &mut self,
        mut found: Vec<IpAddr>,
        unanswered: Option<(Family, String)>,
        now: Instant,
    ) -> Effect {
        if let Some((family, _)) = &unanswered {
            let known = self.membership.endpoints.iter().map(|endpoint| endpoint.address.ip());
            found.extend(known.filter(|ip| Family::of(*ip) == *family));
        }
        let endpoints = found.into_iter().map(|ip| Endpoint::at(SocketAddr::new(ip, self.port))).collect();
        self.learn(endpoints, false, unanswered.map(|(_, why)| why), now)
    }

    /// Takes over SRV records. A target whose question failed, or that of one family, keeps its addresses.
    fn found_services(&mut self, services: Vec<Service>, too_many: bool, now: Instant) -> Effect {
        let (mut targets, mut endpoints, mut failed) = (Targets::new(), Vec::new(), None);
        let mut too_many = too_many;
        for Service { record, addresses } in services {
            if endpoints.len() > MOST {
                too_many = true;
                break;
            }
            let (ips, why) = self.addresses_of(&record.target, addresses);
            failed = failed.or_else(|| why.map(|why| format!("target {}: {why}", record.target)));
            endpoints.extend(ips.iter().map(|ip| endpoint(&record, *ip)));
            targets.insert(record.target, ips);
        }
        rank(&mut endpoints);
        self.membership.targets = Arc::new(targets);
        self.learn(endpoints, too_many, failed, now)
    }

    /// The addresses of a target, and why its look-up failed, if it did.
    fn addresses_of(&self, target: &str, answer: Answer) -> (Vec<IpAddr>, Option<String>) {
        let known = || self.membership.targets.get(target).into_iter().flatten().copied();
        match answer {
            Answer::Found { mut addresses, unanswered, .. } => {
                if let Some((family, _)) = &unanswered {
                    addresses.extend(known().filter(|ip| Family::of(*ip) == *family));
                }
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(MOST);
                (addresses, unanswered.map(|(_, why)| why))
            }
            Answer::Failed(why) => (known().collect(), Some(why)),
            Answer::Nothing(_) | Answer::NotOffered(_) | Answer::Services { .. } => (Vec::new(), None),
        }
    }

    fn learn(
        &mut self,
        mut endpoints: Vec<Endpoint>,
        too_many: bool,
        why: Option<String>,
        now: Instant,
    ) -> Effect {
        let was_lost = self.is_lost();
        self.failures = 0;
        self.denials = 0;
        self.membership.learnt_at = Some(now);
        self.membership.last_error = why;
        let back = was_lost.then_some(News::Back);
        let too_many = self.count(&mut endpoints, too_many).then_some(News::TooMany);
        Effect { changed: self.replace(endpoints.into()), news: back.or(too_many) }
    }

    fn denied(&mut self, why: String, now: Instant) -> Effect {
        let first = !self.is_lost();
        self.failures = 0;
        self.denials = self.denials.saturating_add(1);
        self.membership.last_error = Some(why);
        if self.denials >= DENIALS_BEFORE_REMOVAL && !self.membership.endpoints.is_empty() {
            self.membership.learnt_at = Some(now);
            self.membership.targets = Arc::default();
            return Effect { changed: self.replace(Arc::default()), news: Some(News::Emptied) };
        }
        Effect { changed: false, news: first.then_some(News::Lost) }
    }

    /// Notes a failure. "No such name" answers then count from zero, because the server is not reliable.
    fn failed(&mut self, why: String) -> Effect {
        let first = !self.is_lost();
        self.denials = 0;
        self.failures = self.failures.saturating_add(1);
        self.membership.last_error = Some(why);
        Effect { changed: false, news: first.then_some(News::Lost) }
    }

    fn is_lost(&self) -> bool {
        self.failures > 0 || self.denials > 0
    }

    /// Sorts the endpoints and applies the limit. Returns whether the limit was exceeded for the first time.
    fn count(&mut self, found: &mut Vec<Endpoint>, too_many: bool) -> bool {
        found.sort_unstable_by_key(|it| (it.priority, it.address, Reverse(it.weight)));
        let mut seen = BTreeSet::new();
        found.retain(|endpoint| seen.insert(endpoint.address));
        let were_too_many = std::mem::replace(&mut self.too_many, too_many || found.len() > MOST);
        found.truncate(MOST);
        self.too_many && !were_too_many
    }

    fn replace(&mut self, endpoints: Arc<[Endpoint]>) -> bool {
        let changed = self.membership.endpoints != endpoints;
        if changed {
            self.membership.endpoints = endpoints;
        }
        changed
    }
}

/// The endpoint at one address of a target. Weight 0 counts as 1, so that its endpoint gets a small share.
fn endpoint(record: &SrvRecord, ip: IpAddr) -> Endpoint {
    let weight = NonZeroU32::new(record.weight.into()).unwrap_or(NonZeroU32::MIN);
    let priority = record.priority.into();
    Endpoint { weight, priority, ..Endpoint::at(SocketAddr::new(ip, record.port)) }
}

/// Replaces the priorities of SRV records (0 to 65535) by their ranks, which endpoints have.
fn rank(endpoints: &mut [Endpoint]) {
    let all: BTreeSet<u32> = endpoints.iter().map(|endpoint| endpoint.priority).collect();
    let ranks: BTreeMap<u32, u32> =
        all.into_iter().zip((0..=LAST_PRIORITY).chain(repeat(LAST_PRIORITY))).collect();
    for endpoint in endpoints {
        endpoint.priority = ranks.get(&endpoint.priority).copied().unwrap_or(LAST_PRIORITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(5);

    fn found(ips: &[&str]) -> Answer {
        let addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Answer::Found { addresses, unanswered: None, lifetime: None }
    }

    fn half(ips: &[&str], family: Family) -> Answer {
        let Answer::Found { addresses, .. } = found(ips) else { unreachable!() };
        Answer::Found { addresses, unanswered: Some((family, "timed out".into())), lifetime: None }
    }

    fn failed() -> Answer {
        Answer::Failed("timed out".into())
    }

    fn nothing() -> Answer {
        Answer::Nothing("no such name".into())
    }

    fn effect(changed: bool, news: impl Into<Option<News>>) -> Effect {
        Effect { changed, news: news.into() }
    }

    /// Applies all answers, and returns the effect of the last one.
    fn after(known: &mut NameState, answers: impl IntoIterator<Item = Answer>) -> Effect {
        let mut last = Effect::default();
        for answer in answers {
            last = known.apply(answer, Instant::now());
        }
        last
    }

    fn endpoints(known: &NameState) -> Vec<String> {
        known.membership.endpoints.iter().map(|it| it.address.to_string()).collect()
    }

    #[test]
    fn endpoints_are_sorted_and_another_order_is_no_change() {
        let mut known = NameState::new(80, REFRESH, None);
        let first = after(&mut known, [found(&["192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2"])]);
        assert_eq!(first, effect(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"]);
        let again = after(&mut known, [found(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])]);
        assert_eq!(again, effect(false, None));
        assert_eq!(after(&mut known, [found(&["192.0.2.2"])]), effect(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.2:80"]);
    }

    #[test]
    fn failures_keep_the_endpoints_for_ever_and_are_reported_once() {
        let mut known = NameState::new(80, REFRESH, None);
        let asked_at = Instant::now();
        known.apply(found(&["192.0.2.1"]), asked_at);
        assert_eq!(after(&mut known, [failed()]), effect(false, News::Lost));
        for _ in 0..1000 {
            assert_eq!(after(&mut known, [failed()]), effect(false, None));
        }
        assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        assert_eq!(known.membership.learnt_at, Some(asked_at));
        assert_eq!(known.membership.last_error.as_deref(), Some("timed out"));
        assert_eq!(after(&mut known, [found(&["192.0.2.1"])]), effect(false, News::Back));
        assert_eq!(known.membership.last_error, None);
    }

    #[test]
    fn failed_look_ups_are_repeated_after_one_second_and_then_less_and_less_often() {
        for (refresh, longest) in [(1, 30), (5, 30), (60, 60)] {
            let mut known = NameState::new(80, Duration::from_secs(refresh), None);
            let mut pauses = Vec::new();
            for _ in 0..40 {
                known.apply(failed(), Instant::now());
                pauses.push(known.pause(0.5).as_secs());
            }
            assert_eq!(pauses[..4], [1, 2, 4, 8], "refresh {refresh}");
            assert_eq!(pauses.last(), Some(&longest), "refresh {refresh}");
        }
    }

    #[test]
    fn the_third_no_such_name_in_a_row_removes_the_endpoints() {
        let mut known = NameState::new(80, REFRESH, None);
        after(&mut known, [found(&["192.0.2.1"])]);
        assert_eq!(after(&mut known, [nothing()]), effect(false, News::Lost));
        assert_eq!(after(&mut known, [nothing()]), effect(false, None));
        assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        assert_eq!(after(&mut known, [nothing()]), effect(true, News::Emptied));
        assert!(known.membership.endpoints.is_empty());
        assert_eq!(known.membership.last_error.as_deref(), Some("no such name"));
        assert_eq!(after(&mut known, [nothing()]), effect(false, None));
        assert_eq!(after(&mut known, [found(&["192.0.2.1"])]), effect(true, News::Back));
    }

    #[test]
    fn a_failure_or_an_answer_restarts_the_count_of_no_such_name() {
        for between in [failed(), found(&["192.0.2.1"])] {
            let mut known = NameState::new(80, REFRESH, None);
            after(&mut known, [found(&["192.0.2.1"]), nothing(), nothing(), between, nothing(), nothing()]);
            assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        }
    }

    #[test]
    fn no_such_name_is_asked_again_within_seconds_even_if_refresh_is_long() {
        let mut known = NameState::new(80, Duration::from_secs(600), None);
        after(&mut known, [found(&["192.0.2.1"])]);
        assert_eq!(known.pause(0.5).as_secs(), 600);
        after(&mut known, [nothing()]);
        assert_eq!(known.pause(0.5).as_secs(), 5);
        after(&mut known, [nothing(), nothing()]);
        assert_eq!(known.pause(0.5).as_secs(), 600);
    }

    fn living(seconds: u64) -> Answer {
        let Answer::Found { addresses, unanswered, .. } = found(&["192.0.2.1"]) else { unreachable!() };
        Answer::Found { addresses, unanswered, lifetime: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn an_answer_is_used_no_longer_than_its_time_to_live_or_refresh_and_failures_have_their_own_pauses() {
        let mut known = NameState::new(80, Duration::from_secs(60), None);
        let mut pause_after = |answer| {
            known.apply(answer, Instant::now());
            known.pause(0.5).as_secs()
        };
        let answers =
            [living(20), living(300), living(0), found(&["192.0.2.1"]), living(7), failed(), nothing()];
        assert_eq!(answers.map(&mut pause_after), [20, 60, 1, 60, 7, 1, 5]);
    }

    proptest::proptest! {
        #[test]
        fn the_pause_after_an_answer_is_within_its_bounds(refresh in 1_u64..90_000, lifetime in 1_u64..u64::from(u32::MAX), luck in 0.0..1.0) {
            let mut known = NameState::new(80, Duration::from_secs(refresh), None);
            known.apply(living(lifetime), Instant::now());
            let exact = refresh.min(lifetime).min(LONGEST.as_secs()) as f64;
            let pause = known.pause(luck).as_secs_f64();
            proptest::prop_assert!((0.899 * exact..=1.101 * exact).contains(&pause), "{pause} of {exact}");
        }
    }

    #[test]
    fn a_family_whose_question_failed_keeps_its_endpoints() {
        let mut known = NameState::new(80, REFRESH, None);
        after(&mut known, [found(&["192.0.2.1", "2001:db8::1"])]);
        assert_eq!(after(&mut known, [half(&["192.0.2.2"], Family::V6)]), effect(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.2:80", "[2001:db8::1]:80"]);
        assert_eq!(known.membership.last_error.as_deref(), Some("timed out"));
        assert_eq!(known.pause(0.5), REFRESH);
        after(&mut known, [found(&["192.0.2.2"])]);
        assert_eq!(endpoints(&known), ["192.0.2.2:80"]);
    }

    #[test]
    fn a_thousand_addresses_are_used_and_the_excess_is_reported_once() {
        let many: Vec<String> = (0..MOST + 1).map(|i| format!("10.0.{}.{}", i / 256, i % 256)).collect();
        let many: Vec<&str> = many.iter().rev().map(String::as_str).collect();
        let mut known = NameState::new(80, REFRESH, None);
        assert_eq!(after(&mut known, [found(&many)]), effect(true, News::TooMany));
        assert_eq!(known.membership.endpoints.len(), MOST);
        assert_eq!(endpoints(&known)[0], "10.0.0.0:80");
        assert_eq!(after(&mut known, [found(&many)]), effect(false, None));
    }

    fn service(priority: u16, weight: u16, target: &str, addresses: Answer) -> Service {
        Service { record: SrvRecord { priority, target: target.into(), port: 8080, weight }, addresses }
    }

    fn services(services: impl IntoIterator<Item = Service>) -> Answer {
        Answer::Services { services: services.into_iter().collect(), too_many: false, lifetime: None }
    }

    /// Each endpoint as `address priority weight`.
    fn told(known: &NameState) -> Vec<String> {
        let tell = |it: &Endpoint| format!("{} {} {}", it.address, it.priority, it.weight);
        known.membership.endpoints.iter().map(tell).collect()
    }

    #[test]
    fn srv_records_give_ports_weights_and_ranks_of_priorities() {
        let mut known = NameState::new(0, REFRESH, None);
        let answer = services([
            service(10, 60, "a.", found(&["192.0.2.9", "2001:db8::1"])),
            service(10, 0, "b.", found(&["192.0.2.2"])),
            service(20, 5, "gone.", nothing()),
            service(65_535, 65_535, "c.", found(&["192.0.2.1", "192.0.2.2"])),
        ]);
        assert_eq!(after(&mut known, [answer.clone()]), effect(true, None));
        let expected = [
            "192.0.2.2:8080 0 1",
            "192.0.2.9:8080 0 60",
            "[2001:db8::1]:8080 0 60",
            "192.0.2.1:8080 1 65535",
        ];
        assert_eq!(
            told(&known),
            expected,
            "an address that has two records is used once, by the first priority"
        );
        assert_eq!(after(&mut known, [answer]), effect(false, None));
        let heavier = services([service(0, 9, "b.", found(&["192.0.2.2"]))]);
        assert_eq!(after(&mut known, [heavier]), effect(true, None), "another weight is a change");
        assert_eq!(told(&known), ["192.0.2.2:8080 0 9"]);
    }

    #[test]
    fn more_priorities_than_endpoints_have_share_the_last() {
        let mut known = NameState::new(0, REFRESH, None);
        let all = (0..200).map(|nth: u16| service(nth * 3, 1, "a.", found(&[&format!("192.0.2.{nth}")])));
        after(&mut known, [services(all)]);
        let priorities: Vec<u32> = known.membership.endpoints.iter().map(|it| it.priority).collect();
        assert_eq!(priorities[..128], (0..128).collect::<Vec<u32>>());
        assert!(priorities[128..].iter().all(|priority| *priority == LAST_PRIORITY));
    }

    #[test]
    fn a_target_whose_question_failed_keeps_its_addresses_and_others_change() {
        let mut known = NameState::new(0, REFRESH, None);
        let one = service(0, 1, "a.", found(&["192.0.2.1", "2001:db8::1"]));
        after(&mut known, [services([one, service(0, 1, "b.", found(&["192.0.2.2"]))])]);
        let mut known = NameState::new(0, Duration::from_secs(9), Some(known.membership)); // a reload
        for _ in 0..10 {
            let moved = service(0, 1, "b.", found(&["192.0.2.3"]));
            after(&mut known, [services([service(0, 1, "a.", failed()), moved])]);
        }
        assert_eq!(endpoints(&known), ["192.0.2.1:8080", "192.0.2.3:8080", "[2001:db8::1]:8080"]);
        assert_eq!(known.membership.last_error.as_deref(), Some("target a.: timed out"));
        after(&mut known, [services([service(0, 1, "a.", half(&["192.0.2.4"], Family::V6))])]);
        assert_eq!(endpoints(&known), ["192.0.2.4:8080", "[2001:db8::1]:8080"]);
        after(&mut known, [failed(), failed(), failed(), nothing(), nothing()]);
        assert_eq!(endpoints(&known).len(), 2);
        let not_offered = Answer::NotOffered("not offered".into());
        assert_eq!(after(&mut known, [not_offered]), effect(true, News::Emptied));
        after(
            &mut known,
            [services([service(0, 1, "a.", failed()), service(0, 1, "b.", found(&["192.0.2.2"]))])],
        );
        assert_eq!(endpoints(&known), ["192.0.2.2:8080"], "addresses of before the removal do not come back");
    }

    #[test]
    fn an_excess_of_srv_records_is_reported_once() {
        let mut known = NameState::new(0, REFRESH, None);
        let some = || vec![service(0, 1, "a.", found(&["192.0.2.1"]))];
        let excess = || Answer::Services { services: some(), too_many: true, lifetime: None };
        assert_eq!(after(&mut known, [excess()]), effect(true, News::TooMany));
        assert_eq!(after(&mut known, [excess()]), effect(false, None));
    }

    #[test]
    fn pauses_vary_by_a_tenth_and_have_bounds() {
        let known = NameState::new(80, Duration::from_secs(10), None);
        assert_eq!(known.pause(0.0), Duration::from_secs(9));
        assert_eq!(known.pause(1.0), Duration::from_secs(11));
        assert_eq!(NameState::new(80, Duration::ZERO, None).pause(0.5), SHORTEST);
        assert_eq!(NameState::new(80, Duration::MAX, None).pause(0.5), LONGEST);
    }
}
