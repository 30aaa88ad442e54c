//! Tells whether a file has changed. A check of an unchanged file costs one `stat`.
//!
//! Checking at intervals notices changes that file events miss: the symlinks that Kubernetes swaps under mounted
//! ConfigMaps and Secrets, and writes by another host to a shared volume. Deliberately absent: a clock, tasks, and the
//! use of the new content.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::sha256;

/// A file that was written within this time is read again at each check. It may be written again without a change of
/// its times, which are as coarse as the kernel's clock tick, and on some volumes as coarse as two seconds.
const YOUNG: Duration = Duration::from_secs(3);

/// The content of a file, or why it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The SHA-256 of the content. For a file that is too large, of the part that is read.
    Bytes([u8; 32]),
    Unreadable(io::ErrorKind),
}

impl Content {
    /// Reads at most `most` bytes of the file. Blocks on file IO.
    pub fn read(path: &Path, most: u64) -> Self {
        let bytes = || {
            let mut bytes = Vec::new();
            File::open(path)?.take(most).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        match bytes() {
            Ok(bytes) => Self::Bytes(sha256(&bytes)),
            Err(error) => Self::Unreadable(error.kind()),
        }
    }
}

/// A file that is checked from time to time, and read when it may have changed.
#[derive(Debug)]
pub struct Looked {
    path: PathBuf,
    most: u64,
    last: Option<(Option<Stamp>, Content)>,
}

impl Looked {
    /// Reads nothing yet. `most` is the limit of [`Content::read`].
    pub fn new(path: &Path, most: u64) -> Self {
        Self { path: path.to_owned(), most, last: None }
    }

    /// The content of the file, read again if it may have changed. Blocks on file IO.
    pub fn look(&mut self, now: SystemTime) -> Content {
        let stamp = Stamp::of(&self.path, now); // taken before the read, so that a later write is noticed
        let is_old = |last: &Stamp| stamp.as_ref().is_some_and(|(stamp, age)| stamp == last && *age > YOUNG);
        match &self.last {
            Some((Some(last), content)) if is_old(last) => *content,
            _ => self.read_anew(stamp.map(|(stamp, _)| stamp)),
        }
    }

    /// Reads the file, even if its times have not changed.
    pub fn read(&mut self, now: SystemTime) -> Content {
        let stamp = Stamp::of(&self.path, now);
        self.read_anew(stamp.map(|(stamp, _)| stamp))
    }

    fn read_anew(&mut self, stamp: Option<Stamp>) -> Content {
        let content = Content::read(&self.path, self.most);
        self.last = Some((stamp, content));
        content
    }
}

/// The metadata that shows, without a read, whether a path leads to another file or the file was written. Symlinks are
/// followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    /// The times of the last write and of the last change of the inode: a copy that keeps the first cannot keep the
    /// second.
    times: [(i64, i64); 2],
}

impl Stamp {
    /// The stamp, and the time since the file was last written or changed.
    fn of(path: &Path, now: SystemTime) -> Option<(Self, Duration)> {
        let metadata = path.metadata().ok()?;
        let times = [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())];
        let latest = times.into_iter().map(|(seconds, _)| seconds).max()?;
        let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(latest).unwrap_or(0));
        let age = now.duration_since(latest).unwrap_or_default();
        Some((Self { file: (metadata.dev(), metadata.ino()), size: metadata.size(), times }, age))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use pillion_testkit::Scratch;

    #[test]
    fn a_write_that_keeps_size_and_modification_time_is_noticed() {
        const DAY: Duration = Duration::from_secs(86_400);
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let write = |text: &str, time| {
            fs::write(&path, text).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let now = SystemTime::now();
        write("one", now - DAY);
        let mut looked = Looked::new(&path, 100);
        let first = looked.look(now);
        assert_eq!((looked.look(now), Content::read(&path, 100)), (first, first));
        write("two", now - DAY);
        assert_ne!(looked.look(now + DAY), first);
    }
}
