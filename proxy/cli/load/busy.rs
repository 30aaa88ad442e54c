//! How busy the thread is that sends a load. A thread that never rests sends late because of itself, and not because of the target.

use std::sync::Arc;
use std::time::Duration;

/// From this share on, the thread has no time left: what is due in a millisecond waits for what came before it.
const ALL: f64 = 0.9;

/// Tells for how long the calling thread has run on a processor or waited for one. `None`: this is not known.
pub(crate) type Meter = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// The meter of the kernel.
pub(crate) fn of_kernel() -> Meter {
    Arc::new(|| of_schedstat(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?))
}

/// The first two numbers are nanoseconds: those on a processor, and those in the queue for one. Kernels without the statistics of the
/// scheduler have no such file, or zeros.
fn of_schedstat(text: &str) -> Option<Duration> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (ran, waited) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (ran > 0).then(|| Duration::from_nanos(ran.saturating_add(waited)))
}

/// The share of some time, from 0 to 1.
pub(super) fn share(busy: Duration, of: Duration) -> f64 {
    (busy.as_secs_f64() / of.as_secs_f64().max(f64::MIN_POSITIVE)).min(1.0)
}

/// Whether a thread that was busy for this share could have sent no more.
pub(super) fn is_all(share: f64) -> bool {
    share >= ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_on_a_processor_and_in_the_queue_for_one_is_busy() {
        assert_eq!(of_schedstat("300 200 4\n"), Some(Duration::from_nanos(500)));
        for unknown in ["", "0 0 0\n", "a b c", "1"] {
            assert_eq!(of_schedstat(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_share_is_between_none_and_all() {
        let of = |busy, all| share(Duration::from_millis(busy), Duration::from_millis(all));
        assert_eq!([of(0, 100), of(50, 100), of(101, 100), of(1, 0)], [0.0, 0.5, 1.0, 1.0]);
        assert_eq!([is_all(of(89, 100)), is_all(of(95, 100))], [false, true]);
    }
}
