//! Notices that the files of our identity have changed, and decides what to do about it.
//!
//! A set is written file by file, or swapped whole by a symlink as Kubernetes does: half a set is refused, the one in
//! use stays, and whatever comes next is tried again. [`Rotation`] decides and is pure; [`Fingerprint`] and [`Looker`]
//! read. Deliberately absent: a clock, tasks, and what a new set is put to use in.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pillion_config::identity::{Crl, Source};

use super::credentials::{Credentials, CredentialsError, MAX_FILE};
use crate::tls::sha256;

/// A file written so lately may be written again without a change of its times, which are as coarse as the kernel's
/// clock tick and, on some volumes, two whole seconds.
const YOUNG: Duration = Duration::from_secs(3);

/// Seconds until what could not be put to use is tried again: often enough for a certificate that is about to end, and
/// seldom enough for the log.
const AGAIN: i64 = 10;

/// What the files of a set hold, or why they cannot be read: certificate, key, bundle, revocation lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([Content; 4]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    NotConfigured,
    /// Their SHA-256; of a file that is too large, of as much as is read.
    Bytes([u8; 32]),
    Unreadable(io::ErrorKind),
}

impl Fingerprint {
    /// Reads them all. Blocks on file IO.
    pub fn of(source: &Source) -> Self {
        Self(paths(source).map(|path| path.map_or(Content::NotConfigured, Content::read)))
    }
}

impl Content {
    fn read(path: &Path) -> Self {
        let bytes = || {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        match bytes() {
            Ok(bytes) => Self::Bytes(sha256(&bytes)),
            Err(error) => Self::Unreadable(error.kind()),
        }
    }
}

fn paths(source: &Source) -> [Option<&Path>; 4] {
    let crl = match &source.crl {
        Crl::None => None,
        Crl::IfPresent(path) | Crl::Required(path) => Some(path.as_path()),
    };
    [Some(source.certificate.as_path()), Some(source.key.as_path()), Some(source.trust_bundle.as_path()), crl]
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

/// Takes fingerprints again and again: a `stat` for each file that has not been touched for a while.
#[derive(Debug)]
pub struct Looker {
    source: Source,
    last: [(Option<Stamp>, Content); 4],
}

impl Looker {
    pub fn new(source: Source) -> Self {
        Self { source, last: [(None, Content::NotConfigured); 4] }
    }

    /// As [`Fingerprint::of`]. Blocks on file IO.
    pub fn look(&mut self, now: SystemTime) -> Fingerprint {
        for (path, last) in paths(&self.source).into_iter().zip(&mut self.last) {
            let Some(path) = path else { continue };
            let stamp = Stamp::of(path, now);
            let is_old = stamp.is_some_and(|(stamp, age)| Some(stamp) == last.0 && age > YOUNG);
            if !is_old {
                // stamped before it is read: what is written in between is read again
                *last = (stamp.map(|(stamp, _)| stamp), Content::read(path));
            }
        }
        Fingerprint(self.last.map(|(_, content)| content))
    }
}

/// What to do about what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Known: in use, or refused before.
    Same,
    Load,
}

/// What is in use, and what has been refused since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    good: Option<Fingerprint>,
    refused: Option<Refused>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused {
    seen: Fingerprint,
    /// Unix seconds; when time alone makes it usable.
    again: Option<i64>,
}

impl Rotation {
    /// `now` in Unix seconds. A return to what is in use forgets what was refused meanwhile.
    pub fn look(&mut self, seen: Fingerprint, now: i64) -> Verdict {
        if self.good == Some(seen) {
            self.refused = None;
            return Verdict::Same;
        }
        match self.refused {
            Some(refused) if refused.seen == seen && refused.again.is_none_or(|again| now < again) => {
                Verdict::Same
            }
            _ => Verdict::Load,
        }
    }

    /// `seen` was looked at before it was loaded: what is written in between differs at the next look.
    pub fn loaded(&mut self, seen: Fingerprint) {
        *self = Self { good: Some(seen), refused: None };
    }

    /// What was loaded last is not in use after all, and is worth another look from `again` on, in Unix seconds.
    pub fn put_back(&mut self, again: i64) {
        if let Some(seen) = self.good.take() {
            self.refused(seen, Some(again));
        }
    }

    /// `again` as [`CredentialsError::usable_from`] has it.
    pub fn refused(&mut self, seen: Fingerprint, again: Option<i64>) {
        self.refused = Some(Refused { seen, again });
    }
}

fn unix(now: SystemTime) -> i64 {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// What a look came to.
#[derive(Debug)]
pub enum Outcome {
    Same,
    /// All of it is to be put to use in one swap.
    Swapped(Box<Credentials>),
    /// The set in use stays; told once for each content. `is_missing` where there is nothing there yet.
    Refused(CredentialsError),
}

/// The files of one identity over time. The first look swaps or refuses.
#[derive(Debug)]
pub struct Rotating {
    looker: Looker,
    rotation: Rotation,
}

impl Rotating {
    pub fn new(source: Source) -> Self {
        Self { looker: Looker::new(source), rotation: Rotation::default() }
    }

    pub fn certificate(&self) -> &PathBuf {
        &self.looker.source.certificate
    }

    /// What the last look brought could not be put to use, for a reason that lies elsewhere: it is brought again at
    /// the first look after [`AGAIN`].
    pub fn put_back(&mut self, now: SystemTime) {
        self.rotation.put_back(unix(now) + AGAIN);
    }

    /// For every second or two: four `stat`s, no more, while nothing changes. Blocks on file IO.
    pub fn look(&mut self, now: SystemTime) -> Outcome {
        let seen = self.looker.look(now);
        if self.rotation.look(seen, unix(now)) == Verdict::Same {
            return Outcome::Same;
        }
        match Credentials::load(&self.looker.source) {
            Ok(credentials) => {
                self.rotation.loaded(seen);
                Outcome::Swapped(Box::new(credentials))
            }
            Err(error) => {
                self.rotation.refused(seen, error.usable_from());
                Outcome::Refused(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
