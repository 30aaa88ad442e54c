//! Measures a pair of sidecars over loopback beside the floor: `cargo bench --bench pair [-- SECONDS [ROUNDS]]`.
//!
//! Rows: direct; the floor (a pair of plain relays with rustls and without HTTP); two sidecars with HTTP/1.1 between
//! them; two with HTTP/2. Each part is a process of its own, so that its CPU time can be read from `/proc`. Rounds are
//! interleaved. The result is the ratio to the floor within one run, because absolute times depend on the machine.

#[path = "support/mod.rs"]
mod support;

use std::net::SocketAddr;

use support::{Identities, Part, Relay};

const CONNECTIONS: usize = 64;
const ROWS: [&str; 4] = ["direct", "floor", "http1", "http2"];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(role) = arguments.first().filter(|word| word.parse::<u64>().is_err()) {
        return support::play(role, &arguments[1..]);
    }
    let number = |index: usize, default: u64| {
        arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (seconds, rounds) = (number(0, 2), number(1, 3));
    let identities = Identities::new()?;
    let origin = Part::role("origin", &[])?;
    let mut cells: Vec<Vec<f64>> = vec![Vec::new(); ROWS.len()];
    for _ in 0..rounds {
        for (row, cell) in ROWS.iter().zip(&mut cells) {
            cell.push(measure(row, origin.address, &identities, seconds)?);
        }
    }
    let floor = median(&mut cells[1]);
    for (row, cell) in ROWS.iter().zip(&mut cells) {
        let middle = median(cell);
        let (least, most) = (cell[0], cell[cell.len() - 1]);
        println!(
            "{row:8} {middle:6.1} us of CPU per request ({least:.1} to {most:.1}), {:.2} x floor",
            middle / floor
        );
    }
    Ok(())
}

/// The CPU microseconds that the two relays or sidecars need for a request.
fn measure(row: &str, origin: SocketAddr, identities: &Identities, seconds: u64) -> anyhow::Result<f64> {
    let relay = match row {
        "direct" => None,
        "floor" => Some(Relay::floor(origin, identities)?),
        protocol => Some(Relay::sidecars(origin, identities, protocol)?),
    };
    let target = relay.as_ref().map_or(origin, |relay| relay.address());
    support::load(target, CONNECTIONS, 1)?;
    let before = relay.as_ref().map_or(0.0, Relay::cpu_us);
    let requests = support::load(target, CONNECTIONS, seconds)?;
    let after = relay.as_ref().map_or(0.0, Relay::cpu_us);
    anyhow::ensure!(requests > 0, "{row}: no request was answered");
    Ok((after - before) / requests as f64)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
