//! Dials several addresses of one destination and takes the first connection: "happy eyeballs" (RFC 8305).
//!
//! An address that does not answer then costs [`DELAY`], and not the whole time limit of a connect.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;

/// How long one dial is alone before the next one begins ("Connection Attempt Delay", RFC 8305, section 5).
pub const DELAY: Duration = Duration::from_millis(250);

/// The result of the first future that succeeds; the others are dropped then. `next` makes the futures: a further one
/// begins [`DELAY`] after the one before it, or at once when one fails. `failed` gets the failures. `None` when there
/// are no more futures and all have failed.
pub async fn first<F, T, E>(mut next: impl FnMut() -> Option<F>, mut failed: impl FnMut(E)) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
{
    let mut racing: Vec<Pin<Box<F>>> = Vec::new();
    loop {
        let begun = next();
        let is_last = begun.is_none();
        racing.extend(begun.map(Box::pin));
        if racing.is_empty() {
            return None;
        }
        let ended = poll_fn(|context| poll_any(&mut racing, context));
        match if is_last { Ok(ended.await) } else { timeout(DELAY, ended).await } {
            Ok(Ok(won)) => return Some(won),
            Ok(Err(failure)) => failed(failure),
            Err(_elapsed) => {}
        }
    }
}

/// Polls all of them. One that has ended is removed.
fn poll_any<F: Future>(racing: &mut Vec<Pin<Box<F>>>, context: &mut Context<'_>) -> Poll<F::Output> {
    let ended = racing.iter_mut().enumerate().find_map(|(index, one)| match one.as_mut().poll(context) {
        Poll::Ready(output) => Some((index, output)),
        Poll::Pending => None,
    });
    ended.map_or(Poll::Pending, |(index, output)| {
        drop(racing.swap_remove(index));
        Poll::Ready(output)
    })
}

/// The addresses with the families taking turns, beginning with the family of the first (RFC 8305, section 4). Within a
/// family the order stays.
pub fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = addresses.into_iter().peekable();
    let begins_with_v4 = addresses.peek().is_some_and(SocketAddr::is_ipv4);
    let (these, others): (Vec<_>, Vec<_>) = addresses.partition(|to| to.is_ipv4() == begins_with_v4);
    let most = these.len().max(others.len());
    let turn = |index| these.get(index).into_iter().chain(others.get(index)).copied();
    (0..most).flat_map(turn).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Each dial: its time in milliseconds, and whether it succeeds. Returns the winner, when it won, and the failures.
    async fn race(dials: &[(u64, bool)]) -> (Option<usize>, u128, Vec<usize>) {
        let (started, mut failures) = (Instant::now(), Vec::new());
        let mut dials = dials.iter().enumerate();
        let next = || {
            dials.next().map(|(index, (took, is_good))| async move {
                sleep(Duration::from_millis(*took)).await;
                if *is_good { Ok(index) } else { Err(index) }
            })
        };
        let won = first(next, |failure| failures.push(failure)).await;
        (won, started.elapsed().as_millis(), failures)
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_dial_begins_after_the_delay_or_at_once_after_a_failure() {
        let never = 3_600_000;
        let cases: [(&[(u64, bool)], _); 8] = [
            (&[], (None, 0, vec![])),
            (&[(200, true), (1, true)], (Some(0), 200, vec![])),
            (&[(never, true), (5, true)], (Some(1), 255, vec![])),
            (&[(never, true), (never, true), (5, true)], (Some(2), 505, vec![])),
            (&[(260, true), (20, true)], (Some(0), 260, vec![])),
            (&[(3, false), (5, true)], (Some(1), 8, vec![0])),
            (&[(300, false), (never, true), (5, true)], (Some(2), 305, vec![0])),
            (&[(300, false), (100, false)], (None, 350, vec![0, 1])),
        ];
        for (dials, expected) in cases {
            assert_eq!(race(dials).await, expected, "{dials:?}");
        }
    }

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let parsed = |all: &[&str]| -> Vec<SocketAddr> { all.iter().map(|it| it.parse().unwrap()).collect() };
        let (a, b, x, y, z) =
            ("192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1");
        let cases: [(&[&str], &[&str]); 5] = [
            (&[], &[]),
            (&[a, b], &[a, b]),
            (&[x, y, z, a, b], &[x, a, y, b, z]),
            (&[a, b, x], &[a, x, b]),
            (&[a, x, y, z], &[a, x, y, z]),
        ];
        for (given, expected) in cases {
            assert_eq!(interleaved(parsed(given)), parsed(expected), "{given:?}");
        }
    }
}
