//! The families of an exposition as text: read from either format ([`read()`]), written in either.
//!
//! A family here has the names of the text format 0.0.4, which are those that Prometheus stores: a counter ends in
//! `_total`, an info in `_info`. OpenMetrics writes such families without the suffix.

mod read;

use std::borrow::Cow;
use std::collections::HashSet;

use super::format::Format;

pub use read::{Bounds, Malformed, read};

/// One family, whose texts are those of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family<'a> {
    /// What is written before each of its names: it was renamed.
    pub prefix: Cow<'a, str>,
    pub name: Cow<'a, str>,
    pub kind: Kind,
    /// Without escapes.
    pub help: Cow<'a, str>,
    pub samples: Vec<Sample<'a>>,
}

/// What the values of a family mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Info,
    StateSet,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample<'a> {
    /// The whole name: that of the family, or with a suffix.
    pub name: Cow<'a, str>,
    /// Names and values; the values with their escapes, which are the same in both formats.
    pub labels: Vec<(&'a str, &'a str)>,
    /// A number as both formats write it.
    pub value: Cow<'a, str>,
    /// Milliseconds since 1970.
    pub time: Option<u64>,
    /// Labels, value and time of an exemplar, as OpenMetrics writes it. The text format has none.
    pub exemplar: Option<String>,
}

impl Kind {
    /// The suffixes of samples beside the family's own name.
    pub const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["_sum", "_count"],
            Self::Counter | Self::Gauge | Self::Info | Self::StateSet | Self::Unknown => &[],
        }
    }

    const fn word(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::Counter, _) => "counter",
            (Self::Histogram, _) => "histogram",
            (Self::Summary, _) => "summary",
            (Self::Info, Format::OpenMetrics) => "info",
            (Self::StateSet, Format::OpenMetrics) => "stateset",
            (Self::Gauge, _) | (Self::Info | Self::StateSet, Format::Text) => "gauge",
            (Self::Unknown, Format::Text) => "untyped",
            (Self::Unknown, Format::OpenMetrics) => "unknown",
        }
    }
}

/// Appends the families. One without samples is left out.
pub fn write<'f>(families: impl Iterator<Item = &'f Family<'f>> + Clone, format: Format, to: &mut String) {
    let families = families.filter(|family| !family.samples.is_empty());
    let mut taken: HashSet<String> = match format {
        Format::Text => HashSet::new(),
        Format::OpenMetrics => families.clone().map(Family::whole).collect(),
    };
    families.for_each(|family| family.write(format, &mut taken, to));
}

impl Family<'_> {
    /// Its name, as the text format has it.
    pub fn whole(&self) -> String {
        format!("{}{}", self.prefix, self.name)
    }

    /// Its name, and those that its samples may have. Two sources may share none.
    pub fn names(&self) -> Vec<String> {
        let whole = self.whole();
        let mut names: Vec<String> =
            self.kind.suffixes().iter().map(|suffix| format!("{whole}{suffix}")).collect();
        names.push(whole);
        names
    }

    /// `taken`: the names of families in OpenMetrics so far.
    fn write(&self, format: Format, taken: &mut HashSet<String>, to: &mut String) {
        let whole = self.whole();
        let (name, kind) = self.named(&whole, format, taken);
        if !self.help.is_empty() {
            to.extend(["# HELP ", name, " ", &escaped(&self.help, format), "\n"]);
        }
        to.extend(["# TYPE ", name, " ", kind.word(format), "\n"]);
        if let (Format::OpenMetrics, Some(unit)) = (format, unit(name, kind)) {
            to.extend(["# UNIT ", name, " ", unit, "\n"]);
        }
        for sample in &self.samples {
            sample.write(&self.prefix, format, to);
        }
    }

    /// The name and the kind as the format has them. A counter without `_total` is of no kind that OpenMetrics has, and
    /// neither is one whose short name is another family's.
    fn named<'n>(&self, whole: &'n str, format: Format, taken: &mut HashSet<String>) -> (&'n str, Kind) {
        match (format, self.kind) {
            (Format::OpenMetrics, kind @ (Kind::Counter | Kind::Info)) => {
                let short = strip(whole, kind);
                if taken.insert(short.to_owned()) { (short, kind) } else { (whole, Kind::Unknown) }
            }
            (_, kind) => (whole, kind),
        }
    }
}

impl Sample<'_> {
    fn write(&self, prefix: &str, format: Format, to: &mut String) {
        to.push_str(prefix);
        to.push_str(&self.name);
        for (nth, (name, value)) in self.labels.iter().enumerate() {
            to.push(if nth == 0 { '{' } else { ',' });
            let value = match format {
                Format::OpenMetrics => as_openmetrics(name, value),
                Format::Text => Cow::Borrowed(*value),
            };
            to.extend([*name, "=\"", &value, "\""]);
        }
        if !self.labels.is_empty() {
            to.push('}');
        }
        to.push(' ');
        to.push_str(&self.value);
        match (self.time, format) {
            (None, _) => {}
            (Some(time), Format::Text) => to.push_str(&format!(" {time}")),
            (Some(time), Format::OpenMetrics) => to.push_str(&seconds(time)),
        }
        if let (Some(exemplar), Format::OpenMetrics) = (&self.exemplar, format) {
            to.extend([" # ", exemplar]);
        }
        to.push('\n');
    }
}

/// A blank, and the time as OpenMetrics writes it.
fn seconds(milliseconds: u64) -> String {
    format!(" {}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// The name without the suffix that OpenMetrics leaves out of the names of families.
fn strip(name: &str, kind: Kind) -> &str {
    let suffix = match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        _ => return name,
    };
    name.strip_suffix(suffix).filter(|rest| !rest.is_empty()).unwrap_or(name)
}

/// The unit that a name ends with.
fn unit(name: &str, kind: Kind) -> Option<&'static str> {
    let has_unit = !matches!(kind, Kind::Info | Kind::StateSet | Kind::Unknown);
    ["seconds", "bytes"].into_iter().find(|unit| {
        has_unit && name.strip_suffix(unit).is_some_and(|rest| rest.len() > 1 && rest.ends_with('_'))
    })
}

/// The value of a label as OpenMetrics writes it: `1.0` for the bound `1` of a bucket.
fn as_openmetrics<'v>(label: &str, value: &'v str) -> Cow<'v, str> {
    let is_number = matches!(label, "le" | "quantile") && !value.is_empty();
    let is_whole = is_number && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_whole { Cow::Owned(format!("{value}.0")) } else { Cow::Borrowed(value) }
}

fn escaped(help: &str, format: Format) -> String {
    let mut escaped = String::with_capacity(help.len());
    for letter in help.chars() {
        match letter {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if format == Format::OpenMetrics => escaped.push_str("\\\""),
            letter => escaped.push(letter),
        }
    }
    escaped
}
