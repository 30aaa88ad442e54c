//! Merges the expositions of programs beside the sidecar into its own.
//!
//! Pure: texts in, one exposition out. The sidecar's families win. A family of a source whose name is taken already gets the
//! source's name before its own, and is left out where that is taken, too. A source that is not understood is left out as a
//! whole, and costs the others nothing.

use std::borrow::Cow;
use std::collections::HashSet;

use super::format::Format;
use super::text::{Bounds, Family, Kind, Sample, read};

/// 20,000 samples of one source: as many as the sidecar itself has series.
const BOUNDS: Bounds = Bounds { samples: 20_000, labels: 64 };

/// What begins with this is the sidecar's own, also while it has no such family.
const OWN: &str = "pillion_";

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

/// The families of all sources that can stand beside those of the sidecar.
#[derive(Default)]
pub struct Merged<'a> {
    families: Vec<Family<'a>>,
    pub verdicts: Vec<Verdict<'a>>,
}

impl<'a> Merged<'a> {
    /// `own`: the sidecar's exposition, in the text format.
    pub fn of(own: &str, answers: Vec<Answer<'a>>) -> Self {
        let mut merged = Self::default();
        if answers.is_empty() {
            return merged;
        }
        let mut taken: HashSet<String> = families(own).iter().flat_map(Family::names).collect();
        for Answer { source, text } in answers {
            let read =
                text.and_then(|(text, format)| read(text, format, BOUNDS).map_err(|why| why.to_string()));
            let verdict = match read {
                Ok(families) => merged.take(source, families, &mut taken),
                Err(why) => Verdict { source, problem: Some(why), renamed: Vec::new(), left_out: Vec::new() },
            };
            merged.verdicts.push(verdict);
        }
        let told = told(&merged.verdicts);
        merged.families.extend(told);
        merged
    }

    fn take(
        &mut self,
        source: &'a str,
        families: Vec<Family<'a>>,
        taken: &mut HashSet<String>,
    ) -> Verdict<'a> {
        let (mut renamed, mut left_out) = (Vec::new(), Vec::new());
        for mut family in families {
            let name = family.name.to_string();
            if !is_free(&family, taken) {
                family.prefix = Cow::Owned(format!("{}_", source.replace('-', "_")));
                if !is_free(&family, taken) {
                    left_out.push(name);
                    continue;
                }
                renamed.push(name);
            }
            taken.extend(family.names());
            self.families.push(family);
        }
        Verdict { source, problem: None, renamed, left_out }
    }
}

/// The whole exposition.
pub fn written(own: &str, merged: &Merged<'_>, format: Format) -> String {
    let mut text = match format {
        Format::Text => own.to_owned(),
        Format::OpenMetrics => {
            let mut text = String::with_capacity(own.len());
            families(own).iter().for_each(|family| family.write(format, &mut text));
            text
        }
    };
    merged.families.iter().for_each(|family| family.write(format, &mut text));
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn families(own: &str) -> Vec<Family<'_>> {
    read(own.as_bytes(), Format::Text, Bounds::NONE).unwrap_or_else(|error| {
        tracing::error!(%error, "the sidecar's own exposition cannot be read");
        Vec::new()
    })
}

fn is_free(family: &Family<'_>, taken: &HashSet<String>) -> bool {
    let names = family.names();
    names.iter().all(|name| !name.starts_with(OWN) && !taken.contains(name))
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
    Sample { name: Cow::Borrowed(name), labels, value: Cow::Owned(value.to_string()), time: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    const OWN_TEXT: &str = "# TYPE pillion_build_info gauge\npillion_build_info 1\n# TYPE process_cpu_seconds_total counter\n\
                            process_cpu_seconds_total 1\n";

    fn of<'a>(source: &'a str, text: &'a str) -> Answer<'a> {
        Answer { source, text: Ok((text.as_bytes(), Format::Text)) }
    }

    #[test]
    fn families_are_added_and_those_whose_names_are_taken_get_their_sources_name() {
        let app = "# HELP process_cpu_seconds_total Other.\n# TYPE process_cpu_seconds_total gauge\nprocess_cpu_seconds_total 5\n\
                   jobs{a=\"1\"} 2\npillion_requests_total 7\n";
        let jvm = "jobs 3\n# TYPE jobs_count counter\njobs_count 4\nthreads 5\n";
        let merged = Merged::of(OWN_TEXT, vec![of("app", app), of("j-vm", jvm)]);
        assert_eq!(merged.verdicts[0].renamed, ["process_cpu_seconds_total", "pillion_requests_total"]);
        assert_eq!(merged.verdicts[1].renamed, ["jobs"]);
        let text = written(OWN_TEXT, &merged, Format::Text);
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
        let merged = Merged::of(OWN_TEXT, vec![of("app", app)]);
        assert_eq!(merged.verdicts[0].left_out, ["process_cpu_seconds_total"]);
        assert_eq!(merged.families.iter().filter(|family| !family.name.starts_with(OWN)).count(), 1);
    }

    /// A histogram's series must not be taken for those of a family with such a name.
    #[test]
    fn names_with_suffixes_are_taken_too() {
        let app = "# TYPE took_seconds histogram\ntook_seconds_bucket{le=\"+Inf\"} 1\ntook_seconds_sum 1\ntook_seconds_count 1\n";
        let other = "# TYPE took_seconds_count gauge\ntook_seconds_count 9\n";
        let merged = Merged::of(OWN_TEXT, vec![of("app", app), of("other", other)]);
        assert_eq!(merged.verdicts[1].renamed, ["took_seconds_count"]);
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
        let merged = Merged::of(OWN_TEXT, sources);
        let text = written(OWN_TEXT, &merged, Format::Text);
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
        let text = written(&metrics.encode(), &Merged::default(), Format::OpenMetrics);
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
}
