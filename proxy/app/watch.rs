//! Whether the configuration's file says something new.
//!
//! Asked twice a second. What is new must have stood still from one look to the next: an editor may still be writing.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pillion_tls::files::{Content, Looked};

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// More than a configuration may have: what is longer is refused when it is read.
const MOST: u64 = 4 * 1024 * 1024 + 1;
pub(super) struct Watch {
    file: Looked,
    settling: Settling,
}

impl Watch {
    /// What it holds now is not new.
    pub(super) fn new(path: &Path) -> Self {
        let mut file = Looked::new(path, MOST);
        let content = file.look(SystemTime::now());
        Self { file, settling: Settling { known: content, seen: content } }
    }

    /// Whether it holds something new that has stood still since the last look.
    pub(super) fn look(&mut self) -> bool {
        let content = self.file.look(SystemTime::now());
        self.settling.look(content)
    }

    /// What it holds now is known by other means.
    pub(super) fn known(&mut self) {
        let content = self.file.read(SystemTime::now());
        self.settling = Settling { known: content, seen: content };
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use pillion_testkit::Scratch;

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
        fn what_stands_still_is_told_once(contents in prop::collection::vec(0..4_u8, 1..20)) {
            let of = |content: u8| Content::Bytes([content; 32]);
            let mut settling = Settling { known: of(0), seen: of(0) };
            let mut known = 0;
            for content in contents {
                for _ in 0..3 {
                    if settling.look(of(content)) {
                        prop_assert_ne!(known, content);
                        known = content;
                    }
                }
                prop_assert_eq!(known, content);
            }
        }
    }
}
