//! One file: what it is known by, how far each sink has got it, and what has become of it.
//!
//! It is kept open from when it is found until every sink has got all of it and it has no name any more: so a file that is
//! renamed or deleted is read to its end.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use pillion_model::logs::Source;
use tokio::time::Instant;

use crate::checkpoint::{Kept, Place};
use crate::group::End;
use crate::record::Origin;
use crate::rotation::{self, HEAD, Head, Identity, TAIL};

/// After this time without a new byte a line does not wait for what could belong to it.
pub(super) const QUIET: Duration = Duration::from_secs(1);
/// After this time without a new byte, the last line of a file that is gone from its place counts as ended.
pub(super) const OVER: Duration = Duration::from_secs(5);
/// After this time without a new byte a file may be closed, and one that was deleted is forgotten: its writer may have it open
/// for a while.
pub(super) const REST: Duration = Duration::from_mins(1);

/// A file of a source.
#[derive(Debug)]
pub(crate) struct Tailed {
    /// `None`: it was read to its end, and others needed the descriptor.
    pub(super) file: Option<File>,
    pub(super) identity: Identity,
    pub(super) head: Head,
    /// What its records are known by.
    pub(crate) id: u128,
    /// How often it was truncated.
    pub(crate) generation: u32,
    pub(super) path: PathBuf,
    /// The folder in which it stands, without links.
    pub(super) folder: PathBuf,
    pub(crate) origin: Rc<Origin>,
    pub(crate) size: u64,
    /// How many bytes it had when it was truncated last.
    pub(crate) lost_size: u64,
    pub(super) grown_at: Instant,
    /// Whether a glob finds it.
    pub(super) is_present: bool,
    /// How far each sink has got it.
    pub(crate) places: Vec<Place>,
    /// Where it stood when it was closed, and when it had been written last.
    pub(super) closed_at: PathBuf,
    pub(super) closed_modified: Option<SystemTime>,
}

/// What has become of a closed file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Quiet,
    Changed,
    /// It does not stand there any more.
    Moved,
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

    #[cfg(test)]
    pub(crate) const fn replace_file(&mut self, file: File) -> Option<File> {
        self.file.replace(file)
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.file.is_some()
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
        self.generation = self.generation.wrapping_add(1);
        self.head = self.head_now();
        self.id = rotation::id();
        self.places.fill(Place::default());
    }

    pub(super) fn head_now(&self) -> Head {
        let mut bytes = [0; HEAD];
        let length = self.read(&mut bytes, 0).unwrap_or(0);
        Head::of(&bytes[..length])
    }

    /// Whether the bytes before a place are those that were there. A place before which nothing was taken fits always.
    pub(super) fn has_tail(&self, place: &Place) -> bool {
        self.file.as_ref().is_some_and(|file| has_tail(file, place).unwrap_or(false))
    }

    /// Whether other bytes stand before a place, or none. Of a file that cannot be read it is not known.
    pub(crate) fn has_lost(&self, place: &Place) -> bool {
        self.file.as_ref().is_some_and(|file| !has_tail(file, place).unwrap_or(true))
    }

    pub(super) fn is_finished(&self, now: Instant) -> bool {
        self.is_read() && now.saturating_duration_since(self.grown_at) >= REST
    }

    pub(super) fn is_read(&self) -> bool {
        self.places.iter().all(|place| place.offset >= self.size)
    }

    /// Whether it was deleted and read to its end. What a glob does not find may still be there under another name.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        let is_deleted = |file: &File| file.metadata().is_ok_and(|of| of.nlink() == 0);
        !self.is_present && self.is_finished(now) && self.file.as_ref().is_some_and(is_deleted)
    }

    /// Closes it, and remembers where it stands now.
    pub(super) fn close(&mut self) {
        if let Some(file) = self.file.take() {
            let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            self.closed_at = link.unwrap_or_else(|_| self.path.clone());
            self.closed_modified = file.metadata().ok().and_then(|of| of.modified().ok());
        }
    }

    /// What has become of a closed file.
    pub(super) fn rest(&self) -> Rest {
        let of = match fs::metadata(&self.closed_at) {
            Ok(of) if Identity::of(&of) == self.identity => of,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Rest::Quiet, // it cannot be said
            _ => return Rest::Moved,
        };
        let is_same = of.len() == self.size && of.modified().ok() == self.closed_modified;
        if is_same && self.is_read() { Rest::Quiet } else { Rest::Changed }
    }

    /// Opens a closed file. `false`: it is another one, with an inode that was used again.
    pub(super) fn reopen(&mut self) -> io::Result<bool> {
        let file = fs::OpenOptions::new().read(true).custom_flags(not_blocking()).open(&self.closed_at)?;
        if Identity::of(&file.metadata()?) != self.identity {
            return Ok(true); // the next look tells
        }
        let mut bytes = [0; HEAD];
        let length = read_at(&file, &mut bytes, 0)?;
        for place in &self.places {
            if !has_tail(&file, place)? {
                return Ok(false);
            }
        }
        let is_same = self.head.fits(&bytes[..length]);
        self.file = is_same.then_some(file);
        Ok(is_same)
    }

    /// Whether it is known that it stands no more where it was found.
    pub(super) fn has_left(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(of) => Identity::of(&of) != self.identity,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Whether it stands where it was found.
    pub(super) fn stands(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|of| Identity::of(&of) == self.identity)
    }

    pub(super) fn kept(&self, sources: &[Source], sinks: &[String]) -> Kept {
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

fn has_tail(file: &File, place: &Place) -> io::Result<bool> {
    let mut bytes = [0; TAIL];
    let tail = bytes.get_mut(..place.tail_length.min(TAIL)).unwrap_or_default();
    let read = read_at(file, tail, place.offset.saturating_sub(tail.len() as u64))?;
    Ok(read == tail.len() && (tail.is_empty() || rotation::hash(tail) == place.tail))
}

/// A named pipe in the place of a file must not stop the thread.
pub(super) const fn not_blocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
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
