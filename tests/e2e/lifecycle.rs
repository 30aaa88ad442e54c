//! `pillion wait`, `pillion drain` and kept configurations, with real processes.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tokio::net::TcpListener;

use crate::support::backend::{Backend, free, nobody};
use crate::support::certs::Authority;
use crate::support::launched::binary;
use crate::support::program::Program;
use crate::support::sidecar::Plan;
use crate::support::tools::run;
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually, soon};

fn pillion(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(words);
    command
}

/// The exit code, and what was written to standard error.
fn ended(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A caller's sidecar with its metrics port here.
fn at(metrics: SocketAddr, more: &str) -> String {
    format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: \"{metrics}\" }}\n{more}\n"
    )
}

fn url(of: SocketAddr) -> String {
    format!("http://{of}")
}

#[tokio::test]
async fn wait_ends_when_a_sidecar_that_starts_later_is_ready() {
    let metrics = free();
    let waits = tokio::spawn(run(pillion(&["wait", "--metrics", &url(metrics)])));
    let _sidecar = Plan::exactly(&at(metrics, "")).start().await;
    assert_eq!(ended(&waits.await.expect("no panic")), (Some(0), String::new()));
}

#[tokio::test]
async fn wait_that_gives_up_says_the_last_reason() {
    let (scratch, metrics, gone) = (Scratch::new(), free(), nobody());
    let file = scratch.write("pillion.yaml", at(metrics, "identity: { directory: certs }"));
    let mut sidecar = Command::new(binary());
    sidecar.arg("run").arg("-c").arg(file);
    let sidecar = Program::start(sidecar);
    sidecar.has_logged("not ready yet").await;
    for (port, expected) in [(metrics, "waiting for certificates: "), (gone, "nothing listens at http://")] {
        let wait = ["wait", "--timeout", "3s", "--metrics", &url(port)];
        let (code, said) = ended(&run(pillion(&wait)).await);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with("the sidecar is not ready after 3s: ") && said.contains(expected), "{said}");
    }
    for wrong in [["--metrics", "15020"], ["--timeout", "soon"]] {
        assert_eq!(run(pillion(&[&["wait"], &wrong[..]].concat())).await.status.code(), Some(2), "{wrong:?}");
    }
}

/// A sidecar with both sides, its application, and a service that the application calls.
fn both(app: SocketAddr, orders: SocketAddr, more: &str) -> Plan {
    Plan::new(&format!(
        "inbound: {{ listen: 127.0.0.1:0, app: \"{app}\" }}\noutbound: {{ listen: 127.0.0.1:0 }}\n\
         services: {{ orders: {{ endpoints: [\"{orders}\"] }} }}\n{more}"
    ))
}

const POST: &str = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 0\r\n\r\n";

/// The application still calls others when inbound has ended, and only SIGTERM ends the process.
#[tokio::test]
async fn drain_ends_inbound_leaves_outbound_alone_and_sigterm_ends_the_process() {
    let (app, orders) = (Backend::holding().await, Backend::echo().await);
    let mut sidecar = both(app.address, orders.address, "drain: { delay: 200ms, timeout: 1h }").start().await;
    let (mut calls, mut busy) =
        (Wire::connect(sidecar.outbound()).await, Wire::connect(sidecar.inbound()).await);
    busy.send(POST).await;
    app.has_requests(1).await;
    let drain = ["drain", "--admin", &url(sidecar.admin())];
    let drains = tokio::spawn(run(pillion(&drain)));
    sidecar.has_logged("inbound accepts nothing new").await;
    assert_eq!(sidecar.page("/ready").await, (503, "not ready: draining\n".to_owned()));
    eventually("the ports of all workers are closed", async || {
        tokio::net::TcpStream::connect(sidecar.inbound()).await.is_err().then_some(())
    })
    .await;
    let answer = calls.get("orders", "/").await;
    assert_eq!((answer.status(), answer.header("connection")), (200, None), "outbound is untouched");
    assert!(!drains.is_finished(), "a request is under way");
    app.release();
    let answer = busy.answer().await;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    let output = soon("the end of the drain", drains).await.expect("no panic");
    assert_eq!((ended(&output), &*output.stdout), ((Some(0), String::new()), &b"inbound is drained\n"[..]));
    assert!(run(pillion(&drain)).await.status.success(), "a second one joins the first");
    assert_eq!(calls.get("orders", "/").await.header("connection"), None);
    assert!(sidecar.exited().is_none());
    sidecar.signal("TERM");
    assert_eq!(sidecar.exit().await.code(), Some(0));
}

#[tokio::test]
async fn drain_returns_at_its_timeout_and_says_what_is_still_at_work() {
    let (app, orders) = (Backend::holding().await, Backend::echo().await);
    let mut sidecar = both(app.address, orders.address, "drain: { delay: 0s, timeout: 300ms }").start().await;
    let mut busy = Wire::connect(sidecar.inbound()).await;
    busy.send(POST).await;
    app.has_requests(1).await;
    let output = run(pillion(&["drain", "--admin", &url(sidecar.admin())])).await;
    let said = "drain.timeout is over, and 1 inbound connections are still at work\n";
    assert_eq!(ended(&output), (Some(0), said.to_owned()));
    app.release();
    assert_eq!(busy.answer().await.status(), 200, "it is cut by the end of the process alone");
    assert!(sidecar.exited().is_none());
}

#[tokio::test]
async fn drain_needs_the_token_and_a_sidecar() {
    let admin = "admin: { listen: 127.0.0.1:0, token: s3cret-t0ken }\nmetrics: { listen: 127.0.0.1:0 }\n\
                 inbound: off\noutbound: { listen: 127.0.0.1:0 }\ndrain: { delay: 1h, timeout: 2h }\n";
    let sidecar = Plan::exactly(admin).start().await;
    let mut drain = pillion(&["drain", "--admin", &url(sidecar.admin())]);
    let (code, said) = ended(&run(drain).await);
    assert!(code == Some(1) && said.contains("PILLION_ADMIN_TOKEN"), "{said}");
    assert_eq!(sidecar.page("/ready").await.0, 200);
    drain = pillion(&["drain", "--admin", &url(sidecar.admin())]);
    drain.env("PILLION_ADMIN_TOKEN", "s3cret-t0ken");
    assert_eq!(ended(&run(drain).await), (Some(0), String::new()), "no inbound side, so no delay");
    assert_eq!(sidecar.page("/ready").await.0, 503);
    let (code, said) = ended(&run(pillion(&["drain", "--admin", &url(nobody())])).await);
    assert!(code == Some(1) && said.contains("cannot be asked (see --admin)"), "{said}");
}

/// A file of a caller's sidecar with an identity in the folder of the file.
fn kept_file(scratch: &Scratch, more: &str) -> PathBuf {
    let text = "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\n\
                metrics: { listen: 127.0.0.1:0 }\nidentity: { directory: certs }\n";
    scratch.write("pillion.yaml", format!("{text}{more}\n"))
}

/// `pillion run` in another folder than that of the file.
fn kept_by(file: &Path, kept: &Path) -> Command {
    let mut command = pillion(&["run"]);
    command.arg("-c").arg(file).arg("--snapshot").arg(kept).current_dir("/");
    command
}

/// The address of this kind in a ready line.
fn address_of(ready: &str, kind: &str) -> SocketAddr {
    let word = ready.split(' ').find_map(|word| word.strip_prefix(kind)?.strip_prefix('='));
    word.and_then(|word| word.parse().ok()).expect("an address")
}

async fn page(of: SocketAddr, path: &str) -> String {
    let answer = Wire::connect(of).await.get("localhost", path).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.text()
}

#[tokio::test]
async fn a_start_with_a_bad_or_absent_file_uses_the_last_good_one_and_says_so() {
    let scratch = Scratch::new();
    Authority::new().issue_into(&scratch.path().join("certs"), "web");
    let (file, kept) = (kept_file(&scratch, ""), scratch.path().join("kept.yaml"));
    let good = std::fs::read_to_string(&file).expect("written");
    let mut first = Program::start(kept_by(&file, &kept));
    let metrics = address_of(&first.line().await, "metrics");
    assert!(page(metrics, "/metrics").await.contains("\npillion_config_snapshot 0\n"));
    kept_file(&scratch, "inbund: off");
    first.has_logged("configuration refused, the old one stays in use").await;
    let text = eventually("the file is kept", async || std::fs::read_to_string(&kept).ok()).await;
    let original = format!("# original: \"{}\"\n", file.display());
    assert!(
        text.starts_with("# The last good") && text.contains(&original) && text.ends_with(&good),
        "{text}"
    );
    assert_eq!(std::fs::metadata(&kept).expect("kept").permissions().mode() & 0o777, 0o600);
    drop(first);
    for fault in ["the file has no key `inbund`", "the file cannot be read"] {
        let mut sidecar = Program::start(kept_by(&file, &kept));
        let ready = sidecar.line().await;
        sidecar
            .has_logged("ERROR pillion::cli::run: configuration refused at the start, the kept one is in use")
            .await;
        assert!(sidecar.errors().contains(fault), "{}", sidecar.errors());
        let (admin, metrics) = (address_of(&ready, "admin"), address_of(&ready, "metrics"));
        let shown: serde_json::Value = serde_json::from_str(&page(admin, "/config").await).expect("JSON");
        assert!(shown["last_refusal"]["why"].as_str().is_some_and(|why| why.contains(fault)), "{shown}");
        assert_eq!(shown["file"], kept.to_str().expect("text"));
        assert_eq!(page(metrics, "/ready").await, "ready\n");
        let counted = page(metrics, "/metrics").await;
        assert!(counted.contains("\npillion_config_snapshot 1\n"), "{counted}");
        assert!(counted.contains("\npillion_config_reloads_total{outcome=\"refused\"} 1\n"), "{counted}");
        assert_eq!(run(pillion(&["check", "-c", file.to_str().expect("text")])).await.status.code(), Some(1));
        kept_file(&scratch, "services: { orders: { endpoints: [\"127.0.0.1:9\"] } }");
        sidecar.has_logged("configuration reloaded").await;
        eventually("the file is at work", async || {
            page(metrics, "/metrics").await.contains("\npillion_config_snapshot 0\n").then_some(())
        })
        .await;
        let shown: serde_json::Value = serde_json::from_str(&page(admin, "/config").await).expect("JSON");
        assert!(shown["last_refusal"].is_null() && shown["file"] == file.to_str().expect("text"), "{shown}");
        eventually("the file is kept", async || {
            std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("orders")).then_some(())
        })
        .await;
        std::fs::remove_file(&file).expect("written");
    }
    std::fs::write(&kept, "# original: \"/p.yaml\"\nwokers: 1\n").expect("written");
    let (code, said) = ended(&run(kept_by(&file, &kept)).await);
    let both =
        [format!("{}:1:1: error: the file cannot be read", file.display()), "has no key `wokers`".to_owned()];
    assert!(code == Some(1) && both.iter().all(|part| said.contains(part)), "{said}");
    assert!(
        said.contains(&format!("the configuration kept at {} cannot be used either", kept.display())),
        "{said}"
    );
}

/// The file stays as it is, and the address that it names gets free.
#[tokio::test]
async fn a_file_that_was_refused_for_a_fault_that_passes_is_tried_again() {
    let (scratch, address) = (Scratch::new(), free());
    let (taken, kept) =
        (TcpListener::bind(address).await.expect("a free port"), scratch.path().join("kept.yaml"));
    let yaml = |outbound: &str| {
        format!(
            "inbound: off\noutbound: {{ listen: \"{outbound}\" }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             metrics: {{ listen: 127.0.0.1:0 }}\n"
        )
    };
    let file = scratch.write("pillion.yaml", yaml("127.0.0.1:0"));
    let mut first = Program::start(kept_by(&file, &kept));
    first.line().await;
    eventually("the file is kept", async || kept.exists().then_some(())).await;
    drop(first);
    scratch.write("pillion.yaml", yaml(&address.to_string()));
    let mut sidecar = Program::start(kept_by(&file, &kept));
    let metrics = address_of(&sidecar.line().await, "metrics");
    sidecar.has_logged("the kept one is in use: outbound.listen: cannot listen on").await;
    drop(taken);
    sidecar.has_logged("configuration reloaded").await;
    Wire::connect(address).await;
    assert!(page(metrics, "/metrics").await.contains("\npillion_config_snapshot 0\n"));
    assert_eq!(sidecar.errors().matches("cannot listen on").count(), 1, "{}", sidecar.errors());
}

/// With a configuration that nothing but the kept one makes good, `exec` runs its application too.
#[tokio::test]
async fn exec_starts_with_the_kept_configuration() {
    let scratch = Scratch::new();
    let kept = scratch.path().join("kept.yaml");
    let file = scratch.write(
        "p.yaml",
        "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nmetrics: off\nadmin: { listen: 127.0.0.1:0 }\n",
    );
    for code in [3, 4] {
        let app = format!("until [ -s \"$0\" ]; do sleep 0.01; done; exit {code}");
        let mut exec = pillion(&["exec", "-c"]);
        exec.arg(&file).arg("--snapshot").arg(&kept).args(["--", "sh", "-c", &app]).arg(&kept);
        let (status, said) = ended(&run(exec).await);
        assert_eq!(status, Some(code), "{said}");
        assert_eq!(said.contains("the kept one is in use"), code == 4, "{said}");
        std::fs::write(&file, "").expect("written");
    }
}
