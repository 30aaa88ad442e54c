//! Which files are open: those that are quiet and read to their ends are closed when others need their descriptors, and opened
//! again when they grow.

use std::time::Duration;

use tokio::time::Instant;

use super::Catalog;
use super::tailed::{Rest, Tailed};

/// The most files that are open at once, if a quarter of the descriptors that the process may have is not less. Further ones
/// wait until others are quiet and read to their ends.
const MOST_OPEN: usize = 1024;
const SHARE_OF_DESCRIPTORS: u64 = 4;
/// How often the sizes of closed files are looked at.
const CLOSED_EVERY: Duration = Duration::from_secs(1);

impl Catalog {
    /// Whether a further file may be opened. A file that is quiet and read to its end is closed for it.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        let open = self.files.values().filter(|file| file.file.is_some());
        if open.count() < self.most_open {
            return true;
        }
        let finished = self.files.values_mut().filter(|file| file.file.is_some() && file.is_finished(now));
        let oldest = finished.min_by_key(|file| (!file.is_present, file.grown_at));
        let can_close = oldest.is_some();
        oldest.into_iter().for_each(Tailed::close);
        can_close
    }

    /// Opens closed files that have changed, and forgets those that are gone.
    pub(super) fn look_at_closed(&mut self, now: Instant) {
        if now.saturating_duration_since(self.closed_looked_at) < CLOSED_EVERY {
            return;
        }
        self.closed_looked_at = now;
        let closed = self.files.iter().filter(|(_, file)| file.file.is_none());
        let rests: Vec<(u64, Rest)> = closed.map(|(key, file)| (*key, file.rest())).collect();
        for (key, rest) in rests {
            match rest {
                Rest::Quiet => {}
                Rest::Gone => {
                    self.files.remove(&key);
                    self.has_new = true;
                }
                Rest::Changed if self.make_room(now) => {
                    let reopened = self.files.get_mut(&key).map(Tailed::reopen);
                    if let Some(Err(error)) = reopened
                        && self.notices.due(std::time::Instant::now()).is_some()
                    {
                        tracing::warn!(%error, "a file that has grown cannot be opened again; the next look tries again");
                    }
                }
                Rest::Changed => {}
            }
        }
    }
}

pub(super) fn most_open() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.and_then(|limit| usize::try_from(limit / SHARE_OF_DESCRIPTORS).ok());
    share.unwrap_or(MOST_OPEN).clamp(16, MOST_OPEN)
}
