//! `/companions`: what state each companion of the application is in.

use pillion_telemetry::companions::{Board, State};
use serde_json::{Value, json};

use super::requests::moment;

pub(super) fn page(board: &Board) -> Value {
    let mut companions = Vec::new();
    board.each(|kind, name, state| companions.push(companion(kind.as_str(), name, state)));
    json!({ "companions": companions })
}

pub(super) fn companion(kind: &str, name: &str, state: &State) -> Value {
    let mut shown = json!({
        "companion": kind,
        "name": name,
        "up": state.problem.is_none(),
        "since": moment(state.since),
        "required": state.is_required,
    });
    if let Some(problem) = &state.problem {
        shown["problem"] = problem.as_str().into();
    }
    if let Some((at, problem)) = &state.last_problem {
        shown["last_problem"] = json!({ "at": moment(*at), "problem": problem });
    }
    for (name, value) in &state.notes {
        shown[*name] = value.as_str().into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use pillion_telemetry::Metrics;
    use pillion_telemetry::companions::CompanionKind;

    use super::*;

    #[test]
    fn a_companion_shows_its_state_its_last_problem_and_its_notes() {
        let metrics = Metrics::new(1000);
        let settings = metrics.companions().register(CompanionKind::Sync, "settings", true);
        settings.down("connection refused");
        settings.up();
        settings.note("version", "7");
        let page = page(metrics.companions());
        let shown = &page["companions"][0];
        assert_eq!(shown["companion"], "sync");
        assert_eq!((&shown["name"], &shown["version"]), (&json!("settings"), &json!("7")));
        assert_eq!((&shown["up"], &shown["required"]), (&json!(true), &json!(true)));
        assert_eq!(shown["last_problem"]["problem"], "connection refused");
        assert!(shown.get("problem").is_none());
    }
}
