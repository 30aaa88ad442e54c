//! A pair of an earlier version and this one, both ways: what the sidecars of a mesh are to each other while they are
//! updated one after the other.
//!
//! `tests/long/versions.sh` builds the earlier binary and runs this.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::application::{application, bytes};
use crate::support::certs::{Authority, spiffe};
use crate::support::curl::curl;
use crate::support::http2::{Client, Piped};
use crate::support::load::{Tally, ask_once, stream, websocket};
use crate::support::servers::{SHOP, Server};
use crate::support::sidecar::{Pair, Plan};
use crate::support::tools::run;
use crate::support::wire::Wire;
use crate::support::{eventually, soon};

type Outcome = Result<(), String>;

/// The binaries of the caller's sidecar and of the application's. `None`: the one to test.
type Builds<'a> = [Option<&'a Path>; 2];

async fn pair(app: SocketAddr, builds: Builds<'_>, is_mutual: bool, protocol: &str) -> Pair {
    let [caller, application] = builds;
    let authority = Authority::new();
    let protocol = if protocol.is_empty() { String::new() } else { format!("protocol: {protocol}") };
    let mut of_application = Plan::application(app, &protocol).built_as(application);
    let mut orders = vec![protocol];
    if is_mutual {
        of_application = of_application.identified(&authority, "orders");
        orders.push(format!("tls: \"{}\"", spiffe("orders")));
    }
    orders.retain(|key| !key.is_empty());
    let application = of_application.start().await;
    let mut of_caller = Plan::calling(application.inbound(), &orders.join(", ")).built_as(caller);
    if is_mutual {
        of_caller = of_caller.identified(&authority, "web");
    }
    Pair { caller: of_caller.start().await, application }
}

async fn http1(to: SocketAddr) -> Outcome {
    let mut wire = Wire::connect(to).await;
    for number in 0..4 {
        soon("an answer", ask_once(&mut wire, number)).await?;
    }
    Ok(())
}

async fn http2(to: SocketAddr) -> Outcome {
    let get = Request::get("http://orders/").body(Piped::empty()).expect("a request");
    let answer = soon("an answer", Client::connect(to).await.try_send(get)).await;
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    if answer.status() == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
}

/// Ends a stream in good order after its first echo.
async fn streams(kind: impl AsyncFnOnce(&AtomicBool, &Tally) -> Outcome) -> Outcome {
    let (stops, tally) = (AtomicBool::new(false), Tally::default());
    let stop = async {
        eventually("an echo", async || (tally.echoes.load(Relaxed) > 0).then_some(())).await;
        stops.store(true, Relaxed);
        std::future::pending().await
    };
    tokio::select! {
        ended = kind(&stops, &tally) => ended,
        () = stop => unreachable!("it never returns"),
    }
}

async fn echoes(to: SocketAddr) -> Outcome {
    let mut stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    stream.write_all(b"\0ping").await.map_err(|error| error.to_string())?;
    let mut echo = [0; 5];
    soon("an echo", stream.read_exact(&mut echo)).await.map_err(|error| error.to_string())?;
    if &echo == b"\0ping" { Ok(()) } else { Err(format!("{echo:?}")) }
}

/// curl verifies the certificate of nginx, which no sidecar can read.
async fn tls(to: SocketAddr, nginx: &Server) -> Outcome {
    let mut get = curl();
    get.arg("--cacert").arg(nginx.authority()).arg("--connect-to").arg(format!("{SHOP}:443:{to}"));
    let got = run({
        get.arg(format!("https://{SHOP}/file"));
        get
    })
    .await;
    if got.status.success() && got.stdout == b"a file" { Ok(()) } else { Err(format!("{got:?}")) }
}

/// A row of the table: each protocol through one pair.
async fn row(builds: Builds<'_>, is_mutual: bool) -> Vec<(&'static str, Outcome)> {
    let ((app, _app), (tcp, _tcp)) = (application().await, bytes().await);
    let nginx = Server::nginx(b"a file").await.expect("nginx");
    let http = pair(app, builds, is_mutual, "").await;
    let to = http.caller.orders();
    let client = Client::connect(to).await;
    let mut row = vec![
        ("HTTP/1", http1(to).await),
        ("HTTP/2", http2(to).await),
        ("gRPC", streams(async |stops, tally| stream(client, stops, tally).await).await),
        ("WebSocket", streams(async |stops, tally| websocket(to, stops, tally).await).await),
    ];
    for protocol in ["http1", "http2"] {
        let declared = pair(app, builds, is_mutual, protocol).await;
        let name = if protocol == "http1" { "HTTP/1 declared" } else { "HTTP/2 declared" };
        row.push((name, http2(declared.caller.orders()).await));
    }
    let detected = pair(tcp, builds, is_mutual, "").await;
    row.push(("TCP", echoes(detected.caller.orders()).await));
    let declared = pair(tcp, builds, is_mutual, "tcp").await;
    row.push(("TCP declared", echoes(declared.caller.orders()).await));
    let opaque = pair(nginx.address, builds, is_mutual, "").await;
    row.push(("opaque TLS", tls(opaque.caller.orders(), &nginx).await));
    row
}

#[tokio::test]
#[ignore = "needs the binary of an earlier version: tests/long/versions.sh"]
async fn each_protocol_passes_a_pair_of_an_earlier_version_and_this_one_both_ways() {
    let before = std::env::var_os("PILLION_RELEASE_BEFORE").map(PathBuf::from);
    let before =
        Some(before.as_deref().expect("PILLION_RELEASE_BEFORE names the binary of an earlier version"));
    let (mut table, mut failures) = (String::new(), Vec::new());
    for (name, builds) in [("earlier, this", [before, None]), ("this, earlier", [None, before])] {
        for is_mutual in [true, false] {
            let way = if is_mutual { "mTLS" } else { "plaintext" };
            for (protocol, outcome) in row(builds, is_mutual).await {
                let said = if outcome.is_ok() { "passes" } else { "FAILS" };
                writeln!(table, "| {name} | {way} | {protocol} | {said} |").expect("a text");
                failures.extend(outcome.err().map(|why| format!("{name}, {way}, {protocol}: {why}")));
            }
        }
    }
    println!("| caller's sidecar, application's | between them | protocol | |\n|---|---|---|---|\n{table}");
    assert!(failures.is_empty(), "{failures:#?}");
}
