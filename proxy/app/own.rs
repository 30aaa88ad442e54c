//! The identity of this sidecar, if it is known yet.

use std::sync::Arc;
use std::time::SystemTime;

use pillion_model::identity::Files;

use pillion_tls::identity::credentials::{Credentials, CredentialsError};
use pillion_tls::identity::watch::{Outcome, Rotating};

#[derive(Clone)]
pub(super) enum Identity {
    /// No identity is configured: everything is plaintext.
    None,
    /// The certificates do not exist yet; the text says why.
    Awaited(Arc<str>),
    Known(Arc<Credentials>),
}

impl Identity {
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        match self {
            Self::Known(credentials) => Some(credentials),
            Self::None | Self::Awaited(_) => None,
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Known(one), Self::Known(other)) => Arc::ptr_eq(one, other),
            (Self::None, Self::None) | (Self::Awaited(_), Self::Awaited(_)) => true,
            _ => false,
        }
    }
}

/// The identity of files, read for the first time. A file that is missing, or not valid at this time, is awaited.
///
/// # Errors
/// A file exists but cannot be used.
pub(super) fn at_start(source: &Files) -> Result<(Identity, Rotating), CredentialsError> {
    let mut rotating = Rotating::new(source.clone());
    match rotating.look(SystemTime::now()) {
        Outcome::Swapped(credentials) => Ok((Identity::Known(Arc::new(*credentials)), rotating)),
        Outcome::Refused(why) if why.is_awaited() => {
            Ok((Identity::Awaited(why.to_string().into()), rotating))
        }
        Outcome::Refused(why) => Err(why),
        // the first look never returns this
        Outcome::Same => Ok((Identity::Awaited("they have not been read yet".into()), rotating)),
    }
}
