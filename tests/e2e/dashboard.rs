//! The dashboard in a real browser: its figures are those of `/metrics`, it works with the keyboard, in the dark and on a
//! phone, and it asks nobody but the sidecar.

use std::process::Command;

use crate::support::backend::{Backend, nobody};
use crate::support::launched::binary;
use crate::support::program::Program;
use crate::support::sidecar::Plan;
use crate::support::tools::{printed, require, require_python};
use crate::support::wire::Wire;

#[tokio::test]
async fn a_browser_shows_the_figures_of_the_metrics_and_the_failures_with_their_stages() {
    if !require("chromium") || !require_python("websockets") {
        return;
    }
    let app = Backend::echo().await;
    let other = format!("  gone: {{ endpoints: [\"{}\"], retry: off }}", nobody()); // `services` is the last block
    let sidecar = Plan::calling(app.address, "").with(&other).start().await;
    let mut client = Wire::connect(sidecar.outbound()).await;
    for _ in 0..20 {
        assert_eq!(client.get("orders", "/a").await.status(), 200);
    }
    for _ in 0..3 {
        assert_eq!(client.get("gone", "/b?x=1").await.status(), 502);
    }
    sidecar.counted(20, &[("service", "orders"), ("status", "200")]).await;
    let url = format!("http://{}/", sidecar.admin());
    let script = Program::script(Command::new("env"), "browser.py", &[&url, "outbound/orders", "20"]);
    let found: serde_json::Value = serde_json::from_str(&printed(script).await).expect("JSON");

    assert_eq!(
        (&found["row"]["requests"], &found["row"]["failed"]),
        (&"20".into(), &"0".into()),
        "{found:#}"
    );
    assert_eq!((&found["state"], &found["failures"]), (&"live".into(), &3.into()), "{found:#}");
    let map = found["map"].as_str().expect("a label");
    assert!(map.contains("orders") && map.contains("gone"), "{map}");
    let opened = found["opened"].as_str().expect("a failure");
    for part in ["connect_refused", "refused the connection", "outbound gone GET /b", "connect"] {
        assert!(opened.contains(part), "{part:?} in {opened}");
    }
    assert_eq!(
        (&found["faults"], &found["unnamed"], &found["foreign"]),
        (&serde_json::json!([]), &0.into(), &0.into()),
        "{found:#}"
    );
    assert_ne!(found["light"], found["dark"], "{found:#}");
    assert_eq!(found["overflow"], 0, "nothing is wider than the screen of a phone: {found:#}");
    assert_eq!(found["stories"], serde_json::json!([]), "tests/support/page_stories.js");
}

#[tokio::test]
async fn the_figures_of_the_dashboard_are_those_of_the_last_minute() {
    if !require("node") {
        return;
    }
    let of = |path: &str| format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    let mut stories = Command::new("node");
    stories.args([of("tests/support/figures.js"), of("proxy/admin/dashboard/figures.js")]);
    assert!(printed(stories).await.contains("no rate is negative"));
}

#[tokio::test]
async fn a_client_that_is_no_browser_gets_the_list_of_the_pages() {
    let app = Backend::echo().await;
    let sidecar = Plan::calling(app.address, "").start().await;
    let mut client = Wire::connect(sidecar.admin()).await;
    let lists = [client.get("localhost", "/").await.text(), client.get("localhost", "/help").await.text()];
    assert!(lists[0].contains("/requests/ID") && lists[0] == lists[1], "{lists:?}");
}

/// The demo says which endpoint is which replica, and its dashboard gets all three with their state.
#[tokio::test]
async fn the_dashboard_of_the_demo_shows_three_replicas_with_their_state() {
    if !require("curl") {
        return;
    }
    let mut demo = Command::new(binary());
    demo.arg("demo");
    let mut demo = Program::start(demo);
    let dashboard = line_with(&mut demo, "dashboard").await;
    let admin = dashboard.split_whitespace().nth(1).expect("an address").to_owned();
    let replicas = line_with(&mut demo, "endpoints").await;
    let mut curl = Command::new("curl");
    curl.args(["-sN", "--max-time", "60", &format!("{admin}events")]);
    let mut events = Program::start(curl);
    loop {
        let event = line_with(&mut events, "data: ").await;
        let event: serde_json::Value = serde_json::from_str(&event["data: ".len()..]).expect("JSON");
        let endpoints = event["clusters"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        let known = endpoints.iter().filter_map(|endpoint| endpoint["address"].as_str());
        let named = known.filter(|address| replicas.contains(address)).count();
        assert!(endpoints.is_empty() || (endpoints.len(), named) == (3, 3), "{replicas}: {endpoints:#?}");
        let states: Vec<_> = endpoints.iter().filter_map(|endpoint| endpoint["state"].as_str()).collect();
        if states == ["ejected", "healthy", "healthy"] {
            return;
        }
    }
}

/// The next line with this text.
async fn line_with(program: &mut Program, text: &str) -> String {
    loop {
        let line = program.line().await;
        if line.contains(text) {
            return line;
        }
    }
}
