//! Lets the data path go first where both want the same CPU.
//!
//! The kernel lets a thread run for a slice of some milliseconds before another one gets its CPU. A lower priority changes the
//! share of the CPU and not that: measured with Linux 6.18, threads of the data path waited as long for a companion with a nice value
//! of 10 as for one with 0, and nearly as long with SCHED_IDLE, which holds within one control group alone. So a companion with much
//! to do works in pieces of some hundred microseconds, and sleeps for a moment after each while requests are served. Alone it does
//! not sleep.
//!
//! In pieces are the lines that log shipping reads, and what it writes to connections and as datagrams. A search of folders, a
//! checkpoint, the making of a whole batch's body and the reading of an answer are not: they are longer where there are many files
//! or large batches.

use std::time::{Duration, Instant};

use rustix::process::{getpriority_process, setpriority_process};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// A nice value: beside one busy thread of the data path, a companion gets a tenth of a CPU, so that it never stands still.
const NICE: i32 = 10;
/// How long it sleeps after a piece. The kernel makes at least a tenth of a millisecond of it.
const MOMENT: Duration = Duration::from_micros(50);
/// How long the others count as busy after they have worked. At 100 requests a second they work every 10 ms, some of them later,
/// and what a sidecar without requests does takes less than a quarter of the time by this measure.
const LATELY: Duration = Duration::from_millis(20);

/// Gives the calling thread a lower priority than the others have. Programs that it starts would have it, too.
pub fn stand_back() {
    let lowered = getpriority_process(None).and_then(|now| setpriority_process(None, now.max(NICE)));
    if let Err(error) = lowered {
        tracing::info!(%error, "a companion has the priority of the data path");
    }
}

/// A request takes more, and the clocks of the process and of the thread are not read at the same moment.
const LEAST_WORK: Duration = Duration::from_micros(5);

/// What a thread knows of the others of its process.
#[derive(Debug, Default)]
pub struct Courtesy {
    /// The CPU time that they had used when they were last seen to have worked. The first look only notes it: it is all that
    /// they have used since the process began.
    used: Option<Duration>,
    worked: Option<Instant>,
    /// How many bytes were worked on since the last piece ended.
    bytes: usize,
}

impl Courtesy {
    /// Called after work on so many bytes. When they are a piece together with those before, others go first.
    pub fn after(&mut self, bytes: usize, piece: usize) {
        if self.ends_piece(bytes, piece) {
            self.let_others_go_first();
        }
    }

    const fn ends_piece(&mut self, bytes: usize, piece: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        let ends = self.bytes >= piece;
        if ends {
            self.bytes = 0;
        }
        ends
    }

    /// Called between two pieces of work. Blocks the thread for a moment where others have work: a timer of the runtime would
    /// wait for ten times as long.
    pub fn let_others_go_first(&mut self) {
        let used = time(ClockId::ProcessCPUTime).saturating_sub(time(ClockId::ThreadCPUTime));
        if self.is_due(used, Instant::now()) {
            std::thread::sleep(MOMENT);
        }
    }

    /// Whether others have worked lately. `used`: the CPU time that they have used so far.
    fn is_due(&mut self, used: Duration, now: Instant) -> bool {
        let before = *self.used.get_or_insert(used);
        if used.saturating_sub(before) >= LEAST_WORK {
            (self.used, self.worked) = (Some(used), Some(now));
        }
        self.worked.is_some_and(|worked| now.saturating_duration_since(worked) < LATELY)
    }
}

fn time(of: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(of);
    Duration::new(tv_sec.try_into().unwrap_or(0), tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_companion_sleeps_after_a_piece_of_work_only_while_others_have_work() {
        let (mut courtesy, start) = (Courtesy::default(), Instant::now());
        let mut is_due = |used_us, at_ms| {
            courtesy.is_due(Duration::from_micros(used_us), start + Duration::from_millis(at_ms))
        };
        assert!(!is_due(9000, 0), "nobody has worked since the first look");
        assert!(!is_due(9001, 0), "nobody has worked");
        assert!(is_due(9040, 1));
        assert!(is_due(9041, 20), "they have worked lately");
        assert!(!is_due(9042, 21));
        assert!(is_due(9045, 22), "they have worked, a little at a time");
    }

    #[test]
    fn little_work_is_collected_until_it_is_a_piece() {
        let mut courtesy = Courtesy::default();
        let ends: Vec<bool> =
            [200, 15_000, 1183, 1, 40_000, 16_383].map(|bytes| courtesy.ends_piece(bytes, 16_384)).into();
        assert_eq!(ends, [false, false, false, true, true, false]);
    }

    #[test]
    fn the_priority_of_one_thread_is_lowered_alone_and_once() {
        let of_thread = || getpriority_process(None).unwrap();
        let before = of_thread();
        let lowered = std::thread::spawn(move || {
            stand_back();
            stand_back();
            of_thread()
        });
        assert_eq!(lowered.join().unwrap(), before.max(NICE));
        assert_eq!(of_thread(), before);
    }
}
