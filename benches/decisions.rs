//! Measures the cost of frequent decisions: `cargo bench --bench decisions`. It prints the median of 21 rounds, in
//! nanoseconds per call.

use std::hint::black_box;
use std::time::Instant;

use pillion_http1::{Limits, Server};

const ROUNDS: usize = 21;
const CALLS: u32 = 200_000;

fn main() {
    let head = ("read a head of six fields".to_owned(), Box::new(read_head) as Box<dyn FnMut()>);
    for (name, mut decision) in pillion::bench::decisions().into_iter().chain([head]) {
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round(&mut decision)).collect();
        rounds.sort_by(f64::total_cmp);
        println!("{name:38} {:8.1} ns ({:.1} to {:.1})", rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]);
    }
}

fn round(decision: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    (0..CALLS).for_each(|_| decision());
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn read_head() {
    const HEAD: &[u8] = b"GET /orders/7?full=1 HTTP/1.1\r\nHost: orders\r\nAccept: */*\r\nUser-Agent: bench\r\n\
        X-Request-Id: 0f8fad5b-d9cb-469f-a165-70867728950e\r\nX-Forwarded-Proto: http\r\nContent-Type: text/plain\r\n\r\n";
    drop(black_box(Server::default().read(black_box(HEAD), &Limits::default())));
}
