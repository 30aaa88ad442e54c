//! Bounds the work of looking for a path through the certificates that a peer shows.
//!
//! webpki tries every way from a certificate to those that may have issued it, 200,000 steps at most, and reads all
//! certificates that were shown again for most of these steps. A peer can make up 48 certificates, in 11 KiB, that cost it
//! 1.5 s, without any CA. So the steps are counted first. They follow names alone: the names are read once, and no
//! signature is verified.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The steps of all ways together. A chain of three intermediates, each signed by two issuers, has 14. Each step may cost a
/// signature, so a certificate that leads nowhere costs at most as much as 32 of them (2 ms with P-256).
const MOST_STEPS: usize = 32;
/// The intermediates of one path, as many as webpki follows.
const MOST_INTERMEDIATES: usize = 6;

/// Whether the certificates have so few branches that webpki may look for a path.
pub(super) fn are_few(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> bool {
    let Some(own) = Names::read(end_entity) else { return true }; // webpki refuses it at once
    let intermediates = intermediates.iter().filter_map(Names::read).collect();
    Search { intermediates, left: MOST_STEPS, path: Vec::new() }.follow(&own.issuer).is_some()
}

/// The names of a certificate, in DER.
struct Names {
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl Names {
    /// `None` for a certificate that webpki cannot read either.
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(der).ok()?;
        Some(Self { subject: certificate.subject().to_owned(), issuer: certificate.issuer().to_owned() })
    }
}

struct Search {
    intermediates: Vec<Names>,
    left: usize,
    /// The indices of the intermediates that lead to the present one.
    path: Vec<usize>,
}

impl Search {
    /// Counts the steps upwards to the certificates that have the name `issuer`. `None`: there are too many.
    fn follow(&mut self, issuer: &[u8]) -> Option<()> {
        for index in 0..self.intermediates.len() {
            let Some(above) = self.intermediates.get(index) else { continue };
            if above.subject != issuer || self.path.contains(&index) {
                continue;
            }
            self.left = self.left.checked_sub(1)?;
            if self.path.len() < MOST_INTERMEDIATES {
                let next = above.issuer.clone();
                self.path.push(index);
                self.follow(&next)?;
                self.path.pop();
            }
        }
        Some(())
    }
}
