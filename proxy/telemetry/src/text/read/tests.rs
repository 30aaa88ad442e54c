use proptest::prelude::*;

use super::super::write;
use super::*;

const BOUNDS: Bounds = Bounds { families: 40, samples: 100, labels: 10 };

fn written(families: &[Family<'_>], to: Format) -> String {
    let mut written = String::new();
    write(families.iter(), to, &mut written);
    written
}

fn rewritten(text: &str, from: Format, to: Format) -> Result<String, Malformed> {
    Ok(written(&read(text.as_bytes(), from, BOUNDS)?, to))
}

const TEXT: &str = "\
# HELP calls_total Calls \\\\ of \"all\"\\nkinds.
# TYPE calls_total counter
calls_total{path=\"/a\\\"b\\\\\",code=\"200\"} 3 1700000000123
# HELP took_seconds Took.
# TYPE took_seconds histogram
took_seconds_bucket{le=\"1\"} 1
took_seconds_bucket{le=\"+Inf\"} 2
took_seconds_sum 1.5e3
took_seconds_count 2
# TYPE bare counter
bare 7
# TYPE size summary
size{quantile=\"0.5\"} NaN
size_sum 0
size_count 0
# TYPE free untyped
free -Inf
";

#[test]
fn a_text_comes_out_as_it_went_in() {
    assert_eq!(rewritten(TEXT, Format::Text, Format::Text).as_deref(), Ok(TEXT));
}

#[test]
fn a_text_becomes_openmetrics_and_comes_back() {
    let open = rewritten(TEXT, Format::Text, Format::OpenMetrics).unwrap();
    for line in [
        "# HELP calls Calls \\\\ of \\\"all\\\"\\nkinds.",
        "# TYPE calls counter",
        "calls_total{path=\"/a\\\"b\\\\\",code=\"200\"} 3 1700000000.123",
        "# UNIT took_seconds seconds",
        "took_seconds_bucket{le=\"1.0\"} 1",
        "# TYPE bare unknown",
        "# TYPE free unknown",
    ] {
        assert!(open.lines().any(|one| one == line), "{line}\n{open}");
    }
    let back = rewritten(&format!("{open}# EOF\n"), Format::OpenMetrics, Format::Text).unwrap();
    let expected =
        TEXT.replace("le=\"1\"", "le=\"1.0\"").replace("# TYPE bare counter", "# TYPE bare untyped");
    assert_eq!(back, expected);
}

#[test]
fn openmetrics_loses_exemplars_and_times_of_creation_alone() {
    let open = "# TYPE calls counter\ncalls_total 3 # {trace_id=\"x\"} 1 2.5\ncalls_created 1.5\n\
                # TYPE build info\nbuild_info{version=\"1\"} 1\n# TYPE state stateset\nstate{state=\"on\"} 1\n\
                # TYPE q gaugehistogram\nq_bucket{le=\"+Inf\"} 1\nq_gcount 1\n# EOF\n";
    let text = rewritten(open, Format::OpenMetrics, Format::Text).unwrap();
    let expected = "# TYPE calls_total counter\ncalls_total 3\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
                    # TYPE state gauge\nstate{state=\"on\"} 1\n# TYPE q_bucket untyped\nq_bucket{le=\"+Inf\"} 1\n\
                    # TYPE q_gcount untyped\nq_gcount 1\n";
    assert_eq!(text, expected);
}

#[test]
fn what_is_no_exposition_is_refused_with_its_line() {
    let text = Format::Text;
    let open = Format::OpenMetrics;
    let many = "a 1\nb 1\n".repeat(51);
    let names: String = (0..41).map(|nth| format!("# HELP a{nth} It has no sample.\n")).collect();
    let table = [
        ("<html>", text, Malformed::Name(1)),
        ("a 1\n{a=\"b\"} 1", text, Malformed::Name(2)),
        ("{\"a.b\"} 1", text, Malformed::Name(1)),
        ("a{b=\"c} 1", text, Malformed::Labels(1)),
        ("a{b=\"\\x\"} 1", text, Malformed::Labels(1)),
        ("a{b=\"c\" d=\"e\"} 1", text, Malformed::Labels(1)),
        ("a{b=\"1\",b=\"2\"} 1", text, Malformed::TwiceLabelled(1)),
        ("a", text, Malformed::Value(1)),
        ("a one", text, Malformed::Value(1)),
        ("a{__name__=\"b\"} 1", text, Malformed::NameLabel(1)),
        ("a 1 now", text, Malformed::Time(1)),
        ("a 1 -9223372036854775808", text, Malformed::Time(1)),
        ("a 1 -0.5\n# EOF", open, Malformed::Time(1)),
        ("a 1 2 3", text, Malformed::Rest(1)),
        ("a 1\n# TYPE a counter", text, Malformed::Type(2)),
        ("# TYPE a meter", text, Malformed::Type(1)),
        ("# TYPE a histogram\na 1", text, Malformed::Unfit(2)),
        ("# TYPE a counter\na 1\n# EOF", open, Malformed::Unfit(2)),
        ("a 1\n", open, Malformed::Cut),
        ("# EOF\na 1\n", open, Malformed::Rest(2)),
        ("# TYPE a counter\na_total 1\n# TYPE a gauge\na 1\n# TYPE a counter\n", open, Malformed::Type(5)),
        ("# TYPE a histogram\na_count 1\n# TYPE a_count gauge\n", text, Malformed::Shared(3)),
        ("# TYPE a summary\n# HELP a_sum Sum.\n", text, Malformed::Shared(2)),
        ("# TYPE a histogram\na_bucket{le=\"x\"} 1", text, Malformed::Unfit(2)),
        ("# TYPE a summary\na{quantile=\"x\"} 1", text, Malformed::Unfit(2)),
        ("# TYPE a gauge\na 1\n# TYPE a summary\n", open, Malformed::Type(3)),
        (&many, text, Malformed::Samples(100)),
        (&names, text, Malformed::Families(40)),
    ];
    for (source, format, expected) in table {
        assert_eq!(read(source.as_bytes(), format, BOUNDS), Err(expected), "{source}");
    }
    assert_eq!(read(b"a\xff 1", text, BOUNDS), Err(Malformed::NotText));
}

#[test]
fn equal_series_are_kept_once_and_families_are_gathered() {
    let text =
        rewritten("a{x=\"1\"} 1\nb 1\na{x=\"1\"} 2\na{x=\"2\"} 3\n", Format::Text, Format::Text).unwrap();
    assert_eq!(text, "# TYPE a untyped\na{x=\"1\"} 1\na{x=\"2\"} 3\n# TYPE b untyped\nb 1\n");
}

#[test]
fn equal_series_are_known_in_any_order_and_without_empty_values() {
    let text = "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\na{z=\"\",x=\"1\",y=\"2\"} 3\nb 1\nb{z=\"\"} 2\nc{le=\"1\"} 1\nc{le=\"1.0\"} 1\n";
    let text = rewritten(text, Format::Text, Format::Text).unwrap();
    assert_eq!(
        text,
        "# TYPE a untyped\na{x=\"1\",y=\"2\"} 1\n# TYPE b untyped\nb 1\n# TYPE c untyped\nc{le=\"1\"} 1\n"
    );
}

/// Prometheus refuses the whole exposition with `value out of range`.
#[test]
fn numbers_beyond_the_largest_are_infinite() {
    let text = rewritten("a 1e999\nb -1e400\nc 1e-999\nd inf\n", Format::Text, Format::Text).unwrap();
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(samples, ["a +Inf", "b -Inf", "c 1e-999", "d +Inf"]);
}

/// Go's default collector has `go_memstats_alloc_bytes` and `go_memstats_alloc_bytes_total`.
#[test]
fn a_gauge_and_a_counter_may_have_one_name_in_openmetrics() {
    let open = "# HELP a Now.\n# TYPE a gauge\na 1\n# HELP a Ever.\n# TYPE a counter\na_total 2\n# EOF\n";
    let text =
        "# HELP a Now.\n# TYPE a gauge\na 1\n# HELP a_total Ever.\n# TYPE a_total counter\na_total 2\n";
    assert_eq!(rewritten(open, Format::OpenMetrics, Format::Text).as_deref(), Ok(text));
    let apart =
        "# HELP a Now.\n# TYPE a gauge\na 1\n# HELP a_total Ever.\n# TYPE a_total unknown\na_total 2\n";
    assert_eq!(rewritten(open, Format::OpenMetrics, Format::OpenMetrics).as_deref(), Ok(apart));
    assert_eq!(rewritten(text, Format::Text, Format::OpenMetrics).as_deref(), Ok(apart));
    let twice = "# TYPE a counter\na_total 1\n# TYPE a_total unknown\na_total{x=\"1\"} 1\n# EOF\n";
    let once = "# TYPE a_total counter\na_total 1\na_total{x=\"1\"} 1\n";
    assert_eq!(rewritten(twice, Format::OpenMetrics, Format::Text).as_deref(), Ok(once));
}

proptest! {
    /// What was read and written is read again, as the same, in both formats.
    #[test]
    fn any_bytes_are_families_or_refused(
        lines in proptest::collection::vec(
            prop_oneof![
                "(# (HELP|TYPE|UNIT) )?[a-c]{1,2}(_total|_sum|_bucket|_info|_count)?(\\{[a-b]=\"[a-z\\\\\"n]{0,3}\"(,|\\})?\\}?)? (counter|gauge|histogram|summary|info|[0-9.eNaInf+-]{1,4})( [0-9]{1,4})?",
                "\\PC{0,20}",
                Just("# EOF".to_owned()),
            ],
            0..12,
        ),
        format in prop_oneof![Just(Format::Text), Just(Format::OpenMetrics)],
    ) {
        let text = lines.join("\n");
        let Ok(families) = read(text.as_bytes(), format, BOUNDS) else { return Ok(()) };
        let written_text = written(&families, Format::Text);
        let again = read(written_text.as_bytes(), Format::Text, Bounds::NONE);
        let count = |families: &[Family<'_>]| families.iter().map(|family| family.samples.len()).sum::<usize>();
        prop_assert_eq!(again.as_deref().map(count), Ok(count(&families)), "{}", written_text);
        let open = written(&families, Format::OpenMetrics) + "# EOF\n";
        prop_assert!(read(open.as_bytes(), Format::OpenMetrics, Bounds::NONE).is_ok(), "{}", open);
    }
}
