//! When a command that runs for a while ends: at a signal, or after the time that was asked for.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::duration::{HOUR, MILLISECOND, MINUTE, SECOND, duration};

/// Parses `500ms`, `10s`, `2m`, `1h`; not zero.
pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    duration(text, &[MILLISECOND, SECOND, MINUTE, HOUR])
        .ok_or_else(|| format!("{text:?} is not a duration; write it as 500ms, 10s, 2m or 1h"))
}

/// Waits for Ctrl-C or SIGTERM. Signals are caught from this call on, not from the first poll.
pub(super) fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { // a signal of the other branch asks for the same
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// `None`: it never is.
pub(super) async fn time_is_up(lasts: Option<Duration>) {
    match lasts {
        Some(lasts) => tokio::time::sleep(lasts).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        let cases = [
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("10", None),
            ("s", None),
            ("0s", None),
            ("-1s", None),
            ("1 s", None),
            ("9999999999999999999h", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(lasting(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        }
    }
}
