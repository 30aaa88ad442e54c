//! A body that is larger than the sidecars' memory may grow: it arrives unchanged both ways, and no memory is kept.

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::backend::Backend;
use crate::support::sidecar::Pair;
use crate::support::volume::Peak;
use crate::support::wire::Wire;

const MIB: u64 = 1024 * 1024;
const PIECE: usize = 64 * 1024;
/// The full size: growth that begins late shows only here.
const FULL: u64 = 1024 * MIB;
/// A debug build is ten times slower: it gets a quarter, unless `PILLION_TEST_FULL` is set.
const QUICK: u64 = 256 * MIB;
const GROWTH_KIB: u64 = 16 * 1024;

fn size() -> u64 {
    let is_full = !cfg!(debug_assertions) || std::env::var_os("PILLION_TEST_FULL").is_some();
    if is_full { FULL } else { QUICK }
}

/// Bytes that repeat nowhere: a piece that is lost, doubled or swapped changes the hash.
struct Pattern(fastrand::Rng);

impl Pattern {
    fn new() -> Self {
        Self(fastrand::Rng::with_seed(1))
    }

    fn fill(&mut self, piece: &mut [u8]) {
        for word in piece.chunks_exact_mut(8) {
            word.copy_from_slice(&self.0.u64(..).to_le_bytes());
        }
    }
}

/// Writes `size` bytes of the pattern, and returns their hash.
async fn write_pattern(to: &mut (impl tokio::io::AsyncWrite + Unpin), size: u64) -> String {
    let (mut pattern, mut hash) = (Pattern::new(), Context::new(&SHA256));
    let mut piece = vec![0; PIECE];
    for _ in 0..size / PIECE as u64 {
        pattern.fill(&mut piece);
        hash.update(&piece);
        to.write_all(&piece).await.expect("the other end reads");
    }
    hex(hash)
}

/// Reads `size` bytes, or as many as come, and returns their hash.
async fn read_hash(from: &mut Wire, mut size: u64) -> String {
    let mut hash = Context::new(&SHA256);
    while size > 0 {
        let piece = from.piece(usize::try_from(size).unwrap_or(usize::MAX)).await;
        if piece.is_empty() {
            break;
        }
        size -= piece.len() as u64;
        hash.update(&piece);
    }
    format!("{} {size} missing", hex(hash))
}

fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server that answers a POST with the hash of its body, and a GET with the pattern.
async fn large() -> Backend {
    Backend::serving(async |mut wire, _, _| {
        while let Some(head) = wire.head().await {
            if head.starts_with("POST") {
                let hash = read_hash(&mut wire, size()).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{hash}", hash.len());
                wire.send(answer).await;
            } else if head.starts_with("GET /large") {
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", size())).await;
                let mut io: TcpStream = wire.into_io();
                write_pattern(&mut io, size()).await;
                wire = Wire::new(io);
            } else {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await
}

async fn through_the_pair(orders: &str) {
    let app = large().await;
    let pair = Pair::start(app.address, orders, "").await;
    let mut client = Wire::connect(pair.caller.outbound()).await;
    assert_eq!(client.get("orders", "/warm").await.status(), 200);
    let peaks = [Peak::watch(pair.caller.pid()), Peak::watch(pair.application.pid())];

    client.send(format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n", size())).await;
    let mut io = client.into_io();
    let sent = write_pattern(&mut io, size()).await;
    let mut client = Wire::new(io);
    let received = client.message().await.expect("an answer").text();
    assert_eq!(received, format!("{sent} 0 missing"), "{orders}: the upload");

    client.send("GET /large HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    client.head().await.expect("an answer");
    let received = read_hash(&mut client, size()).await;
    assert_eq!(received, format!("{sent} 0 missing"), "{orders}: the download");

    let growth = peaks.each_ref().map(Peak::growth_kib);
    println!("{orders}: {} MiB both ways, memory grew by {growth:?} KiB (caller, application)", size() / MIB);
    assert!(growth.iter().all(|growth| *growth < GROWTH_KIB), "{growth:?}");
}

#[tokio::test]
async fn a_large_body_arrives_intact_both_ways_over_http1_between_the_sidecars() {
    through_the_pair("protocol: http1").await;
}

#[tokio::test]
async fn a_large_body_arrives_intact_both_ways_over_http2_between_the_sidecars() {
    through_the_pair("protocol: http2").await;
}
