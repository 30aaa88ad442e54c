//! Reads an exposition: Prometheus' text format 0.0.4, or OpenMetrics 1.0.0.
//!
//! Pure and bounded: bytes in, families out. Strict where a line could mean two things, because one bad line of a source
//! could otherwise spoil the exposition of the sidecar. Exemplars and times of creation are left out.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;

use super::{Family, Kind, Sample, as_openmetrics};
use crate::format::Format;

/// How much is read.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Families, also those without a sample.
    pub families: usize,
    pub samples: usize,
    /// Labels of one sample.
    pub labels: usize,
}

impl Bounds {
    pub const NONE: Self = Self { families: usize::MAX, samples: usize::MAX, labels: usize::MAX };
}

/// Why a text is not an exposition. The number is that of the line, from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it is not UTF-8")]
    NotText,
    #[error("line {0}: the name is not one that Prometheus takes")]
    Name(usize),
    #[error("line {0}: the labels are not closed, or one has no name and value")]
    Labels(usize),
    #[error("line {0}: a label stands twice")]
    TwiceLabelled(usize),
    #[error("line {0}: the label __name__ is the name itself, and no sample may carry it")]
    NameLabel(usize),
    #[error("line {0}: there is no number after the name and its labels")]
    Value(usize),
    #[error("line {0}: the time is not a number from 0 on")]
    Time(usize),
    #[error("line {0}: the type is unknown, or stands after the samples")]
    Type(usize),
    #[error("line {0}: the name is that of another family's samples")]
    Shared(usize),
    #[error("line {0}: the sample does not fit the type of its family")]
    Unfit(usize),
    #[error("line {0}: there is more text than a sample has")]
    Rest(usize),
    #[error("it has more than {0} families")]
    Families(usize),
    #[error("it has more than {0} samples")]
    Samples(usize),
    #[error("line {0}: there are too many labels")]
    ManyLabels(usize),
    #[error("it does not end with # EOF")]
    Cut,
}

/// The families of a text, in the order of their first lines. Of equal series the first is kept.
///
/// # Errors
/// The text is not an exposition in this format, or goes beyond the bounds.
pub fn read(text: &[u8], format: Format, bounds: Bounds) -> Result<Vec<Family<'_>>, Malformed> {
    let text = std::str::from_utf8(text).ok().ok_or(Malformed::NotText)?;
    let mut reading = Reading::new(format, bounds);
    for (nth, line) in text.split('\n').enumerate() {
        let line = if format == Format::Text { line.strip_suffix('\r').unwrap_or(line) } else { line };
        reading.line(nth + 1, line)?;
    }
    reading.end()
}

/// Names and values.
type LabelPairs<'a> = Vec<(&'a str, &'a str)>;

struct Reading<'a> {
    format: Format,
    bounds: Bounds,
    families: Vec<Family<'a>>,
    /// The place of each family by its name in the text.
    places: HashMap<&'a str, usize>,
    /// The hashes of the series so far, keyed anew for each text.
    seen: HashSet<u64>,
    hasher: RandomState,
    samples: usize,
    /// OpenMetrics: a family and its help text, which came after samples of another family of this name.
    help_of_next: Option<(&'a str, &'a str)>,
    has_ended: bool,
}

impl<'a> Reading<'a> {
    fn new(format: Format, bounds: Bounds) -> Self {
        Self {
            format,
            bounds,
            families: Vec::new(),
            places: HashMap::new(),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            samples: 0,
            help_of_next: None,
            has_ended: false,
        }
    }

    fn line(&mut self, number: usize, line: &'a str) -> Result<(), Malformed> {
        let line = line.trim_matches(BLANKS);
        if line.is_empty() {
            return Ok(());
        }
        if self.has_ended {
            return Err(Malformed::Rest(number));
        }
        match line.strip_prefix('#') {
            Some(comment) => self.comment(number, comment),
            None => self.sample(number, line),
        }
    }

    fn end(mut self) -> Result<Vec<Family<'a>>, Malformed> {
        if self.format == Format::OpenMetrics {
            if !self.has_ended {
                return Err(Malformed::Cut);
            }
            self.families.iter_mut().for_each(rename_as_text);
        }
        self.families.retain(|family| !family.samples.is_empty());
        Ok(gathered(self.families))
    }

    fn comment(&mut self, number: usize, comment: &'a str) -> Result<(), Malformed> {
        let (word, rest) = word(comment.trim_start_matches(BLANKS));
        match word {
            "EOF" if self.format == Format::OpenMetrics && rest.is_empty() => self.has_ended = true,
            "HELP" => {
                let (name, help) = self::word(rest);
                self.admit(number, name)?;
                let is_open = self.format == Format::OpenMetrics;
                let family = self.named(number, name)?;
                if is_open && !family.samples.is_empty() {
                    self.help_of_next = Some((name, help));
                } else if family.help.is_empty() {
                    family.help = unescaped(help);
                }
            }
            "TYPE" => {
                let (name, kind) = self::word(rest);
                self.admit(number, name)?;
                let kind = kind_of(kind, self.format).ok_or(Malformed::Type(number))?;
                let is_open = self.format == Format::OpenMetrics;
                let family = self.named(number, name)?;
                if family.samples.is_empty() || family.kind == kind {
                    family.kind = kind;
                } else if is_open && (has_short_name(kind) || has_short_name(family.kind)) {
                    self.again(number, name, kind)?;
                } else {
                    return Err(Malformed::Type(number));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses a family whose name is that of a histogram's or a summary's samples. Go's parser takes such a line for one
    /// of that family.
    fn admit(&self, number: usize, name: &str) -> Result<(), Malformed> {
        let is_of = |suffix: &&str| {
            let place = name.strip_suffix(*suffix).and_then(|base| self.places.get(base));
            let family = place.and_then(|place| self.families.get(*place));
            family.is_some_and(|family| family.kind.suffixes().contains(suffix))
        };
        let is_new = !self.places.contains_key(name);
        let is_shared = is_new && Kind::Histogram.suffixes().iter().any(is_of);
        if is_shared { Err(Malformed::Shared(number)) } else { Ok(()) }
    }

    /// The family of this name in the text.
    fn named(&mut self, number: usize, name: &'a str) -> Result<&mut Family<'a>, Malformed> {
        if !is_name(name) {
            return Err(Malformed::Name(number));
        }
        let fresh = self.families.len();
        let place = *self.places.entry(name).or_insert(fresh);
        if place == fresh {
            self.add(name, Kind::Unknown, Cow::Borrowed(""))?;
        }
        self.families.get_mut(place).ok_or(Malformed::Name(number))
    }

    /// A second family of the same name in OpenMetrics, where the gauge `a` and the counter `a_total` are both `a`. The
    /// default collector of Go's client has such a pair.
    fn again(&mut self, number: usize, name: &'a str, kind: Kind) -> Result<(), Malformed> {
        if self.families.iter().any(|family| family.name == name && family.kind == kind) {
            return Err(Malformed::Type(number));
        }
        let help = self.help_of_next.take().filter(|(of, _)| *of == name).map_or("", |(_, help)| help);
        self.places.insert(name, self.families.len());
        self.add(name, kind, unescaped(help))
    }

    fn add(&mut self, name: &'a str, kind: Kind, help: Cow<'a, str>) -> Result<(), Malformed> {
        if self.families.len() >= self.bounds.families {
            return Err(Malformed::Families(self.bounds.families));
        }
        let (prefix, name) = (Cow::Borrowed(""), Cow::Borrowed(name));
        self.families.push(Family { prefix, name, kind, help, samples: Vec::new() });
        Ok(())
    }

    fn sample(&mut self, number: usize, line: &'a str) -> Result<(), Malformed> {
        self.samples += 1;
        if self.samples > self.bounds.samples {
            return Err(Malformed::Samples(self.bounds.samples));
        }
        let (name, rest) =
            line.split_at(line.find(|c: char| c == '{' || BLANKS.contains(&c)).unwrap_or(line.len()));
        if !is_name(name) {
            return Err(Malformed::Name(number));
        }
        let (labels, rest) = match rest.trim_start_matches(BLANKS).strip_prefix('{') {
            Some(rest) => self.labels(number, rest)?,
            None => (Vec::new(), rest),
        };
        let (value, rest) = word(rest.trim_start_matches(BLANKS));
        let value = number_of(value).ok_or(Malformed::Value(number))?;
        let time = self.time(number, rest)?;
        let Some(place) = self.place_of(number, name)? else { return Ok(()) };
        if self.families.get(place).is_some_and(|family| !fits(family.kind, &labels)) {
            return Err(Malformed::Unfit(number));
        }
        if self.seen.insert(self.hasher.hash_one((name, series(&labels))))
            && let Some(family) = self.families.get_mut(place)
        {
            family.samples.push(Sample { name: Cow::Borrowed(name), labels, value, time, exemplar: None });
        }
        Ok(())
    }

    /// What stands between the braces, and what follows them.
    fn labels(&self, number: usize, mut rest: &'a str) -> Result<(LabelPairs<'a>, &'a str), Malformed> {
        let mut labels = LabelPairs::new();
        loop {
            rest = rest.trim_start_matches(BLANKS);
            if let Some(rest) = rest.strip_prefix('}') {
                return Ok((labels, rest));
            }
            let (name, value, after) = label(rest).ok_or(Malformed::Labels(number))?;
            if name == "__name__" {
                return Err(Malformed::NameLabel(number));
            }
            if labels.iter().any(|(known, _)| *known == name) {
                return Err(Malformed::TwiceLabelled(number));
            }
            if labels.len() >= self.bounds.labels {
                return Err(Malformed::ManyLabels(number));
            }
            labels.push((name, value));
            rest = after.trim_start_matches(BLANKS);
            rest = match rest.strip_prefix(',') {
                Some(rest) => rest,
                None if rest.starts_with('}') => rest,
                None => return Err(Malformed::Labels(number)),
            };
        }
    }

    /// What stands after the value: a time, and in OpenMetrics an exemplar.
    fn time(&self, number: usize, rest: &str) -> Result<Option<u64>, Malformed> {
        let is_open = self.format == Format::OpenMetrics;
        let rest = match rest.split_once('#') {
            Some((rest, _exemplar)) if is_open => rest,
            _ => rest,
        };
        let time = match word(rest.trim_matches(BLANKS)) {
            ("", _) => return Ok(None),
            (_, rest) if !rest.is_empty() => return Err(Malformed::Rest(number)),
            (time, _) if is_open => {
                let seconds: f64 = time
                    .parse()
                    .ok()
                    .filter(|seconds: &f64| seconds.is_finite())
                    .ok_or(Malformed::Time(number))?;
                (seconds * 1000.0).round() as i64 // a float beyond it becomes the largest there is
            }
            (time, _) => time.parse::<i64>().ok().ok_or(Malformed::Time(number))?,
        };
        // Prometheus refuses a whole text in which a time has a sign
        u64::try_from(time).map(Some).ok().ok_or(Malformed::Time(number))
    }

    /// The family of a sample. `None`: the sample is left out.
    fn place_of(&mut self, number: usize, name: &'a str) -> Result<Option<usize>, Malformed> {
        let known = |name: &str, families: &Vec<Family<'a>>| {
            let place = *self.places.get(name)?;
            Some((place, families.get(place)?.kind))
        };
        let is_open = self.format == Format::OpenMetrics;
        if let Some((place, kind)) = known(name, &self.families) {
            let is_bare = match kind {
                Kind::Histogram => false,
                Kind::Counter | Kind::Info => !is_open,
                Kind::Gauge | Kind::Summary | Kind::StateSet | Kind::Unknown => true,
            };
            return if is_bare { Ok(Some(place)) } else { Err(Malformed::Unfit(number)) };
        }
        for suffix in ["_bucket", "_sum", "_count", "_total", "_created", "_info"] {
            let Some((place, kind)) = name.strip_suffix(suffix).and_then(|base| known(base, &self.families))
            else {
                continue;
            };
            match (suffix, kind) {
                ("_total", Kind::Counter) | ("_info", Kind::Info) if is_open => return Ok(Some(place)),
                ("_created", Kind::Counter | Kind::Histogram | Kind::Summary) if is_open => return Ok(None),
                _ if kind.suffixes().contains(&suffix) => return Ok(Some(place)),
                _ => {}
            }
        }
        self.named(number, name)?;
        Ok(self.places.get(name).copied())
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// The first word, and what follows it and its blanks.
fn word(text: &str) -> (&str, &str) {
    match text.split_once(BLANKS) {
        Some((word, rest)) => (word, rest.trim_start_matches(BLANKS)),
        None => (text, ""),
    }
}

/// A name, a value with its escapes, and what follows the closing quote.
fn label(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim_end_matches(BLANKS);
    if !is_name(name) || name.contains(':') {
        return None;
    }
    let rest = rest.trim_start_matches(BLANKS).strip_prefix('"')?;
    let mut bytes = rest.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((name, rest.get(..at)?, rest.get(at + 1..)?)),
            b'\\' => drop(bytes.next().filter(|(_, escaped)| b"\\\"n".contains(escaped))?),
            _ => {}
        }
    }
    None
}

fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    text.bytes().next().is_some_and(is_letter)
        && text.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// Whether the bound of a bucket or quantile is a number.
fn fits(kind: Kind, labels: &[(&str, &str)]) -> bool {
    let bound = match kind {
        Kind::Histogram => "le",
        Kind::Summary => "quantile",
        _ => return true,
    };
    labels.iter().all(|(name, value)| *name != bound || value.parse::<f64>().is_ok())
}

/// What makes two series equal: their labels in any order, without empty values.
fn series<'v>(labels: &[(&'v str, &'v str)]) -> Vec<(&'v str, Cow<'v, str>)> {
    let mut series: Vec<_> = labels
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (*name, as_openmetrics(name, value)))
        .collect();
    series.sort_unstable();
    series
}

/// Gathers families that have one name after they got those of the text format.
fn gathered(families: Vec<Family<'_>>) -> Vec<Family<'_>> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut gathered: Vec<Family<'_>> = Vec::with_capacity(families.len());
    for family in families {
        let place = *places.entry(family.name.to_string()).or_insert(gathered.len());
        match gathered.get_mut(place) {
            Some(first) => first.samples.extend(family.samples),
            None => gathered.push(family),
        }
    }
    gathered
}

/// A number as both formats write it. Prometheus refuses a whole text with a number beyond the largest, so such a number
/// becomes infinite.
fn number_of(text: &str) -> Option<Cow<'_, str>> {
    let value: f64 = text.parse().ok()?;
    Some(match value {
        _ if value.is_nan() => Cow::Borrowed("NaN"),
        f64::INFINITY => Cow::Borrowed("+Inf"),
        f64::NEG_INFINITY => Cow::Borrowed("-Inf"),
        _ => Cow::Borrowed(text),
    })
}

fn kind_of(word: &str, format: Format) -> Option<Kind> {
    let is_open = format == Format::OpenMetrics;
    Some(match word.trim_end_matches(BLANKS) {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        "summary" => Kind::Summary,
        "untyped" if !is_open => Kind::Unknown,
        // its buckets may fall, so for the text format its samples are of no kind
        "unknown" | "gaugehistogram" if is_open => Kind::Unknown,
        "info" if is_open => Kind::Info,
        "stateset" if is_open => Kind::StateSet,
        _ => return None,
    })
}

/// Whether OpenMetrics leaves the suffix of the samples out of the family's name.
const fn has_short_name(kind: Kind) -> bool {
    matches!(kind, Kind::Counter | Kind::Info)
}

/// A family of OpenMetrics gets the name that the text format has for it.
fn rename_as_text(family: &mut Family<'_>) {
    match family.kind {
        Kind::Counter => family.name.to_mut().push_str("_total"),
        Kind::Info => family.name.to_mut().push_str("_info"),
        _ => {}
    }
}

fn unescaped(help: &str) -> Cow<'_, str> {
    if !help.contains('\\') {
        return Cow::Borrowed(help);
    }
    let (mut text, mut letters) = (String::with_capacity(help.len()), help.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            letter => text.push(letter),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests;
