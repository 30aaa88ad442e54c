//! The access lines that a test scenario writes.

use std::future::Future;

use serde_json::Value;

use pillion_testkit::Scratch;

/// Runs `scenario`, which gets the configuration block that logs into a file. The lines are complete when its sidecars
/// have ended.
pub(super) fn lines<F: Future<Output = ()>>(
    scenario: impl FnOnce(String) -> F + Send + 'static,
) -> Vec<Value> {
    let scratch = Scratch::new();
    let path = scratch.path("access.log");
    let block = format!("access_log: {{ path: \"{}\", format: json }}\n", path.display());
    let played = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().expect("a runtime").block_on(scenario(block));
    });
    played.join().expect("a scenario that ends");
    let log = std::fs::read_to_string(&path).unwrap_or_default();
    log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
