//! Tells whether a file has changed. A check of an unchanged file costs one `stat`.
//!
//! Checking at intervals notices changes that file events miss: the symlinks that Kubernetes swaps under mounted
//! ConfigMaps and Secrets, and writes by another host to a shared volume. Deliberately absent: a clock, tasks, and the
//! use of the new content.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

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
    /// Reads at most `most` bytes of the file. Of a folder, the names of its entries. Blocks on file IO.
    pub fn read(path: &Path, most: u64) -> Self {
        let bytes = || {
            if path.is_dir() {
                return names(path, most).map(Zeroizing::new);
            }
            let file = File::open(path)?;
            let size = file.metadata()?.len().min(most);
            // it may be a private key: it is wiped, and does not grow, which would leave copies
            let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
            file.take(most).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        match bytes() {
            Ok(bytes) => Self::Bytes(sha256(&bytes)),
            Err(error) => Self::Unreadable(error.kind()),
        }
    }
}

/// The names of the entries of a folder, in an order that does not depend on the file system.
fn names(folder: &Path, most: u64) -> io::Result<Vec<u8>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX) / 256; // a name has at most 255 bytes
    let names = fs::read_dir(folder)?.take(most).map(|entry| Ok(entry?.file_name().into_vec()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names.join(&b'/'))
}

/// A file that is checked from time to time, and read when it may have changed.
#[derive(Debug, Clone)]
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
    use super::*;
    use pillion_testkit::Scratch;

    #[test]
    fn a_folder_has_other_content_when_an_entry_was_added() {
        let scratch = Scratch::new();
        scratch.write("one", "1");
        let read = || Content::read(&scratch.path(""), 1000);
        let first = read();
        assert_eq!(read(), first);
        scratch.write("two", "2");
        assert!(matches!(read(), Content::Bytes(_)) && read() != first);
    }

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
