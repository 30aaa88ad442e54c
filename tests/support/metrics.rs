//! The metrics of a sidecar, read as Prometheus reads them.

use std::net::SocketAddr;

use super::wire::Wire;

/// The result of one scrape.
pub(crate) struct Scrape {
    pub(crate) text: String,
    samples: Vec<Sample>,
}

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Scrape {
    pub(crate) async fn of(address: SocketAddr) -> Self {
        let answer = Wire::connect(address).await.get("pillion", "/metrics").await;
        assert_eq!(answer.status(), 200, "{}", answer.head);
        let text = answer.text();
        let samples =
            text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(sample).collect();
        Self { text, samples }
    }

    /// All series as they are written, such as `name{label="value"}`.
    pub(crate) fn series(&self) -> Vec<String> {
        let lines = self.text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
    }

    /// The value of a series as it is written; `_`, as promtool's files have it, if there is none.
    pub(crate) fn value(&self, series: &str) -> String {
        let of = |line: &str| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned);
        self.text.lines().find_map(of).unwrap_or_else(|| "_".to_owned())
    }

    /// The sum over all series of `name` that have these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            let label =
                |(key, value): &(&str, &str)| sample.labels.iter().any(|(own, of)| own == key && of == value);
            sample.name == name && labels.iter().all(label)
        };
        self.samples.iter().filter(has).map(|sample| sample.value).sum()
    }
}

/// `name{label="value",…} 1.0`
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value after a blank");
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').expect("labels end with a brace");
    Sample {
        name: name.to_owned(),
        labels: pairs(labels),
        value: value.parse().expect("a number after the last blank"),
    }
}

fn pairs(mut rest: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    while let Some((key, after)) = rest.split_once("=\"") {
        let (value, length) = quoted(after);
        pairs.push((key.to_owned(), value));
        rest = after.get(length..).unwrap_or_default().trim_start_matches(',');
    }
    pairs
}

/// The text up to the closing quote, unescaped, and the number of bytes including the quote.
fn quoted(text: &str) -> (String, usize) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, at + 1),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            _ => value.push(char),
        }
    }
    (value, text.len())
}

#[test]
fn a_line_of_the_exposition_is_parsed() {
    let sample = sample(r#"x_total{a="1,\"}",b="\\"} 3"#);
    assert_eq!((sample.name.as_str(), sample.value), ("x_total", 3.0));
    let labels = [("a", "1,\"}"), ("b", "\\")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(sample.labels, labels);
}
