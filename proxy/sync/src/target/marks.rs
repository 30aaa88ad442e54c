//! Small files beside a target, by which one process tells the next what has become of a version.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use pillion_tls::sha256;

use super::super::version::Digest;
use super::super::walk::shown;
use super::disk::{name, parent, read, remove};
use super::{FILES, FOLDERS, Target};

impl Target {
    /// The file that says which version of which source `sync` has written, for the question whether a version is there after
    /// a restart while the source is away.
    fn mark(&self) -> PathBuf {
        self.beside("mark")
    }

    /// The file that says which version the application has not been told of yet.
    fn untold(&self) -> PathBuf {
        self.beside("untold")
    }

    fn beside(&self, what: &str) -> PathBuf {
        match self.is_folder {
            true => self.path.join(format!("{FOLDERS}{what}")),
            false => parent(&self.path).join(format!("{FILES}{what}.{}", name(&self.path))),
        }
    }

    /// Remembers that the application must be told of this version, also by a process after this one.
    pub(crate) fn set_untold(&self, digest: &Digest) {
        write_mark(&self.untold(), digest);
    }

    pub(crate) fn is_untold(&self, digest: &Digest) -> bool {
        is_mark(&self.untold(), digest)
    }

    /// The mark of another version stays: at a takeover the other sidecar may have put it there meanwhile.
    pub(crate) fn set_told(&self, digest: &Digest) {
        if self.is_untold(digest) {
            remove(&self.untold());
        }
    }

    /// Remembers that this content came from the source.
    pub(crate) fn set_mark(&self, digest: &Digest) {
        if !self.has_mark(digest) {
            write_mark(&self.mark(), &self.of_source(digest)); // without it, the next start waits for the source
        }
    }

    /// Whether this content came from the source once.
    pub(crate) fn has_mark(&self, digest: &Digest) -> bool {
        is_mark(&self.mark(), &self.of_source(digest))
    }

    fn of_source(&self, digest: &Digest) -> Digest {
        sha256(&[self.from, *digest].concat())
    }
}

fn write_mark(mark: &Path, digest: &Digest) {
    remove(mark); // it may be a symlink, which is not followed
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(mark);
    if let Err(error) = new.and_then(|mut new| new.write_all(digest)) {
        tracing::debug!(path = shown(mark), "a version cannot be remembered: {error}");
    }
}

fn is_mark(mark: &Path, digest: &Digest) -> bool {
    read(mark, digest.len()).is_ok_and(|mark| mark.as_deref() == Some(digest.as_slice()))
}
