//! `pillion check --live`: what a running sidecar finds around itself.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::support::backend::{Backend, nobody};
use crate::support::certs::Authority;
use crate::support::eventually;
use crate::support::launched::binary;
use crate::support::namespace::Namespace;
use crate::support::pod::{Node, Variant};
use crate::support::program::Program;
use crate::support::sidecar::{Pair, Plan, Sidecar};
use crate::support::tools::run;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn check(sidecar: &Sidecar, words: &[&str]) -> Output {
    let mut command = std::process::Command::new(binary());
    command.args(["check", "--live", &format!("http://{}", sidecar.admin())]).args(words);
    run(command).await
}

/// The lines of the checks.
async fn checks(sidecar: &Sidecar) -> Vec<Value> {
    lines(&check(sidecar, &["--json"]).await)
}

fn lines(of: &Output) -> Vec<Value> {
    let found: Value =
        serde_json::from_slice(&of.stdout).unwrap_or_else(|error| unreachable!("{error}: {of:?}"));
    found["checks"].as_array().expect("a list").clone()
}

fn of<'a>(lines: &'a [Value], check: &str) -> &'a Value {
    lines
        .iter()
        .find(|line| line["check"] == check)
        .unwrap_or_else(|| unreachable!("no {check} in {lines:#?}"))
}

#[tokio::test]
async fn a_good_pair_has_nothing_that_failed() {
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    for (sidecar, parts) in [
        (
            &pair.application,
            [format!("the application listens on {}", app.address), "✓ certificates".to_owned()],
        ),
        (&pair.caller, ["orders: 1 of 1 endpoints accept connections".to_owned(), "✓ ports".to_owned()]),
    ] {
        let output = check(sidecar, &[]).await;
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)) && !told.contains('✗'), "{told}");
        assert!(told.contains("✓ ready") && told.contains(", 0 failed"), "{told}");
    }
}

#[tokio::test]
async fn an_application_that_does_not_listen_fails_with_its_sentence() {
    let app = nobody();
    let sidecar = Plan::application(app, "mtls: off").start().await;
    let output = check(&sidecar, &[]).await;
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let line = format!(
        "✗ application   the application does not listen: nothing does on port {}. What to do: ",
        app.port()
    );
    assert!(told.contains(&line), "{line:?} in\n{told}");
    assert!(text(&output.stderr).contains("1 check has failed"), "{output:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_dead_fails_and_one_of_two_is_a_warning() {
    let (app, dead) = (Backend::echo().await, nobody());
    let services = format!(
        "  gone: {{ endpoints: [\"{}\"] }}\n  half: {{ endpoints: [\"{}\", \"{}\"] }}",
        dead, app.address, dead
    );
    let sidecar = Plan::calling(app.address, "").with(&services).start().await;
    let lines = checks(&sidecar).await;
    let of = |service: &str| {
        let is_of = |line: &&Value| line["what"].as_str().is_some_and(|what| what.starts_with(service));
        lines.iter().find(is_of).unwrap_or_else(|| unreachable!("{service} in {lines:#?}")).clone()
    };
    assert_eq!((&of("orders")["result"], &of("half")["result"]), (&"ok".into(), &"warning".into()));
    let gone = of("gone");
    let what = format!("gone: 0 of 1 endpoints accept connections ({} refuses connections)", dead);
    assert_eq!((&gone["result"], &gone["what"]), (&"failed".into(), &what.into()));
}

#[tokio::test]
async fn a_certificate_that_ends_soon_fails() {
    let (app, authority) = (Backend::echo().await, Authority::new());
    let plan = Plan::application(app.address, "").identified(&authority, "orders");
    let sidecar = plan.start().await;
    let directory = sidecar.directory().join("certs");
    let issued = authority.issue_for("orders", Duration::from_secs(60)); // it is valid from before now, as for skewed clocks
    std::fs::write(directory.join("tls.key"), issued.key).expect("its file");
    std::fs::write(directory.join("tls.crt"), issued.certificate).expect("its file");
    let line = eventually("the new certificate", async || {
        let line = of(&checks(&sidecar).await, "certificates").clone();
        (line["result"] != "ok").then_some(line)
    })
    .await;
    assert!(
        line["what"].as_str().is_some_and(|what| what.contains("the sidecar's own certificate")),
        "{line}"
    );
}

/// A pod with the rules of `pillion init`. The sidecar cannot read them, and knows them by a connection that came; root can.
#[tokio::test]
async fn rules_are_known_by_themselves_or_by_a_connection_that_came() {
    let Some(node) = Node::new(Variant::redirect("nft")) else { return };
    let (pod, authority) = (node.pod(1).await, Authority::new());
    let mut app = Program::start(Program::script(pod.enter(), "servers.py", &["http:app@0.0.0.0:8080"]));
    assert_eq!(app.line().await, "ready");
    let sidecar =
        pod.sidecar("inbound: { app: 127.0.0.1:8080, mtls: permissive }\n", &authority, "web").await;
    let redirect = async |host: &Namespace| {
        let mut command = host.enter();
        command.arg(binary()).args(["check", "--live", "--json"]);
        of(&lines(&run(command).await), "redirect").clone()
    };
    let line = redirect(&pod.host).await;
    assert!(
        line["result"] == "warning"
            && line["what"].as_str().is_some_and(|what| what.contains("no CAP_NET_ADMIN")),
        "{line}"
    );
    let mut curl = node.host.enter();
    curl.args([
        "curl",
        "-sS",
        "--max-time",
        "20",
        &format!("http://{}/", pod.at(crate::support::pod::Version::V4, 8080)),
    ]);
    assert!(run(curl).await.status.success());
    let line = redirect(&pod.host).await;
    assert!(
        line["result"] == "ok" && line["what"].as_str().is_some_and(|what| what.contains("inbound side")),
        "{line}"
    );
    sidecar.terminated().await;

    let as_root = crate::support::launched::Launched::start(
        pod.host.enter(),
        "inbound: { app: 127.0.0.1:8080 }\n",
        None,
    )
    .await;
    let line = redirect(&pod.host).await;
    assert_eq!(
        (&line["result"], &line["what"]),
        (&"ok".into(), &"the rules lead to port 15006, 15001 of this sidecar".into())
    );
    as_root.terminated().await;
    let _others = crate::support::launched::Launched::start(
        pod.host.enter(),
        "inbound: { listen: 127.0.0.1:7006 }\noutbound: { listen: 127.0.0.1:7001 }\n",
        None,
    )
    .await;
    let line = redirect(&pod.host).await;
    assert!(
        line["result"] == "failed"
            && line["what"].as_str().is_some_and(|what| what.contains("listens on 7006, 7001")),
        "{line}"
    );
}
