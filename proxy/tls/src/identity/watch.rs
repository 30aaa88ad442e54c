//! Notices that the files of our identity have changed, and decides what to do about it.
//!
//! A set is written file by file, or swapped whole by a symlink as Kubernetes does: half a set is refused, the one in
//! use stays, and whatever comes next is tried again. Half a bundle, or half of the revocation lists, may well be
//! readable: where a set is in use, the next one must have stood still from one look to the next. [`Rotation`] decides
//! and is pure. Deliberately absent: a clock, tasks, and what a new set is put to use in.

use std::time::SystemTime;

use pillion_model::identity::{Crl, Source};

use super::credentials::{Credentials, CredentialsError, MAX_FILE};
use crate::files::{Content, Looked};

/// Seconds until what could not be put to use is tried again: often enough for a certificate that is about to end, and
/// seldom enough for the log.
const AGAIN: i64 = 10;

/// What the files of a set hold, or why they cannot be read: certificate, key, bundle, revocation lists; `None` for
/// what is not configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([Option<Content>; 4]);

fn files(source: &Source) -> [Option<Looked>; 4] {
    let crl = match &source.crl {
        Crl::None => None,
        Crl::IfPresent(path) | Crl::Required(path) => Some(path),
    };
    let all = [Some(&source.certificate), Some(&source.key), Some(&source.trust_bundle), crl];
    all.map(|path| path.map(|path| Looked::new(path, MAX_FILE + 1)))
}

/// What to do about what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownOrNew {
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
    pub fn look(&mut self, seen: Fingerprint, now: i64) -> KnownOrNew {
        if self.good == Some(seen) {
            self.refused = None;
            return KnownOrNew::Same;
        }
        match self.refused {
            Some(refused) if refused.seen == seen && refused.again.is_none_or(|again| now < again) => {
                KnownOrNew::Same
            }
            _ => KnownOrNew::Load,
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
    source: Source,
    files: [Option<Looked>; 4],
    /// By the last look.
    seen: Option<Fingerprint>,
    rotation: Rotation,
}

impl Rotating {
    pub fn new(source: Source) -> Self {
        Self { files: files(&source), source, seen: None, rotation: Rotation::default() }
    }

    /// Whether what is there was refused, and the set in use is an older one.
    pub const fn is_refused(&self) -> bool {
        self.rotation.refused.is_some()
    }

    /// What the last look brought could not be put to use, for a reason that lies elsewhere: it is brought again at
    /// the first look after [`AGAIN`].
    pub fn put_back(&mut self, now: SystemTime) {
        self.rotation.put_back(unix(now) + AGAIN);
    }

    /// For every second or two: four `stat`s, no more, while nothing changes. Blocks on file IO.
    pub fn look(&mut self, now: SystemTime) -> Outcome {
        let look = |file: &mut Option<Looked>| file.as_mut().map(|file| file.look(now));
        let seen = Fingerprint(self.files.each_mut().map(look));
        let stands_still = self.seen.replace(seen) == Some(seen);
        let may_wait = self.rotation.good.is_some();
        if (may_wait && !stands_still) || self.rotation.look(seen, unix(now)) == KnownOrNew::Same {
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
