//! `pillion explain`, by a file and by a running sidecar.

use std::process::Output;

use serde_json::Value;

use crate::support::Scratch;
use crate::support::backend::{Backend, nobody};
use crate::support::launched::binary;
use crate::support::sidecar::Plan;
use crate::support::wire::Wire;

async fn explain(words: &[&str]) -> Output {
    let mut command = std::process::Command::new(binary());
    command.arg("explain").args(words);
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("a process")
}

fn text(of: &Output) -> String {
    String::from_utf8_lossy(&of.stdout).into_owned() + &String::from_utf8_lossy(&of.stderr)
}

const FILE: &str = "inbound: off
services:
  orders:
    endpoints: [10.0.1.10:80]
    addresses: [10.96.0.10:80]
    timeout: 2s
  canary: { endpoints: { dns: \"canary.shop:80\" } }
routes:
  - { name: old, hosts: [orders], match: { path: { prefix: /v1 } }, to: canary }
  - { name: users, hosts: [orders], match: { headers: { x-user: jo } }, to: canary, timeout: 1s }
";

#[tokio::test]
async fn a_file_explains_what_would_happen_and_where_each_policy_was_written() {
    let scratch = Scratch::new();
    let file = scratch.write("p.yaml", FILE).display().to_string();
    let with = ["GET", "http://orders/v2/x", "-H", "x-user: jo", "-c", &file];
    let told = text(&explain(&with).await);
    for line in [
        "route         users\n",
        "not old: path: /v2/x is not below /v1\n",
        "service       canary\n",
        "looked up by DNS\n",
        &format!("{file}:10:"),
    ] {
        assert!(told.contains(line), "{line:?} in\n{told}");
    }
    let json = explain(&[&with[..], &["--json"]].concat()).await;
    let found: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((found["route"].as_str(), found["service"].as_str()), (Some("users"), Some("canary")));
    assert_eq!(found["rejected"][0]["route"], "old");
    assert_eq!(found["policies"]["timeout"]["value"], "1s");

    let found = explain(&["tcp://10.96.0.10:80", "-c", &file, "--json"]).await;
    let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    assert_eq!(found["service"], "orders");
    assert_eq!(found["endpoints"][0]["state"], "written");
    assert_eq!(found["policies"]["timeout"]["from"], format!("{file}:6:14"));
}

#[tokio::test]
async fn a_running_sidecar_explains_with_the_state_that_it_has() {
    let app = Backend::echo().await;
    let rules = "authorization: { rules: [{ name: reads, methods: [GET] }] }";
    let sidecar = Plan::application(app.address, rules).start().await;
    let (port, admin) = (app.address.port().to_string(), format!("http://{}", sidecar.admin()));
    let asked = explain(&["POST", "http://orders/a", "--inbound", &port, "--admin", &admin]).await;
    let told = text(&asked);
    assert!(
        asked.status.success() && told.contains("denied by default") && told.contains("not reads: methods"),
        "{told}"
    );
    let asked = explain(&["GET", "http://orders/a", "--inbound", &port, "--admin", &admin, "--json"]).await;
    let found: Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    assert_eq!(
        (&found["authorization"]["rule"], &found["endpoints"][0]["state"]),
        (&"reads".into(), &"eligible".into())
    );
    let from = found["authorization"]["from"].as_str().unwrap_or_default();
    assert!(from.contains("pillion.yaml:"), "{found}");
}

#[tokio::test]
async fn a_past_request_is_explained_by_its_id_and_a_tap_shows_it_as_it_ends() {
    let sidecar = Plan::application(nobody(), "mtls: off").start().await;
    let admin = format!("http://{}", sidecar.admin());
    let mut tap = std::process::Command::new(binary());
    tap.args(["tap", "--admin", &admin, "--limit", "1", "--status", "5xx"]);
    let mut shown = tokio::task::spawn_blocking(move || tap.output());
    let mut client = Wire::connect(sidecar.inbound()).await;
    // nobody tells when the tap is open, so requests are sent until it has shown one
    let shown = loop {
        tokio::select! { // a request that is given up here is not looked at
            biased;
            shown = &mut shown => break shown.expect("no panic").expect("a process"),
            answer = client.ask("GET /a?secret=1 HTTP/1.1\r\nhost: orders\r\nx-request-id: call-7\r\n\r\n") => {
                assert_eq!(answer.status(), 502);
            }
        }
    };
    let told = text(&shown);
    assert!(told.contains("inbound app GET /a 502 connect_refused") && !told.contains("secret"), "{told}");

    let told = text(&explain(&["call-7", "--admin", &admin]).await);
    for part in
        ["call-7  inbound app GET /a 502 connect_refused", "why: ", "refused the connection", "connect    |"]
    {
        assert!(told.contains(part), "{part:?} in\n{told}");
    }
    let json = explain(&["call-7", "--admin", &admin, "--json"]).await;
    let found: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        found["stages"].as_array().and_then(|all| all.last()).map(|end| &end["outcome"]),
        Some(&"connect_refused".into())
    );
    let unknown = explain(&["nobody", "--admin", &admin]).await;
    assert!(
        unknown.status.code() == Some(1) && text(&unknown).contains("no request with this ID is kept"),
        "{}",
        text(&unknown)
    );
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_says_why() {
    let scratch = Scratch::new();
    let bad = scratch.write("bad.yaml", "inbond: off\n").display().to_string();
    for (words, code, expected) in [
        (&["0b7f9a3e-8c1d", "--admin", "http://127.0.0.1:1"][..], 1, "cannot be asked"),
        (&["0b7f9a3e-8c1d", "-c", &bad], 1, "is the ID of a past request"),
        (&["GET", "orders"], 2, "http://orders/v2/x"),
        (&["http://orders/"], 2, "needs a method"),
        (&["GET", "http://orders/", "--source", "web"], 2, "SPIFFE ID"),
        (&["GET", "http://orders/", "-c", "a", "--admin", "http://127.0.0.1:1"], 2, "cannot be used with"),
        (&["GET", "http://orders/", "-c", &bad], 1, "inbound"),
        (&["GET", "http://orders/", "--admin", "http://127.0.0.1:1"], 1, "cannot be asked"),
        (&[], 2, "METHOD URL"),
    ] {
        let refused = explain(words).await;
        let said = text(&refused);
        assert!(
            refused.status.code() == Some(code) && said.contains(expected),
            "{words:?}: {:?} {said}",
            refused.status
        );
    }
}
