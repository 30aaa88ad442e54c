//! Whether a file holds something new, asked again and again for the price of a `stat`.
//!
//! Looking sees what events miss: the symlinks that Kubernetes swaps under mounted ConfigMaps and Secrets, or another
//! host's write to a shared volume. Deliberately absent: a clock, tasks, and what is made of something new.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::sha256;

/// A file written so lately may be written again without a change of its times, which are as coarse as the kernel's
/// clock tick and, on some volumes, two whole seconds.
const YOUNG: Duration = Duration::from_secs(3);

/// What a file holds, or why it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The SHA-256; of a file that is too large, of as much as is read.
    Bytes([u8; 32]),
    Unreadable(io::ErrorKind),
}

impl Content {
    /// Reads a file of at most `most` bytes. Blocks on file IO.
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

/// A file that is looked at from time to time, and read if it may hold something new.
#[derive(Debug)]
pub struct Looked {
    path: PathBuf,
    most: u64,
    last: Option<(Option<Stamp>, Content)>,
}

impl Looked {
    /// Nothing is read yet. `most`: as for [`Content::read`].
    pub fn new(path: &Path, most: u64) -> Self {
        Self { path: path.to_owned(), most, last: None }
    }

    /// As [`Content::read`]. Blocks on file IO.
    pub fn look(&mut self, now: SystemTime) -> Content {
        let stamp = Stamp::of(&self.path, now); // before it is read: what is written in between is read again
        let is_old = |last: &Stamp| stamp.as_ref().is_some_and(|(stamp, age)| stamp == last && *age > YOUNG);
        match &self.last {
            Some((Some(last), content)) if is_old(last) => *content,
            _ => self.read_anew(stamp.map(|(stamp, _)| stamp)),
        }
    }

    /// Reads the file, whatever its times say.
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

/// What tells that a file is another one, or was written to, without reading it. Of what symlinks lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    /// The status too: a copy that keeps the time of writing cannot keep that of the inode.
    times: [(i64, i64); 2],
}

impl Stamp {
    /// With the time since it was written or changed.
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
    fn a_write_that_keeps_size_and_time_is_seen_however_late() {
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
