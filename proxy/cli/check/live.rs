//! `pillion check --live`: asks a running sidecar what is wrong around it.

use std::time::SystemTime;

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::super::admin::AdminPort;
use super::super::output::print;
use super::super::timeline::one_line;

/// The clocks of this machine and of the sidecar's may differ by so much. The answer is on its way for a part of it.
const MOST_APART_MS: u64 = 5_000;
/// As the sidecar writes them.
const FAILED: &str = "failed";
const WARNING: &str = "warning";
const GOOD: &str = "ok";

/// # Errors
/// A check has failed, or the sidecar cannot be asked.
pub(super) fn check(admin: &AdminPort, as_json: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut found = runtime.block_on(admin.ask(Method::GET, "/checks"))?.json()?;
    if lines(&found).next().is_none() {
        bail!(
            "the answer has no checks: another program answers there, so give the address of the sidecar's admin port"
        );
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    compare_clocks(&mut found, u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    match as_json {
        true => print(&format!("{found:#}\n"))?,
        false => print(&told(&found))?,
    }
    match count(&found, FAILED) {
        0 => Ok(()),
        1 => bail!("1 check has failed"),
        many => bail!("{many} checks have failed"),
    }
}

fn lines(found: &Value) -> impl Iterator<Item = &Value> {
    found["checks"].as_array().into_iter().flatten()
}

fn count(found: &Value, result: &str) -> usize {
    lines(found).filter(|line| line["result"] == result).count()
}

/// Turns the line of the clock into a warning if the sidecar's clock and that of this machine, which says `now_ms`, differ.
fn compare_clocks(found: &mut Value, now_ms: u64) {
    let Some(at_ms) = found["at_ms"].as_u64() else { return };
    let apart = now_ms.abs_diff(at_ms);
    let clock =
        found["checks"].as_array_mut().and_then(|all| all.iter_mut().find(|line| line["check"] == "clock"));
    if let Some(clock) = clock.filter(|line| apart > MOST_APART_MS && line["result"] == GOOD) {
        let ahead = if at_ms > now_ms { "ahead of" } else { "behind" };
        *clock = json!({
            "check": "clock",
            "result": WARNING,
            "what": format!("the sidecar's clock is {} s {ahead} the clock of this machine", apart / 1000),
            "help": "correct the clock that is wrong (NTP)",
        });
    }
}

/// The lines for people, and a line that sums them up.
fn told(found: &Value) -> String {
    let mut told: String = lines(found).map(line).collect();
    let [good, warnings, failed] = [GOOD, WARNING, FAILED].map(|result| count(found, result));
    told += &format!("\n{good} good, {warnings} to look at, {failed} failed\n");
    told
}

fn line(of: &Value) -> String {
    let text = |key: &str| of[key].as_str().unwrap_or_default();
    let mark = match text("result") {
        GOOD => '✓',
        FAILED => '✗',
        _ => '!',
    };
    let help = match text("help") {
        "" => String::new(),
        help => format!(". What to do: {help}"),
    };
    let said = format!("{mark} {:<13} {}{help}", text("check"), text("what"));
    one_line(&said) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Value {
        json!({ "at_ms": 100_000, "checks": [
            { "check": "clock", "result": "ok", "what": "it is noon", "help": null },
            { "check": "redirect", "result": "warning", "what": "none", "help": "run `pillion init`" },
            { "check": "application", "result": "failed", "what": "nobody\u{1b}[2J\nlistens", "help": "start it" },
        ] })
    }

    #[test]
    fn each_check_is_a_line_with_its_mark_and_what_to_do() {
        let expected = "✓ clock         it is noon\n\
                        ! redirect      none. What to do: run `pillion init`\n\
                        ✗ application   nobody\u{fffd}[2J\u{fffd}listens. What to do: start it\n\n\
                        1 good, 1 to look at, 1 failed\n";
        assert_eq!(told(&found()), expected);
    }

    #[test]
    fn clocks_that_differ_are_a_warning_and_a_worse_fault_of_the_clock_stays() {
        let clock = |now_ms: u64, result: &str| {
            let mut found = found();
            found["checks"][0]["result"] = result.into();
            compare_clocks(&mut found, now_ms);
            (
                found["checks"][0]["result"].clone(),
                found["checks"][0]["what"].as_str().unwrap_or_default().to_owned(),
            )
        };
        assert_eq!(clock(104_000, GOOD).0, GOOD);
        assert_eq!(
            clock(140_000, GOOD),
            (WARNING.into(), "the sidecar's clock is 40 s behind the clock of this machine".to_owned())
        );
        assert!(clock(60_000, GOOD).1.contains("40 s ahead of"));
        assert_eq!(clock(60_000, FAILED).0, FAILED);
    }
}
