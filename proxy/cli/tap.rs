//! `pillion tap`: prints the requests of a running sidecar as they end.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::admin::{AdminPort, USUAL};
use super::ending::{asked_to_end, lasting, time_is_up};
use super::lines::Lines;
use super::output::print;
use super::timeline::{milliseconds, printable, said};

/// The longest time for which the admin port keeps a tap open. A longer one is opened again.
const LONGEST: Duration = Duration::from_secs(3600);
/// The most lines that the admin port shows in one tap.
const MOST: u64 = 1_000_000;
/// A line has headers of 32 KiB at most, and each byte of them may take six characters.
const LINE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Args)]
pub struct TapArgs {
    /// The admin port of the sidecar
    #[arg(long, value_name = "URL", default_value = USUAL)]
    admin: AdminPort,
    /// Only requests to this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only requests whose path begins like this
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only requests with this status (503) or of this class (5xx)
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// End after so many requests [default: none]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// End after this time, for example 30s [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    lasts: Option<Duration>,
    /// Show the headers, without those that may be credentials
    #[arg(long)]
    headers: bool,
    /// Print JSON, a request on each line
    #[arg(long)]
    json: bool,
}

impl TapArgs {
    /// # Errors
    /// The sidecar cannot be asked, or it refuses.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let asked_to_end = asked_to_end()?;
            tokio::select! { // a line that is printed in part is the last one
                () = asked_to_end => Ok(()),
                () = time_is_up(self.lasts) => Ok(()),
                shown = self.show() => shown,
            }
        })
    }

    async fn show(&self) -> anyhow::Result<()> {
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0 {
            let (_connection, body) = self.admin.stream(&self.target(left)).await?;
            let mut lines = Lines::of(body, LINE_BYTES);
            while let Some(line) = lines.next().await? {
                let shown: Value = serde_json::from_slice(&line).context("the sidecar's line is not JSON")?;
                if shown["lost"].is_null() {
                    left = left.saturating_sub(1);
                }
                match self.json {
                    true => print(&format!("{shown}\n"))?,
                    false => print(&told(&shown))?,
                }
            }
        }
        Ok(())
    }

    fn target(&self, left: u64) -> String {
        let mut query = form_urlencoded::Serializer::new(String::from("/tap?"));
        let texts = [("service", &self.service), ("path", &self.path), ("status", &self.status)];
        for (name, value) in texts {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.append_pair("limit", &left.min(MOST).to_string());
        query.append_pair("timeout", &format!("{}s", LONGEST.as_secs()));
        query.append_pair("headers", if self.headers { "on" } else { "off" });
        query.finish()
    }
}

/// A request for people: a line, its sentence, and its headers.
fn told(row: &Value) -> String {
    if let Some(lost) = row["lost"].as_u64() {
        return format!(
            "({lost} requests were left out, because they came faster than they could be shown)\n"
        );
    }
    let time = row["time"].as_str().unwrap_or_default();
    let time = time.split_once('T').map_or(time, |(_, clock)| clock.trim_end_matches('Z'));
    let attempts = match row["attempts"].as_u64() {
        Some(1) | None => String::new(),
        Some(attempts) => format!("  {attempts} attempts"),
    };
    let mut told = format!("{time}  {}  {}{attempts}", said(row), milliseconds(&row["duration_ms"]));
    if let Some(detail) = row["detail"].as_str() {
        told += &format!("\n    {detail}");
    }
    for (mark, list) in [('>', &row["request_headers"]), ('<', &row["response_headers"])] {
        for pair in list.as_array().into_iter().flatten() {
            let text = |at: usize| pair[at].as_str().unwrap_or_default();
            told += &format!("\n    {mark} {}: {}", text(0), text(1));
        }
    }
    printable(&told) + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_told_in_a_line_with_its_sentence_and_its_headers() {
        let row = json!({
            "time": "2026-11-28T10:11:12.123456Z", "direction": "outbound", "service": "orders", "method": "GET",
            "path": "/v2", "host": "orders", "status": 503, "reason": "no_endpoints", "duration_ms": 12.345, "attempts": 2,
            "detail": "no endpoint of \"orders\" is known", "request_headers": [["x-a", "1"]],
        });
        let expected = "10:11:12.123456  outbound orders GET /v2 503 no_endpoints  12.3 ms  2 attempts\n    \
                        no endpoint of \"orders\" is known\n    > x-a: 1\n";
        assert_eq!(told(&row), expected);
        let lost = told(&json!({ "lost": 7 }));
        assert!(lost.starts_with("(7 requests"), "{lost}");
    }
}
