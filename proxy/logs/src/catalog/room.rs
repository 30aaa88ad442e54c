//! Which files are open: those that are quiet and read to their ends are closed when others need their descriptors, and opened
//! again when they grow.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::Catalog;
use super::find::MOST_ENTRIES;
use super::tailed::{Rest, Tailed};
use crate::rotation::Identity;

/// The most files that are open at once, if a quarter of the descriptors that the process may have is not less. Further ones
/// wait until others are quiet and read to their ends.
const MOST_OPEN: usize = 1024;
const SHARE_OF_DESCRIPTORS: u64 = 4;
/// The most files that are known, open or not. Each takes 300 bytes of the checkpoint. One that was renamed, is read to its end
/// and quiet is forgotten for a further one.
pub(super) const MOST_FILES: usize = 4096;
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

    /// Whether a further file may be known. A file that has lost its place, is read to its end and quiet is forgotten for it: a
    /// rotation may keep thousands.
    pub(super) fn has_place(&mut self, now: Instant) -> bool {
        if self.files.len() < self.most_files {
            return true;
        }
        let finished = self.files.iter().filter(|(_, file)| !file.is_present && file.is_finished(now));
        let oldest = finished.min_by_key(|(_, file)| file.grown_at).map(|(key, _)| *key);
        oldest.is_some_and(|key| self.files.remove(&key).is_some())
    }

    /// Opens closed files that have changed, and forgets those that are gone.
    pub(super) fn look_at_closed(&mut self, now: Instant) {
        if now.saturating_duration_since(self.closed_looked_at) >= CLOSED_EVERY {
            self.closed_looked_at = now;
            self.look_at_all_closed(now);
        }
    }

    /// Looks at all files for the last time.
    pub(crate) fn look_last(&mut self, now: Instant) {
        self.look_at_all_closed(now);
        self.look(now);
    }

    fn look_at_all_closed(&mut self, now: Instant) {
        let closed = self.files.iter().filter(|(_, file)| !file.is_open());
        let rests: Vec<(u64, Rest)> = closed.map(|(key, file)| (*key, file.rest())).collect();
        let mut folders = HashMap::new();
        for (key, rest) in rests {
            match rest {
                Rest::Quiet => {}
                Rest::Moved => self.follow_moved(key, &mut folders),
                Rest::Changed if self.make_room(now) => self.open_again(key),
                Rest::Changed => {}
            }
        }
    }

    /// Looks in its folder for a closed file that has another name now: its writer may still have it open. It is forgotten if it
    /// is not there. A folder is read once for all files.
    fn follow_moved(&mut self, key: u64, folders: &mut HashMap<PathBuf, Option<Names>>) {
        let Some(file) = self.files.get_mut(&key) else { return };
        if !folders.contains_key(&file.folder) {
            folders.insert(file.folder.clone(), names(&file.folder).ok());
        }
        match folders.get(&file.folder).and_then(Option::as_ref).map(|names| names.get(&file.identity)) {
            Some(Some(path)) => path.clone_into(&mut file.closed_at),
            Some(None) if file.is_present => {} // the next scan tells
            Some(None) => self.forget(key),
            None => {} // the folder cannot be read, so it cannot be said
        }
    }

    fn open_again(&mut self, key: u64) {
        match self.files.get_mut(&key).map(Tailed::reopen) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => self.forget(key), // the next scan finds the other file
            Some(Err(error)) => {
                if self.notices.due(std::time::Instant::now()).is_some() {
                    tracing::warn!(%error, "a file that has grown cannot be opened again; the next look tries again");
                }
            }
        }
    }

    fn forget(&mut self, key: u64) {
        self.files.remove(&key);
        self.has_new = true;
    }
}

/// Where the files of a folder stand.
type Names = HashMap<Identity, PathBuf>;

fn names(folder: &Path) -> io::Result<Names> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Names::new()),
        Err(error) => return Err(error),
    };
    let mut names = Names::new();
    for path in entries.take(MOST_ENTRIES).flatten().map(|entry| entry.path()) {
        if let Ok(of) = fs::metadata(&path) {
            names.entry(Identity::of(&of)).or_insert(path);
        }
    }
    Ok(names)
}

pub(super) fn most_open() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.and_then(|limit| usize::try_from(limit / SHARE_OF_DESCRIPTORS).ok());
    share.unwrap_or(MOST_OPEN).clamp(16, MOST_OPEN)
}
