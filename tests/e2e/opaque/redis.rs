//! Redis: the client speaks first, in a protocol that is neither TLS nor HTTP.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use super::{Way, connections};
use crate::support::servers::Server;
use crate::support::sidecar::Pair;
use crate::support::tools::{printed, require};
use crate::support::wire::Wire;
use crate::support::{Scratch, soon};

const PIPELINE: usize = 1000;

/// redis-cli, which reads its commands from a file.
fn redis_cli(at: SocketAddr, words: &str, input: &std::path::Path) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", &format!(r#"exec redis-cli -h {} -p {} {words} < "$0""#, at.ip(), at.port())]).arg(input);
    sh
}

/// The output of an interactive session, with an answer of one mebibyte.
pub(super) async fn session(at: SocketAddr) -> String {
    let scratch = Scratch::new();
    let input = "FLUSHALL\nPING\nGET greeting\nSET greeting hello\nGET greeting\nNO SUCH COMMAND\n\
                 EVAL \"return string.rep('x', 1048576)\" 0\nDBSIZE\n";
    printed(redis_cli(at, "", &scratch.write("commands", input))).await
}

/// Sends a thousand commands before the first answer.
async fn pipeline(at: SocketAddr) -> String {
    let (scratch, mut commands) = (Scratch::new(), String::new());
    for number in 0..PIPELINE {
        let key = format!("key:{number}");
        write!(commands, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$5\r\nvalue\r\n", key.len()).expect("a string");
    }
    printed(redis_cli(at, "--pipe", &scratch.write("pipeline", commands))).await
}

#[tokio::test]
async fn redis_cli_prints_what_it_prints_without_us() {
    if !require("redis-cli") {
        return;
    }
    let Some(redis) = Server::redis().await else { return };
    for way in Way::ALL {
        let pair = way.pair(redis.address).await;
        let direct = session(redis.address).await;
        assert!(direct.contains("PONG\n\nOK\nhello\n") && direct.len() > 1 << 20, "{direct:.200}");
        assert!(session(pair.caller.orders()).await == direct, "{way:?}");

        let direct = pipeline(redis.address).await;
        assert!(direct.ends_with("errors: 0, replies: 1000\n"), "{direct}");
        assert_eq!(pipeline(pair.caller.orders()).await, direct, "{way:?}");
        way.is_counted_by(&pair).await;
    }
}

/// Fifty clients connect, and then send one after the other, some of them while their early dial is under way.
async fn fifty_clients(at: SocketAddr) {
    let mut benchmark = Command::new("redis-benchmark");
    benchmark.args([
        "-h",
        &at.ip().to_string(),
        "-p",
        &at.port().to_string(),
        "-q",
        "-c",
        "50",
        "-n",
        "5000",
    ]);
    benchmark.args(["-P", "8", "-d", "1024", "-t", "set,get,lrange_100"]);
    let output = printed(benchmark).await;
    assert!(output.contains("GET: ") && !output.contains("rror"), "{output}");
}

#[tokio::test]
async fn redis_benchmark_has_fifty_clients_at_once() {
    if !require("redis-benchmark") {
        return;
    }
    let Some(redis) = Server::redis().await else { return };
    for way in [Way::Undeclared, Way::Declared] {
        let pair = way.pair(redis.address).await;
        fifty_clients(pair.caller.orders()).await;
        way.is_counted_by(&pair).await;
    }
}

/// The early dial for a silent client serves the client that spoke meanwhile. A dial that is given up halfway would
/// look
/// like a caller with broken TLS, and without TLS the application itself would see an empty connection.
#[tokio::test]
async fn a_client_that_overtakes_its_early_dial_is_served_by_it() {
    if !require("redis-benchmark") {
        return;
    }
    let Some(redis) = Server::redis().await else { return };
    for way in [Way::Undeclared, Way::Plaintext] {
        let pair = way.pair(redis.address).await;
        fifty_clients(pair.caller.orders()).await;
        way.is_counted_by(&pair).await;
        let scrape = pair.application.scrape().await;
        let of = |outcome| connections(&scrape, &[("direction", "inbound"), ("outcome", outcome)]);
        assert_eq!([of("tls_error"), of("failed")], [0.0; 2], "{way:?}\n{}", scrape.text);
    }
}

/// Commands in words and lines, as people type them in telnet. A GET without a version is an HTTP/0.9 request for a
/// lenient server, so it counts as HTTP unless the port is declared as opaque.
#[tokio::test]
async fn commands_in_words_are_opaque_although_they_begin_like_http() {
    let Some(redis) = Server::redis().await else { return };
    for way in Way::ALL {
        let pair = way.pair(redis.address).await;
        for (command, answer) in [
            ("PING\r\n", "+PONG\r\n"),
            ("SET greeting hello\r\n", "+OK\r\n"),
            ("DELETE\r\n", "-ERR unknown command"),
        ] {
            assert_eq!(heard(&pair, command, answer.len()).await, answer, "{way:?} {command}");
        }
        way.is_counted_by(&pair).await;
        let answer = if way == Way::Declared { "$5\r\nhello\r\n" } else { "HTTP/1.1 400" };
        assert_eq!(heard(&pair, "GET greeting\r\n", answer.len()).await, answer, "{way:?}");
    }
}

/// The first bytes of the answer to a command on a connection of its own.
async fn heard(pair: &Pair, command: &str, bytes: usize) -> String {
    let mut wire = Wire::connect(pair.caller.orders()).await;
    wire.send(command).await;
    let (heard, _) = soon("an answer", wire.exactly(bytes)).await;
    String::from_utf8_lossy(&heard).into_owned()
}
