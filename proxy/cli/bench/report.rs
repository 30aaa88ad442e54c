//! What `pillion bench` prints: the bar while it sends, and the report as text or JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::load::{Plan, Tally};

/// The characters between the ends of the bar.
const BAR: usize = 30;
/// The percentiles of the report: their keys in JSON, their names, and their shares.
const PERCENTILES: [(&str, &str, f64); 4] =
    [("p50_ms", "p50", 0.5), ("p90_ms", "p90", 0.9), ("p99_ms", "p99", 0.99), ("p999_ms", "p99.9", 0.999)];

/// Per cent. A machine that does something else now and then sends fewer requests late.
const FEW: f64 = 1.0;

pub(super) struct Report<'a> {
    /// Method and URL.
    pub(super) what: String,
    pub(super) is_http2: bool,
    pub(super) plan: Plan,
    /// From when the first request was due to the last answer, at least the time for which requests were due.
    pub(super) lasted: Duration,
    /// Connections that were made.
    pub(super) connections: u64,
    pub(super) whole: &'a Tally,
    /// The share of the time in which this program was busy, if that is known.
    pub(super) busy: Option<f64>,
    pub(super) is_interrupted: bool,
}

/// The bar and the figures so far, for one line of a terminal.
pub(super) fn progress(elapsed: Duration, plan: Plan, whole: &Tally) -> String {
    let all = plan.lasts.unwrap_or(elapsed).as_secs_f64().max(f64::MIN_POSITIVE);
    let done = (elapsed.as_secs_f64() / all).min(1.0);
    let full = (done * BAR as f64) as usize;
    format!(
        "[{:<BAR$}] {:.0}/{all:.0} s  {:.0}/s  p50 {}  p99 {}  failed {}",
        "=".repeat(full),
        elapsed.as_secs_f64().min(all),
        rate(whole, elapsed),
        told(whole.latencies.percentile(0.5)),
        told(whole.latencies.percentile(0.99)),
        whole.failed
    )
}

fn rate(whole: &Tally, lasted: Duration) -> f64 {
    whole.requests() as f64 / lasted.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn told(time: Duration) -> String {
    let digits = if time < Duration::from_millis(100) { 2 } else { 0 };
    format!("{:.digits$} ms", milliseconds(time))
}

impl Report<'_> {
    pub(super) fn text(&self) -> String {
        let Self { plan, whole, .. } = self;
        let mut text = format!(
            "{} over {}, {} connections\n{} requests in {:.1} s: {:.1}/s of {}/s, {} succeeded, {} failed\n",
            self.what,
            if self.is_http2 { "HTTP/2" } else { "HTTP/1.1" },
            plan.connections,
            whole.requests(),
            self.lasted.as_secs_f64(),
            rate(whole, self.lasted),
            plan.rate,
            whole.answered,
            whole.failed
        );
        let percentiles =
            PERCENTILES.map(|(_, name, share)| format!("{name} {}", told(whole.latencies.percentile(share))));
        let longest = told(whole.latencies.longest());
        let mut line = |text_of: String| writeln!(text, "{text_of}").unwrap_or(()); // a String takes all
        line(format!("latency from when each was due: {}, max {longest}", percentiles.join(", ")));
        let answers: Vec<_> =
            whole.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        if !answers.is_empty() {
            line(format!("answers by status: {}", answers.join(", ")));
        }
        let kinds: Vec<_> =
            whole.kinds.iter().map(|(kind, count)| format!("{} {count}", kind.name())).collect();
        if let Some(first) = &whole.first_failure {
            line(format!("failures: {}; the first: {first}", kinds.join(", ")));
        }
        self.remarks().into_iter().for_each(line);
        text
    }

    /// What the reader must know to understand the figures.
    fn remarks(&self) -> Vec<String> {
        let Self { plan, whole, .. } = self;
        let share = |count: u64| 100.0 * count as f64 / whole.requests().max(1) as f64;
        let mut remarks = Vec::new();
        if whole.waited > 0 {
            // a generator that was late itself finds connections busy because of that
            let blame = if whole.waited > whole.late { "the target did not keep up: " } else { "" };
            remarks.push(format!(
                "{blame}{} requests ({:.1} %) waited for a free connection, up to {}",
                whole.waited,
                share(whole.waited),
                told(whole.longest_wait)
            ));
        }
        if whole.late > 0 {
            let busy = self.busy.map(|share| format!(", busy for {:.0} % of the time,", 100.0 * share));
            let advice = if share(whole.late) < FEW { "" } else { "; use more CPUs or a lower rate" };
            remarks.push(format!(
                "the load generator{} was late by up to {}: {} requests ({:.1} %) were sent late, and the latencies contain that{advice}",
                busy.unwrap_or_default(),
                told(whole.latest),
                whole.late,
                share(whole.late)
            ));
        }
        if self.connections > plan.connections as u64 {
            remarks.push(format!("{} connections were made, because earlier ones ended", self.connections));
        }
        if self.is_interrupted {
            remarks.push("ended by a signal".to_owned());
        }
        remarks
    }

    /// The keys up to `max_ms` are fixed; programs may rely on them.
    pub(super) fn json(&self) -> Value {
        let Self { plan, whole, .. } = self;
        let of = |counts: Vec<(String, u64)>| {
            counts.into_iter().map(|(name, count)| (name, count.into())).collect::<Map<_, _>>()
        };
        let statuses = whole.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        let kinds = whole.kinds.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect();
        let mut json = json!({
            "requests": whole.requests(),
            "errors": whole.failed,
            "rate": (rate(whole, self.lasted) * 10.0).round() / 10.0,
            "max_ms": milliseconds(whole.latencies.longest()),
            "asked_rate": plan.rate,
            "seconds": milliseconds(self.lasted) / 1000.0,
            "http": if self.is_http2 { "2" } else { "1.1" },
            "statuses": of(statuses),
            "errors_by_kind": of(kinds),
            "first_error": whole.first_failure,
            "body_bytes": whole.bytes,
            "connections": plan.connections,
            "connections_made": self.connections,
            "waited": whole.waited,
            "longest_wait_ms": milliseconds(whole.longest_wait),
            "sent_late": whole.late,
            "latest_ms": milliseconds(whole.latest),
            "generator_busy": self.busy.map(|share| (share * 1000.0).round() / 1000.0),
            "interrupted": self.is_interrupted,
        });
        for (key, _, share) in PERCENTILES {
            json[key] = milliseconds(whole.latencies.percentile(share)).into();
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::load::Kind;

    use super::*;

    const PLAN: Plan = Plan {
        rate: 1000,
        connections: 2,
        streams: 1,
        lasts: Some(Duration::from_secs(10)),
        timeout: Duration::from_secs(5),
    };

    fn tally() -> Tally {
        let mut tally = Tally { answered: 999, failed: 1, ..Tally::default() };
        tally.statuses.extend([(200, 999), (503, 1)]);
        tally.kinds.insert(Kind::Status5xx, 1);
        tally.first_failure = Some("503 Service Unavailable".to_owned());
        (0..999).for_each(|_| tally.latencies.record(Duration::from_micros(100)));
        tally.latencies.record(Duration::from_millis(1500));
        tally
    }

    fn report(whole: &Tally) -> Report<'_> {
        Report {
            what: "GET http://a/".to_owned(),
            is_http2: false,
            plan: PLAN,
            lasted: Duration::from_secs(2),
            connections: 2,
            whole,
            busy: None,
            is_interrupted: false,
        }
    }

    #[test]
    fn the_report_has_counts_percentiles_and_failures() {
        let expected = "\
GET http://a/ over HTTP/1.1, 2 connections
1000 requests in 2.0 s: 500.0/s of 1000/s, 999 succeeded, 1 failed
latency from when each was due: p50 0.10 ms, p90 0.10 ms, p99 0.10 ms, p99.9 0.10 ms, max 1500 ms
answers by status: 200: 999, 503: 1
failures: status_5xx 1; the first: 503 Service Unavailable
";
        assert_eq!(report(&tally()).text(), expected);
    }

    #[test]
    fn the_report_says_what_makes_its_figures_doubtful() {
        let whole = Tally {
            waited: 100,
            longest_wait: Duration::from_millis(812),
            late: 50,
            latest: Duration::from_millis(7),
            ..tally()
        };
        let report = Report { connections: 9, busy: Some(0.974), is_interrupted: true, ..report(&whole) };
        let text = report.text();
        for expected in [
            "the target did not keep up: 100 requests (10.0 %) waited for a free connection, up to 812 ms\n",
            "the load generator, busy for 97 % of the time, was late by up to 7.00 ms: 50 requests (5.0 %) were sent late, and the \
             latencies contain that; use more CPUs or a lower rate\n",
            "9 connections were made, because earlier ones ended\n",
            "ended by a signal\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let json = report.json();
        assert_eq!(
            (&json["waited"], &json["sent_late"], &json["interrupted"]),
            (&100.into(), &50.into(), &true.into())
        );
        assert_eq!(json["generator_busy"], 0.974);

        let few = self::report(&Tally { late: 9, ..whole.clone() }).text();
        assert!(few.contains("9 requests (0.9 %) were sent late, and the latencies contain that\n"), "{few}");
        let late = Tally { late: 200, ..whole.clone() };
        let text = self::report(&late).text();
        assert!(
            text.contains("\n100 requests (10.0 %) waited for a free connection")
                && !text.contains("did not keep up"),
            "{text}"
        );
    }

    #[test]
    fn json_has_the_fixed_keys() {
        let json = report(&tally()).json();
        let keys = ["requests", "errors", "rate", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"];
        let values = keys.map(|key| json[key].as_f64().expect("a number"));
        assert_eq!(values, [1000.0, 1.0, 500.0, 0.1, 0.1, 0.1, 0.1, 1500.0]);
        assert_eq!((&json["statuses"]["503"], &json["errors_by_kind"]["status_5xx"]), (&1.into(), &1.into()));
        assert_eq!((&json["first_error"], &json["http"]), (&"503 Service Unavailable".into(), &"1.1".into()));
    }

    #[test]
    fn the_bar_is_full_at_the_end_and_no_longer_after_it() {
        let bar = |seconds| progress(Duration::from_secs(seconds), PLAN, &tally());
        assert!(bar(0).starts_with(&format!("[{}] 0/10 s  ", " ".repeat(30))), "{}", bar(0));
        assert!(
            bar(5).starts_with(&format!("[{}{}] 5/10 s  200/s  ", "=".repeat(15), " ".repeat(15))),
            "{}",
            bar(5)
        );
        assert!(bar(12).starts_with(&format!("[{}] 10/10 s  ", "=".repeat(30))), "{}", bar(12));
    }
}
