//! Who this sidecar is, as far as that is known yet.

use std::sync::Arc;
use std::time::SystemTime;

use pillion_model::identity::Source;

use pillion_tls::identity::credentials::{Credentials, CredentialsError};
use pillion_tls::identity::watch::{Outcome, Rotating};

#[derive(Clone)]
pub(super) enum Identity {
    /// Nobody said: plaintext.
    None,
    /// Its certificates are not there yet, and why.
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

/// Reads the files for the first time. What is missing, or out of its time, is awaited.
///
/// # Errors
/// What is there and wrong.
pub(super) fn at_start(source: &Source) -> Result<(Identity, Rotating), CredentialsError> {
    let mut rotating = Rotating::new(source.clone());
    match rotating.look(SystemTime::now()) {
        Outcome::Swapped(credentials) => Ok((Identity::Known(Arc::new(*credentials)), rotating)),
        Outcome::Refused(why) if why.is_awaited() => {
            Ok((Identity::Awaited(why.to_string().into()), rotating))
        }
        Outcome::Refused(why) => Err(why),
        Outcome::Same => Ok((Identity::Awaited("they have not been read yet".into()), rotating)), // the first look is none
    }
}
