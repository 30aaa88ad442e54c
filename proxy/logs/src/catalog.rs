//! The files of the sources: which are there, what has become of them, and how far each sink has got them.
//!
//! A file is kept open from when it is found until every sink has got all of it and it has no name any more: so a file that
//! is renamed or deleted is read to its end. Files that are quiet and read to their ends are closed when others need their
//! descriptors, and opened again when they grow. When a reload or a fault ends a catalog, the next one gets its files from the
//! [`Shelf`].

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pillion_model::Workload;
use pillion_model::logs::{Logs, Source};
use pillion_telemetry::Seldom;
use tokio::time::Instant;

use crate::checkpoint::{self, CheckpointError, Kept, Place};
use crate::glob;
use crate::group::End;
use crate::record::Origin;
use crate::rotation::{self, HEAD, Head, Identity, TAIL};

/// The most files that are open at once, if a quarter of the descriptors that the process may have is not less. Further ones
/// wait until others are quiet and read to their ends.
const MOST_OPEN: usize = 1024;
const SHARE_OF_DESCRIPTORS: u64 = 4;
/// The most files that are known, open or not. Each takes 300 bytes of the checkpoint.
const MOST_FILES: usize = 4096;
/// How often the sizes of closed files are looked at.
const CLOSED_EVERY: Duration = Duration::from_secs(1);
/// After this time without a new byte a line does not wait for what could belong to it.
const QUIET: Duration = Duration::from_secs(1);
/// After this time without a new byte, the last line of a file that is gone from its place counts as ended.
const OVER: Duration = Duration::from_secs(5);
/// After this time without a new byte a file may be closed, and one that was deleted is forgotten: its writer may have it open
/// for a while.
const REST: Duration = Duration::from_mins(1);
/// The most entries of a folder among which a file is looked for that was renamed while no sidecar ran.
const MOST_ENTRIES: usize = 10_000;

/// A file of a source.
#[derive(Debug)]
pub(crate) struct Tailed {
    /// `None`: it was read to its end, and others needed the descriptor.
    file: Option<File>,
    identity: Identity,
    head: Head,
    /// What its records are known by.
    pub(crate) id: u128,
    /// How often it was truncated.
    pub(crate) generation: u32,
    path: PathBuf,
    /// The folder in which it stands, without links.
    folder: PathBuf,
    pub(crate) origin: Rc<Origin>,
    pub(crate) size: u64,
    /// How many bytes it had when it was truncated last.
    pub(crate) lost_size: u64,
    grown_at: Instant,
    /// Whether a glob finds it.
    is_present: bool,
    /// How far each sink has got it.
    pub(crate) places: Vec<Place>,
    /// Where it stood when it was closed.
    closed_at: PathBuf,
}

/// What has become of a closed file.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    Quiet,
    Changed,
    Gone,
}

/// A file of a catalog that has ended.
#[derive(Debug)]
struct Held {
    kept: Kept,
    file: Option<File>,
    closed_at: PathBuf,
    lost_size: u64,
    grown_at: Instant,
    is_present: bool,
}

/// The files of a catalog that has ended, open as they were, for the next one: what was deleted or renamed could not be opened
/// again by its path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Vec<Held>>>);

impl Shelf {
    fn put(&self, files: Vec<Held>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
    }

    fn take(&self) -> Vec<Held> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the files: nothing is shipped any more, or another process has gone on with them.
    pub(crate) fn clear(&self) {
        self.take();
    }
}

/// The time, and whether everything is to be read at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    /// In nanoseconds since 1970.
    pub(crate) unix: i64,
    /// The sidecar ends.
    pub(crate) is_last: bool,
}

impl Tailed {
    /// Whether more may come.
    pub(crate) fn end(&self, now: Now) -> End {
        let quiet = now.at.saturating_duration_since(self.grown_at);
        match () {
            () if now.is_last || !self.is_present && quiet >= OVER => End::Over,
            () if quiet >= QUIET => End::Quiet,
            () => End::Open,
        }
    }

    /// Reads at a place, until the buffer is full or the file ends.
    pub(crate) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match &self.file {
            Some(file) => read_at(file, buffer, at),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The size that it has now. `None`: it is closed, or cannot be looked at.
    pub(crate) fn size_now(&self) -> Option<u64> {
        Some(self.file.as_ref()?.metadata().ok()?.len())
    }

    /// Notes that there are bytes up to a place.
    pub(crate) fn reaches(&mut self, size: u64, now: Instant) {
        if size > self.size {
            (self.size, self.grown_at) = (size, now);
        }
    }

    /// The file begins anew, and has `size` bytes. Before, it had at least `before`.
    pub(crate) fn truncated(&mut self, before: u64, size: u64, now: Instant) {
        self.lost_size = before;
        self.size = size;
        self.grown_at = now;
        self.generation += 1;
        self.head = self.head_now();
        self.id = rotation::id();
        self.places.fill(Place::default());
    }

    fn head_now(&self) -> Head {
        let mut bytes = [0; HEAD];
        let length = self.read(&mut bytes, 0).unwrap_or(0);
        Head::of(&bytes[..length])
    }

    /// Whether the bytes before a place are those that were there. A place before which nothing was taken fits always.
    fn has_tail(&self, place: &Place) -> bool {
        if place.tail_length == 0 {
            return true;
        }
        let mut bytes = [0; TAIL];
        let length = place.tail_length.min(TAIL);
        let begin = place.offset.saturating_sub(length as u64);
        self.read(&mut bytes[..length], begin).is_ok_and(|read| read == length)
            && rotation::hash(&bytes[..length]) == place.tail
    }

    fn is_finished(&self, now: Instant) -> bool {
        self.is_read() && now.saturating_duration_since(self.grown_at) >= REST
    }

    fn is_read(&self) -> bool {
        self.places.iter().all(|place| place.offset >= self.size)
    }

    /// Whether it was deleted and read to its end. What a glob does not find may still be there under another name.
    fn is_done(&self, now: Instant) -> bool {
        let is_deleted = |file: &File| file.metadata().is_ok_and(|of| of.nlink() == 0);
        !self.is_present && self.is_finished(now) && self.file.as_ref().is_some_and(is_deleted)
    }

    /// Closes it, and remembers where it stands now.
    fn close(&mut self) {
        if let Some(file) = self.file.take() {
            let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            self.closed_at = link.unwrap_or_else(|_| self.path.clone());
        }
    }

    /// What has become of a closed file.
    fn rest(&self) -> Rest {
        match fs::metadata(&self.closed_at) {
            Ok(of) if Identity::of(&of) == self.identity && of.len() == self.size => Rest::Quiet,
            Ok(of) if Identity::of(&of) == self.identity => Rest::Changed,
            Err(error) if error.kind() != io::ErrorKind::NotFound => Rest::Quiet, // it cannot be said
            _ if self.is_present => Rest::Quiet,                                  // the next scan tells
            _ => Rest::Gone,
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = fs::OpenOptions::new().read(true).custom_flags(not_blocking()).open(&self.closed_at)?;
        if Identity::of(&file.metadata()?) == self.identity {
            self.file = Some(file);
        }
        Ok(())
    }

    /// Whether it stands where it was found.
    fn stands(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|of| Identity::of(&of) == self.identity)
    }

    fn kept(&self, sources: &[Source], sinks: &[String]) -> Kept {
        let source = sources.get(self.origin.source).map(|source| source.name.clone());
        Kept {
            identity: self.identity,
            head: self.head,
            id: self.id,
            generation: self.generation,
            path: self.path.clone(),
            folder: self.folder.clone(),
            source: source.unwrap_or_default(),
            size: self.size,
            places: sinks.iter().cloned().zip(self.places.iter().copied()).collect(),
        }
    }
}

/// A named pipe in the place of a file must not stop the thread.
const fn not_blocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// What a sink has taken of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    pub(crate) file: u64,
    pub(crate) generation: u32,
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
    shelf: Shelf,
    most_open: usize,
    closed_looked_at: Instant,
    checkpoint: PathBuf,
    /// Whether there are files, or ids of files, that the checkpoint does not have yet.
    pub(crate) has_new: bool,
    /// Why the checkpoint could not be written.
    pub(crate) problem: Option<String>,
    /// The bytes of files that were gone when the shipper began, which sinks had not got.
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
            shelf: shelf.clone(),
            most_open: most_open(),
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
        catalog.find_renamed(now, kept);
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
        let Held { kept, file, closed_at, lost_size, grown_at, is_present } = held;
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
        };
        self.files.insert(self.next, tailed);
        self.next += 1;
    }

    /// The source of a file that was known: the one whose globs fit its path, else the one whose name it has.
    fn source_of(&self, kept: &Kept) -> Option<(usize, &Source)> {
        let covering = self.sources.iter().position(|source| covers(source, &kept.path));
        let place = covering.or_else(|| self.sources.iter().position(|source| source.name == kept.source))?;
        Some((place, self.sources.get(place)?))
    }

    /// Forgets files that stand where they were found, and that no glob of the configuration fits any more. Those that were
    /// renamed are read to their ends.
    fn drop_uncovered(&mut self) {
        let sources = &self.sources;
        let is_covered = |file: &Tailed| sources.iter().any(|source| covers(source, &file.path));
        self.files.retain(|_, file| is_covered(file) || !file.stands());
    }

    /// Whether a further file may be opened. A file that is quiet and read to its end is closed for it.
    fn make_room(&mut self, now: Instant) -> bool {
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
    fn look_at_closed(&mut self, now: Instant) {
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

    fn note_problem(&mut self, problem: String) {
        if self.notices.due(std::time::Instant::now()).is_some() {
            tracing::warn!(
                "how far files were delivered cannot be kept, so that a restart sends records again: {problem}"
            );
        }
        self.problem = Some(problem);
    }

    /// Looks for new files, and for those that are gone. Returns whether there are any.
    pub(crate) fn scan(&mut self, now: Instant) -> bool {
        let mut kept = std::mem::take(&mut self.left);
        let is_changed = self.scan_with(now, &mut kept);
        self.left = kept;
        is_changed
    }

    fn scan_with(&mut self, now: Instant, kept: &mut Vec<Kept>) -> bool {
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
            let is_present = present.contains(key) || file.is_present && blind.contains(&file.origin.source);
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
        let known = self.files.iter().find(|(_, file)| file.identity == identity).map(|(key, _)| *key);
        if known.is_some() {
            return known;
        }
        if self.files.len() >= MOST_FILES || !self.make_room(now) {
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
            self.lost += file.places.iter().map(|place| kept.size.saturating_sub(place.offset)).sum::<u64>();
            file.truncated(kept.size, file.size, now);
        } else if file.is_read() && file.size == kept.size {
            file.grown_at = now.checked_sub(REST).unwrap_or(now); // others may have its descriptor
        }
    }

    /// Opens files that the last process had and that no glob finds now, because they were renamed meanwhile.
    fn find_renamed(&mut self, now: Instant, mut kept: Vec<Kept>) {
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
                let (named, before) = (of.path.clone(), kept.len());
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
                } else if let Some(file) = self.files.get_mut(&key) {
                    file.is_present = false;
                }
            }
        }
        kept.retain(|kept| self.sources.iter().any(|source| source.name == kept.source));
        for gone in kept {
            let places = gone.places.iter().filter(|(sink, _)| self.sinks.contains(sink));
            let lost: u64 = places.map(|(_, place)| gone.size.saturating_sub(place.offset)).sum();
            if lost > 0 {
                tracing::warn!(file = %gone.path.display(), bytes = lost, "a file was deleted, compressed or written anew before it was shipped to its end");
                self.lost += lost;
            }
        }
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
            // until a while after the last byte, what lines wait for changes with time
            is_busy |= now.saturating_duration_since(file.grown_at) <= OVER + QUIET;
        }
        let before = self.files.len();
        self.files.retain(|_, file| !file.is_done(now));
        self.has_new |= self.files.len() != before;
        is_busy
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
        let kept: Vec<Kept> = known.chain(self.left.iter().cloned()).collect();
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
            lost_size: file.lost_size,
            grown_at: file.grown_at,
            is_present: file.is_present,
        };
        self.shelf.put(files.into_values().map(held).collect());
    }
}

fn covers(source: &Source, path: &Path) -> bool {
    source.files.iter().any(|glob| glob::covers(glob, path))
}

fn most_open() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.and_then(|limit| usize::try_from(limit / SHARE_OF_DESCRIPTORS).ok());
    share.unwrap_or(MOST_OPEN).clamp(16, MOST_OPEN)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use pillion_model::logs::{Destination, Sink, SinkUrl};

    use super::*;

    pub(super) struct Folder(pub(super) PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn place() -> Folder {
        let root = std::env::temp_dir().join(format!(
            "pillion-catalog-{}-{}",
            std::process::id(),
            fastrand::u64(..)
        ));
        fs::create_dir_all(&root).unwrap();
        Folder(root)
    }

    fn logs(root: &Path) -> Logs {
        let to = Destination::Http { url: SinkUrl::new("http://127.0.0.1:1").unwrap() };
        let sink = Sink { name: "hook".to_owned(), to, headers: Vec::new(), trust_bundle: None };
        let source = Source { files: vec![format!("{}/*.log", root.display())], ..Source::new("app") };
        Logs { sources: vec![source], sinks: vec![sink], checkpoint: root.join("state"), ..Logs::default() }
    }

    /// The same with sinks of these names.
    fn logs_to(root: &Path, names: &[&str]) -> Logs {
        let logs = logs(root);
        let sink = |name: &&str| Sink { name: (*name).to_owned(), ..logs.sinks[0].clone() };
        Logs { sinks: names.iter().map(sink).collect(), ..logs }
    }

    fn open(root: &Path) -> Catalog {
        open_as(&logs(root))
    }

    fn open_as(logs: &Logs) -> Catalog {
        fs::create_dir_all(&logs.checkpoint).unwrap();
        after(logs, &Shelf::default())
    }

    /// The catalog after a reload.
    fn after(logs: &Logs, shelf: &Shelf) -> Catalog {
        Catalog::open(logs, &Workload::default(), shelf, Instant::now()).unwrap()
    }

    #[tokio::test]
    async fn a_reload_keeps_files_that_were_deleted_open() {
        let (root, shelf) = (place(), Shelf::default());
        fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
        drop(open(&root.0)); // makes the folder of the checkpoint
        let mut catalog = after(&logs_to(&root.0, &["hook"]), &shelf);
        taken(&mut catalog, 0, 4);
        fs::remove_file(root.0.join("a.log")).unwrap();
        catalog.scan(Instant::now());
        drop(catalog);
        let catalog = after(&logs_to(&root.0, &["added", "hook"]), &shelf);
        let file = &catalog.files[&0];
        let offsets: Vec<u64> = file.places.iter().map(|place| place.offset).collect();
        assert_eq!((offsets, catalog.lost, file.is_present), (vec![0, 4], 0, false));
        let mut bytes = [0; 4];
        file.read(&mut bytes, 4).unwrap();
        assert_eq!(&bytes, b"two\n");
    }

    #[tokio::test]
    async fn a_file_that_a_reload_takes_out_of_the_globs_is_shipped_no_more() {
        let (root, shelf) = (place(), Shelf::default());
        for name in ["a.log", "b.log"] {
            fs::write(root.0.join(name), "one\n").unwrap();
        }
        let mut catalog = open(&root.0);
        catalog.shelf = shelf.clone();
        assert_eq!(catalog.files.len(), 2);
        fs::rename(root.0.join("b.log"), root.0.join("b.log.1")).unwrap();
        drop(catalog);
        let mut logs = logs(&root.0);
        logs.sources[0].files = vec![format!("{}/c.log", root.0.display())];
        for shelf in [shelf, Shelf::default()] {
            let catalog = after(&logs, &shelf);
            assert_eq!(places(&catalog), [("b.log".to_owned(), 0, 0)], "its old name is free");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_renamed_is_not_forgotten_while_it_has_a_name() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\n").unwrap();
        let mut catalog = open(&root.0);
        taken(&mut catalog, 0, 4);
        fs::rename(root.0.join("a.log"), root.0.join("a.log.1")).unwrap();
        catalog.scan(Instant::now());
        tokio::time::advance(REST).await;
        catalog.look(Instant::now());
        assert_eq!(catalog.files.len(), 1, "its writer may have it open");
        fs::remove_file(root.0.join("a.log.1")).unwrap();
        catalog.look(Instant::now());
        assert!(catalog.files.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_file_is_closed_for_another_one_and_opened_again_when_it_grows() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\n").unwrap();
        let mut catalog = open(&root.0);
        catalog.most_open = 1;
        taken(&mut catalog, 0, 4);
        fs::write(root.0.join("b.log"), "two\n").unwrap();
        catalog.scan(Instant::now());
        assert_eq!(catalog.files.len(), 1, "a.log is not quiet yet");
        tokio::time::advance(REST).await;
        catalog.scan(Instant::now());
        assert_eq!(places(&catalog), [("a.log".to_owned(), 4, 0), ("b.log".to_owned(), 0, 0)]);
        assert!(catalog.files[&0].file.is_none() && catalog.files[&1].file.is_some());
        taken(&mut catalog, 1, 4);
        let id = catalog.files[&0].id;
        let mut file = fs::OpenOptions::new().append(true).open(root.0.join("a.log")).unwrap();
        file.write_all(b"three\n").unwrap();
        tokio::time::advance(REST).await;
        assert!(catalog.look(Instant::now()));
        assert!(catalog.files[&0].file.is_some() && catalog.files[&1].file.is_none());
        assert_eq!((catalog.lag(0, 0), catalog.files[&0].id), (6, id));
    }

    #[tokio::test]
    async fn what_a_cut_search_does_not_find_is_not_gone() {
        let root = place();
        fs::create_dir(root.0.join("z")).unwrap();
        fs::write(root.0.join("z/a.log"), "one\n").unwrap();
        let mut logs = logs(&root.0);
        logs.sources[0].files = vec![format!("{}/*/*.log", root.0.display())];
        let mut catalog = open_as(&logs);
        assert_eq!(catalog.files.len(), 1);
        catalog.sources[0].files = vec![format!("{}/\0/*.log", root.0.display())]; // cannot be read
        catalog.scan(Instant::now());
        assert!(catalog.files[&0].is_present);
    }

    fn taken(catalog: &mut Catalog, file: u64, offset: u64) {
        let of = &catalog.files[&file];
        let mut tail = vec![0; usize::try_from(offset).unwrap().min(TAIL)];
        let begin = offset - tail.len() as u64;
        of.read(&mut tail, begin).unwrap();
        let place = Place { offset, tail: rotation::hash(&tail), tail_length: tail.len() };
        let read = Read { file, generation: of.generation, place };
        catalog.confirm(0, &[read]);
        catalog.save();
    }

    fn places(catalog: &Catalog) -> Vec<(String, u64, u32)> {
        let of = |file: &Tailed| {
            (
                file.path.file_name().unwrap().to_string_lossy().into_owned(),
                file.places[0].offset,
                file.generation,
            )
        };
        catalog.files.values().map(of).collect()
    }

    #[tokio::test]
    async fn a_restart_goes_on_where_the_sink_was() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
        let mut catalog = open(&root.0);
        assert_eq!(places(&catalog), [("a.log".to_owned(), 0, 0)]);
        taken(&mut catalog, 0, 4);
        let id = catalog.files[&0].id;
        drop(catalog);
        fs::OpenOptions::new()
            .append(true)
            .open(root.0.join("a.log"))
            .unwrap()
            .write_all(b"three\n")
            .unwrap();
        let catalog = open(&root.0);
        assert_eq!(places(&catalog), [("a.log".to_owned(), 4, 0)]);
        assert_eq!((catalog.files[&0].id, catalog.lag(0, 0)), (id, 10));
    }

    #[tokio::test]
    async fn a_sink_that_has_taken_nothing_yet_is_no_truncation() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
        let mut catalog = open_as(&logs_to(&root.0, &["hook", "down"]));
        taken(&mut catalog, 0, 8);
        let id = catalog.files[&0].id;
        drop(catalog);
        let catalog = open_as(&logs_to(&root.0, &["hook", "down", "added"]));
        let offsets: Vec<u64> = catalog.files[&0].places.iter().map(|place| place.offset).collect();
        assert_eq!((offsets, catalog.files[&0].generation, catalog.lost), (vec![8, 0, 0], 0, 0));
        assert_eq!(catalog.files[&0].id, id);
    }

    #[tokio::test]
    async fn two_files_that_were_empty_when_they_were_found_have_other_ids() {
        let root = place();
        fs::write(root.0.join("a.log"), "").unwrap();
        let first = open(&root.0).files[&0].id;
        fs::remove_dir_all(root.0.join("state")).unwrap(); // the inode is that of another file later, or that of another pod
        assert_ne!(open(&root.0).files[&0].id, first);
    }

    #[tokio::test]
    async fn a_file_that_was_renamed_while_nothing_ran_is_found_by_its_inode() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
        let mut catalog = open(&root.0);
        taken(&mut catalog, 0, 4);
        drop(catalog);
        fs::rename(root.0.join("a.log"), root.0.join("a.log.1")).unwrap();
        fs::write(root.0.join("a.log"), "new\n").unwrap();
        let catalog = open(&root.0);
        assert_eq!(places(&catalog), [("a.log".to_owned(), 0, 0), ("a.log".to_owned(), 4, 0)]);
        assert!(!catalog.files[&1].is_present);
    }

    #[tokio::test]
    async fn a_file_that_was_truncated_while_nothing_ran_is_read_from_its_beginning() {
        let root = place();
        let (path, head) = (root.0.join("a.log"), "h".repeat(HEAD));
        for (second, generation, lost) in [
            ("one\n".to_owned(), 0, 5),
            ("one\nTWO\nthree\n".to_owned(), 0, 5),
            (format!("{head}\n"), 1, 5),
            (format!("{head}\nTWO\nthree\n"), 1, 5),
        ] {
            fs::write(&path, format!("{head}\ntwo\nlost\n")).unwrap();
            let mut catalog = open(&root.0);
            taken(&mut catalog, 0, HEAD as u64 + 5);
            drop(catalog);
            fs::write(&path, &second).unwrap(); // the same inode
            let catalog = open(&root.0);
            assert_eq!(places(&catalog), [("a.log".to_owned(), 0, generation)], "{second}");
            assert_eq!(catalog.lost, lost, "{second}");
            fs::remove_dir_all(root.0.join("state")).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_gone_stays_open_until_it_was_taken_and_is_quiet() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\n").unwrap();
        let mut catalog = open(&root.0);
        fs::remove_file(root.0.join("a.log")).unwrap();
        assert!(catalog.scan(Instant::now()) && !catalog.scan(Instant::now()));
        tokio::time::advance(REST).await;
        catalog.look(Instant::now());
        assert_eq!(catalog.files.len(), 1, "the sink has not got it");
        taken(&mut catalog, 0, 4);
        catalog.look(Instant::now());
        assert!(catalog.files.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_truncation_begins_a_generation_with_other_ids() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
        let mut catalog = open(&root.0);
        taken(&mut catalog, 0, 8);
        let id = catalog.files[&0].id;
        fs::write(root.0.join("a.log"), "three\n").unwrap();
        assert!(catalog.look(Instant::now()));
        assert_eq!(places(&catalog), [("a.log".to_owned(), 0, 1)]);
        assert!(catalog.files[&0].id != id && catalog.files[&0].lost_size == 8);
        let now = |is_last| Now { at: Instant::now(), unix: 0, is_last };
        assert_eq!(
            (catalog.files[&0].end(now(false)), catalog.files[&0].end(now(true))),
            (End::Open, End::Over)
        );
        tokio::time::advance(QUIET).await;
        assert_eq!(catalog.files[&0].end(now(false)), End::Quiet);
    }

    #[tokio::test]
    async fn a_checkpoint_that_cannot_be_read_is_put_aside() {
        let root = place();
        fs::write(root.0.join("a.log"), "one\n").unwrap();
        let mut catalog = open(&root.0);
        taken(&mut catalog, 0, 4);
        drop(catalog);
        fs::write(root.0.join("state/checkpoint.json"), "{").unwrap();
        assert_eq!(places(&open(&root.0)), [("a.log".to_owned(), 0, 0)]);
        assert!(root.0.join("state/checkpoint.json.bad").exists());
    }
}
