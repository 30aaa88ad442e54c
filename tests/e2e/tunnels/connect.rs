//! The proxy port, as curl uses a proxy: CONNECT, and requests with absolute URLs.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::backend::{Backend, nobody};
use crate::support::curl::curl;
use crate::support::servers::{SHOP, Server};
use crate::support::sidecar::{Pair, Plan, Sidecar};
use crate::support::soon;
use crate::support::tools::{printed, require, run};
use crate::support::wire::Wire;

/// curl with this sidecar as its proxy.
fn through(sidecar: &Sidecar) -> Command {
    let mut curl = curl();
    curl.arg("--proxy").arg(format!("http://{}", sidecar.outbound()));
    curl
}

/// [`through`], with a tunnel for every request.
fn tunnel(sidecar: &Sidecar) -> Command {
    let mut curl = through(sidecar);
    curl.arg("--proxytunnel");
    curl
}

/// The status and the reason of a CONNECT that is refused.
async fn refusal(sidecar: &Sidecar, to: &str) -> (String, String) {
    let mut curl = tunnel(sidecar);
    curl.args(["--dump-header", "-", "--output", "/dev/null", "--write-out", "%{http_connect}"]);
    curl.arg(format!("http://{to}/"));
    let output = run(curl).await;
    assert_eq!(output.status.code(), Some(56), "no tunnel: {output:?}");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = output.lines().find(|line| line.to_lowercase().starts_with("proxy-status:"));
    let why = why.unwrap_or_else(|| unreachable!("no Proxy-Status: {output}"));
    (output[output.len() - 3..].to_owned(), why.to_owned())
}

async fn refuses(sidecar: &Sidecar, to: &str, status: &str, code: &str) {
    let (heard, why) = refusal(sidecar, to).await;
    assert!(heard == status && why.contains(&format!("\"{code}: ")), "{to}: {heard} {why}");
}

fn alone(rest: &str) -> Plan {
    Plan::new(&format!("inbound: off\noutbound: {{ listen: 127.0.0.1:0{rest} }}"))
}

#[tokio::test]
async fn a_tunnel_to_a_service_has_http_inside() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    for (url, host) in [("http://orders/one", "orders"), ("http://orders:8080/one", "orders:8080")] {
        let mut post = tunnel(&pair.caller);
        post.args(["--data", "body", "--write-out", " %{http_connect} %{http_code}", url]);
        assert_eq!(printed(post).await, "body 200 200", "{url}");
        let request = app.last();
        assert!(request.head.starts_with("POST /one HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("host"), Some(host));
        let of_the_caller = request.header("x-forwarded-client-cert").expect("over mTLS");
        assert!(of_the_caller.ends_with("/sa/web"), "{of_the_caller}");
    }
    let requests = [("direction", "outbound"), ("service", "orders"), ("status", "200")];
    pair.caller.counted(2, &[&requests[..], &[("method", "POST")]].concat()).await;
    pair.caller.counted(2, &[&requests[..], &[("method", "CONNECT")]].concat()).await;
    pair.application.counted(0, &[("direction", "inbound"), ("method", "CONNECT")]).await;
}

/// Several requests, on the tunnel that the first one opened.
#[tokio::test]
async fn a_tunnel_carries_several_requests() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    let mut get = tunnel(&pair.caller);
    get.args(["--write-out", "%{num_connects} ", "http://orders/1", "http://orders/2", "http://orders/3"]);
    assert_eq!(printed(get).await, "1 0 0 ");
    assert_eq!(app.requests().len(), 3);
}

/// A request to an unknown destination is passed on without added headers.
#[tokio::test]
async fn an_unknown_destination_is_reached_by_its_url() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let sidecar = alone("").start().await;
    let url = format!("http://{}/path?q=1", app.address);
    for (mut ask, target) in [(through(&sidecar), "absolute form"), (tunnel(&sidecar), "CONNECT")] {
        ask.args(["--data", "body", "--write-out", " %{http_code}", &url]);
        assert_eq!(printed(ask).await, "body 200", "{target}");
        let request = app.last();
        assert!(request.head.starts_with("POST /path?q=1 HTTP/1.1\r\n"), "{target}: {}", request.head);
        assert_eq!(request.header("host"), Some(&*app.address.to_string()), "{target}");
        let ours = request.head.lines().find(|line| line.to_lowercase().starts_with("x-"));
        assert_eq!(ours, None, "{target}: the sidecar adds no header");
    }
    let passed = [("direction", "outbound"), ("service", "passthrough"), ("status", "200")];
    sidecar.counted(2, &[&passed[..], &[("method", "POST")]].concat()).await;
}

#[tokio::test]
async fn curl_verifies_the_certificate_of_nginx_at_the_other_end_of_a_tunnel() {
    if !require("curl") {
        return;
    }
    let file = "a line of text\n".repeat(100_000);
    let Some(nginx) = Server::nginx(file.as_bytes()).await else { return };
    let sidecar = alone("").start().await;
    for (version, output) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
        let mut get = tunnel(&sidecar);
        get.arg(version).arg("--cacert").arg(nginx.authority());
        get.arg("--connect-to").arg(format!("{SHOP}:443:{}", nginx.address));
        get.args([format!("https://{SHOP}/"), format!("https://{SHOP}/file")]);
        assert!(printed(get).await == format!("{output} {SHOP} {SHOP}{file}"), "{version}");
    }
    let scrape = sidecar.scrape().await;
    let opaque = [("direction", "outbound"), ("service", "passthrough"), ("protocol", "tcp")];
    assert!(scrape.sum("pillion_connections_total", &opaque) >= 2.0, "{}", scrape.text);
    assert_eq!(scrape.sum("pillion_detections_total", &[("verdict", "tls")]), 2.0, "{}", scrape.text);
}

const BANNER: &str = "220 mail.example ESMTP\r\n";

/// The greeting of a server that speaks first reaches a client that waits inside the tunnel.
#[tokio::test]
async fn the_greeting_of_a_server_reaches_the_client_of_a_tunnel() {
    let mail = Backend::serving(async |mut wire, _, _| {
        drop(wire.try_send(BANNER).await);
        wire.rest().await;
    })
    .await;
    let pair = Pair::start(mail.address, "", "").await;
    for to in ["orders:25".to_owned(), mail.address.to_string()] {
        let mut wire = Wire::connect(pair.caller.outbound()).await;
        wire.send(format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n")).await;
        let head = soon("the 200", wire.head()).await.expect("an answer").to_lowercase();
        assert!(head.starts_with("http/1.1 200 ") && !head.contains("content-length"), "{to}: {head}");
        let (heard, _) = soon("the banner", wire.exactly(BANNER.len())).await;
        assert_eq!(String::from_utf8_lossy(&heard), BANNER, "{to}");
    }
    let arrived = [("direction", "inbound"), ("protocol", "tcp"), ("tls", "mtls")];
    let arrived = pair.application.scrape().await.sum("pillion_connections_total", &arrived);
    assert_eq!(arrived, 1.0, "the service's over mTLS, the other past the application's sidecar");
}

#[tokio::test]
async fn an_impossible_tunnel_is_refused_with_the_reason() {
    if !require("curl") {
        return;
    }
    let sidecar = alone("").start().await;
    refuses(&sidecar, "nowhere.invalid:80", "502", "dns_error").await;
    refuses(&sidecar, &nobody().to_string(), "502", "connect_refused").await;
}

/// The sidecar opens no tunnel to its own ports or to the metadata services of clouds, however their address is written.
#[tokio::test]
async fn a_tunnel_into_the_sidecar_itself_is_denied() {
    let sidecar = alone("").start().await;
    let admin = sidecar.ready.split(' ').find_map(|word| word.strip_prefix("admin=")).expect("an admin port");
    let (admin, outbound) = (admin.parse().expect("an address"), sidecar.outbound());
    for own in [admin, outbound, sidecar.metrics()].map(|own: SocketAddr| own.port()) {
        for host in ["127.0.0.1", "127.1", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"] {
            is_denied(outbound, &format!("{host}:{own}")).await;
        }
    }
    // Addresses in other forms, which name resolution accepts, are denied as well.
    for special in [
        "169.254.169.254:80",
        "2852039166:80",
        "169.254.43518:80",
        "0xa9fea9fe:80",
        "[fe80::1]:80",
        "[::ffff:169.254.169.254]:80",
        "[fd00:ec2::254]:80",
        "[64:ff9b::a9fe:a9fe]:80",
    ] {
        is_denied(outbound, special).await;
    }
}

async fn is_denied(proxy: SocketAddr, to: &str) {
    let url = format!("GET http://{to}/ready HTTP/1.1\r\nhost: {to}\r\n\r\n");
    for ask in [format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n"), url] {
        let answer = Wire::connect(proxy).await.ask(&ask).await;
        let why = answer.header("proxy-status").unwrap_or_default();
        assert!(answer.status() == 403 && why.contains("egress_denied"), "{ask}{}", answer.head);
    }
}

#[tokio::test]
async fn only_unknown_destinations_are_denied() {
    if !require("curl") {
        return;
    }
    let (app, stranger) = (Backend::echo().await, Backend::echo().await);
    let sidecar = alone(", unknown: deny")
        .with(&format!("services:\n  orders: {{ endpoints: [\"{}\"] }}", app.address))
        .start()
        .await;
    refuses(&sidecar, &stranger.address.to_string(), "403", "egress_denied").await;
    refuses(&sidecar, "nowhere.invalid:80", "403", "egress_denied").await;
    let mut absolute = through(&sidecar);
    absolute.args(["--include", &format!("http://{}/", stranger.address)]);
    let output = printed(absolute).await;
    assert!(output.starts_with("HTTP/1.1 403 ") && output.contains("egress_denied"), "{output}");
    for mut ask in [through(&sidecar), tunnel(&sidecar)] {
        ask.args(["--write-out", "%{http_code}", "http://orders/"]);
        assert_eq!(printed(ask).await, "200");
    }
    assert_eq!(stranger.connections(), 0);
    sidecar.counted(3, &[("direction", "outbound"), ("reason", "egress_denied")]).await;
}
