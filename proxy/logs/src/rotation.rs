//! Decides what has become of a file: it goes on, it was cut, or it is another one.
//!
//! Pure, but for the ids, which are random. A file is known by its device and inode and by its first bytes, because inodes are used again. A reader's place in it
//! is known by the bytes before it, because a file may be truncated and written anew between two looks.

use std::fs::Metadata;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::fs::MetadataExt as _;

/// How many of its first bytes a file is known by.
pub(crate) const HEAD: usize = 256;
/// How many bytes before its place a reader remembers.
pub(crate) const TAIL: usize = 64;

/// A hash of few bytes (FNV-1a): stable over releases, because checkpoints hold it.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The first bytes of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// How many there were when it was looked at; at most [`HEAD`].
    pub(crate) length: usize,
    pub(crate) hash: u64,
}

impl Head {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(HEAD)];
        Self { length: bytes.len(), hash: hash(bytes) }
    }

    /// Whether a file that begins with these bytes can be the one that had this head.
    pub(crate) fn fits(self, bytes: &[u8]) -> bool {
        bytes.get(..self.length).is_some_and(|bytes| hash(bytes) == self.hash)
    }
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Identity {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What a file is known by in the ids of its records: 128 random bits, because device, inode and first bytes can be those of
/// another file later, or in another pod. The checkpoint keeps it. `RandomState` has its keys from the kernel.
pub(crate) fn id() -> u128 {
    let random = || u128::from(RandomState::new().build_hasher().finish());
    random() << 64 | random()
}

/// Whether a file that had `before` bytes and has `now` was truncated.
pub(crate) const fn is_truncated(before: u64, now: u64) -> bool {
    now < before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_bytes_while_it_grows() {
        let head = Head::of(b"2026-11-28 first");
        assert!(head.fits(b"2026-11-28 first") && head.fits(b"2026-11-28 first\nsecond"));
        assert!(!head.fits(b"2026-11-29 first\n") && !head.fits(b"2026"));
        assert!(Head::of(b"").fits(b"anything"), "an empty file may become any");
        assert_eq!(Head::of(&[7; 999]).length, HEAD);
    }

    #[test]
    fn an_inode_that_is_used_again_is_another_file() {
        assert!(Head::of(b"old").fits(b"old and more") && !Head::of(b"old").fits(b"new"));
    }

    #[test]
    fn no_two_files_have_the_same_id() {
        let ids: std::collections::HashSet<u128> = (0..1000).map(|_| id()).collect();
        assert_eq!(ids.len(), 1000);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8, "FNV-1a");
    }

    #[test]
    fn a_file_that_is_shorter_than_before_was_truncated() {
        assert!(is_truncated(10, 9) && !is_truncated(10, 10) && !is_truncated(10, 11));
    }
}
