//! A body that breaks off: what came before reaches the other end first.
//!
//! hyper gives a connection up as soon as a body fails, and throws away what it has not written yet: that may be all of
//! an answer, its head included, and its client takes that for a connection that never answered. So a failed body waits
//! until everything before its error has been written.

use std::sync::Arc;
use std::task::Poll;

use crate::error::BodyError;
use crate::transfer::Observer;

/// The error of an answer's body, until the client has what came before it. The stream that is flushed bounds the
/// wait, and wakes the task.
pub(super) struct Breaking {
    error: Option<BodyError>,
    observer: Arc<dyn Observer>,
}

impl Breaking {
    /// Gives the error back where it need not wait.
    pub(super) fn begin(
        error: BodyError,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Box<Self>, BodyError> {
        match observer {
            Some(observer) if observer.flush().want() => Ok(Box::new(Self { error: Some(error), observer })),
            _ => Err(error),
        }
    }

    pub(super) fn poll(&mut self) -> Poll<Option<BodyError>> {
        if self.observer.flush().is_wanted() { Poll::Pending } else { Poll::Ready(self.error.take()) }
    }
}
