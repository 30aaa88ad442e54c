//! Notes that the verifiers of one handshake leave for the code that runs the handshake.
//!
//! rustls calls verifiers and session stores deep inside the handshake and passes nothing about the connection to them,
//! and the error that a verifier returns also chooses the alert for the peer. So further facts about a refused
//! certificate, and the end of an accepted one, are noted in a task-local value of the handshake's task.

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
    /// The identity that the refused certificate names, if it can be read.
    pub(super) claimed: Option<SpiffeId>,
    /// Why the certificate was refused, when rustls' own error says less.
    pub(super) rejection: Option<Rejection>,
    /// The client's certificates, if they were verified in this handshake.
    pub(super) verified: Option<Arc<Verified>>,
    /// The last second at which the peer's certificate is valid, in Unix seconds.
    pub(super) holds_until: Option<i64>,
}

tokio::task_local! {
    static NOTES: RefCell<Notes>;
}

/// Runs a handshake, and returns its result with the notes of its verifiers.
pub(super) async fn noting<F: Future>(handshake: F) -> (F::Output, Notes) {
    let noted = async {
        let output = handshake.await;
        (output, NOTES.with(RefCell::take))
    };
    NOTES.scope(RefCell::default(), noted).await
}

/// Notes that a certificate was refused.
pub(super) fn refused(certificate: &CertificateDer<'_>) {
    let claimed = Subject::read(certificate).ok().map(|subject| subject.id);
    note(|notes| notes.claimed = claimed);
}

/// Notes that a certificate was refused for a reason that its error will not fully state.
pub(super) fn rejected(rejection: Rejection) {
    note(|notes| notes.rejection = Some(rejection));
}

/// Notes that a client's certificates were verified.
pub(super) fn set_verified(verified: Arc<Verified>) {
    set_holds_until(verified.not_after);
    note(|notes| notes.verified = Some(verified));
}

pub(super) fn verified() -> Option<Arc<Verified>> {
    NOTES.try_with(|notes| notes.borrow().verified.clone()).ok().flatten()
}

/// Notes how long the peer's certificate is valid. The peer has proven its identity by that certificate, or by a
/// session that began with it.
pub(super) fn set_holds_until(not_after: i64) {
    note(|notes| notes.holds_until = Some(not_after));
}

pub(super) fn holds_until() -> Option<i64> {
    NOTES.try_with(|notes| notes.borrow().holds_until).ok().flatten()
}

/// Changes the notes. Does nothing outside [`noting`], where no code would read them.
fn note(change: impl FnOnce(&mut Notes)) {
    NOTES.try_with(|notes| change(&mut notes.borrow_mut())).unwrap_or_default();
}
