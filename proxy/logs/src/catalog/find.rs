//! Finds the files of the sources: those that globs fit, and those that were renamed while no sidecar ran.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use pillion_model::logs::Source;
use tokio::time::Instant;

use super::Catalog;
use super::tailed::{REST, Rest, Tailed, not_blocking, read_at};
use crate::checkpoint::{Kept, Place};
use crate::glob;
use crate::record::Origin;
use crate::rotation::{self, HEAD, Head, Identity};

/// How long a file is missed until it counts as gone: a folder may be mounted anew meanwhile.
const MISSED_FOR: Duration = Duration::from_mins(1);
/// The most entries of a folder among which a file is looked for that was renamed.
pub(super) const MOST_ENTRIES: usize = 10_000;

impl Catalog {
    /// The source of a file that was known: the one whose globs fit its path, else the one whose name it has.
    pub(super) fn source_of(&self, kept: &Kept) -> Option<(usize, &Source)> {
        let covering = self.sources.iter().position(|source| covers(source, &kept.path));
        let place = covering.or_else(|| self.sources.iter().position(|source| source.name == kept.source))?;
        Some((place, self.sources.get(place)?))
    }

    /// Looks for new files, and for those that are gone. Returns whether there are any.
    pub(crate) fn scan(&mut self, now: Instant) -> bool {
        let mut kept = std::mem::take(&mut self.left);
        let missed: HashSet<Identity> = self.missed.iter().map(|kept| kept.identity).collect();
        kept.append(&mut self.missed);
        let is_changed = self.scan_with(now, &mut kept);
        let known = self.files.len();
        let still = self.find_renamed(now, kept);
        let (again, first) = still.into_iter().partition(|kept| missed.contains(&kept.identity));
        let is_due = self.missed_at.is_none_or(|at| now.saturating_duration_since(at) >= MISSED_FOR);
        if is_due {
            (self.missed, self.missed_at) = (first, Some(now));
            self.has_new |= !again.is_empty();
            self.tell_gone(again);
        } else {
            self.missed = again;
            self.left.extend(first);
        }
        is_changed || self.files.len() != known
    }

    pub(super) fn scan_with(&mut self, now: Instant, kept: &mut Vec<Kept>) -> bool {
        let (before, mut present, mut folders) = (self.next, HashSet::new(), HashSet::new());
        let mut blind = Vec::new();
        for place in 0..self.sources.len() {
            let mut found = glob::Found::default();
            let globs = self.sources.get(place).map(|source| source.files.clone()).unwrap_or_default();
            globs.iter().for_each(|glob| glob::search(glob, &mut found));
            if found.is_cut && self.notices.due(std::time::Instant::now()).is_some() {
                tracing::warn!(
                    "the globs of a source fit more files than are looked at; write narrower ones"
                );
            }
            for path in found.files {
                present.extend(self.find(&path, place, now, kept));
            }
            folders.extend(found.folders);
            if found.is_cut || found.is_blind {
                blind.push(place); // what was not found may be there
            }
        }
        let mut is_changed = self.next > before;
        for (key, file) in &mut self.files {
            let may_be_there = || file.is_present && blind.contains(&file.origin.source) && !file.has_left();
            let is_present = present.contains(key) || may_be_there();
            let was_present = std::mem::replace(&mut file.is_present, is_present);
            is_changed |= was_present != file.is_present;
        }
        folders.extend(self.files.values().map(|file| file.folder.clone()));
        self.folders = folders;
        is_changed
    }

    /// The file at a path, which is opened where it is not known.
    fn find(&mut self, path: &Path, source: usize, now: Instant, kept: &mut Vec<Kept>) -> Option<u64> {
        let metadata = fs::metadata(path).ok()?;
        let identity = Identity::of(&metadata);
        let known = self.files.iter_mut().find(|(_, file)| file.identity == identity);
        if let Some((key, file)) = known {
            if !file.is_open() && file.rest() == Rest::Moved {
                file.closed_at = path.to_owned();
            }
            return Some(*key);
        }
        if !self.has_place(now) || !self.make_room(now) {
            if self.notices.due(std::time::Instant::now()).is_some() {
                tracing::warn!(
                    known = self.files.len(),
                    "so many files are being shipped that further ones wait until others have ended; write narrower globs, or \
                     raise the number of files that the process may open"
                );
            }
            return None;
        }
        match self.add(path, path, source, now, kept) {
            Ok(key) => key,
            Err(error) => {
                if self.notices.due(std::time::Instant::now()).is_some() {
                    tracing::warn!(file = %path.display(), %error, "a file cannot be shipped; the next look tries again");
                }
                None
            }
        }
    }

    /// Opens a file. `named`: the path that its records have. `None`: it is no regular file.
    fn add(
        &mut self,
        path: &Path,
        named: &Path,
        source: usize,
        now: Instant,
        kept: &mut Vec<Kept>,
    ) -> io::Result<Option<u64>> {
        let file = fs::OpenOptions::new().read(true).custom_flags(not_blocking()).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let identity = Identity::of(&metadata);
        if self.files.values().any(|file| file.identity == identity) {
            return Ok(None); // the path leads to another file than a moment before, and that one is known
        }
        let mut bytes = [0; HEAD];
        let length = read_at(&file, &mut bytes, 0)?;
        let head = Head::of(&bytes[..length]);
        let real = fs::canonicalize(path)?;
        let Some(of) = self.sources.get(source) else { return Ok(None) };
        let origin = Rc::new(Origin::new((source, of), &named.to_string_lossy(), &self.workload));
        let mut tailed = Tailed {
            file: Some(file),
            identity,
            head,
            id: rotation::id(),
            generation: 0,
            path: named.to_owned(),
            folder: real.parent().unwrap_or_else(|| Path::new("/")).to_owned(),
            origin,
            size: metadata.len(),
            lost_size: 0,
            grown_at: now,
            is_present: true,
            places: vec![Place::default(); self.sinks.len()],
            closed_at: PathBuf::new(),
            closed_modified: None,
        };
        if let Some(nth) =
            kept.iter().position(|kept| kept.identity == identity && kept.head.fits(&bytes[..length]))
        {
            self.resume(&mut tailed, &kept.swap_remove(nth), now);
        }
        let key = self.next;
        self.next += 1;
        self.has_new = true;
        self.files.insert(key, tailed);
        Ok(Some(key))
    }

    /// Goes on where the last process was.
    fn resume(&mut self, file: &mut Tailed, kept: &Kept, now: Instant) {
        let places = self.sinks.iter().map(|sink| kept.places.get(sink).copied().unwrap_or_default());
        (file.id, file.generation, file.places) = (kept.id, kept.generation, places.collect());
        let furthest = file.places.iter().map(|place| place.offset).max().unwrap_or(0);
        let is_same = file.size >= furthest && file.places.iter().all(|place| file.has_tail(place));
        if !is_same {
            self.lost = self.lost.saturating_add(unread(kept.size, file.places.iter()));
            file.truncated(kept.size, file.size, now);
        } else if file.is_read() && file.size == kept.size {
            file.grown_at = now.checked_sub(REST).unwrap_or(now); // others may have its descriptor
        }
    }

    /// Opens files that the last process had and that no glob finds now, because they were renamed meanwhile. Returns those that
    /// are not there; what cannot be opened yet is left for the next time.
    pub(super) fn find_renamed(&mut self, now: Instant, mut kept: Vec<Kept>) -> Vec<Kept> {
        let mut folders: Vec<PathBuf> = kept.iter().map(|kept| kept.folder.clone()).collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_unreadable) => {
                    self.left.extend(kept.extract_if(.., |kept| kept.folder == folder));
                    continue;
                }
            };
            for entry in entries.flatten().take(MOST_ENTRIES) {
                let path = entry.path();
                let Ok(metadata) = fs::metadata(&path) else { continue };
                let identity = Identity::of(&metadata);
                let Some(nth) = kept.iter().position(|kept| kept.identity == identity) else { continue };
                let Some(of) = kept.get(nth) else { continue };
                let Some((source, _)) = self.source_of(of) else { continue };
                let (named, before, has_new) = (of.path.clone(), kept.len(), self.has_new);
                if !self.make_room(now) {
                    self.left.push(kept.swap_remove(nth));
                    continue;
                }
                let key = match self.add(&path, &named, source, now, &mut kept) {
                    Ok(Some(key)) => key,
                    Ok(None) => continue,
                    Err(_unreadable) => {
                        self.left.push(kept.swap_remove(nth));
                        continue;
                    }
                };
                if kept.len() == before {
                    self.files.remove(&key); // another file, with an inode that was used again
                    self.has_new = has_new;
                } else if let Some(file) = self.files.get_mut(&key) {
                    file.is_present = false;
                }
            }
        }
        kept
    }

    /// Tells of files that the last process had and that are gone.
    pub(super) fn tell_gone(&mut self, mut kept: Vec<Kept>) {
        kept.retain(|kept| self.sources.iter().any(|source| source.name == kept.source));
        for gone in kept {
            let places = gone.places.iter().filter(|(sink, _)| self.sinks.contains(sink));
            let lost = unread(gone.size, places.map(|(_, place)| place));
            if lost > 0 {
                tracing::warn!(file = %gone.path.display(), bytes = lost, "a file was deleted, compressed or written anew before it was shipped to its end");
                self.lost = self.lost.saturating_add(lost);
            }
        }
    }
}

pub(super) fn covers(source: &Source, path: &Path) -> bool {
    source.files.iter().any(|glob| glob::covers(glob, path))
}

/// The bytes of a file that were not read, for all sinks together.
fn unread<'p>(size: u64, places: impl Iterator<Item = &'p Place>) -> u64 {
    places.fold(0, |sum, place| sum.saturating_add(size.saturating_sub(place.offset)))
}
