//! The texts of the demo: the mesh, the live lines, the summary.

use std::time::Duration;

use super::mesh::{Mesh, REPLICAS};
use super::report::Reported;
use super::schedule::ReplicaState;
use crate::cli::load::Tally;

/// A drawing of the mesh, and what the user can try.
pub(crate) fn opening(mesh: &Mesh, rate: u32) -> String {
    let Mesh { outbound, admin, metrics, .. } = mesh;
    let ([one, two, flaky], pace) = (REPLICAS, format!("{rate}/s"));
    let replicas: Vec<_> =
        mesh.replicas.iter().zip(REPLICAS).map(|(address, name)| format!("{address} {name}")).collect();
    let replicas = replicas.join(", ");
    format!(
        "\
A whole mesh on loopback, with a CA in memory:

  caller ──▶ its sidecar ══ mTLS ═╦═▶ sidecar ──▶ {one}
  {pace:<32}╠═▶ sidecar ──▶ {two}
                                  ╚═▶ sidecar ──▶ {flaky}

  {flaky} answers 503 or refuses connections now and then. The caller gets no error.

  try        curl -H 'Host: orders' http://{outbound}/
  metrics    http://{metrics}/metrics
  dashboard  http://{admin}/  (in a terminal: pillion top --admin http://{admin})
  endpoints  {replicas}

"
    )
}

/// The files of the sidecars; of those that are alike only one.
pub(crate) fn configuration(mesh: &Mesh) -> String {
    let [first, .., last] = &*mesh.configurations else { return String::new() };
    [last, first].map(|(title, text)| format!("# {title}\n{text}\n")).concat()
}

/// A live line: the results of one second, and of all seconds so far.
pub(crate) fn line(
    took: Duration,
    second: &Tally,
    whole: &Tally,
    reported: Reported,
    state: ReplicaState,
) -> String {
    let rate = second.requests() as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
    let at = |share| milliseconds(second.latencies.percentile(share));
    format!(
        "{rate:4.0}/s  success {}  p50 {}  p99 {}  retries {}  ejections {}  {} {}",
        share(whole),
        at(0.5),
        at(0.99),
        reported.retries,
        reported.ejections,
        REPLICAS[REPLICAS.len() - 1],
        now(state),
    )
}

const fn now(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Well => "is well",
        ReplicaState::Failing => "answers 503",
        ReplicaState::Refusing => "refuses connections",
    }
}

pub(crate) fn summary(lasted: Duration, whole: &Tally, reported: Reported) -> String {
    let at = |share| milliseconds(whole.latencies.percentile(share));
    let mut summary = format!(
        "\
{} requests in {:.1} s, {} of them answered well: {}
latency seen by the caller: p50 {}, p99 {}, slowest {}
its sidecar's /metrics: {} retries, {} ejections
",
        whole.requests(),
        lasted.as_secs_f64(),
        whole.answered,
        share(whole),
        at(0.5),
        at(0.99),
        at(1.0),
        reported.retries,
        reported.ejections,
    );
    if let Some(failure) = &whole.first_failure {
        summary.push_str(&format!("the first failure: {failure}\n"));
    }
    summary
}

/// `100 %` means all: a share just below is rounded down.
fn share(of: &Tally) -> String {
    match (of.answered, of.answered + of.failed) {
        (_, 0) => "-".to_owned(),
        (answered, all) if answered == all => "100 %".to_owned(),
        (answered, all) => format!("{:.2} %", (answered as f64 / all as f64 * 10_000.0).floor() / 100.0),
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(answered: u64, failed: u64) -> Tally {
        Tally { answered, failed, ..Tally::default() }
    }

    #[test]
    fn only_a_complete_success_is_100_percent() {
        let cases = [
            ((0, 0), "-"),
            ((2000, 0), "100 %"),
            ((1_999_999, 1), "99.99 %"),
            ((1, 1), "50.00 %"),
            ((0, 3), "0.00 %"),
        ];
        for ((answered, failed), expected) in cases {
            assert_eq!(share(&tally(answered, failed)), expected);
        }
    }

    #[test]
    fn a_summary_names_the_first_failure_or_none() {
        let reported = Reported { retries: 12, ejections: 3 };
        let mut whole = tally(1999, 1);
        let summary_of = |whole: &Tally| summary(Duration::from_secs(10), whole, reported);
        assert!(summary_of(&whole).ends_with("12 retries, 3 ejections\n"));
        whole.first_failure = Some("502 Bad Gateway".to_owned());
        let reported = summary_of(&whole);
        assert!(
            reported.starts_with("2000 requests in 10.0 s, 1999 of them answered well: 99.95 %\n"),
            "{reported}"
        );
        assert!(reported.ends_with("the first failure: 502 Bad Gateway\n"), "{reported}");
    }

    #[test]
    fn a_live_line_has_the_results_of_a_second() {
        let mut second = tally(100, 0);
        second.latencies.record(Duration::from_micros(1500));
        let reported = Reported { retries: 4, ejections: 1 };
        let line = line(Duration::from_millis(500), &second, &second, reported, ReplicaState::Refusing);
        assert_eq!(
            line,
            " 200/s  success 100 %  p50 1.5 ms  p99 1.5 ms  retries 4  ejections 1  orders-3 refuses connections"
        );
    }
}
