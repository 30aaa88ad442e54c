//! Notices that the files of our identity have changed, and decides whether to load them.
//!
//! A set of files is written one by one, or replaced as a whole by a symlink as Kubernetes does. Half a set is refused,
//! the set in use stays, and the next content is tried again. Half a bundle, or half of the revocation lists, may be
//! readable as such: while a set is in use, the next set is loaded only if two checks in a row found the same content.
//! [`Rotation`] decides and is pure. Deliberately absent: a clock, tasks, and the use of a new set.

use std::time::SystemTime;

use pillion_model::identity::{Crl, Files};

use super::credentials::{Credentials, CredentialsError, MAX_FILE};
use crate::files::{Content, Looked};

/// Seconds until a set that could not be put to use is tried again: soon enough for a certificate that is about to
/// expire, and seldom enough for the log.
const AGAIN: i64 = 10;

/// The content of each file, or why it cannot be read: certificate, key, bundle, revocation lists, and the bundles of
/// other trust domains. `None` for a file that is not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<Content>>);

fn files(source: &Files) -> Vec<Option<Looked>> {
    let crl = match &source.crl {
        Crl::None => None,
        Crl::IfPresent(path) | Crl::Required(path) => Some(path),
    };
    let own = [Some(&source.certificate), Some(&source.key), Some(&source.trust_bundle), crl];
    let all = own.into_iter().chain(source.federation.values().map(Some));
    all.map(|path| path.map(|path| Looked::new(path, MAX_FILE + 1))).collect()
}

/// Whether the content must be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownOrNew {
    /// The content is in use, or was refused before.
    Same,
    Load,
}

/// The content that is in use, and the content that was refused since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    good: Option<Fingerprint>,
    refused: Option<Refused>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    seen: Fingerprint,
    /// The Unix second from which the same content can be used, if only time is wrong.
    again: Option<i64>,
}

impl Rotation {
    /// `now` is in Unix seconds. When the files return to the content in use, an earlier refusal is forgotten.
    pub fn look(&mut self, seen: &Fingerprint, now: i64) -> KnownOrNew {
        if self.good.as_ref() == Some(seen) {
            self.refused = None;
            return KnownOrNew::Same;
        }
        match &self.refused {
            Some(refused) if refused.seen == *seen && refused.again.is_none_or(|again| now < again) => {
                KnownOrNew::Same
            }
            _ => KnownOrNew::Load,
        }
    }

    /// Notes that `seen` is in use. It was read before the set was loaded, so a write in between differs at the next
    /// check.
    pub fn loaded(&mut self, seen: Fingerprint) {
        *self = Self { good: Some(seen), refused: None };
    }

    /// Notes that the set that was loaded last is not in use after all. It is tried again from the Unix second `again`.
    pub fn put_back(&mut self, again: i64) {
        if let Some(seen) = self.good.take() {
            self.refused(seen, Some(again));
        }
    }

    /// Notes that `seen` was refused. `again` is the value of [`CredentialsError::usable_from`].
    pub fn refused(&mut self, seen: Fingerprint, again: Option<i64>) {
        self.refused = Some(Refused { seen, again });
    }
}

fn unix(now: SystemTime) -> i64 {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// The result of a check.
#[derive(Debug)]
pub enum Outcome {
    Same,
    /// A new set was loaded, to be put to use in one swap.
    Swapped(Box<Credentials>),
    /// The new content was refused and the set in use stays. Reported once for each content. `is_missing` tells whether
    /// a file is missing.
    Refused(CredentialsError),
}

/// The files of one identity over time. The first check swaps or refuses.
#[derive(Debug)]
pub struct Rotating {
    source: Files,
    files: Vec<Option<Looked>>,
    /// The content at the last check.
    seen: Option<Fingerprint>,
    rotation: Rotation,
}

impl Rotating {
    pub fn new(source: Files) -> Self {
        Self { files: files(&source), source, seen: None, rotation: Rotation::default() }
    }

    /// Whether the present content was refused, so that the set in use is an older one.
    pub const fn is_refused(&self) -> bool {
        self.rotation.refused.is_some()
    }

    /// Notes that the set of the last check could not be put to use, for a reason outside the files. It is loaded again
    /// at the first check after [`AGAIN`].
    pub fn put_back(&mut self, now: SystemTime) {
        self.rotation.put_back(unix(now) + AGAIN);
    }

    /// Checks the files. Meant to be called every second or two: while nothing changes it costs one `stat` call for each
    /// file. Blocks on file IO.
    pub fn look(&mut self, now: SystemTime) -> Outcome {
        let look = |file: &mut Option<Looked>| file.as_mut().map(|file| file.look(now));
        let seen = Fingerprint(self.files.iter_mut().map(look).collect());
        let stands_still = self.seen.replace(seen.clone()).as_ref() == Some(&seen);
        let may_wait = self.rotation.good.is_some();
        if (may_wait && !stands_still) || self.rotation.look(&seen, unix(now)) == KnownOrNew::Same {
            return Outcome::Same;
        }
        match Credentials::load(&self.source) {
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
