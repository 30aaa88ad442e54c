//! The retries and ejections of the caller's sidecar, read from `/metrics` as any scraper would read them.

use std::net::SocketAddr;

use crate::cli::client::Client;

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    /// Requests that were retried.
    pub(crate) retries: u64,
    /// Ejections of endpoints.
    pub(crate) ejections: u64,
}

/// Outcomes of retries that were made. The other outcomes say why a retry was not made.
const SENT_AGAIN: [&str; 3] = [r#"outcome="replaced""#, r#"outcome="succeeded""#, r#"outcome="failed""#];

impl Reported {
    /// # Errors
    /// No server answers at `metrics`.
    pub(crate) async fn by(metrics: SocketAddr) -> anyhow::Result<Self> {
        let answer = Client::connect(metrics).await?.get("sidecar", "/metrics").await?;
        Ok(Self::parse(&String::from_utf8_lossy(answer.body())))
    }

    fn parse(exposition: &str) -> Self {
        let was_sent_again = |labels: &str| labels.split(',').any(|label| SENT_AGAIN.contains(&label));
        Self {
            retries: sum(exposition, "pillion_retries_total", was_sent_again),
            ejections: sum(exposition, "pillion_endpoint_ejections_total", |_| true),
        }
    }
}

/// The sum over the series of a counter whose labels match.
fn sum(exposition: &str, name: &str, fits: impl Fn(&str) -> bool) -> u64 {
    let series = exposition.lines().filter_map(|line| series(line, name));
    series.filter(|(labels, _)| fits(labels)).map(|(_, value)| value).sum()
}

/// Parses `NAME{LABELS} VALUE`.
fn series<'a>(line: &'a str, name: &str) -> Option<(&'a str, u64)> {
    let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
    Some((labels, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_those_that_were_made() {
        let exposition = "\
# HELP pillion_retries_total Retries by outcome, with those that were not made.
# TYPE pillion_retries_total counter
pillion_retries_total{outcome=\"succeeded\",service=\"orders\"} 7
pillion_retries_total{outcome=\"replaced\",service=\"orders\"} 30
pillion_retries_total{outcome=\"failed\",service=\"orders\"} 100
pillion_retries_total{outcome=\"budget\",service=\"orders\"} 1000
pillion_retries_total{outcome=\"limit\",service=\"orders\"} 1000
pillion_retries_total_of_another{outcome=\"succeeded\"} 1000
pillion_endpoint_ejections_total{cause=\"consecutive_errors\",service=\"orders\"} 2
pillion_endpoint_ejections_total{cause=\"consecutive_errors\",service=\"billing\"} 1
";
        assert_eq!(Reported::parse(exposition), Reported { retries: 137, ejections: 3 });
    }

    #[test]
    fn absent_series_count_as_zero() {
        for exposition in ["", "pillion_retries_total", "pillion_retries_total{outcome=\"failed\"} many"] {
            assert_eq!(Reported::parse(exposition), Reported::default(), "{exposition:?}");
        }
    }
}
