//! File descriptors: raises the limit to what the system grants, and reserves a few for the admin and metrics ports.

use std::fs::File;
use std::io;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use pillion_telemetry::Seldom;

/// Descriptors reserved for the admin and metrics ports. A scrape takes one for its connection and one for each file of
/// `/proc` that it reads.
const SET_ASIDE: usize = 8;

/// With this many descriptors or fewer, a few hundred connections use up all of them, because each proxied connection
/// takes two. Many shells and containers grant just this number by default.
const FEW: u64 = 1024;

/// Raises the soft limit of open descriptors to the hard limit. Returns the new limit.
///
/// # Errors
/// The system refuses to read or change the limit.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Descriptors that are kept open without use, and closed when the last free one is taken.
#[derive(Debug, Default)]
pub struct Reserve(Vec<File>);

impl Reserve {
    /// Opens descriptors again until the reserve is full or none is free.
    pub fn fill(&mut self) {
        while self.0.len() < SET_ASIDE {
            let Ok(file) = File::open("/dev/null") else { return };
            self.0.push(file);
        }
    }

    /// Closes reserved descriptors after a failure with `error`. `false` when the failure had another reason, or the
    /// reserve is empty.
    pub fn makes_room(&mut self, error: &io::Error) -> bool {
        let is_short = is_short_of_descriptors(error);
        // Closes two: one for the connection, one for the file that its answer is read from.
        is_short && self.0.pop().is_some() | self.0.pop().is_some()
    }
}

/// The text that asks the operator to grant more than `most` descriptors. `None` when `most` is enough.
pub fn why_too_few(most: u64) -> Option<String> {
    (most <= FEW).then(|| {
        format!("only {most} file descriptors may be open, and each proxied connection takes two: raise the limit (ulimit -n)")
    })
}

/// Logs a warning, at a limited rate, when `error` says that no descriptor is left.
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

/// ENOMEM, ENOBUFS: the kernel has no memory left for a socket.
pub fn is_short_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 105))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_a_warning_about_a_low_descriptor_limit_names_the_number() {
        assert!(why_too_few(256).is_some_and(|why| why.contains("256")));
        assert_eq!((why_too_few(1024).is_some(), why_too_few(4096)), (true, None));
    }

    #[test]
    fn reserved_descriptors_are_closed_for_a_shortage_and_for_no_other_error() {
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
