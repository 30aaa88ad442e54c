//! The admin port of the built binary, as `curl` and a browser use it.

use serde_json::{Value, json};

use super::support::backend::Backend;
use super::support::certs::Authority;
use super::support::eventually;
use super::support::sidecar::{Plan, Sidecar};
use super::support::wire::{Message, Wire};

async fn ask(sidecar: &Sidecar, line: &str, headers: &str) -> Message {
    let admin = sidecar.admin();
    Wire::connect(admin).await.ask(format!("{line} HTTP/1.1\r\nhost: {admin}\r\n{headers}\r\n")).await
}

async fn page(sidecar: &Sidecar, path: &str) -> Value {
    let answer = ask(sidecar, &format!("GET {path}"), "").await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")), "{path}");
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[tokio::test]
async fn the_pages_show_what_the_sidecar_does() {
    let app = Backend::echo().await;
    let sidecar = Plan::calling(app.address, "timeout: 3s").start().await;
    let mut client = Wire::connect(sidecar.outbound()).await;
    assert_eq!(client.get("orders", "/").await.status(), 200);

    let config = page(&sidecar, "/config").await;
    let values = config["values"].as_array().expect("a list");
    let find = |key: &str| values.iter().find(|value| value["key"] == key).expect("a key of the file");
    assert_eq!(find("services.orders.timeout")["value"], "3s");
    assert_eq!(find("drain.timeout")["from"], "default");
    let orders = page(&sidecar, "/config?service=orders").await;
    assert!(
        orders["values"].as_array().is_some_and(|values| values.contains(find("services.orders.timeout")))
    );
    assert_eq!(config["generation"], 1);

    let clusters = page(&sidecar, "/clusters").await;
    let endpoint = &clusters["clusters"][0]["endpoints"][0];
    assert_eq!(
        (&endpoint["address"], &endpoint["state"]),
        (&json!(app.address.to_string()), &json!("healthy"))
    );
    assert_eq!(endpoint["connections"]["open"], 1);

    assert_eq!((&endpoint["requests"], &endpoint["errors"]), (&json!(1), &json!(0)));

    let info = page(&sidecar, "/server_info").await;
    assert_eq!(
        (&info["pid"], &info["generation"], &info["ready"]),
        (&json!(sidecar.pid()), &json!(1), &json!(true)),
        "{info:#}"
    );
    assert!(info["memory"]["resident_bytes"].as_u64() > Some(1_000_000), "{info:#}");
    let listeners = page(&sidecar, "/listeners").await;
    let orders = json!({ "address": sidecar.orders().to_string(), "for": "service", "service": "orders" });
    let admin = json!({ "address": sidecar.admin().to_string(), "for": "admin" });
    let all = listeners["listeners"].as_array().expect("a list");
    assert!(all.contains(&orders) && all.contains(&admin), "{listeners:#}");
    assert_eq!(listeners["redirected_connections_seen"], json!({ "inbound": false, "outbound": false }));

    assert!(page(&sidecar, "/certs").await["identities"].is_array());
    let index = ask(&sidecar, "GET /", "").await.text();
    assert!(index.contains("/clusters") && index.contains("POST /drain"), "{index}");
}

#[tokio::test]
async fn c5_refused_certificates_are_shown_on_the_admin_port_and_counted() {
    let (app, authority) = (Backend::echo().await, Authority::new());
    let sidecar = Plan::application(app.address, "").identified(&authority, "orders").start().await;
    let certificate = sidecar.directory().join("certs/tls.crt");
    let good = std::fs::read(&certificate).expect("a certificate");
    assert_eq!(page(&sidecar, "/certs").await["last_refusal"], Value::Null);

    std::fs::write(&certificate, &good[..good.len() / 2]).expect("its file");
    sidecar.reloaded("refused", 0).await;
    for path in ["/config", "/certs"] {
        let refusal = eventually("the refusal", async || {
            page(&sidecar, path).await["last_refusal"]["why"].as_str().map(str::to_owned)
        });
        let refusal = refusal.await;
        assert!(refusal.starts_with("certificates: ") && refusal.contains("tls.crt"), "{path}: {refusal}");
    }

    std::fs::write(&certificate, &good).expect("its file");
    let forgotten = async || page(&sidecar, "/certs").await["last_refusal"].is_null().then_some(());
    eventually("the refusal to be forgotten", forgotten).await;
    assert_eq!(page(&sidecar, "/config").await["last_refusal"], Value::Null);
}

#[tokio::test]
async fn the_log_level_changes_at_once_and_back() {
    let sidecar = Plan::new("inbound: off\noutbound: { listen: 127.0.0.1:0 }").start().await;
    assert_eq!(ask(&sidecar, "GET /logging", "").await.text(), "info\n");
    for (level, is_logged) in [("debug", true), ("error", false), ("warn,pillion::admin=info", true)] {
        let before = sidecar.errors().len();
        let answer = ask(&sidecar, &format!("PUT /logging?level={level}"), "").await;
        assert_eq!((answer.status(), answer.text()), (200, format!("{level}\n")));
        let says = || sidecar.errors()[before..].contains("log level set");
        if is_logged {
            eventually("the log to say so", async || says().then_some(())).await;
        }
        assert_eq!(says(), is_logged, "{level}");
    }
    let refused = ask(&sidecar, "PUT /logging?level=loud", "").await;
    assert!(refused.status() == 400 && refused.text().contains("debug"), "{}", refused.text());
    assert_eq!(ask(&sidecar, "GET /logging", "").await.status(), 200);
}

#[tokio::test]
async fn a_request_from_another_origin_changes_and_reads_nothing() {
    let sidecar = Plan::new("inbound: off\noutbound: { listen: 127.0.0.1:0 }").start().await;
    for line in ["POST /quitquitquit", "POST /drain", "POST /reload", "PUT /logging?level=off"] {
        let answer = ask(&sidecar, line, "origin: http://evil.example\r\n").await;
        assert_eq!(answer.status(), 403, "{line}");
    }
    let rebound = Wire::connect(sidecar.admin()).await.get("evil.example", "/config").await;
    assert_eq!(rebound.status(), 403);
    assert_eq!(sidecar.page("/ready").await.0, 200, "nothing happened");
    assert_eq!(ask(&sidecar, "GET /logging", "").await.text(), "info\n");
}
