//! The families of an exposition as text: read from either format ([`read`]), written in either.
//!
//! A family here has the names of the text format 0.0.4, which are those that Prometheus stores: a counter ends in
//! `_total`, an info in `_info`. OpenMetrics writes such families without the suffix.

mod read;

use std::borrow::Cow;

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
    pub time: Option<i64>,
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

impl Family<'_> {
    /// Every name that a sample of this family may have in either format. Two families of an exposition may share none.
    pub fn names(&self) -> Vec<String> {
        let whole = format!("{}{}", self.prefix, self.name);
        let short = strip(&whole, self.kind).to_owned();
        let suffixes = self.kind.suffixes().iter().chain(&["_created"]);
        let mut names: Vec<String> = suffixes.map(|suffix| format!("{short}{suffix}")).collect();
        names.extend([whole, short]);
        names
    }

    /// Appends the family. One without samples is left out.
    pub fn write(&self, format: Format, to: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        let whole = format!("{}{}", self.prefix, self.name);
        let (name, kind) = self.named(&whole, format);
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

    /// The name and the kind as the format has them. A counter without `_total` is of no kind that OpenMetrics has.
    fn named<'n>(&self, whole: &'n str, format: Format) -> (&'n str, Kind) {
        match (format, self.kind) {
            (Format::Text, kind) => (whole, kind),
            (Format::OpenMetrics, Kind::Counter | Kind::Info) if strip(whole, self.kind) == whole => {
                (whole, Kind::Unknown)
            }
            (Format::OpenMetrics, kind) => (strip(whole, kind), kind),
        }
    }
}

impl Sample<'_> {
    fn write(&self, prefix: &str, format: Format, to: &mut String) {
        to.push_str(prefix);
        to.push_str(&self.name);
        for (nth, (name, value)) in self.labels.iter().enumerate() {
            to.push(if nth == 0 { '{' } else { ',' });
            let value = match (format, *name) {
                (Format::OpenMetrics, "le" | "quantile") => canonical(value),
                _ => Cow::Borrowed(*value),
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
        to.push('\n');
    }
}

/// A blank, and the time as OpenMetrics writes it.
fn seconds(milliseconds: i64) -> String {
    let sign = if milliseconds < 0 { "-" } else { "" };
    let time = milliseconds.unsigned_abs();
    format!(" {sign}{}.{:03}", time / 1000, time % 1000)
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

/// A bound of a bucket as OpenMetrics writes it: `1.0` for `1`.
fn canonical(number: &str) -> Cow<'_, str> {
    let is_whole = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_whole { Cow::Owned(format!("{number}.0")) } else { Cow::Borrowed(number) }
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
