//! What the judges of one handshake leave for the one who shakes hands.
//!
//! rustls calls verifiers and session stores deep inside the handshake and tells them nothing of the connection, and
//! the error that a verifier returns also chooses the alert for the peer. So what else is known of a refused
//! certificate, and for how long an accepted one holds, is noted beside it, in the handshake's own task.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use pillion_model::SpiffeId;
use rustls::pki_types::CertificateDer;

use super::known::Verified;
use super::rejection::Rejection;
use crate::identity::Subject;

#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Whom the refused certificate names, where that can be read.
    pub(super) claimed: Option<SpiffeId>,
    /// Why it was refused, where rustls has fewer words for that.
    pub(super) rejection: Option<Rejection>,
    /// What the client has shown, where that was verified in this handshake.
    pub(super) verified: Option<Arc<Verified>>,
    /// Unix seconds; the last at which the peer's certificate holds.
    holds_until: Option<i64>,
}

tokio::task_local! {
    static NOTES: RefCell<Notes>;
}

/// Runs a handshake, and returns what its judges noted.
pub(super) async fn noting<F: Future>(handshake: F) -> (F::Output, Notes) {
    let noted = async {
        let output = handshake.await;
        (output, NOTES.with(RefCell::take))
    };
    NOTES.scope(RefCell::default(), noted).await
}

/// A certificate was refused.
pub(super) fn refused(certificate: &CertificateDer<'_>) {
    let claimed = Subject::read(certificate).ok().map(|subject| subject.id);
    note(|notes| notes.claimed = claimed);
}

/// A certificate was refused, and more is known than its error will say.
pub(super) fn rejected(rejection: Rejection) {
    note(|notes| notes.rejection = Some(rejection));
}

/// A client's certificates are good, and those of a server that has admitted it so far.
pub(super) fn set_verified(verified: Arc<Verified>) {
    set_holds_until(verified.not_after);
    note(|notes| notes.verified = Some(verified));
}

pub(super) fn verified() -> Option<Arc<Verified>> {
    NOTES.try_with(|notes| notes.borrow().verified.clone()).ok().flatten()
}

/// The peer has proven who it is, with a certificate or with a session that one began.
pub(super) fn set_holds_until(not_after: i64) {
    note(|notes| notes.holds_until = Some(not_after));
}

pub(super) fn holds_until() -> Option<i64> {
    NOTES.try_with(|notes| notes.borrow().holds_until).ok().flatten()
}

/// Outside a handshake that takes notes nobody would read them.
fn note(change: impl FnOnce(&mut Notes)) {
    NOTES.try_with(|notes| change(&mut notes.borrow_mut())).unwrap_or_default();
}
