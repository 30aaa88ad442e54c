//! Common clients and servers: curl with every version of HTTP, and nginx as the application.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use aws_lc_rs::digest::{SHA256, digest};

use crate::support::backend::{Backend, free};
use crate::support::sidecar::Pair;
use crate::support::tools::{printed, require};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

/// A curl that prints no progress and has a time limit.
fn curl() -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", ""]);
    curl.env_remove("http_proxy").env_remove("all_proxy").env_remove("no_proxy").env_remove("NO_PROXY");
    curl
}

#[tokio::test]
async fn curl_in_every_version_of_http() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    let url = format!("http://{}/path?q=1", pair.caller.outbound());
    for (version, output) in [("--http1.0", "1.1"), ("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let mut get = curl();
        get.args([version, "-H", "Host: orders", "-d", "body", "-w", " %{http_code} %{http_version}", &url]);
        let printed = printed(get).await;
        // A server may answer an HTTP/1.0 request with HTTP/1.0 or with HTTP/1.1 (RFC 9110, 2.5).
        let also = printed == "body 200 1" && version == "--http1.0";
        assert!(printed == format!("body 200 {output}") || also, "{version}: {printed}");
        assert!(app.last().head.starts_with("POST /path?q=1 HTTP/1.1\r\n"), "{}", app.last().head);
    }
}

/// HTTP/1.0 has no chunks: an answer without a length ends with the connection.
#[tokio::test]
async fn curl_with_http_1_0_gets_a_body_of_unknown_length() {
    if !require("curl") {
        return;
    }
    let app =
        Backend::saying("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let pair = Pair::start(app.address, "", "").await;
    let mut get = curl();
    get.args(["--http1.0", "-i", "-H", "Host: orders"]).arg(format!("http://{}/", pair.caller.outbound()));
    let printed = printed(get).await.to_ascii_lowercase();
    assert!(printed.ends_with("\r\n\r\nhello") && !printed.contains("transfer-encoding"), "{printed}");
}

#[tokio::test]
async fn curl_through_http_proxy() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    let proxy = format!("http://{}", pair.caller.outbound());
    for url in ["http://orders/one", "http://orders:80/one", "http://ORDERS/one"] {
        let mut get = curl();
        get.env("http_proxy", &proxy).args(["-w", "%{http_code}", url]);
        assert_eq!(printed(get).await, "200", "{url}");
        assert!(app.last().head.starts_with("GET /one HTTP/1.1\r\n"), "{}", app.last().head);
    }
    let mut get = curl();
    get.env("http_proxy", &proxy).args(["-w", "%{http_code}", "http://nowhere.invalid/"]);
    let output = printed(get).await;
    assert!(output.starts_with("pillion: dns_error: ") && output.ends_with("502"), "{output}");
}

#[tokio::test]
async fn curl_posts_with_expect_100_continue() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let pair = Pair::start(app.address, "", "").await;
    let scratch = Scratch::new();
    let body = "0123456789abcdef".repeat(16 * 1024);
    let (sent, got) = (scratch.write("sent", &body), scratch.path().join("got"));
    let mut post = curl();
    post.args(["-v", "-H", "Host: orders", "-H", "Expect: 100-continue", "--expect100-timeout", "15"])
        .args(["-w", "%{http_code} %{time_total}", "-o"])
        .arg(&got)
        .arg("--data-binary")
        .arg(format!("@{}", sent.display()))
        .arg(format!("http://{}/", pair.caller.outbound()));
    let printed = printed(post).await;
    let (status, seconds) = printed.split_once(' ').expect("status and time");
    assert_eq!(status, "200");
    assert!(
        seconds.parse::<f64>().is_ok_and(|took| took < 14.0),
        "curl waited for its 100 Continue: {seconds} s"
    );
    assert!(std::fs::read(got).expect("an answer") == body.as_bytes(), "the body came back intact");
    assert_eq!(
        app.last().header("expect"),
        Some("100-continue"),
        "the application is asked: {}",
        app.last().head
    );
}

/// A web server with one file, and a page with the number of the client's connection and of its requests.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _scratch: Scratch,
}

impl Nginx {
    async fn start(file: &[u8]) -> Self {
        let (scratch, address) = (Scratch::new(), free());
        scratch.write("file", file);
        let at = scratch.path().display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr;\n\
             events {{ }}\n\
             http {{ access_log off; {paths} keepalive_timeout 60s; client_max_body_size 0;\n\
             server {{ listen {address}; root {at};\n\
             location = /connection {{ return 200 \"$connection $connection_requests\"; }} }} }}\n"
        );
        let config = scratch.write("nginx.conf", config);
        let mut nginx = Command::new("nginx");
        nginx.arg("-e").arg("stderr").arg("-c").arg(config).stdout(Stdio::null());
        let server = Self { child: nginx.spawn().expect("nginx starts"), address, _scratch: scratch };
        eventually("nginx listens", async || tokio::net::TcpStream::connect(address).await.ok()).await;
        server
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn nginx_as_the_application_is_reached_on_kept_connections() {
    if !require("nginx") {
        return;
    }
    let file: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let nginx = Nginx::start(&file).await;
    let pair = Pair::start(nginx.address, "", "").await;
    let mut client = Wire::connect(pair.caller.outbound()).await;
    let mut connections = Vec::new();
    for count in 1..=20 {
        let output = client.get("orders", "/connection").await.text();
        let (connection, requests) = output.split_once(' ').expect("two numbers");
        assert_eq!(requests, count.to_string(), "one connection to nginx serves them all: {output}");
        connections.push(connection.to_owned());
    }
    connections.dedup();
    assert_eq!(connections.len(), 1, "{connections:?}");

    let answer = client.get("orders", "/file").await;
    assert_eq!(digest(&SHA256, &answer.body).as_ref(), digest(&SHA256, &file).as_ref());
    assert_eq!(client.get("orders", "/missing").await.status(), 404);
    let range = "GET /file HTTP/1.1\r\nhost: orders\r\nrange: bytes=4-7\r\n\r\n";
    let part = client.ask(range).await;
    assert_eq!((part.status(), part.body), (206, 1_u32.to_le_bytes().to_vec()));
    let head = "HEAD /file HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
    client.send(head).await;
    let heard = String::from_utf8_lossy(&client.rest().await).into_owned();
    assert!(heard.starts_with("HTTP/1.1 200") && heard.ends_with("\r\n\r\n"), "{heard}");
    assert!(heard.contains("4000000"), "{heard}");
}

#[tokio::test]
async fn curl_and_nginx_with_the_pair_between_them() {
    if !(require("curl") && require("nginx")) {
        return;
    }
    let file = "a line of text\n".repeat(100_000);
    let nginx = Nginx::start(file.as_bytes()).await;
    let pair = Pair::start(nginx.address, "", "").await;
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        let mut get = curl();
        let url = format!("http://{}/file", pair.caller.outbound());
        get.args([version, "-H", "Host: orders", &url]);
        assert!(printed(get).await == file, "{version}");
    }
}
