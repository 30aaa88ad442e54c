//! Requests that two programs may read in two ways, sent to common servers: nginx, Node, Python and Go.
//!
//! Each case tries to bring a header that only the sidecar may write to the application. Sent directly to a server,
//! some
//! cases succeed. Through the sidecar none does, and the server reads no request that the sidecar did not admit.

use crate::support::recorder::Recorder;
use crate::support::servers::Server;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::soon;
use crate::support::wire::Wire;

/// A header that a client must not be able to send.
const FORGED: &str = "x-forwarded-client-cert: forged\r\n";

/// The bytes of one connection, in pieces that are sent one after the other. `#` stands for the number of the case.
fn cases() -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = first_lines().into_iter().map(|line| vec![headed(&line)]).collect();
    all.extend([
        vec!["G".into(), headed("ET /# HTTP/1.1\r\n")],
        vec!["get /#".into(), headed(" HTTP/1.1\r\n")],
        vec!["\r\n".repeat(2000), headed("GET /# HTTP/1.1\r\n")],
        vec![headed("GET /# HTTP/1.1\r\nhost: a\r\n").replace(FORGED, "x_forwarded_client_cert: forged\r\n")],
        vec![
            headed("GET /# HTTP/1.1\r\nhost: a\r\n").replace(FORGED, "x-forwarded-client-cert : forged\r\n"),
        ],
        vec![
            headed("GET /# HTTP/1.1\r\nhost: a\r\n").replace(FORGED, "\tx-forwarded-client-cert: forged\r\n"),
        ],
        vec![
            headed("GET /# HTTP/1.1\r\nhost: a\r\n")
                .replace(FORGED, "a: b\nx-forwarded-client-cert: forged\n"),
        ],
        vec![
            headed("GET /# HTTP/1.1\r\nhost: a\r\n")
                .replace(FORGED, "a: b\rx-forwarded-client-cert: forged\r"),
        ],
        vec![
            headed("GET /# HTTP/1.1\r\nhost: a\r\n")
                .replace(FORGED, "a: b\0\r\nx-forwarded-client-cert: forged\r\n"),
        ],
        vec![headed("GET /# HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-client-cert\r\n")],
    ]);
    all.extend(
        framings().into_iter().map(|framing| vec![format!("POST /# HTTP/1.1\r\nhost: a\r\n{framing}")]),
    );
    let numbered = |(number, pieces): (usize, Vec<String>)| {
        pieces.into_iter().map(|piece| piece.replace('#', &number.to_string())).collect()
    };
    all.into_iter().enumerate().map(numbered).collect()
}

/// First lines that some server accepts, and RFC 9112 does not allow.
fn first_lines() -> Vec<String> {
    let mut lines: Vec<String> = [
        "GET /# HTTP/1.1 \r\n",
        "GET  /# HTTP/1.1\r\n",
        "GET /#  HTTP/1.1\r\n",
        "GET\t/#\tHTTP/1.1\r\n",
        " GET /# HTTP/1.1\r\n",
        "\r\nGET /# HTTP/1.1\r\n",
        "\n\nGET /# HTTP/1.1\r\n",
        "GET /# HTTP/1.1\n",
        "get /# HTTP/1.1\r\n",
        "GET /# http/1.1\r\n",
        "GET /# HTTP/2.0\r\n",
        "GET /# HTTP/1.9\r\n",
        "GET /# HTTP/01.1\r\n",
        "GET /# HTTP/1.1x\r\n",
        "GET /#\r\n",
        "GET /# RTSP/1.0\r\n",
        "SOURCE /# ICE/1.0\r\n",
        "PURGE http://a/# HTTP/1.1\r\n",
        "FETCH /# HTTP/1.1\r\n",
        "X_Y /# HTTP/1.1\r\n",
        "GET /# /b HTTP/1.1\r\n",
        "GET /#\0 HTTP/1.1\r\n",
        "GET /#\x01 HTTP/1.1\r\n",
        "GET # HTTP/1.1\r\n",
        "QUERY /# HTTP/1.1\r\n",
    ]
    .map(str::to_owned)
    .into();
    lines.push(format!("{} /# HTTP/1.1\r\n", "M".repeat(33)));
    lines.push(format!("PURGE /#{} HTTP/1.1\r\n", "a".repeat(9000)));
    lines
}

/// Headers and a body whose end may be read at two places. After the earlier one, a second request follows.
fn framings() -> Vec<String> {
    let hidden = format!("GET /# HTTP/1.1\r\nhost: a\r\n{FORGED}\r\n");
    let (length, chunked) = (hidden.len(), format!("0\r\n\r\n{hidden}"));
    let codings = [
        "transfer-encoding : chunked",
        "transfer-encoding: chunked\r\n chunked",
        "transfer-encoding:\r\n chunked",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: x",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: chunked\0",
        "transfer_encoding: chunked",
        "transfer-encoding\0: chunked",
        "transfer-encoding: chunked",
        "a: b\ntransfer-encoding: chunked",
        "a: b\rtransfer-encoding: chunked",
        "transfer-encoding:chunked;a=b",
        "Transfer-Encoding: CHUNKED ",
    ];
    let lengths = [
        "content-length: 0\r\ncontent-length: @",
        "content-length: @\r\ncontent-length: 0",
        "content-length: 0, @",
        "content-length: +@",
        "content-length: 0x@",
        "content-length: @ 0",
        "content-length: -1",
        "content_length: @",
        "content-length : @",
        "content-length:\r\n @",
        "content-length: 99999999999999999999@",
        "content-length: \x0b@",
    ];
    let chunks = [
        "0\r\n\r\n",
        "00000000000000000000000\r\n\r\n",
        "0;a=b\n\r\n\r\n",
        "0;\n\r\n",
        "0\n\n",
        "0\r\r\n\r\n",
        "+0\r\n\r\n",
        "-0\r\n\r\n",
        "0x0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "10000000000000000\r\n\r\n0\r\n\r\n",
        "2\r\n\r\n\r\n0\r\n\r\n",
        "0\r\nx-forwarded-client-cert: forged\r\n\r\n",
        "0\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    let both = codings
        .iter()
        .map(|coding| format!("content-length: {}\r\n{coding}\r\n\r\n{chunked}", chunked.len()));
    let alone = codings.iter().map(|coding| format!("{coding}\r\n\r\n{chunked}"));
    let counted =
        lengths.iter().map(|line| format!("{}\r\n\r\n{hidden}", line.replace('@', &length.to_string())));
    let in_chunks = chunks.iter().map(|chunks| format!("transfer-encoding: chunked\r\n\r\n{chunks}{hidden}"));
    both.chain(alone).chain(counted).chain(in_chunks).collect()
}

fn headed(first_line: &str) -> String {
    format!("{first_line}host: a\r\n{FORGED}content-length: 0\r\nconnection: close\r\n\r\n")
}

/// Sends a case, ends the sending direction, and returns all bytes that came back.
async fn sent(to: std::net::SocketAddr, pieces: &[String]) -> String {
    let mut wire = Wire::connect(to).await;
    for piece in pieces {
        drop(wire.try_send(piece).await); // the server may have closed already
    }
    drop(wire.half_close_if_open().await);
    let (answers, _is_reset) = soon("the connection ends", wire.ends()).await;
    String::from_utf8_lossy(&answers).into_owned()
}

/// Method and target of the requests that a server reports, and whether it accepted the forged header.
fn read_by_server(answers: &str) -> Vec<(String, bool)> {
    let lines = answers.lines().filter_map(|line| Some(&line[line.find("served ")? + "served ".len()..]));
    lines
        .map(|line| {
            let (request, header) = line.split_once(" xfcc=[").unwrap_or((line, ""));
            (shortened(&request.replace(" http://a/", " /")), header.contains("forged"))
        })
        .collect()
}

/// The target as the access log shortens it.
fn shortened(request: &str) -> String {
    request.chars().take(100).collect()
}

/// Method and target of the requests that the sidecar has sent to its application, from its access log.
async fn sent_by_sidecar(sidecar: &mut Sidecar) -> Vec<String> {
    let mut last = Wire::connect(sidecar.inbound()).await;
    assert_eq!(last.get("a", "/last").await.status(), 200);
    let mut passed = Vec::new();
    loop {
        let line = sidecar.log_line().await;
        if line["protocol"] != "tcp" && line["upstream"].is_string() {
            let (method, path) = (line["method"].as_str(), line["path"].as_str());
            passed.push(shortened(&format!("{} {}", method.unwrap_or(""), path.unwrap_or(""))));
        }
        if line["path"] == "/last" {
            return passed;
        }
    }
}

#[tokio::test]
async fn a1_no_case_brings_a_forged_header_before_a_lenient_server() {
    let Some(servers) = Server::lenient().await else { return };
    for (name, server) in servers {
        let mut forged = 0;
        for case in cases() {
            let answers = sent(server.address, &case).await;
            forged += read_by_server(&answers).iter().filter(|(_, is_forged)| *is_forged).count();
        }
        assert!(forged > 0, "{name} accepts no forged header without a sidecar, so the cases prove nothing");
        for protocol in ["auto", "http1"] {
            through_a_sidecar(name, &server, protocol).await;
        }
    }
}

async fn through_a_sidecar(name: &str, server: &Server, protocol: &str) {
    let recorder = Recorder::before(server.address).await;
    let mut sidecar = Plan::application(recorder.address, &format!("protocol: {protocol}")).start().await;
    for case in cases() {
        sent(sidecar.inbound(), &case).await;
    }
    let passed = sent_by_sidecar(&mut sidecar).await;
    drop(sidecar);
    let (requests, answers) = recorder.taken().await;
    let requests = String::from_utf8_lossy(&requests);
    for (request, is_forged) in read_by_server(&String::from_utf8_lossy(&answers)) {
        assert!(
            !is_forged,
            "{name} behind {protocol} accepted the forged header of {request}; it got {requests}"
        );
        assert!(
            passed.contains(&request),
            "{name} behind {protocol} read {request}, which is not in the access log of the sidecar"
        );
    }
}
