//! Pods that run from what `pillion inject` has written: init container, sidecar and application in namespaces, with the manifest's
//! users, capabilities, volumes, probes and hooks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Scratch;
use crate::support::launched::binary;
use crate::support::tools::{available, printed, require, require_python};

const LONGEST: Duration = Duration::from_secs(300);

/// An application that answers with the headers that it got.
const APPLICATION: &str = r#"
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"path": self.path, **{key.lower(): value for key, value in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Echo).serve_forever()
"#;

fn manifest(name: &str, annotations: &str) -> String {
    let program = APPLICATION.replace('\n', "\n          ");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations:\n    pillion.io/inject: \"true\"\n    \
         pillion.io/identity-secret: {name}-certs\n{annotations}spec:\n  containers:\n    - name: app\n      image: example/app\n      \
         command:\n        - /usr/bin/python3\n        - -c\n        - |{program}\n      ports: [{{ name: http, containerPort: 8080 }}]\n      \
         livenessProbe: {{ httpGet: {{ path: /healthz, port: http }} }}\n      readinessProbe: {{ tcpSocket: {{ port: 8080 }} }}\n"
    )
}

/// The configuration of the pod that is called.
const IS_CALLED: &str = "    pillion.io/config-inline: \"drain: { delay: 100ms }\"\n";

/// The configuration of the caller, with its service.
const CALLS: &str = "    pillion.io/config-inline: |
      drain: { delay: 100ms }
      services:
        orders:
          addresses: [\"10.96.0.10:80\"]
          endpoints: [\"10.77.0.1:8080\"]
          tls: \"spiffe://cluster.local/ns/default/sa/orders\"
";

/// Whether this machine can run pods.
async fn can_run() -> bool {
    let tools = ["ip", "nft", "unshare", "mount", "/usr/bin/python3"].into_iter().all(require);
    if !(tools && require_python("yaml")) {
        return false;
    }
    let mut works = Command::new("unshare");
    works.args(["--net", "--mount", "nft", "list", "ruleset"]);
    let works = tokio::task::spawn_blocking(move || works.output()).await.expect("no panic");
    available("root with network namespaces and nftables", works.is_ok_and(|output| output.status.success()))
}

async fn pillion(words: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.args(words);
    printed(command).await
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

async fn secrets(scratch: &Scratch, names: &[&str]) -> PathBuf {
    let (ca, secrets) = (path(&scratch.path().join("ca")), scratch.path().join("secrets"));
    fs::create_dir(&secrets).expect("a folder");
    pillion(&["certs", "ca", "--out", &ca, "--trust-domain", "cluster.local"]).await;
    for name in names {
        let (id, out) = (
            format!("spiffe://cluster.local/ns/default/sa/{name}"),
            path(&secrets.join(format!("{name}-certs"))),
        );
        pillion(&["certs", "issue", "--ca", &ca, "--spiffe-id", &id, "--out", &out]).await;
    }
    let mut readable = Command::new("chmod"); // as the files of a Secret are
    readable.args(["-R", "a+rX", &path(scratch.path())]);
    printed(readable).await;
    secrets
}

/// Runs two pods, of which the second calls the first.
async fn ran(annotations: &str) -> Option<Value> {
    if !can_run().await {
        return None;
    }
    let scratch = Scratch::new();
    let secrets = secrets(&scratch, &["orders", "web"]).await;
    let mut run = Command::new("unshare");
    run.args(["--net", "--mount", "python3"]);
    run.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/run_pods.py"));
    run.args([&binary(), &secrets]);
    for (name, more) in [("orders", IS_CALLED), ("web", CALLS)] {
        let file = scratch.write(&format!("{name}.yaml"), manifest(name, &format!("{more}{annotations}")));
        let injected = pillion(&["inject", "-f", &path(&file)]).await;
        run.arg(scratch.write(&format!("{name}-injected.yaml"), injected));
    }
    // longer than other programs may take: two pods start and end one after the other
    let output = tokio::task::spawn_blocking(move || run.output());
    let output =
        tokio::time::timeout(LONGEST, output).await.expect("in time").expect("no panic").expect("it starts");
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_str(&told).unwrap_or_else(|error| unreachable!("{error}: {told}\n{said}")))
}

/// The pods were ready, refused plaintext, called each other by mTLS, and ended well.
fn works(told: &Value) {
    let probes =
        json!({ "app.livenessProbe": 200, "app.readinessProbe": 200, "pillion.readinessProbe": 200 });
    assert_eq!(told["probes"], json!({ "orders": probes, "web": probes }), "{told}");
    assert_eq!(told["plaintext"][0], 403, "{told}");
    let called: Value = serde_json::from_str(told["called"].as_str().expect("a text"))
        .unwrap_or_else(|_| unreachable!("{told}"));
    let peer = called["x-forwarded-client-cert"].as_str().expect("its peer");
    assert!(peer.ends_with("URI=spiffe://cluster.local/ns/default/sa/web"), "{peer}");
    for pod in ["orders", "web"] {
        let ended = &told["ended"][pod];
        assert_eq!((&ended["preStop"][0], &ended["ready_after_preStop"]), (&json!(0), &json!(503)), "{told}");
        assert_eq!(ended["pillion"], 0, "{told}");
    }
}

#[tokio::test]
async fn pods_with_native_sidecars_call_each_other() {
    let Some(told) = ran("").await else { return };
    works(&told);
    let expected = json!({
        "Uid": "1337\t1337\t1337\t1337", "Gid": "1337\t1337\t1337\t1337", "CapEff": "0000000000000000", "CapBnd": "0000000000000000",
        "NoNewPrivs": "1",
    });
    assert_eq!(told["privileges"], json!({ "orders": expected, "web": expected }));
}

#[tokio::test]
async fn pods_with_classic_sidecars_call_each_other() {
    let Some(told) = ran("    pillion.io/native-sidecar: \"false\"\n").await else { return };
    works(&told);
}

#[tokio::test]
async fn pods_with_tproxy_call_each_other() {
    let Some(told) = ran("    pillion.io/mode: tproxy\n").await else { return };
    works(&told);
    assert_eq!(told["privileges"]["orders"]["CapEff"], "0000000000001000", "NET_ADMIN alone");
}
