use pillion_model::policy::ErrorRate;
use proptest::prelude::*;

use super::*;

const BASE: u64 = 30;

fn policy(consecutive_errors: u32, max_ejected: f64) -> OutlierDetection {
    let consecutive_errors = Some(consecutive_errors);
    let base_ejection = secs(BASE);
    OutlierDetection { consecutive_errors, base_ejection, max_ejected, ..OutlierDetection::default() }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

struct Cluster {
    start: Instant,
    ejections: Arc<Ejections>,
    endpoints: Vec<Outlier>,
}

impl Cluster {
    fn of(endpoints: usize, policy: &OutlierDetection) -> Self {
        let start = Instant::now();
        let ejections = Ejections::new(Arc::new(policy.clone()));
        ejections.allow_of(endpoints, 0);
        let outlier = |_| Outlier::new(Arc::clone(&ejections), start);
        Self { start, endpoints: (0..endpoints).map(outlier).collect(), ejections }
    }

    /// A cluster of two endpoints that ejects after three errors.
    fn pair() -> Self {
        Self::of(2, &policy(3, 0.5))
    }

    fn at(&self, second: u64) -> Instant {
        self.start + secs(second)
    }

    fn fails(&self, endpoint: usize, times: usize, second: u64) -> Option<Duration> {
        let ejected = |_| self.endpoints[endpoint].on_error(self.at(second), Cause::Reset);
        (0..times).filter_map(ejected).reduce(|_, later| later).map(|ejected| ejected.rest)
    }

    fn is_usable(&self, endpoint: usize, second: u64) -> bool {
        self.endpoints[endpoint].is_usable(self.at(second))
    }

    fn admits(&self, endpoint: usize, second: u64) -> bool {
        self.endpoints[endpoint].admit(self.at(second))
    }

    fn succeeds(&self, endpoint: usize, second: u64) {
        self.endpoints[endpoint].on_success(self.at(second));
    }
}

#[test]
fn errors_in_a_row_eject_and_a_success_in_between_resets_the_count() {
    let cluster = Cluster::pair();
    assert_eq!(cluster.fails(0, 2, 0), None);
    cluster.succeeds(0, 0);
    assert_eq!(cluster.fails(0, 2, 0), None);
    assert!(cluster.is_usable(0, 0));
    assert_eq!(cluster.fails(0, 1, 0), Some(secs(30)));
    assert!(!cluster.is_usable(0, 29));
    assert!(!cluster.admits(0, 29));
}

/// A policy with every cause; errors in a row would eject last.
fn all_causes() -> OutlierDetection {
    OutlierDetection {
        gateway_errors: Some(3),
        connect_failures: Some(2),
        error_rate: Some(ErrorRate { above: 0.5, min_requests: 8 }),
        ..policy(5, 0.5)
    }
}

/// The cause that ejects the first endpoint of two within one second, by letters: `g`ateway error, `s`tatus,
/// `c`onnect failure, `r`eset, and `.` for a success.
fn ejected_by(policy: &OutlierDetection, ends: &str) -> Option<EjectionCause> {
    let cluster = Cluster::of(2, policy);
    let outlier = &cluster.endpoints[0];
    let end = |end| match end {
        '.' => {
            outlier.on_success(cluster.start);
            None
        }
        'g' => outlier.on_error(cluster.start, Cause::Gateway),
        's' => outlier.on_error(cluster.start, Cause::Status),
        'c' => outlier.on_error(cluster.start, Cause::Connect),
        _ => outlier.on_error(cluster.start, Cause::Reset),
    };
    ends.chars().filter_map(end).map(|ejected| ejected.cause).next()
}

#[test]
fn each_cause_ejects_by_its_own_threshold_and_the_narrowest_is_named() {
    use EjectionCause::{ConnectFailures, ConsecutiveErrors, ErrorRate, GatewayErrors};
    let rows = [
        ("gg", None),
        ("ggg", Some(GatewayErrors)),
        ("gg.g", None),
        ("ggsg", None),
        ("ggrg", Some(GatewayErrors)),
        ("c", None),
        ("cc", Some(ConnectFailures)),
        ("crc", None),
        ("c.c", None),
        ("rrrr", None),
        ("rrrrr", Some(ConsecutiveErrors)),
        ("rrr.rrr", None),
        ("rrr.rrrr", Some(ErrorRate)),
        ("r.r.r.r.", None),
        (".......r", None),
    ];
    for (ends, expected) in rows {
        assert_eq!(ejected_by(&all_causes(), ends), expected, "{ends}");
    }
}

#[test]
fn a_cause_works_with_errors_in_a_row_switched_off() {
    let only = |policy: OutlierDetection| OutlierDetection { consecutive_errors: None, ..policy };
    let gateway = only(OutlierDetection { connect_failures: None, error_rate: None, ..all_causes() });
    assert_eq!(ejected_by(&gateway, "rrrrrrrrcccccssss"), None);
    assert_eq!(ejected_by(&gateway, "ggg"), Some(EjectionCause::GatewayErrors));
}

#[test]
fn the_error_rate_counts_within_one_interval_and_begins_anew_after_an_ejection() {
    let detection = OutlierDetection {
        error_rate: Some(ErrorRate { above: 0.5, min_requests: 4 }),
        consecutive_errors: None,
        ..policy(1, 0.5)
    };
    let cluster = Cluster::of(2, &detection);
    assert_eq!(cluster.fails(0, 3, 0), None);
    assert_eq!(cluster.fails(0, 3, 10), None, "the first interval is over");
    assert_eq!(cluster.fails(0, 1, 19), Some(secs(30)));
    assert!(cluster.admits(0, 49));
    cluster.succeeds(0, 49);
    assert_eq!(cluster.fails(0, 3, 50), None);
    assert_eq!(cluster.fails(0, 1, 50), Some(secs(60)));
    assert!(cluster.admits(0, 110));
    let again = cluster.endpoints[0].on_error(cluster.at(110), Cause::Connect);
    assert_eq!(again, Some(Ejected { rest: secs(90), cause: EjectionCause::ErrorRate }));
}

#[test]
fn a_kept_connection_that_ends_under_a_request_counts_in_the_error_rate_alone() {
    let loses = |cluster: &Cluster, times: usize, second: u64| {
        let lost = |_| cluster.endpoints[0].on_lost_connection(cluster.at(second));
        (0..times).filter_map(lost).next().map(|ejected| ejected.cause)
    };
    let cluster = Cluster::of(2, &policy(1, 0.5));
    assert_eq!(loses(&cluster, 50, 0), None, "no error in a row");
    let rate = Some(ErrorRate { above: 0.5, min_requests: 4 });
    let cluster = Cluster::of(2, &OutlierDetection { error_rate: rate, ..policy(1, 0.5) });
    cluster.succeeds(0, 0);
    assert_eq!(loses(&cluster, 2, 0), None, "three requests");
    assert_eq!(loses(&cluster, 1, 0), Some(EjectionCause::ErrorRate));
    assert!(cluster.admits(0, 30));
    assert_eq!(loses(&cluster, 1, 30), None, "a probe without a result");
    assert!(cluster.admits(0, 30), "another request may probe");
}

#[test]
fn a_rate_is_exceeded_only_beyond_its_share() {
    for percent in 0..100_u32 {
        let detection = OutlierDetection {
            error_rate: Some(ErrorRate { above: f64::from(percent) / 100.0, min_requests: 100 }),
            consecutive_errors: None,
            ..policy(1, 0.5)
        };
        let cluster = Cluster::of(2, &detection);
        (0..99 - percent).for_each(|_| cluster.succeeds(0, 0));
        assert_eq!(cluster.fails(0, percent as usize, 0), None, "99 requests");
        assert_eq!(cluster.fails(0, 1, 0), Some(secs(30)), "{} of 100 is above {percent} %", percent + 1);
    }
}

#[test]
fn an_endpoint_is_probed_once_after_its_ejection_and_is_used_again() {
    let cluster = Cluster::pair();
    cluster.fails(0, 3, 0);
    assert!(cluster.is_usable(0, 30));
    assert!(cluster.admits(0, 30), "the probe");
    assert!(!cluster.is_usable(0, 30), "another request probes");
    assert!(!cluster.admits(0, 30));
    assert_eq!(cluster.ejections.ejected(), 1);
    assert!(cluster.endpoints[0].on_success(cluster.at(31)), "it is back, and this is reported once");
    assert!(!cluster.endpoints[0].on_success(cluster.at(31)));
    assert!(cluster.endpoints[0].is_closed());
    assert_eq!(cluster.ejections.ejected(), 0);
    assert_eq!(cluster.fails(0, 2, 31), None, "errors count from zero");
}

#[test]
fn a_failed_probe_ejects_the_endpoint_longer_up_to_five_minutes() {
    let cluster = Cluster::pair();
    assert_eq!(cluster.fails(0, 3, 0), Some(secs(30)));
    let mut now = 30;
    for round in 2..14 {
        assert!(cluster.admits(0, now));
        let rest = cluster.fails(0, 1, now).expect("a failed probe ejects at once");
        assert_eq!(rest, secs((BASE * round).min(300)));
        assert!(!cluster.is_usable(0, now + rest.as_secs() - 1));
        now += rest.as_secs();
    }
}

#[test]
fn each_base_ejection_time_without_ejection_lowers_the_count_by_one() {
    let cluster = Cluster::pair();
    cluster.fails(0, 3, 0);
    cluster.admits(0, 30);
    assert_eq!(cluster.fails(0, 1, 30), Some(secs(60)));
    cluster.admits(0, 90);
    assert_eq!(cluster.fails(0, 1, 90), Some(secs(90)));
    cluster.admits(0, 180);
    cluster.succeeds(0, 180);
    assert_eq!(cluster.fails(0, 3, 209), Some(secs(120)), "the fourth in a row, 29 s later");
    cluster.admits(0, 329);
    cluster.succeeds(0, 329);
    assert_eq!(
        cluster.fails(0, 3, 329 + 65),
        Some(secs(90)),
        "two clean periods: four minus two, plus this one"
    );
    cluster.admits(0, 484);
    cluster.succeeds(0, 484);
    assert_eq!(cluster.fails(0, 3, 10_000), Some(secs(30)), "all earlier ejections are forgotten");
}

#[test]
fn a_probe_that_never_reports_is_replaced_after_its_lease() {
    let cluster = Cluster::pair();
    cluster.fails(0, 3, 0);
    assert!(cluster.admits(0, 30));
    assert!(!cluster.is_usable(0, 34));
    assert!(cluster.is_usable(0, 35));
    assert!(cluster.admits(0, 35));
    assert!(!cluster.admits(0, 35));
}

#[test]
fn a_probe_without_a_result_lets_the_next_request_probe() {
    let cluster = Cluster::pair();
    cluster.fails(0, 3, 0);
    cluster.endpoints[0].on_neither(cluster.at(1));
    assert!(!cluster.is_usable(0, 1), "no request probed");
    assert!(cluster.admits(0, 30));
    cluster.endpoints[0].on_neither(cluster.at(31));
    assert_eq!(cluster.ejections.ejected(), 1);
    assert!(cluster.admits(0, 31));
    assert!(!cluster.admits(0, 31));
}

#[test]
fn requests_sent_before_the_ejection_change_nothing() {
    let cluster = Cluster::pair();
    cluster.fails(0, 3, 0);
    cluster.succeeds(0, 1);
    assert!(!cluster.is_usable(0, 1));
    assert_eq!(cluster.fails(0, 20, 31), None, "the ejection is over, but no request probes yet");
    assert!(cluster.admits(0, 31));
}

#[test]
fn the_last_endpoint_is_never_ejected() {
    for endpoints in 1..=8 {
        let cluster = Cluster::of(endpoints, &policy(1, 1.0));
        for endpoint in 0..endpoints {
            cluster.fails(endpoint, 5, 0);
        }
        assert_eq!(cluster.endpoints.iter().filter(|e| e.is_closed()).count(), 1, "of {endpoints}");
    }
}

#[test]
fn the_share_of_ejected_endpoints_is_rounded_down() {
    let rows: [(f64, usize, u32); 9] = [
        (0.5, 1, 0),
        (0.5, 2, 1),
        (0.5, 3, 1),
        (0.5, 4, 2),
        (0.1, 9, 0),
        (0.1, 10, 1),
        (0.29, 100, 29),
        (1.0, 3, 2),
        (0.0, 10, 0),
    ];
    for (share, endpoints, expected) in rows {
        assert_eq!(allowed(share, endpoints, 0), expected, "{share} of {endpoints}");
    }
}

#[test]
fn each_level_but_the_last_may_be_ejected_as_a_whole() {
    assert_eq!(
        [allowed(0.5, 3, 2), allowed(0.5, 12, 2), allowed(0.1, 10, 10), allowed(0.0, 3, 2)],
        [2, 6, 9, 0]
    );
    let cluster = Cluster::of(3, &policy(1, 0.5));
    cluster.ejections.allow_of(3, 2);
    for endpoint in 0..3 {
        cluster.fails(endpoint, 1, 0);
    }
    assert_eq!(cluster.endpoints.iter().map(Outlier::is_closed).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn an_endpoint_above_the_share_is_ejected_by_its_next_error_when_there_is_room() {
    let cluster = Cluster::pair();
    cluster.fails(0, 3, 0);
    assert_eq!(cluster.fails(1, 7, 1), None);
    cluster.admits(0, 30);
    cluster.succeeds(0, 30);
    assert_eq!(cluster.fails(1, 1, 31), Some(secs(30)));
}

#[test]
fn without_a_threshold_nothing_is_ejected() {
    let cluster = Cluster::of(2, &OutlierDetection { consecutive_errors: None, ..policy(1, 1.0) });
    assert_eq!(cluster.fails(0, 1_000, 0), None);
    assert!(cluster.is_usable(0, 0));
}

#[test]
fn an_endless_base_ejection_ejects_for_ever_and_does_not_panic() {
    let cluster = Cluster::of(2, &OutlierDetection { base_ejection: Duration::MAX, ..policy(1, 0.5) });
    let rest = cluster.fails(0, 1, 5);
    assert!(rest.is_some_and(|rest| rest > secs(100 * 365 * 86_400)), "{rest:?}");
    assert!(!cluster.is_usable(0, 1_000_000_000));
}

#[test]
fn an_ejected_endpoint_that_is_removed_gives_its_place_back() {
    let mut cluster = Cluster::pair();
    cluster.fails(0, 3, 0);
    cluster.endpoints.remove(0);
    assert_eq!(cluster.ejections.ejected(), 0);
}

#[test]
fn only_the_endpoint_s_own_faults_count_against_it() {
    #[rustfmt::skip]
    let rows = [
        (Reason::ConnectRefused, Sent::Never, Some(Cause::Connect)),
        (Reason::ConnectTimeout, Sent::Never, Some(Cause::Connect)),
        (Reason::TlsError, Sent::Never, Some(Cause::Connect)),
        (Reason::PeerIdentityMismatch, Sent::Never, Some(Cause::Connect)),
        (Reason::UpstreamReset, Sent::Perhaps, Some(Cause::Reset)),
        (Reason::UpstreamClosed, Sent::Perhaps, Some(Cause::Reset)),
        (Reason::ProtocolError, Sent::Perhaps, Some(Cause::Reset)),
        (Reason::PerTryTimeout, Sent::Perhaps, Some(Cause::Timeout)),
        (Reason::RequestTimeout, Sent::Perhaps, Some(Cause::Timeout)),
        (Reason::UpstreamReset, Sent::Never, None),
        (Reason::UpstreamClosed, Sent::OnStaleConnection, None),
        (Reason::LimitPending, Sent::Never, None),
        (Reason::ClientGone, Sent::Perhaps, None),
        (Reason::StreamIdleTimeout, Sent::Perhaps, None),
    ];
    for (reason, sent, expected) in rows {
        assert_eq!(Cause::of(&Error::new(reason, "").sent(sent)), expected, "{reason:?} {sent:?}");
    }
    let refused = Error::new(Reason::TlsError, "the peer refused our certificate");
    assert_eq!(Cause::of(&refused.of_our_fault(true)), None);
    assert_eq!(Cause::of_status(http::StatusCode::SERVICE_UNAVAILABLE), Some(Cause::Gateway));
    assert_eq!(Cause::of_status(http::StatusCode::NOT_IMPLEMENTED), Some(Cause::Status));
    assert_eq!(Cause::of_status(http::StatusCode::TOO_MANY_REQUESTS), None);
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Error(Cause),
    Success,
    Admit,
    Pass { seconds: u64 },
}

/// A reference model on one thread, without packed words.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed { since: u64 },
    Ejected { until: u64 },
    Probing { lease: u64 },
}

/// The state of one endpoint, with its ejections in a row, and how each request since it was closed ended and when.
#[derive(Clone)]
struct Member {
    state: State,
    row: u64,
    ends: Vec<(u64, Option<Cause>)>,
}

impl Member {
    /// How many of the last ends fit, passing over those that say nothing of it.
    fn run(&self, fits: impl Fn(Cause) -> bool, passes: impl Fn(Cause) -> bool) -> usize {
        let since = self.ends.iter().rev().map_while(|(_, cause)| *cause);
        since.take_while(|&cause| fits(cause) || passes(cause)).filter(|&cause| fits(cause)).count()
    }

    /// Whether the errors are too many in the interval that holds the last end.
    fn is_beyond(&self, rate: &ErrorRate, interval: u64) -> bool {
        let mut began = 0;
        for &(at, _) in &self.ends {
            began = if at >= began + interval { at } else { began };
        }
        let within: Vec<_> = self.ends.iter().filter(|(at, _)| *at >= began).collect();
        let errors = within.iter().filter(|(_, cause)| cause.is_some()).count();
        within.len() >= rate.min_requests as usize && errors as f64 > rate.above * within.len() as f64 + 1e-6
    }

    fn exceeded(&self, policy: &OutlierDetection) -> Option<EjectionCause> {
        let at_least = |run: usize, least: Option<u32>| least.is_some_and(|least| run >= least as usize);
        let gateway = |cause| cause == Cause::Gateway;
        let unanswered = |cause| !matches!(cause, Cause::Gateway | Cause::Status);
        if at_least(self.run(|cause| cause == Cause::Connect, |_| false), policy.connect_failures) {
            Some(EjectionCause::ConnectFailures)
        } else if at_least(self.run(gateway, unanswered), policy.gateway_errors) {
            Some(EjectionCause::GatewayErrors)
        } else if at_least(self.run(|_| true, |_| false), policy.consecutive_errors) {
            Some(EjectionCause::ConsecutiveErrors)
        } else {
            let rate = policy.error_rate.filter(|rate| self.is_beyond(rate, policy.interval.as_secs()));
            rate.map(|_| EjectionCause::ErrorRate)
        }
    }
}

struct Model {
    policy: OutlierDetection,
    allowed: usize,
    endpoints: Vec<Member>,
}

impl Model {
    fn out(&self) -> usize {
        self.endpoints.iter().filter(|member| !matches!(member.state, State::Closed { .. })).count()
    }

    fn is_usable(&self, endpoint: usize, now: u64) -> bool {
        match self.endpoints[endpoint].state {
            State::Closed { .. } => true,
            State::Ejected { until } => now >= until,
            State::Probing { lease } => now >= lease,
        }
    }

    fn admit(&mut self, endpoint: usize, now: u64) -> bool {
        let admitted = self.is_usable(endpoint, now);
        let state = &mut self.endpoints[endpoint].state;
        if admitted && !matches!(state, State::Closed { .. }) {
            *state = State::Probing { lease: now + 5 };
        }
        admitted
    }

    fn succeed(&mut self, endpoint: usize, now: u64) {
        let member = &mut self.endpoints[endpoint];
        match member.state {
            State::Closed { .. } => member.ends.push((now, None)),
            State::Probing { .. } => member.state = State::Closed { since: now },
            State::Ejected { .. } => {}
        }
    }

    /// The length of the ejection, and its cause where it is not for a failed probe.
    fn fail(&mut self, endpoint: usize, now: u64, cause: Cause) -> Option<(u64, Option<EjectionCause>)> {
        let room = self.out() < self.allowed;
        let member = &mut self.endpoints[endpoint];
        let mut why = None;
        match member.state {
            State::Ejected { .. } => return None,
            State::Probing { .. } => member.row += 1,
            State::Closed { since } => {
                member.ends.push((now, Some(cause)));
                why = Some(member.exceeded(&self.policy)?);
                if !room {
                    return None;
                }
                member.row = member.row.saturating_sub((now - since) / BASE) + 1;
            }
        }
        let rest = (BASE * member.row).min(300);
        (member.state, member.ends) = (State::Ejected { until: now + rest }, Vec::new());
        Some((rest, why))
    }
}

fn events() -> impl Strategy<Value = Vec<(usize, Event)>> {
    let event = prop_oneof![
        6 => prop_oneof![
            Just(Cause::Status), Just(Cause::Gateway), Just(Cause::Reset), Just(Cause::Connect), Just(Cause::Timeout),
        ].prop_map(Event::Error),
        3 => Just(Event::Success),
        3 => Just(Event::Admit),
        2 => (0..40_u64).prop_map(|seconds| Event::Pass { seconds }),
    ];
    prop::collection::vec((0..8_usize, event), 0..300)
}

fn policies() -> impl Strategy<Value = OutlierDetection> {
    let run = || prop::option::of(1..5_u32);
    let rate = prop::option::of((0..100_u32, 1..8_u32));
    let rate = rate.prop_map(|rate| {
        rate.map(|(percent, min_requests)| ErrorRate { above: f64::from(percent) / 100.0, min_requests })
    });
    (run(), run(), run(), rate, 1..60_u64).prop_map(|(errors, gateway, connect, error_rate, interval)| {
        OutlierDetection {
            consecutive_errors: errors,
            interval: secs(interval),
            error_rate,
            gateway_errors: gateway,
            connect_failures: connect,
            ..policy(1, 0.5)
        }
    })
}

proptest! {
    #[test]
    fn outliers_behave_as_the_reference_model_and_never_eject_the_last_endpoint(
        members in 1..=8_usize, percent in 0..=100_usize, policy in policies(), events in events(),
    ) {
        let policy = OutlierDetection { max_ejected: percent as f64 / 100.0, ..policy };
        let cluster = Cluster::of(members, &policy);
        let allowed = (percent * members / 100).min(members - 1);
        let closed = Member { state: State::Closed { since: 0 }, row: 0, ends: Vec::new() };
        let mut model = Model { policy, allowed, endpoints: vec![closed; members] };
        let mut now = 0;
        for (endpoint, event) in events {
            let endpoint = endpoint % members;
            match event {
                Event::Pass { seconds } => now += seconds,
                Event::Success => {
                    cluster.succeeds(endpoint, now);
                    model.succeed(endpoint, now);
                }
                Event::Admit => prop_assert_eq!(cluster.admits(endpoint, now), model.admit(endpoint, now)),
                Event::Error(cause) => {
                    let ejected = cluster.endpoints[endpoint].on_error(cluster.at(now), cause);
                    let expected = model.fail(endpoint, now, cause);
                    prop_assert_eq!(ejected.map(|it| it.rest.as_secs()), expected.map(|(rest, _)| rest));
                    if let Some(why) = expected.and_then(|(_, why)| why) {
                        prop_assert_eq!(ejected.map(|it| it.cause), Some(why));
                    }
                }
            }
            let out = cluster.endpoints.iter().filter(|e| !e.is_closed()).count();
            prop_assert!(out <= allowed && out < members);
            prop_assert_eq!((out, cluster.ejections.ejected() as usize), (model.out(), out));
            for id in 0..members {
                prop_assert_eq!(cluster.is_usable(id, now), model.is_usable(id, now));
            }
        }
    }
}

#[test]
fn several_threads_never_eject_too_many_endpoints_nor_lose_count() {
    let cluster = Cluster::of(5, &policy(1, 0.5));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for step in 0..20_000 {
                    let (endpoint, second) = (rng.usize(0..5), step / 50);
                    match rng.u8(0..3) {
                        0 => _ = cluster.fails(endpoint, 1, second),
                        1 => cluster.succeeds(endpoint, second),
                        _ => _ = cluster.admits(endpoint, second),
                    }
                    assert!(cluster.ejections.ejected() <= 2);
                }
            });
        }
    });
    let out = cluster.endpoints.iter().filter(|e| !e.is_closed()).count();
    assert_eq!(out, cluster.ejections.ejected() as usize);
}
