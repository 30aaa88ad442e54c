//! How the timeline of a request is shown to people: a line for each stage, with a bar where its time lies.

use serde_json::Value;

/// The width of the bars, in characters.
pub(super) const BAR: usize = 40;

/// The whole timeline: what `/requests/ID` answers.
pub(super) fn told(whole: &Value) -> String {
    told_in(whole, BAR)
}

/// The same with bars of another width.
pub(super) fn told_in(whole: &Value, width: usize) -> String {
    let text = |key: &str| whole[key].as_str().unwrap_or_default();
    let mut lines = vec![
        format!("{}  {}", text("id"), said(whole)),
        format!("  began {}, took {}, {}", text("time"), milliseconds(&whole["duration_ms"]), tries(whole)),
    ];
    for (name, key) in [
        ("peer", "peer"),
        ("client", "downstream"),
        ("route", "route"),
        ("rule", "rule"),
        ("trace", "trace_id"),
    ] {
        if !text(key).is_empty() {
            lines.push(format!("  {name} {}", text(key)));
        }
    }
    if !text("detail").is_empty() {
        lines.push(format!("  why: {}", text("detail")));
    }
    lines.push(String::new());
    let total = whole["duration_ms"].as_f64().unwrap_or_default();
    lines.extend(
        whole["stages"].as_array().into_iter().flatten().map(|stage| stage_line(stage, total, width)),
    );
    if let Some(others @ 1..) = whole["others"].as_u64() {
        lines.push(format!("\n{others} more with this ID: /requests?id={} lists them", text("id")));
    }
    printable(&lines.join("\n")) + "\n"
}

/// The text without control characters other than line ends. It may come from a peer, by way of a sidecar that is not ours,
/// and must not control the terminal.
pub(super) fn printable(text: &str) -> String {
    text.replace(|char: char| is_control(char) && char != '\n', "\u{fffd}")
}

/// The text as one line: without line ends, too.
pub(super) fn one_line(text: &str) -> String {
    text.replace(is_control, "\u{fffd}")
}

/// Whether a terminal obeys the character: a control, or a sign that turns the direction of a text.
fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn tries(whole: &Value) -> String {
    match whole["attempts"].as_u64().unwrap_or_default() {
        0 => "no attempt".to_owned(),
        1 => "1 attempt".to_owned(),
        many => format!("{many} attempts"),
    }
}

/// `outbound orders GET /v2 503 no_endpoints`.
pub(super) fn said(row: &Value) -> String {
    let status = row["status"].as_u64().filter(|status| *status > 0).map(|status| status.to_string());
    let grpc = row["grpc_status"].as_u64().map(|code| format!("grpc-status {code}"));
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let protocol = text("protocol").filter(|protocol| protocol == "tcp");
    let words = [
        text("direction"),
        text("service"),
        protocol,
        text("method"),
        text("path"),
        status,
        grpc,
        text("reason"),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// A time in milliseconds, with as many digits as help.
pub(super) fn milliseconds(value: &Value) -> String {
    match value.as_f64().unwrap_or_default() {
        small if small < 1.0 => format!("{small:.3} ms"),
        some if some < 1000.0 => format!("{some:.1} ms"),
        long => format!("{:.2} s", long / 1000.0),
    }
}

fn stage_line(stage: &Value, total: f64, width: usize) -> String {
    let number = |key: &str| stage[key].as_f64().unwrap_or_default();
    let text = |key: &str| stage[key].as_str().unwrap_or_default();
    let attempt = stage["attempt"].as_u64().map_or_else(String::new, |attempt| format!("#{attempt} "));
    let bar = bar(number("at_ms"), number("took_ms"), total, width);
    let took = milliseconds(&stage["took_ms"]);
    let rest = [&format!("{attempt}{}", text("endpoint")), text("outcome"), text("detail")];
    let rest = rest.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join("  ");
    format!("  {:<10} |{bar}| {took:>10}  {rest}", text("stage"))
}

/// A bar from `at` on for `took`; a stage that took time has one character at least.
fn bar(at: f64, took: f64, total: f64, width: usize) -> String {
    let place = |time: f64| if total > 0.0 { (time / total * width as f64).round() as usize } else { 0 };
    let begins = place(at).min(width.saturating_sub(1));
    let length = place(at + took).min(width).saturating_sub(begins).max(usize::from(took > 0.0));
    format!(
        "{}{}{}",
        " ".repeat(begins),
        "█".repeat(length),
        " ".repeat(width.saturating_sub(begins + length))
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_timeline_has_a_line_for_each_stage_with_a_bar() {
        let whole = json!({
            "id": "7", "time": "2026-11-28T10:11:12Z", "direction": "outbound", "service": "orders", "method": "GET",
            "path": "/", "status": 502, "reason": "connect_refused", "duration_ms": 10.0, "attempts": 1, "others": 2,
            "detail": "10.0.0.1:80 refused the connection", "downstream": "127.0.0.1:5", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "stages": [
                { "stage": "route", "at_ms": 0.0, "took_ms": 5.0, "outcome": "ok", "detail": "service orders" },
                { "stage": "connect", "at_ms": 5.0, "took_ms": 5.0, "attempt": 1, "endpoint": "10.0.0.1:80",
                  "outcome": "connect_refused" },
            ],
        });
        let half = "█".repeat(20);
        let expected = format!(
            "7  outbound orders GET / 502 connect_refused\n  \
             began 2026-11-28T10:11:12Z, took 10.0 ms, 1 attempt\n  \
             client 127.0.0.1:5\n  \
             trace 4bf92f3577b34da6a3ce929d0e0e4736\n  \
             why: 10.0.0.1:80 refused the connection\n\n  \
             route      |{half}{space}|     5.0 ms  ok  service orders\n  \
             connect    |{space}{half}|     5.0 ms  #1 10.0.0.1:80  connect_refused\n\n\
             2 more with this ID: /requests?id=7 lists them\n",
            space = " ".repeat(20),
        );
        assert_eq!(told(&whole), expected);
    }

    #[test]
    fn times_have_the_digits_that_help() {
        let cases = [(0.0123, "0.012 ms"), (12.345, "12.3 ms"), (1234.5, "1.23 s")];
        for (value, expected) in cases {
            assert_eq!(milliseconds(&json!(value)), expected);
        }
    }

    proptest! {
        #[test]
        fn a_bar_always_has_its_width(at in -10.0..60.0_f64, took in -10.0..60.0_f64, total in -10.0..60.0_f64) {
            prop_assert_eq!(bar(at, took, total, BAR).chars().count(), BAR);
        }
    }
}
