//! The formats of an exposition, and which of them a scraper asks for by `Accept`.
//!
//! Pure: a header in, a format out. Prometheus names each format with a quality:
//! `application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2`.

/// A format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

/// The most entries of `Accept` that are read. Prometheus sends up to six.
const MOST_RANGES: usize = 32;

impl Format {
    pub const ALL: [Self; 2] = [Self::Text, Self::OpenMetrics];

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format for a request with this `Accept`. Only who names OpenMetrics, and does not prefer text, gets it: browsers
    /// and older scrapers read text alone. Of equal qualities the first decides.
    pub fn wanted(accept: &str) -> Self {
        let mut best: Option<(Quality, Self)> = None;
        for range in accept.split(',').take(MOST_RANGES) {
            let Some((quality, format)) = range_of(range) else { continue };
            if quality.0 > 0 && best.is_none_or(|(known, _)| quality > known) {
                best = Some((quality, format));
            }
        }
        best.map_or(Self::Text, |(_, format)| format)
    }

    /// The format of a source by its `content-type`. `None`: one that is not understood, such as protobuf.
    pub fn of_source(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        match kind.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => Some(Self::OpenMetrics),
            "" | "text/plain" => Some(Self::Text),
            _ => None,
        }
    }
}

/// A quality in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Quality(u16);

impl Quality {
    fn parse(text: &str) -> Option<Self> {
        let value: f32 = text.parse().ok()?;
        (0.0..=1.0).contains(&value).then_some(Self((value * 1000.0) as u16))
    }
}

/// What one entry asks for. `None`: a format or a version that does not exist here.
fn range_of(range: &str) -> Option<(Quality, Format)> {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next()?.to_ascii_lowercase();
    let (mut quality, mut version) = (Quality(1000), None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => quality = Quality::parse(value.trim())?,
            "version" => version = Some(value.trim().trim_matches('"')),
            _ => {}
        }
    }
    let format = match (kind.as_str(), version) {
        ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => Format::OpenMetrics,
        ("text/plain" | "text/*", None | Some("0.0.4")) | ("*/*", _) => Format::Text,
        _ => return None,
    };
    Some((quality, format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_with_the_highest_quality() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let table = [
            ("", Format::Text),
            ("*/*", Format::Text),
            (prometheus, Format::OpenMetrics),
            (
                "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3",
                Format::Text,
            ),
            ("text/plain;version=0.0.4;q=0.9, application/openmetrics-text;q=0.8", Format::Text),
            ("text/plain, application/openmetrics-text", Format::Text),
            ("application/openmetrics-text, text/plain", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=nan", Format::Text),
            ("Application/OpenMetrics-Text;Version=1.0.0", Format::OpenMetrics),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
            (";;;,=,q=1", Format::Text),
        ];
        for (accept, expected) in table {
            assert_eq!(Format::wanted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn sources_of_another_kind_are_not_understood() {
        let table = [
            ("text/plain; version=0.0.4; charset=utf-8", Some(Format::Text)),
            ("", Some(Format::Text)),
            ("application/openmetrics-text; version=1.0.0", Some(Format::OpenMetrics)),
            ("application/vnd.google.protobuf", None),
            ("text/html", None),
        ];
        for (kind, expected) in table {
            assert_eq!(Format::of_source(kind), expected, "{kind}");
        }
    }
}
