//! Merges the expositions of programs beside the sidecar into its own.
//!
//! Pure: texts in, one exposition out. The sidecar's families win. A family of a source whose name is taken already gets the
//! source's name before its own, and is left out where that is taken, too. [`Owners`] remembers whose each name is, so that
//! a family keeps its name while other sources come and go. A source that is not understood is left out as a whole, and
//! costs the others nothing.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::format::Format;
use super::text::{Bounds, Family, Kind, Malformed, Sample, read, write};

/// What is read of one source: as many samples as the sidecar itself has series.
const BOUNDS: Bounds = Bounds { families: 2_000, samples: 20_000, labels: 64 };
/// What is read of all sources together: some 20 MB, beside their texts, while an exposition is written.
const BOUNDS_OF_ALL: Bounds = Bounds { families: 4_000, samples: 40_000, ..BOUNDS };
/// The names that are remembered: more than all families of one exposition have, with those of their samples.
const MOST_NAMES: usize = 20_000;

/// What begins with this is the sidecar's own, also while it has no such family.
const OWN: &str = "pillion_";
/// The same with `metrics.compatibility: [istio]`.
const OWN_OF_ISTIO: &str = "istio_";
/// What Prometheus itself adds to each scrape, or keeps of its alerts.
const OF_PROMETHEUS: [&str; 3] = ["up", "ALERTS", "ALERTS_FOR_STATE"];
const OF_SCRAPES: &str = "scrape_";

/// What a source gave.
pub struct Answer<'a> {
    /// The name of the source.
    pub source: &'a str,
    /// Or why there is none.
    pub text: Result<(&'a [u8], Format), String>,
}

/// What became of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    pub source: &'a str,
    /// Why nothing of it is exported.
    pub problem: Option<String>,
    /// The names of its families that were renamed.
    pub renamed: Vec<String>,
    pub left_out: Vec<String>,
}

/// Whose each name is: the source's that had it first, and of several in one scrape the first in the configuration. It
/// stays with its source while that is down.
pub struct Owners {
    has_istio: bool,
    names: HashMap<String, Owner>,
    scrapes: u64,
}

struct Owner {
    /// Its place in the configuration.
    source: usize,
    /// The number of the last scrape in which it had the name.
    seen: u64,
}

impl Owners {
    /// `has_istio`: names of Istio are the sidecar's own.
    pub fn new(has_istio: bool) -> Self {
        Self { has_istio, names: HashMap::new(), scrapes: 0 }
    }

    fn is_reserved(&self, name: &str) -> bool {
        name.starts_with(OWN)
            || name.starts_with(OF_SCRAPES)
            || OF_PROMETHEUS.contains(&name)
            || self.has_istio && name.starts_with(OWN_OF_ISTIO)
    }

    /// Whether a family of the source may have these names. `own`: those of the sidecar.
    fn may_have(&self, source: usize, names: &[String], own: &HashSet<String>) -> bool {
        let is_free = |name: &String| {
            let is_of_other = self.names.get(name).is_some_and(|owner| owner.source != source);
            !is_of_other && !self.is_reserved(name) && !own.contains(name)
        };
        names.iter().all(is_free)
    }

    fn note(&mut self, source: usize, names: Vec<String>) {
        let owner = |name| (name, Owner { source, seen: self.scrapes });
        self.names.extend(names.into_iter().map(owner));
    }

    /// Where there are too many names, those of this scrape stay.
    fn forget_beyond_bound(&mut self) {
        if self.names.len() > MOST_NAMES {
            self.names.retain(|_, owner| owner.seen == self.scrapes);
        }
    }
}

/// The families of all sources that can stand beside those of the sidecar.
#[derive(Default)]
pub struct Merged<'a> {
    families: Vec<Family<'a>>,
    pub verdicts: Vec<Verdict<'a>>,
}

impl<'a> Merged<'a> {
    /// `own`: the sidecar's exposition, in the text format. `answers`: those of all sources, in the configuration's order.
    pub fn of(own: &str, answers: Vec<Answer<'a>>, owners: &mut Owners) -> Self {
        let mut merged = Self::default();
        if answers.is_empty() {
            return merged;
        }
        owners.scrapes += 1;
        let own: HashSet<String> = families(own).iter().flat_map(Family::names).collect();
        let mut left = BOUNDS_OF_ALL;
        for (place, Answer { source, text }) in answers.into_iter().enumerate() {
            let verdict = match text.and_then(|(text, format)| read_within(text, format, &mut left)) {
                Ok(families) => merged.take((place, source), families, &own, owners),
                Err(why) => Verdict { source, problem: Some(why), renamed: Vec::new(), left_out: Vec::new() },
            };
            merged.verdicts.push(verdict);
        }
        owners.forget_beyond_bound();
        let told = told(&merged.verdicts);
        merged.families.extend(told);
        merged
    }

    /// Takes the families of the source at this place in the configuration.
    fn take(
        &mut self,
        (place, source): (usize, &'a str),
        families: Vec<Family<'a>>,
        own: &HashSet<String>,
        owners: &mut Owners,
    ) -> Verdict<'a> {
        let (free, taken): (Vec<_>, Vec<_>) =
            families.into_iter().partition(|family| owners.may_have(place, &family.names(), own));
        free.iter().for_each(|family| owners.note(place, family.names()));
        let kept: HashSet<String> = free.iter().flat_map(Family::names).collect();
        self.families.extend(free);
        let (mut renamed, mut left_out) = (Vec::new(), Vec::new());
        for mut family in taken {
            let name = family.name.to_string();
            family.prefix = Cow::Owned(format!("{}_", source.replace('-', "_")));
            let names = family.names();
            if names.iter().any(|name| kept.contains(name)) || !owners.may_have(place, &names, own) {
                left_out.push(name);
                continue;
            }
            renamed.push(name);
            owners.note(place, names);
            self.families.push(family);
        }
        Verdict { source, problem: None, renamed, left_out }
    }
}

/// The families of a source, where the sources before it have left room for them.
fn read_within<'a>(text: &'a [u8], format: Format, left: &mut Bounds) -> Result<Vec<Family<'a>>, String> {
    let bounds = Bounds {
        families: BOUNDS.families.min(left.families),
        samples: BOUNDS.samples.min(left.samples),
        ..BOUNDS
    };
    let families = read(text, format, bounds).map_err(|why| match why {
        Malformed::Samples(most) if most < BOUNDS.samples => format!("{why}, {LEFT}"),
        Malformed::Families(most) if most < BOUNDS.families => format!("{why}, {LEFT}"),
        _ => why.to_string(),
    })?;
    left.families -= families.len();
    left.samples -= families.iter().map(|family| family.samples.len()).sum::<usize>();
    Ok(families)
}

const LEFT: &str = "which is what the sources before it have left";

/// The exemplar of a bucket of [`DURATIONS`], by its direction, its service and its upper bound.
pub type ExemplarOf<'f> = &'f dyn Fn(&str, &str, f64) -> Option<String>;

/// The family whose buckets have exemplars.
const DURATIONS: &str = "pillion_request_duration_seconds";

/// The whole exposition.
pub fn written(own: &str, merged: &Merged<'_>, exemplar_of: ExemplarOf<'_>, format: Format) -> String {
    match format {
        Format::Text => {
            let mut text = own.to_owned();
            write(merged.families.iter(), format, &mut text);
            text
        }
        Format::OpenMetrics => {
            let mut text = String::with_capacity(own.len());
            let mut own = families(own);
            for sample in own.iter_mut().filter(|of| of.name == DURATIONS).flat_map(|of| &mut of.samples) {
                sample.exemplar = exemplar(sample, exemplar_of);
            }
            write(own.iter().chain(&merged.families), format, &mut text);
            text.push_str("# EOF\n");
            text
        }
    }
}

/// The exemplar of a bucket. `None`: the sample is none, or has no exemplar.
fn exemplar(sample: &Sample<'_>, of: ExemplarOf<'_>) -> Option<String> {
    let label = |name| sample.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    of(label("direction")?, label("service")?, label("le")?.parse().ok()?)
}

fn families(own: &str) -> Vec<Family<'_>> {
    read(own.as_bytes(), Format::Text, Bounds::NONE).unwrap_or_else(|error| {
        tracing::error!(%error, "the sidecar's own exposition cannot be read");
        Vec::new()
    })
}

/// The sidecar's own families about the sources.
fn told<'a>(verdicts: &[Verdict<'a>]) -> [Family<'a>; 2] {
    let up = verdicts
        .iter()
        .map(|of| sample("pillion_merge_up", vec![("source", of.source)], of.problem.is_none().into()));
    let conflicts = verdicts.iter().flat_map(|of| {
        [("renamed", of.renamed.len()), ("left_out", of.left_out.len())].map(|(outcome, count)| {
            sample("pillion_merge_conflicts", vec![("source", of.source), ("outcome", outcome)], count)
        })
    });
    [
        gauge("pillion_merge_up", "Whether a source of merged metrics was exported.", up.collect()),
        gauge("pillion_merge_conflicts", "Families of a source whose names were taken.", conflicts.collect()),
    ]
}

fn gauge<'a>(name: &'a str, help: &'a str, samples: Vec<Sample<'a>>) -> Family<'a> {
    Family {
        prefix: Cow::Borrowed(""),
        name: Cow::Borrowed(name),
        kind: Kind::Gauge,
        help: Cow::Borrowed(help),
        samples,
    }
}

fn sample<'a>(name: &'a str, labels: Vec<(&'a str, &'a str)>, value: usize) -> Sample<'a> {
    Sample {
        name: Cow::Borrowed(name),
        labels,
        value: Cow::Owned(value.to_string()),
        time: None,
        exemplar: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pillion_model::Direction;

    use super::*;
    use crate::Metrics;
    use crate::propagation::TraceId;

    const OWN_TEXT: &str = "# TYPE pillion_build_info gauge\npillion_build_info 1\n# TYPE process_cpu_seconds_total counter\n\
                            process_cpu_seconds_total 1\n";

    fn of<'a>(source: &'a str, text: &'a str) -> Answer<'a> {
        Answer { source, text: Ok((text.as_bytes(), Format::Text)) }
    }

    fn merged(answers: Vec<Answer<'_>>) -> Merged<'_> {
        Merged::of(OWN_TEXT, answers, &mut Owners::new(false))
    }

    #[test]
    fn families_are_added_and_those_whose_names_are_taken_get_their_sources_name() {
        let app = "# HELP process_cpu_seconds_total Other.\n# TYPE process_cpu_seconds_total gauge\nprocess_cpu_seconds_total 5\n\
                   jobs{a=\"1\"} 2\npillion_requests_total 7\n";
        let jvm = "jobs 3\n# TYPE jobs_count counter\njobs_count 4\nthreads 5\n";
        let merged = merged(vec![of("app", app), of("j-vm", jvm)]);
        assert_eq!(merged.verdicts[0].renamed, ["process_cpu_seconds_total", "pillion_requests_total"]);
        assert_eq!(merged.verdicts[1].renamed, ["jobs"]);
        let text = written(OWN_TEXT, &merged, &|_, _, _| None, Format::Text);
        for line in [
            "process_cpu_seconds_total 1",
            "# TYPE app_process_cpu_seconds_total gauge",
            "app_process_cpu_seconds_total 5",
            "jobs{a=\"1\"} 2",
            "app_pillion_requests_total 7",
            "j_vm_jobs 3",
            "threads 5",
            "pillion_merge_up{source=\"app\"} 1",
            "pillion_merge_conflicts{source=\"app\",outcome=\"renamed\"} 2",
            "pillion_merge_conflicts{source=\"j-vm\",outcome=\"left_out\"} 0",
        ] {
            assert_eq!(text.lines().filter(|one| *one == line).count(), 1, "{line}\n{text}");
        }
    }

    #[test]
    fn a_family_is_left_out_where_its_other_name_is_taken_too() {
        let app = "app_process_cpu_seconds_total 1\nprocess_cpu_seconds_total 2\n";
        let merged = merged(vec![of("app", app)]);
        assert_eq!(merged.verdicts[0].left_out, ["process_cpu_seconds_total"]);
        assert_eq!(merged.families.iter().filter(|family| !family.name.starts_with(OWN)).count(), 1);
    }

    /// A histogram's series must not be taken for those of a family with such a name.
    #[test]
    fn names_with_suffixes_are_taken_too() {
        let app = "# TYPE took_seconds histogram\ntook_seconds_bucket{le=\"+Inf\"} 1\ntook_seconds_sum 1\ntook_seconds_count 1\n";
        let other = "# TYPE took_seconds_count gauge\ntook_seconds_count 9\n";
        let merged = merged(vec![of("app", app), of("other", other)]);
        assert_eq!(merged.verdicts[1].renamed, ["took_seconds_count"]);
    }

    /// A family must not change its name whenever another source comes or goes: its history would break in two.
    #[test]
    fn a_name_stays_with_its_source_while_that_is_down() {
        let mut owners = Owners::new(false);
        let down = |source| Answer { source, text: Err("refused".to_owned()) };
        let mut renamed = |answers| {
            let merged = Merged::of(OWN_TEXT, answers, &mut owners);
            merged.verdicts.iter().map(|verdict| verdict.renamed.len()).collect::<Vec<_>>()
        };
        assert_eq!(renamed(vec![of("app", "jobs 1\n"), of("jvm", "jobs 2\n")]), [0, 1]);
        assert_eq!(renamed(vec![down("app"), of("jvm", "jobs 2\n")]), [0, 1]);
        assert_eq!(renamed(vec![of("app", "jobs 1\n"), of("jvm", "jobs 2\n")]), [0, 1]);
        assert_eq!(renamed(vec![down("app"), of("jvm", "threads 2\n")]), [0, 0]);
        assert_eq!(renamed(vec![of("app", "threads 1\n"), of("jvm", "jobs 2\n")]), [1, 1]);
    }

    #[test]
    fn the_names_that_are_remembered_are_bounded() {
        let mut owners = Owners::new(false);
        for round in 0..50 {
            let text: String = (0..1_000).map(|nth| format!("a{round}_{nth} 1\n")).collect();
            drop(Merged::of(OWN_TEXT, vec![of("app", &text)], &mut owners));
            assert!(owners.names.len() <= MOST_NAMES && owners.names.len() >= 1_000);
        }
    }

    /// Go's default collector has this pair.
    #[test]
    fn a_gauge_and_a_counter_of_one_source_keep_their_names_and_so_do_those_of_two() {
        let app = "# TYPE a_bytes gauge\na_bytes 1\n# TYPE a_bytes_total counter\na_bytes_total 2\n# TYPE b_total counter\nb_total 3\n";
        let merged = merged(vec![of("app", app), of("other", "# TYPE b gauge\nb 4\n")]);
        assert!(merged.verdicts.iter().all(|of| of.renamed.is_empty() && of.left_out.is_empty()));
        let open = written(OWN_TEXT, &merged, &|_, _, _| None, Format::OpenMetrics);
        for line in [
            "# TYPE a_bytes gauge",
            "# TYPE a_bytes_total unknown",
            "a_bytes_total 2",
            "# TYPE b_total unknown",
            "# TYPE b gauge",
            "# TYPE process_cpu_seconds counter",
        ] {
            assert_eq!(open.lines().filter(|one| *one == line).count(), 1, "{line}\n{open}");
        }
    }

    /// Prometheus adds them to what it scrapes; the source's would be mistaken for its own.
    #[test]
    fn names_of_prometheus_are_taken_and_those_of_istio_where_the_sidecar_has_them() {
        let app = "up 1\nscrape_duration_seconds 1\nALERTS 1\nALERTS_FOR_STATE 1\nistio_requests_total 1\n";
        for (has_istio, expected) in [(false, 4), (true, 5)] {
            let merged = Merged::of(OWN_TEXT, vec![of("app", app)], &mut Owners::new(has_istio));
            assert_eq!(merged.verdicts[0].renamed.len(), expected, "{:?}", merged.verdicts);
        }
    }

    #[test]
    fn sources_share_a_bound() {
        let of_samples = |count| (0..count).map(|nth| format!("a{{b=\"{nth}\"}} 1\n")).collect::<String>();
        let [large, small] = [of_samples(19_000), of_samples(1_000)];
        let sources = vec![of("a", &large), of("b", &large), of("c", &large), of("d", &small)];
        let merged = merged(sources);
        let up: Vec<_> = merged.verdicts.iter().map(|verdict| verdict.problem.is_none()).collect();
        assert_eq!(up, [true, true, false, true]);
        let why = merged.verdicts[2].problem.clone().unwrap_or_default();
        assert_eq!(why, "it has more than 2000 samples, which is what the sources before it have left");
        let families: String = (0..2_001).map(|nth| format!("# HELP a{nth} None.\n")).collect();
        let alone = Merged::of(OWN_TEXT, vec![of("a", &families)], &mut Owners::new(false));
        assert!(alone.verdicts[0].problem.is_some());
    }

    #[test]
    fn a_source_that_fails_or_lies_costs_only_itself() {
        let many = "a 1\nb 1\n".repeat(10_001);
        let sources = vec![
            Answer { source: "dead", text: Err("refused".to_owned()) },
            of("page", "<html>\n"),
            Answer { source: "cut", text: Ok((b"a 1\n", Format::OpenMetrics)) },
            Answer { source: "binary", text: Ok((b"\x1f\x8b\x08", Format::Text)) },
            of("endless", &many),
            of("good", "good 1\n"),
        ];
        let merged = merged(sources);
        let text = written(OWN_TEXT, &merged, &|_, _, _| None, Format::Text);
        for source in ["dead", "page", "cut", "binary", "endless"] {
            assert!(
                text.contains(&format!("pillion_merge_up{{source=\"{source}\"}} 0\n")),
                "{source}\n{text}"
            );
        }
        assert!(text.starts_with(OWN_TEXT) && text.contains("good 1\n"), "{text}");
    }

    #[test]
    fn the_sidecars_own_exposition_is_written_as_openmetrics() {
        let metrics = Metrics::new(1_000);
        metrics.overhead(pillion_model::Direction::Inbound).observe(2.0);
        let text = written(&metrics.encode(), &Merged::default(), &|_, _, _| None, Format::OpenMetrics);
        for line in [
            "# TYPE process_cpu_seconds counter",
            "# UNIT process_cpu_seconds seconds",
            "# TYPE pillion_overhead_seconds histogram",
            "# TYPE pillion_config_reloads counter",
            "pillion_config_reloads_total{outcome=\"applied\"} 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        assert!(read(text.as_bytes(), Format::OpenMetrics, Bounds::NONE).is_ok());
    }

    #[test]
    fn each_bucket_shows_the_latest_trace_that_fell_into_it_in_openmetrics_alone() {
        let metrics = Metrics::new(1000);
        let service = metrics.intern("orders");
        let of = metrics.service(Direction::Outbound, service);
        for (millis, digit) in [(3, b'1'), (4, b'2'), (200, b'3'), (90_000, b'4')] {
            let took = Duration::from_millis(millis);
            of.duration().observe(took.as_secs_f64());
            let trace = TraceId::read(&[digit; 32]).unwrap();
            metrics.note_exemplar((Direction::Outbound, service), took, trace);
        }
        let exemplar_of = |direction: &str, service: &str, bound| metrics.exemplar(direction, service, bound);
        let text = |format| written(&metrics.encode(), &Merged::default(), &exemplar_of, format);
        let shown = text(Format::OpenMetrics);
        let with = |digit: &str| -> Vec<&str> {
            let id = format!(" # {{trace_id=\"{}\"}} ", digit.repeat(32));
            shown.lines().filter(|line| line.contains(&id)).collect()
        };
        assert_eq!(with("1").len(), 0, "a later one has its bucket");
        for (digit, bound, value) in [("2", "0.005", "0.004"), ("3", "0.25", "0.2"), ("4", "+Inf", "90")] {
            let lines = with(digit);
            let [line] = &lines[..] else { panic!("{digit}: {lines:?}") };
            assert!(line.contains(&format!("le=\"{bound}\"")), "{line}");
            assert!(line.contains(&format!("\"}} {value} ")), "{line}");
        }
        assert!(read(shown.as_bytes(), Format::OpenMetrics, Bounds::NONE).is_ok());
        assert!(!text(Format::Text).contains("trace_id"));
    }
}
