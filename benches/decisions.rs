//! What a hot decision costs: `cargo bench --bench decisions`. Median of 21 rounds, nanoseconds a call.

use std::time::Instant;

const ROUNDS: usize = 21;
const CALLS: u32 = 200_000;

fn main() {
    for (name, mut decision) in pillion::bench::decisions() {
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
