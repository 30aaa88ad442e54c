//! The identity from a SPIFFE Workload API at a Unix socket, and what the library `spiffe` reads from the same socket.

use std::path::Path;
use std::process::Command;

use pillion_testkit::agent::{Agent, Answer, Issued, Svid, der};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::backend::{Backend, free};
use crate::support::certs::{Authority, spiffe};
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::{printed, require_python};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually, soon};

fn svid(authority: &Authority, account: &str) -> Svid {
    let issued = authority.issue(account);
    Svid::from_pem(&spiffe(account), &issued.certificate, &issued.key, &issued.bundle)
}

fn identity(socket: &Path) -> String {
    format!("identity: {{ workload_api: \"unix://{}\" }}", socket.display())
}

/// Waits until the log contains this text.
async fn has_logged(sidecar: &Sidecar, text: &str) {
    eventually(text, async || sidecar.errors().contains(text).then_some(())).await;
}

async fn generation(sidecar: &Sidecar, at_least: f64) {
    let reached =
        async || (sidecar.scrape().await.sum("pillion_config_generation", &[]) >= at_least).then_some(());
    eventually("a further generation", reached).await;
}

/// What `/certs` shows, in the form in which the Python script reports what it has read.
async fn certs(sidecar: &Sidecar) -> Value {
    let page = Wire::connect(sidecar.admin()).await.get(&sidecar.admin().to_string(), "/certs").await.text();
    let page: Value = serde_json::from_str(&page).expect("JSON");
    let own = &page["identities"][0];
    let all = own["certificates"].as_array().expect("certificates");
    let of = |role: &str, domain: Value| {
        let fitting = all.iter().filter(|of| of["use"] == role && of["trust_domain"] == domain);
        let mut found: Vec<Value> = fitting.map(|of| of["sha256"].clone()).collect();
        found.sort_by_key(ToString::to_string);
        found
    };
    let chain: Vec<Value> =
        ["own", "intermediate"].into_iter().flat_map(|role| of(role, Value::Null)).collect();
    json!({
        "spiffe_id": own["spiffe_id"],
        "chain": chain,
        "bundles": {
            "cluster.local": of("trust_bundle", "cluster.local".into()),
            "partner.example": of("federated", "partner.example".into()),
        },
        "served": chain[0],
    })
}

#[tokio::test]
async fn the_sidecar_and_the_library_spiffe_read_the_same_from_one_agent() {
    if !require_python("spiffe") {
        return;
    }
    let (scratch, authority, partner) = (Scratch::new(), Authority::new(), Authority::new());
    let socket = scratch.path().join("agent.sock");
    let with_partner = || {
        let mut issued = Issued::from(svid(&authority, "orders"));
        issued.federated_bundles.insert("spiffe://partner.example".into(), der(&partner.issue("any").bundle));
        issued
    };
    let agent = Agent::new(with_partner());
    let _listening = agent.listen(&socket);
    let app = Backend::echo().await;
    let sidecar = Plan::application(app.address, "").with(&identity(&socket)).start().await;
    for round in 1_u8..=3 {
        generation(&sidecar, f64::from(round + 1)).await;
        let mut python = Command::new("python3");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/spiffe_client.py");
        let (host, port) = (sidecar.inbound().ip().to_string(), sidecar.inbound().port().to_string());
        python.arg(script).arg(&socket).args([host, port]);
        let read: Value = serde_json::from_str(&printed(python).await).expect("JSON");
        assert_eq!(read["spiffe_id"], spiffe("orders"));
        assert_eq!(read, certs(&sidecar).await, "round {round}");
        agent.say(with_partner());
    }
}

#[tokio::test]
async fn a_pair_whose_agent_comes_later_becomes_ready_and_serves_on_without_it() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    let socket = scratch.path().join("agent.sock");
    let app = Backend::echo().await;
    let metrics = free();
    let yaml = format!(
        "admin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: \"{metrics}\" }}\noutbound: off\n\
         inbound: {{ listen: 127.0.0.1:0, app: \"{}\" }}\n{}\n",
        app.address,
        identity(&socket)
    );
    let starting = tokio::spawn(Plan::exactly(&yaml).start());
    eventually("the reason why it is not ready", async || {
        let mut wire = Wire::new(TcpStream::connect(metrics).await.ok()?);
        let answer = wire.get("pillion", "/ready").await;
        let is_told = answer.text().contains("cannot connect to the socket");
        is_told.then(|| assert_eq!(answer.status(), 503))
    })
    .await;

    let agent = Agent::new(Answer::Status(7, "no identity issued"));
    let listening = agent.listen(&socket);
    eventually("what to do", async || {
        let answer = Wire::connect(metrics).await.get("pillion", "/ready").await;
        answer.text().contains("no identity is registered").then_some(())
    })
    .await;
    agent.say(svid(&authority, "orders"));
    let application = soon("the ready line", starting).await.expect("no panic");
    let orders = format!("tls: \"{}\"", spiffe("orders"));
    let caller = Plan::calling(application.inbound(), &orders).identified(&authority, "web").start().await;
    let mut wire = Wire::connect(caller.orders()).await;
    assert_eq!(wire.get("orders", "/").await.status(), 200);

    for round in 0_u8..20 {
        agent.say(svid(&authority, "orders"));
        assert_eq!(wire.get("orders", "/").await.status(), 200, "while the certificate is swapped");
        generation(&application, f64::from(round) + 3.0).await;
        assert_eq!(wire.get("orders", "/").await.status(), 200);
    }
    drop(listening);
    has_logged(&application, "no new certificates can come, the old ones stay in use").await;
    assert_eq!(Wire::connect(caller.orders()).await.get("orders", "/").await.status(), 200);
    assert_eq!(application.page("/ready").await.0, 200);

    agent.say(Issued::default());
    let _listening = agent.listen(&socket);
    has_logged(&application, "certificates refused, the old ones stay in use").await;
    has_logged(&application, "has no SVID").await;
    assert_eq!(application.reloads("refused").await, 1);
    assert_eq!(wire.get("orders", "/").await.status(), 200);
}

#[tokio::test]
async fn a_reload_goes_over_from_files_to_an_agent() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    let socket = scratch.path().join("agent.sock");
    let app = Backend::echo().await;
    let application = Plan::application(app.address, "").identified(&authority, "orders").start().await;
    let orders = format!("tls: \"{}\"", spiffe("orders"));
    let caller = Plan::calling(application.inbound(), &orders).identified(&authority, "web").start().await;
    let mut wire = Wire::connect(caller.orders()).await;
    assert_eq!(wire.get("orders", "/").await.status(), 200);
    let agent = Agent::new(svid(&authority, "orders"));
    let _listening = agent.listen(&socket);
    let yaml = application.configuration();
    let files = "identity: { directory: certs }";
    assert!(yaml.contains(files), "{yaml}");
    application.configure(&yaml.replace(files, &identity(&socket)));
    application.reloaded("applied", 0).await;
    generation(&application, 3.0).await;
    assert_eq!(wire.get("orders", "/").await.status(), 200);
    assert_eq!(agent.calls(), 1);
}
