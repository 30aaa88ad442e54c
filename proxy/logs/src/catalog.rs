//! The files of the sources, and how far each sink has got them.
//!
//! [`find`] looks for files, [`tailed`] is one of them, and [`room`] closes and opens them as descriptors are needed. When a
//! reload or a fault ends a catalog, the next one gets its files from the [`Shelf`].

mod find;
mod room;
mod shelf;
mod tailed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use pillion_model::Workload;
use pillion_model::logs::{Logs, Source};
use pillion_telemetry::Seldom;
use tokio::time::Instant;

use crate::checkpoint::{self, CheckpointError, Kept, Place};
use crate::record::Origin;
use crate::rotation::{self, HEAD};
use find::covers;
use shelf::Held;
use tailed::{OVER, QUIET};

pub(crate) use shelf::Shelf;
pub(crate) use tailed::{Now, Tailed};

/// What a sink has taken of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    pub(crate) file: u64,
    pub(crate) generation: u32,
    /// Where it was before.
    pub(crate) from: u64,
    pub(crate) place: Place,
}

/// All files.
pub(crate) struct Catalog {
    sources: Vec<Source>,
    sinks: Vec<String>,
    workload: Workload,
    pub(crate) files: BTreeMap<u64, Tailed>,
    next: u64,
    /// The folders in which files may appear.
    pub(crate) folders: HashSet<PathBuf>,
    /// What the last process has left of files that could not be opened yet.
    left: Vec<Kept>,
    /// Those of them that were not in their folders when these could be read. They are gone if that is so once more.
    missed: Vec<Kept>,
    /// When a scan has last found which ones these are.
    missed_at: Option<Instant>,
    shelf: Shelf,
    most_open: usize,
    most_files: usize,
    closed_looked_at: Instant,
    checkpoint: PathBuf,
    /// Whether there are files, or ids of files, that the checkpoint does not have yet.
    pub(crate) has_new: bool,
    /// Why the checkpoint could not be written.
    pub(crate) problem: Option<String>,
    /// The bytes of files of the last process that were gone, which sinks had not got, until they are counted.
    pub(crate) lost: u64,
    notices: Seldom,
}

impl Catalog {
    /// Takes the files of the last catalog, reads the checkpoint, and opens further files.
    ///
    /// # Errors
    /// The checkpoint cannot be read now. It may be possible later.
    pub(crate) fn open(logs: &Logs, workload: &Workload, shelf: &Shelf, now: Instant) -> io::Result<Self> {
        let checkpoint = checkpoint::path(&logs.checkpoint);
        let mut catalog = Self {
            sources: logs.sources.clone(),
            sinks: logs.sinks.iter().map(|sink| sink.name.clone()).collect(),
            workload: workload.clone(),
            files: BTreeMap::new(),
            next: 0,
            folders: HashSet::new(),
            left: Vec::new(),
            missed: Vec::new(),
            missed_at: None,
            shelf: shelf.clone(),
            most_open: room::most_open(),
            most_files: room::MOST_FILES,
            closed_looked_at: now,
            checkpoint,
            has_new: true,
            problem: None,
            lost: 0,
            notices: Seldom::new(),
        };
        let mut kept = catalog.kept()?;
        for held in shelf.take() {
            kept.retain(|kept| kept.identity != held.kept.identity);
            catalog.take_over(held);
        }
        catalog.scan_with(now, &mut kept);
        let gone = catalog.find_renamed(now, kept);
        catalog.tell_gone(gone);
        catalog.drop_uncovered();
        catalog.save();
        Ok(catalog)
    }

    /// What the last process has left. What cannot be used is put aside, and all files are read from their beginnings.
    fn kept(&mut self) -> io::Result<Vec<Kept>> {
        let error = match checkpoint::read(&self.checkpoint) {
            Ok(kept) => return Ok(kept),
            Err(CheckpointError::Unreadable(error)) => return Err(error),
            Err(error) => error,
        };
        let path = self.checkpoint.display();
        match checkpoint::put_aside(&self.checkpoint) {
            Err(_) => {
                tracing::warn!("the checkpoint {path} {error}; all files are shipped from their beginnings");
            }
            Ok(aside) => {
                tracing::warn!(aside = %aside.display(), "the checkpoint {path} {error}; it is put aside, and all files are shipped from their beginnings");
            }
        }
        Ok(Vec::new())
    }

    /// Goes on with a file of the last catalog.
    fn take_over(&mut self, held: Held) {
        let Held { kept, file, closed_at, closed_modified, lost_size, grown_at, is_present } = held;
        let Some((place, source)) = self.source_of(&kept) else { return };
        let origin = Rc::new(Origin::new((place, source), &kept.path.to_string_lossy(), &self.workload));
        let places = self.sinks.iter().map(|sink| kept.places.get(sink).copied().unwrap_or_default());
        let tailed = Tailed {
            file,
            identity: kept.identity,
            head: kept.head,
            id: kept.id,
            generation: kept.generation,
            places: places.collect(),
            path: kept.path,
            folder: kept.folder,
            origin,
            size: kept.size,
            lost_size,
            grown_at,
            is_present,
            closed_at,
            closed_modified,
        };
        self.files.insert(self.next, tailed);
        self.next += 1;
    }

    /// Forgets files that stand where they were found, and that no glob of the configuration fits any more. Those that were
    /// renamed are read to their ends.
    fn drop_uncovered(&mut self) {
        let sources = &self.sources;
        let is_covered = |file: &Tailed| sources.iter().any(|source| covers(source, &file.path));
        self.files.retain(|_, file| is_covered(file) || !file.stands());
    }

    fn note_problem(&mut self, problem: String) {
        if self.notices.due(std::time::Instant::now()).is_some() {
            tracing::warn!(
                "how far files were delivered cannot be kept, so that a restart sends records again: {problem}"
            );
        }
        self.problem = Some(problem);
    }

    /// Looks at the sizes of all files. Returns whether a sink may have something to do.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        let mut is_busy = false;
        self.look_at_closed(now);
        for file in self.files.values_mut() {
            let Some(size) = file.size_now() else { continue };
            if rotation::is_truncated(file.size, size) {
                file.truncated(file.size, size, now);
                self.has_new = true;
            } else {
                file.reaches(size, now);
            }
            // until a while after the last byte, what lines wait for changes with time; later a read that failed is tried again
            is_busy |= now.saturating_duration_since(file.grown_at) <= OVER + QUIET || !file.is_read();
        }
        let before = self.files.len();
        self.files.retain(|_, file| !file.is_done(now));
        self.has_new |= self.files.len() != before;
        is_busy
    }

    /// Tells that a file cannot be read. It is read again after the next look.
    pub(crate) fn note_unreadable(&mut self, file: u64, error: &io::Error) {
        if let Some(file) = self.files.get(&file)
            && self.notices.due(std::time::Instant::now()).is_some()
        {
            tracing::warn!(file = %file.path.display(), %error, "a file cannot be read; the next look tries again");
        }
    }

    /// A sink has taken these. Of a file that was truncated meanwhile it says nothing.
    pub(crate) fn confirm(&mut self, sink: usize, reads: &[Read]) {
        for read in reads {
            if let Some(file) =
                self.files.get_mut(&read.file).filter(|file| file.generation == read.generation)
                && let Some(place) = file.places.get_mut(sink)
            {
                *place = read.place;
            }
        }
    }

    /// Writes the checkpoint if it lacks a file, so that the ids of records stay the same after a crash.
    pub(crate) fn save_new(&mut self) {
        if self.has_new {
            self.save();
        }
    }

    /// Writes the checkpoint.
    pub(crate) fn save(&mut self) {
        for file in self.files.values_mut().filter(|file| {
            file.file.is_some() && file.head.length < HEAD && file.size > file.head.length as u64
        }) {
            file.head = file.head_now();
        }
        let known = self.files.values().map(|file| file.kept(&self.sources, &self.sinks));
        let kept: Vec<Kept> = known.chain(self.left.iter().chain(&self.missed).cloned()).collect();
        match checkpoint::write(&self.checkpoint, &kept) {
            Ok(()) => {
                self.has_new = false;
                self.problem = None;
            }
            Err(error) => self.note_problem(format!("{}: {error}", self.checkpoint.display())),
        }
    }

    /// The bytes of a source that a sink has not taken.
    pub(crate) fn lag(&self, source: usize, sink: usize) -> u64 {
        let of = self.files.values().filter(|file| file.origin.source == source);
        of.map(|file| file.size.saturating_sub(file.places.get(sink).map_or(0, |place| place.offset))).sum()
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        let files = std::mem::take(&mut self.files);
        let held = |file: Tailed| Held {
            kept: file.kept(&self.sources, &self.sinks),
            file: file.file,
            closed_at: file.closed_at,
            closed_modified: file.closed_modified,
            lost_size: file.lost_size,
            grown_at: file.grown_at,
            is_present: file.is_present,
        };
        self.shelf.put(files.into_values().map(held).collect());
    }
}
