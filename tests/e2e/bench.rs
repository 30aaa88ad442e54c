//! `pillion bench` as a process: against nginx, and against servers that fail.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::backend::{Backend, free, nobody};
use crate::support::certs::{DAY, spiffe};
use crate::support::launched::binary;
use crate::support::nginx::Nginx;
use crate::support::tools::{printed, require, run};
use crate::support::{Scratch, soon};
use pillion_tls::identity::issue::Ca;

const SHORT: [&str; 6] = ["--rate", "50", "--for", "200ms", "-c", "1"];

fn bench(url: &str, words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["bench", url]).args(words);
    command
}

async fn report(mut command: Command) -> Value {
    command.arg("--json");
    serde_json::from_str(&printed(command).await).expect("JSON")
}

/// An nginx that answers with the method, a header and the host, and closes each connection after 25 requests. Over TLS its
/// certificate is for `localhost`.
struct Server {
    plain: SocketAddr,
    tls: SocketAddr,
    nginx: Nginx,
}

impl Server {
    async fn start() -> Self {
        let (plain, tls, scratch) = (free(), free(), Scratch::new());
        let ca = Ca::generate("cluster.local").expect("a CA");
        let id = spiffe("nginx").parse().expect("an identity");
        let issued = ca.issue(&id, &["localhost".to_owned()], DAY).expect("a certificate");
        let authority = issued.bundle.clone();
        scratch.write("ca.crt", authority);
        let (certificate, key) =
            (scratch.write("tls.crt", issued.certificate), scratch.write("tls.key", issued.key));
        let http = format!(
            "keepalive_requests 25;\n\
             server {{ listen {plain}; listen {tls} ssl http2; ssl_certificate {}; ssl_certificate_key {};\n\
             location / {{ return 200 \"$request_method $http_x_user $host\"; }} }}",
            certificate.display(),
            key.display()
        );
        let nginx = Nginx::start(scratch, &http, tls).await;
        Self { plain, tls, nginx }
    }
}

/// Every request of the load was answered with this body, and the report has its fixed keys.
fn is_complete(report: &Value, requests: u64, body: &str) {
    for (key, expected) in
        [("requests", requests), ("errors", 0), ("body_bytes", requests * body.len() as u64)]
    {
        assert_eq!(report[key], expected, "{key} in {report}");
    }
    assert_eq!(report["statuses"]["200"], requests, "{report}");
    let order = ["p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"];
    let order = order.map(|key| report[key].as_f64().expect("a number"));
    assert!(order[0] > 0.0 && order.is_sorted(), "{report}");
    assert!(report["connections_made"].as_u64() >= Some(requests / 25), "25 requests on each: {report}");
}

#[tokio::test]
async fn bench_gets_all_answers_of_nginx_which_closes_kept_connections() {
    if !require("nginx") {
        return;
    }
    let server = Server::start().await;
    let words = ["--rate", "500", "--for", "1s", "-c", "5", "-H", "x-user: jo", "-H", "host: shop"];
    let report = report(bench(&format!("http://{}/", server.plain), &words)).await;
    is_complete(&report, 500, "GET jo shop");
    assert_eq!((&report["http"], &report["asked_rate"]), (&"1.1".into(), &500.into()));
}

#[tokio::test]
async fn bench_verifies_a_server_of_tls_unless_it_is_told_not_to() {
    if !require("nginx") {
        return;
    }
    let server = Server::start().await;
    let (by_name, by_address) =
        (format!("https://localhost:{}/", server.tls.port()), format!("https://{}/", server.tls));
    let authority = server.nginx.scratch().path().join("ca.crt");
    let authority = authority.to_str().expect("UTF-8");
    let load = ["--rate", "200", "--for", "500ms", "-c", "2"];
    for (http, more) in [("1.1", &[][..]), ("2", &["--http2"])] {
        for (url, host, trust) in
            [(&by_name, "localhost", &["--ca", authority][..]), (&by_address, "127.0.0.1", &["-k"])]
        {
            let report = report(bench(url, &[&load[..], more, trust].concat())).await;
            is_complete(&report, 100, &format!("GET  {host}"));
            assert_eq!(report["http"], http, "{report}");
        }
    }
    for (url, trust, expected) in
        [(&by_address, &["--ca", authority][..], "is for another name"), (&by_name, &[][..], "")]
    {
        let refused = run(bench(url, &[&load[..], trust].concat())).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.starts_with(url.as_str()) && said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn bench_ends_with_1_and_says_why_when_no_request_succeeded() {
    let failing = Backend::saying("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let resetting = Backend::reset().await;
    for (server, expected) in
        [(&failing, "failures: status_5xx 10; the first: 503"), (&resetting, "failures: reset 10")]
    {
        let failed = run(bench(&format!("http://{}/", server.address), &SHORT)).await;
        let (told, said) = (String::from_utf8_lossy(&failed.stdout), String::from_utf8_lossy(&failed.stderr));
        assert_eq!(failed.status.code(), Some(1), "{told}{said}");
        assert!(told.contains("\n10 requests in ") && told.contains(expected), "{told}");
        assert_eq!(said, "no request succeeded\n", "there is no bar where standard error is no terminal");
    }

    let refused = run(bench(&format!("http://{}/", nobody()), &SHORT)).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("cannot connect to") && said.contains("refused"), "{said}");

    let wrong = run(bench("127.0.0.1:80", &SHORT)).await;
    assert_eq!(wrong.status.code(), Some(2), "wrong usage");
}

#[tokio::test]
async fn bench_reports_what_was_at_ctrl_c() {
    let stalling = Backend::stall().await;
    let url = format!("http://{}/", stalling.address);
    let mut command = bench(&url, &["--rate", "20", "--for", "1h", "-c", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    stalling.has_requests(1).await;
    let mut kill = Command::new("sh");
    kill.args(["-c", &format!("kill -INT {}", child.id())]);
    printed(kill).await;
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output());
    let ended = soon("the end of the load", ended).await.expect("no panic").expect("an end");
    let told = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("failures: unanswered") && told.ends_with("ended by a signal\n"), "{told}");
}
