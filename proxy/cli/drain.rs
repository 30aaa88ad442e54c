//! `pillion drain`: what a preStop hook runs. Inbound of a running sidecar drains, and the sidecar goes on for the
//! application.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::Method;
use serde_json::Value;
use tokio::time::sleep;

use super::admin::{AdminPort, USUAL};
use super::output::{print, print_failure};

/// The pause between two questions. Each costs the sidecar a connection.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct Drain {
    /// The admin port of the sidecar
    #[arg(long, value_name = "URL", default_value = USUAL)]
    admin: AdminPort,
}

/// What a sidecar says of the drain of its inbound side.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Draining,
    Idle,
    /// `drain.timeout` is over, and this many connections are at work.
    TimedOut(u64),
}

impl Drain {
    /// Returns when inbound is idle, or at `drain.timeout`.
    ///
    /// # Errors
    /// The sidecar cannot be asked, or refuses.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.drained())
    }

    async fn drained(self) -> anyhow::Result<()> {
        let mut said = self.order().await?;
        loop {
            match said {
                Said::Draining => sleep(PAUSE).await,
                Said::Idle => return print("inbound is drained\n"),
                Said::TimedOut(at_work) => {
                    print_failure(&format!(
                        "drain.timeout is over, and {at_work} inbound connections are still at work"
                    ));
                    return Ok(());
                }
            }
            said = match self.order().await {
                Ok(said) => said,
                // it was told to end meanwhile, and has nothing left to drain
                Err(why) => return print(&format!("the sidecar has ended: {why:#}\n")),
            };
        }
    }

    /// Orders the drain. A further order joins the first.
    async fn order(&self) -> anyhow::Result<Said> {
        said(&self.admin.ask(Method::POST, "/drain?only=inbound").await?.json()?)
    }
}

fn said(answer: &Value) -> anyhow::Result<Said> {
    let at_work = answer.get("at_work").and_then(Value::as_u64).unwrap_or_default();
    match answer.get("inbound").and_then(Value::as_str) {
        Some("draining") => Ok(Said::Draining),
        Some("idle") => Ok(Said::Idle),
        Some("timed_out") => Ok(Said::TimedOut(at_work)),
        _ => bail!("the sidecar's answer does not say how far its drain is; is it of another version?"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_says_how_far_the_drain_is() {
        for (answer, expected) in [
            (json!({ "inbound": "draining", "at_work": 2 }), Some(Said::Draining)),
            (json!({ "inbound": "idle", "at_work": 0 }), Some(Said::Idle)),
            (json!({ "inbound": "timed_out", "at_work": 2 }), Some(Said::TimedOut(2))),
            (json!({ "inbound": "gone" }), None),
            (json!([]), None),
        ] {
            assert_eq!(said(&answer).ok(), expected, "{answer}");
        }
    }
}
