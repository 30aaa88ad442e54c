//! Reads certificates and revocation lists out of PEM text, and leaves none out.
//!
//! The reader of `pki-types` skips a block whose `-----BEGIN` is not at the start of a line, as where two files were
//! joined and the first lacks its last line end. So the blocks that were read are compared with those that the text
//! begins.

use rustls::pki_types::pem::{self, PemObject};

/// Why the blocks cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadBlocks {
    #[error("it is not valid PEM: {0}; it may be half written or cut off")]
    Pem(pem::Error),
    #[error(
        "only {read} of {begun} blocks `{}` can be read: each must begin with a line `-----BEGIN {}-----` of its own, \
         without spaces before it", kind.label(), kind.label()
    )]
    Unread { read: usize, begun: usize, kind: Kind },
}

/// The blocks that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Certificate,
    RevocationList,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Certificate => "CERTIFICATE",
            Self::RevocationList => "X509 CRL",
        }
    }

    /// How the labels of these blocks end, also those that no reader here knows, such as `TRUSTED CERTIFICATE`.
    const fn label_end(self) -> &'static [u8] {
        match self {
            Self::Certificate => b" CERTIFICATE",
            Self::RevocationList => b" CRL",
        }
    }
}

/// All blocks of a kind. There may be none.
///
/// # Errors
/// A block cannot be read, or would be left out.
pub(super) fn blocks<T: PemObject>(text: &[u8], kind: Kind) -> Result<Vec<T>, BadBlocks> {
    let blocks: Vec<T> =
        T::pem_slice_iter(without_mark(text)).collect::<Result<_, _>>().map_err(BadBlocks::Pem)?;
    match (blocks.len(), begun(text, kind)) {
        (read, begun) if read < begun => Err(BadBlocks::Unread { read, begun, kind }),
        _ => Ok(blocks),
    }
}

/// How many blocks of this kind begin in the text, wherever in a line.
fn begun(text: &[u8], kind: Kind) -> usize {
    let between_dashes = text.split(|byte| *byte == b'-').map(<[u8]>::trim_ascii);
    between_dashes.filter(|label| label.starts_with(b"BEGIN ") && label.ends_with(kind.label_end())).count()
}

/// The text after the byte order mark that some editors write before it. With the mark, the first line would not be
/// PEM.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
