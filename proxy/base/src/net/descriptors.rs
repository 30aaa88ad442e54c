//! File descriptors: as many as the system grants, and a few set aside for those who look after the sidecar.

use std::fs::File;
use std::io;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use pillion_telemetry::Seldom;

/// Kept for admin and metrics: a scrape takes one for its connection and one for each file of `/proc` it reads.
const SET_ASIDE: usize = 8;

/// With fewer descriptors than that a few hundred connections use up all of them, for each one that is proxied takes
/// two. Many shells and containers grant just so many unless told otherwise.
const FEW: u64 = 1024;

/// Raises the soft limit to the hard one. Returns what the process may open now.
///
/// # Errors
/// The system does not say what its limits are.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Descriptors that are open for nothing, to be let go when the last free one is taken.
#[derive(Debug, Default)]
pub struct Reserve(Vec<File>);

impl Reserve {
    /// Takes back what was let go, as far as there is room.
    pub fn fill(&mut self) {
        while self.0.len() < SET_ASIDE {
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }

    /// Makes room for what failed with `error`. `false`: it failed for another reason, or nothing is left.
    pub fn makes_room(&mut self, error: &io::Error) -> bool {
        let is_short = is_short_of_descriptors(error);
        // Two at once: one for the connection, one for what its answer is read from.
        is_short && self.0.pop().is_some() | self.0.pop().is_some()
    }
}

/// Why the operator should grant more than `most`; `None`: there are enough.
pub fn why_too_few(most: u64) -> Option<String> {
    (most <= FEW).then(|| {
        format!("only {most} file descriptors may be open, and each proxied connection takes two: raise the limit (ulimit -n)")
    })
}

/// Writes a line now and then when `error` says that no descriptor is left.
pub fn warn_of_shortage(error: &io::Error) {
    static LINE: Seldom = Seldom::new();
    if is_short_of_descriptors(error)
        && let Some(left_out) = LINE.due(Instant::now())
    {
        tracing::warn!(%error, left_out, "no file descriptor is left: connections wait or are refused; raise the limit (ulimit -n)");
    }
}

/// ENFILE, EMFILE.
pub fn is_short_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// ENOMEM, ENOBUFS: the kernel has none left for a socket.
pub fn is_short_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 105))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_a_low_limit_is_told_with_its_number() {
        assert!(why_too_few(256).is_some_and(|why| why.contains("256")));
        assert_eq!((why_too_few(1024).is_some(), why_too_few(4096)), (true, None));
    }

    #[test]
    fn room_is_made_for_a_shortage_and_for_nothing_else() {
        let (short, other) = (io::Error::from_raw_os_error(24), io::Error::from_raw_os_error(111));
        let mut reserve = Reserve::default();
        assert!(!reserve.makes_room(&short), "nothing was set aside yet");
        reserve.fill();
        assert!(!reserve.makes_room(&other));
        for _ in 0..SET_ASIDE / 2 {
            assert!(reserve.makes_room(&short));
        }
        assert!(!reserve.makes_room(&short));
        reserve.fill();
        assert!(reserve.makes_room(&short));
    }
}
