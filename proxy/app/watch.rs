//! Whether a file says something new.
//!
//! Asked twice a second, which costs one `stat`: it sees what events miss, such as the symlinks that Kubernetes swaps
//! under mounted ConfigMaps, or another host's write to a shared volume. What is new must have stood still from one
//! look to the next: an editor may still be writing.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// More than a configuration may have: what is longer is refused when it is read.
const MOST: u64 = 4 * 1024 * 1024 + 1;
/// A file written so lately may be written again without a change of its times, which are as coarse as the kernel's
/// clock tick and, on some volumes, a whole second or two.
const YOUNG: Duration = Duration::from_secs(3);

/// What a file holds, or why it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Bytes(u64),
    Unreadable(io::ErrorKind),
}

/// What tells that a file is another one, or was written to, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
}

pub(super) struct Watch {
    path: PathBuf,
    stamp: Option<Stamp>,
    content: Content,
    settling: Settling,
}

impl Watch {
    /// What it holds now is not new.
    pub(super) fn new(path: &Path) -> Self {
        let content = read(path);
        let settling = Settling { known: content, seen: content };
        Self { path: path.to_owned(), stamp: None, content, settling }
    }

    /// Whether it holds something new that has stood still since the last look.
    pub(super) fn look(&mut self) -> bool {
        let stamp = stamp(&self.path);
        let is_old = stamp.is_some_and(|(stamp, age)| Some(stamp) == self.stamp && age > YOUNG);
        if !is_old {
            self.content = read(&self.path);
            self.stamp = stamp.map(|(stamp, _age)| stamp);
        }
        self.settling.look(self.content)
    }

    /// What it holds now is known by other means.
    pub(super) fn known(&mut self) {
        self.content = read(&self.path);
        self.settling = Settling { known: self.content, seen: self.content };
    }
}

/// Two looks that agree on something new.
struct Settling {
    known: Content,
    seen: Content,
}

impl Settling {
    fn look(&mut self, now: Content) -> bool {
        let stands_still = now == self.seen;
        self.seen = now;
        let is_new = stands_still && now != self.known;
        if is_new {
            self.known = now;
        }
        is_new
    }
}

/// With the time since it was written.
fn stamp(path: &Path) -> Option<(Stamp, Duration)> {
    let metadata = path.metadata().ok()?; // of what a symlink leads to
    let age = SystemTime::now().duration_since(metadata.modified().ok()?).unwrap_or_default();
    let stamp = Stamp {
        file: (metadata.dev(), metadata.ino()),
        size: metadata.size(),
        written: (metadata.mtime(), metadata.mtime_nsec()),
    };
    Some((stamp, age))
}

fn read(path: &Path) -> Content {
    let bytes = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    match bytes() {
        Err(error) => Content::Unreadable(error.kind()),
        Ok(bytes) => {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            Content::Bytes(hasher.finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::scratch::Scratch;

    #[test]
    fn a_file_swapped_under_a_symlink_is_new_once_it_stands_still() {
        let scratch = Scratch::new();
        let (one, two) = (scratch.write("one", "workers: 1"), scratch.write("two", "workers: 2"));
        let (data, next) = (scratch.path("data"), scratch.path("next"));
        symlink(one, &data).unwrap();
        let mut watch = Watch::new(&data);
        assert!(!watch.look());
        symlink(two, &next).unwrap();
        fs::rename(&next, &data).unwrap();
        assert_eq!([watch.look(), watch.look(), watch.look()], [false, true, false]);
    }

    #[test]
    fn a_write_that_changes_neither_size_nor_time_is_seen() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let write = |text: &str, time| {
            fs::write(&path, text).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let now = SystemTime::now();
        write("workers: 1", now);
        let mut watch = Watch::new(&path);
        assert!(!watch.look());
        write("workers: 2", now);
        assert_eq!([watch.look(), watch.look()], [false, true]);
    }

    #[test]
    fn a_file_that_is_gone_and_one_that_comes_are_new_too() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let mut watch = Watch::new(&path);
        fs::write(&path, "workers: 1").unwrap();
        assert_eq!([watch.look(), watch.look(), watch.look()], [false, true, false]);
        fs::remove_file(&path).unwrap();
        assert_eq!([watch.look(), watch.look(), watch.look()], [false, true, false]);
    }

    proptest! {
        /// However it changes: the last thing that it holds is told, once, and nothing is told that it never held.
        #[test]
        fn what_stands_still_is_told_once(contents in prop::collection::vec(0..4_u64, 1..20)) {
            let mut settling = Settling { known: Content::Bytes(0), seen: Content::Bytes(0) };
            let mut known = 0;
            for content in contents {
                for _ in 0..3 {
                    if settling.look(Content::Bytes(content)) {
                        prop_assert_ne!(known, content);
                        known = content;
                    }
                }
                prop_assert_eq!(known, content);
            }
        }
    }
}
