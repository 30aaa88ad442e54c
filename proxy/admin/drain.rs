//! `POST /drain?only=inbound`: inbound drains and the sidecar goes on, because the application still needs outbound.
//! Each call says how far that has come; a further call joins the drain that has begun.

use std::sync::Arc;
use std::time::Duration;

use pillion_base::drain::{Drain, DrainOutcome, InboundState};
use pillion_model::Config;
use pillion_model::listener::Drain as Plan;
use serde_json::{Value, json};

use super::console::Console;
use super::ready::Readiness;

/// Which sides the query asks to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sides {
    /// Both, after which the process ends.
    Both,
    Inbound,
}

impl Sides {
    /// # Errors
    /// Returns a sentence that says what to write instead.
    pub(super) fn parse(query: &str) -> Result<Self, &'static str> {
        match query {
            "" => Ok(Self::Both),
            "only=inbound" => Ok(Self::Inbound),
            _ => Err("the one parameter is only=inbound, which drains inbound and does not end the process"),
        }
    }
}

/// Begins the drain of inbound unless it has begun, and returns how far it has come.
pub(super) fn inbound(console: &Console, readiness: &Arc<Readiness>) -> Value {
    let config = console.published().config.clone();
    begin_inbound(&console.drain, readiness, &config);
    let plan = plan(&config);
    match console.drain.inbound_state(plan) {
        InboundState::Draining { at_work } => json!({ "inbound": "draining", "at_work": at_work }),
        InboundState::Idle => json!({ "inbound": "idle", "at_work": 0 }),
        InboundState::TimedOut { at_work } => json!({ "inbound": "timed_out", "at_work": at_work }),
    }
}

/// Fails readiness and drains inbound, in a task that ends with the drain.
pub(crate) fn begin_inbound(drain: &Drain, readiness: &Readiness, config: &Config) {
    readiness.set_draining();
    if drain.begin_inbound() {
        let (drain, plan) = (drain.clone(), plan(config));
        tokio::spawn(async move { report(drain.inbound_finished(plan).await) });
    }
}

fn report(outcome: DrainOutcome) {
    match outcome {
        DrainOutcome::Finished => {
            tracing::info!("inbound is drained; outbound goes on until the process is told to end");
        }
        DrainOutcome::Cut { inbound, .. } => tracing::warn!(
            inbound,
            "drain.timeout reached: inbound connections are still at work, until the process is told to end"
        ),
    }
}

/// Without an inbound side, nobody has to learn that it ends.
fn plan(config: &Config) -> Plan {
    let delay = config.inbound.as_ref().map_or(Duration::ZERO, |_| config.drain.delay);
    Plan { delay, ..config.drain }
}
