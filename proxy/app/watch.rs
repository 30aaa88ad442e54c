//! Notices new content of the configuration file.
//!
//! The file is read twice a second. New content must be the same in two successive looks, because an editor may still
//! be writing.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pillion_tls::files::{Content, Looked};

/// The time between two looks.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// One byte more than a configuration may have. Longer content is refused when the configuration is read.
const MOST: u64 = 4 * 1024 * 1024 + 1;
pub(super) struct Watch {
    file: Looked,
    settling: Settling,
}

impl Watch {
    /// The current content counts as known.
    pub(super) fn new(path: &Path) -> Self {
        let mut file = Looked::new(path, MOST);
        let content = file.look(SystemTime::now());
        Self { file, settling: Settling { known: content, seen: content } }
    }

    /// Whether the file has new content that has not changed since the last look.
    pub(super) fn look(&mut self) -> bool {
        let content = self.file.look(SystemTime::now());
        self.settling.look(content)
    }

    /// Marks the current content as known.
    pub(super) fn known(&mut self) {
        let content = self.file.read(SystemTime::now());
        self.settling = Settling { known: content, seen: content };
    }
}

/// Detects new content on which two successive looks agree.
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
    fn what_two_looks_have_found_is_in_use_within_a_second() {
        assert!(2 * EVERY <= Duration::from_secs(1), "docs/security.md promises this for revoked peers");
    }

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
    fn a_write_that_changes_neither_size_nor_time_is_noticed() {
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
    fn a_removed_file_and_a_created_file_are_new_content() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let mut watch = Watch::new(&path);
        fs::write(&path, "workers: 1").unwrap();
        assert_eq!([watch.look(), watch.look(), watch.look()], [false, true, false]);
        fs::remove_file(&path).unwrap();
        assert_eq!([watch.look(), watch.look(), watch.look()], [false, true, false]);
    }

    proptest! {
        /// Whatever the changes are, the last content is reported once, and no content is reported that the file never
        /// had.
        #[test]
        fn content_that_stays_the_same_is_reported_once(contents in prop::collection::vec(0..4_u8, 1..20)) {
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
