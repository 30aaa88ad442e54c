//! `pillion webhook` as an API server meets it: over TLS, with the name of its service.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::launched::binary;
use crate::support::program::Program;
use crate::support::tools::{printed, require_python, run};
use crate::support::{Scratch, eventually, soon};

const NAME: &str = "pillion-webhook.pillion.svc";

fn pillion(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(words);
    command
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// A webhook with a certificate of an authority of its own.
struct Running {
    scratch: Scratch,
    webhook: Program,
    address: SocketAddr,
}

impl Running {
    async fn start() -> Self {
        let scratch = Scratch::new();
        let ca = path(&scratch.path().join("ca"));
        printed(pillion(&["certs", "ca", "--out", &ca, "--trust-domain", "cluster.local"])).await;
        issue(&scratch).await;
        let certs = scratch.path().join("certs");
        let (certificate, key) = (path(&certs.join("tls.crt")), path(&certs.join("tls.key")));
        let words = ["webhook", "--listen", "127.0.0.1:0", "--certificate", &certificate, "--key", &key];
        let mut webhook = Program::start(pillion(&[&words[..], &["--image", "pillion:0.1.0"]].concat()));
        let ready = webhook.line().await;
        let address = ready.strip_prefix("ready webhook=").and_then(|address| address.parse().ok());
        Self { scratch, webhook, address: address.unwrap_or_else(|| unreachable!("{ready}")) }
    }

    async fn ask(&self, pod: Option<&Value>) -> Value {
        let ca = path(&self.scratch.path().join("ca/ca.crt"));
        let port = self.address.port().to_string();
        let mut words = vec![ca, port, NAME.to_owned()];
        if let Some(pod) = pod {
            words.push(path(&self.scratch.write("pod.json", pod.to_string())));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let asked = printed(Program::script(Command::new("env"), "admission.py", &words)).await;
        serde_json::from_str(&asked).expect("JSON")
    }
}

async fn issue(scratch: &Scratch) {
    let (ca, certs) = (path(&scratch.path().join("ca")), path(&scratch.path().join("certs")));
    let id = "spiffe://cluster.local/ns/pillion/sa/pillion-webhook";
    printed(pillion(&["certs", "issue", "--ca", &ca, "--spiffe-id", id, "--dns", NAME, "--out", &certs]))
        .await;
}

fn pod(more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-" },
        "spec": { "containers": [{ "name": "web", "image": "b", "livenessProbe": { "tcpSocket": { "port": 80 } } }] },
    });
    for (key, value) in more.as_object().expect("keys") {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[tokio::test]
async fn an_api_server_gets_the_patch_that_inject_would_write() {
    if !require_python("jsonpatch") {
        return;
    }
    let running = Running::start().await;
    assert_eq!(running.ask(None).await["status"], 200);
    let pod = pod(&json!({}));
    let told = running.ask(Some(&pod)).await;
    assert_eq!((&told["status"], &told["response"]["allowed"]), (&json!(200), &json!(true)), "{told}");
    let file = path(&running.scratch.write("inject.json", pod.to_string()));
    let injected = printed(pillion(&["inject", "--all", "--image", "pillion:0.1.0", "-f", &file])).await;
    assert_eq!(told["patched"], serde_json::from_str::<Value>(&injected).expect("JSON"));
    let again = running.ask(Some(&told["patched"])).await;
    assert_eq!(again["response"]["patch"], Value::Null, "{again}");
    let refused = running.ask(Some(&self::pod(&json!({ "hostNetwork": true })))).await;
    assert_eq!(refused["response"]["allowed"], false);
    let told = refused["response"]["status"]["message"].as_str().expect("a sentence");
    assert!(told.starts_with("pillion: the pod uses the network of its node"), "{told}");
}

#[tokio::test]
async fn a_rotated_certificate_is_used_for_the_next_connection() {
    if !require_python("ssl") {
        return;
    }
    let running = Running::start().await;
    let before = running.ask(None).await["serial"].clone();
    fs::write(running.scratch.path().join("certs/tls.key"), "half").expect("written");
    running.webhook.has_logged("the new certificate is not used").await;
    assert_eq!(running.ask(None).await["serial"], before);
    issue(&running.scratch).await;
    let serial = async || Some(running.ask(None).await["serial"].clone()).filter(|serial| *serial != before);
    eventually("another certificate", serial).await;
}

#[tokio::test]
async fn bad_certificates_addresses_and_requests_are_refused() {
    let running = Running::start().await;
    let output =
        run(pillion(&["webhook", "--listen", "127.0.0.1:0", "--certificate", "/none", "--key", "/none"]))
            .await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/none"), "{output:?}");
    // a client that says nothing in TLS does not keep others out, and is closed
    let mut plain = TcpStream::connect(running.address).await.expect("a connection");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    soon("the end of the connection", plain.read_to_end(&mut answer)).await.ok();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn sigterm_ends_the_webhook_with_exit_code_0() {
    let mut running = Running::start().await;
    let mut kill = Command::new("kill");
    kill.arg(running.webhook.pid().to_string());
    printed(kill).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), running.webhook.next_line()).await;
    assert_eq!(ended.expect("it ends"), None);
}
