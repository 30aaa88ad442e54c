//! The bytes that may stand in methods and in the names of fields.

/// The bytes of a token (RFC 9110, 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    IS_TOKEN.get(usize::from(byte)).copied().unwrap_or_default()
}

static IS_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::indexing_slicing)] // runs in the compiler alone
        {
            table[byte] = (byte as u8).is_ascii_alphanumeric()
                || matches!(
                    byte as u8,
                    b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
                );
        }
        byte += 1;
    }
    table
};
