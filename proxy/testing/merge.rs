//! `metrics.merge`: the metrics of other programs in the sidecar's exposition, and what bad ones cost it.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep};

use super::backend::Backend;
use super::mesh::{A, B, C, Mesh, Sidecar};
use super::peer::{Message, Peer};

/// A sidecar that merges these sources.
pub(super) fn sidecar(mesh: &Mesh, sources: &str) -> Sidecar {
    let file = format!(
        "workers: 1\ninbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: 127.0.0.1:0, merge: [{sources}] }}\n"
    );
    mesh.sidecar(&file, None)
}

/// What a scraper with this `Accept` gets.
pub(super) async fn scraped(mesh: &Mesh, sidecar: &Sidecar, accept: &str) -> Message {
    let io = mesh.memory.connect(sidecar.addresses.metrics[0]).await.expect("the metrics port listens");
    let request =
        format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    let answer = Peer::new(io).ask(&request).await;
    assert_eq!(answer.status(), Some(200), "{}", answer.head);
    answer
}

fn text(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A source that answers every connection's first request with these bytes, after a while.
fn source(mesh: &Mesh, address: &str, answer: impl Into<Vec<u8>>, after: Duration) -> Backend {
    let answer = answer.into();
    mesh.scripted(address, move |mut peer: Peer, _| {
        let answer = answer.clone();
        async move {
            peer.message().await;
            sleep(after).await;
            // a source whose answer is refused is left before its last byte
            drop(peer.try_send(answer).await);
            drop(peer.message().await);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_metrics_of_two_programs_are_in_one_exposition_in_both_formats() {
    let mesh = Mesh::default();
    let second = Duration::from_millis(900);
    let app = source(
        &mesh,
        A,
        text("# TYPE jobs_total counter\njobs_total{queue=\"a\"} 3\nprocess_open_fds 9\n"),
        second,
    );
    let open = "HTTP/1.1 200 OK\r\ncontent-type: application/openmetrics-text; version=1.0.0\r\nconnection: close\r\n\
                transfer-encoding: chunked\r\n\r\n2a\r\n# TYPE gc counter\ngc_total 7 # {} 1\n# EOF\n\r\n0\r\n\r\n";
    let _jvm = source(&mesh, B, open, second);
    let sources = format!("\"http://{A}/metrics?all=1\", {{ name: jvm, url: \"http://{B}/\" }}");
    let sidecar = sidecar(&mesh, &sources);
    let began = Instant::now();
    let answer = scraped(&mesh, &sidecar, "*/*").await;
    assert!(began.elapsed() < Duration::from_secs(1), "both are scraped at once");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    for line in [
        "jobs_total{queue=\"a\"} 3",
        "app_process_open_fds 9",
        "# TYPE gc_total counter",
        "gc_total 7",
        "pillion_merge_up{source=\"app\"} 1",
        "pillion_merge_up{source=\"jvm\"} 1",
        "pillion_merge_conflicts{source=\"app\",outcome=\"renamed\"} 1",
    ] {
        assert_eq!(answer.body.lines().filter(|one| *one == line).count(), 1, "{line}\n{}", answer.body);
    }
    let head = app.requests()[0].head.clone();
    assert!(
        head.starts_with("GET /metrics?all=1 HTTP/1.1\r\n") && head.contains(&format!("host: {A}\r\n")),
        "{head}"
    );
    let open =
        scraped(&mesh, &sidecar, "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2").await;
    assert_eq!(
        open.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    for line in
        ["# TYPE gc counter", "gc_total 7", "# TYPE pillion_config_reloads counter", "# TYPE jobs counter"]
    {
        assert!(open.body.lines().any(|one| one == line), "{line}\n{}", open.body);
    }
    assert!(open.body.ends_with("\n# EOF\n"));
}

/// What is sent, and what the source is then good for.
#[tokio::test(start_paused = true)]
async fn no_bad_source_costs_the_sidecar_its_own_metrics_or_more_than_its_time() {
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "a 1\n".repeat(600_000)).into_bytes();
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(150_000).into_bytes();
    let table: [(&str, Vec<u8>, Duration); 11] = [
        ("nothing", Vec::new(), Duration::from_secs(60)),
        ("late", text("late 1\n").into_bytes(), Duration::from_secs(2)),
        ("an error", b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec(), Duration::ZERO),
        ("a redirect", b"HTTP/1.1 302 No\r\nlocation: http://10.0.0.3/\r\ncontent-length: 0\r\n\r\n".to_vec(), Duration::ZERO),
        ("gzip", b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08".to_vec(), Duration::ZERO),
        ("protobuf", b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.google.protobuf\r\ncontent-length: 1\r\n\r\n\x01".to_vec(), Duration::ZERO),
        ("no UTF-8", b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na\xff 1\n\n".to_vec(), Duration::ZERO),
        ("a page", text("<html></html>").into_bytes(), Duration::ZERO),
        ("cut", b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\na 1\n".to_vec(), Duration::ZERO),
        ("endless", endless, Duration::ZERO),
        ("endless interim answers", interim, Duration::ZERO),
    ];
    for (what, answer, after) in table {
        let mesh = Mesh::default();
        let _bad = source(&mesh, A, answer, after);
        let _good = source(&mesh, B, text("good 1\n"), Duration::ZERO);
        mesh.black_hole(C);
        let sources = format!(
            "{{ name: bad, url: \"http://{A}/\" }}, \"http://{B}/\", {{ name: hole, url: \"http://{C}/\", timeout: 500ms }}, \
             {{ name: dead, url: \"http://10.9.9.9:1/\" }}"
        );
        let sidecar = sidecar(&mesh, &sources);
        let began = Instant::now();
        let body = scraped(&mesh, &sidecar, "*/*").await.body;
        assert!(began.elapsed() <= Duration::from_millis(1100), "{what}: {:?}", began.elapsed());
        for (source, up) in [("bad", 0), ("app", 1), ("hole", 0), ("dead", 0)] {
            assert!(
                body.contains(&format!("pillion_merge_up{{source=\"{source}\"}} {up}\n")),
                "{what}\n{body}"
            );
        }
        assert!(body.contains("\ngood 1\n") && body.contains("\npillion_build_info{"), "{what}\n{body}");
    }
}

/// The time for the last answer is that of an ordinary page, also where the connection's lifetime ends while that answer is
/// still being made and the one before it was a stream.
#[tokio::test(start_paused = true)]
async fn a_stream_gives_the_answer_after_it_no_more_time() {
    let mesh = Mesh::default();
    let large: String = (0..19_000).map(|nth| format!("large{{nth=\"{nth:020}\"}} 1\n")).collect();
    let _app = source(&mesh, A, text(&large), Duration::from_millis(3_900));
    let sidecar = sidecar(&mesh, &format!("{{ url: \"http://{A}/\", timeout: 4s }}"));
    let address = sidecar.addresses.admin[0];
    let io = mesh.memory.connect(address).await.expect("the admin port listens");
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let (mut scraper, began, mut piece) = (Peer::new(io), Instant::now(), [0; 16 * 1024]);
    scraper.send(ask("/tap?timeout=57s") + &ask("/metrics")).await;
    let mut io = scraper.into_io();
    let mut read = 0;
    while let Ok(more @ 1..) = io.read(&mut piece).await
        && began.elapsed() < Duration::from_secs(300)
    {
        read += more;
        sleep(Duration::from_secs(4)).await;
    }
    assert!(read > 64 * 1024, "{read}");
    // the lifetime, the time for the last answer, and what the connection's buffer still held
    assert!((60..=60 + 35 + 5 * 4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
