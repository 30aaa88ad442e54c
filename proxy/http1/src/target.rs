//! The four forms of a request's target (RFC 9112, 3.2), and the syntax of a host.

use std::net::Ipv6Addr;

use http::Method;

use crate::error::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `host:port`, for CONNECT only.
    Authority,
    /// `*`, for OPTIONS only.
    Asterisk,
}

/// The form of a target. `Err`: the target is invalid, or its method may not have this form.
pub(crate) fn form(method: &Method, target: &[u8]) -> Result<Form, Fault> {
    if *method == Method::CONNECT {
        let is_sound = split_port(target).is_some_and(|(host, port)| is_host(host) && is_port(port));
        return if is_sound { Ok(Form::Authority) } else { Err(Fault::Target) };
    }
    if !is_text(target) {
        return Err(Fault::Target);
    }
    match target {
        [b'/', ..] => Ok(Form::Origin),
        b"*" if *method == Method::OPTIONS => Ok(Form::Asterisk),
        _ => split_absolute(target).map(|_| Form::Absolute).ok_or(Fault::Target),
    }
}

/// Whether the bytes may stand in a path and a query: those that RFC 3986 allows, and some others that clients send and
/// that all servers read in the same way. A target has no fragment.
fn is_text(target: &[u8]) -> bool {
    match kinds(target) {
        kinds if kinds & NO_TARGET != 0 => false,
        kinds if kinds & NO_ASCII != 0 => std::str::from_utf8(target).is_ok(),
        _ => true,
    }
}

const NO_TARGET: u8 = 1;
const NO_ASCII: u8 = 2;
const NO_HOST: u8 = 4;

/// The kinds of bytes that occur in the text.
fn kinds(text: &[u8]) -> u8 {
    text.iter()
        .fold(0, |kinds, byte| kinds | KINDS.get(usize::from(*byte)).copied().unwrap_or(NO_TARGET | NO_HOST))
}

static KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut place = 0;
    while place < 256 {
        let byte = place as u8;
        let is_target = matches!(byte, b'!'..=b'~' | 0x80..) && !matches!(byte, b'#' | b'<' | b'>' | b'`');
        let is_host = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=');
        #[allow(clippy::indexing_slicing)] // runs in the compiler alone
        {
            kinds[place] = if is_target { 0 } else { NO_TARGET }
                | if byte < 0x80 { 0 } else { NO_ASCII }
                | if is_host { 0 } else { NO_HOST };
        }
        place += 1;
    }
    kinds
};

/// Splits an absolute target into its authority and the rest. User names and passwords are refused, because they are
/// used to deceive people about the host (RFC 9110, 4.2.4).
pub(crate) fn split_absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = target.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = target.split_at_checked(colon)?;
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let is_sound = scheme.len() <= SCHEME_BYTES
        && scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(is_scheme);
    let rest = rest.strip_prefix(b"://").filter(|_| is_sound)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end)?;
    (!authority.is_empty() && is_authority(authority)).then_some((authority, rest))
}

/// As many bytes as `http::Uri` allows.
const SCHEME_BYTES: usize = 64;

/// Whether the text is `host` or `host:port`. An empty text is valid, too (RFC 9110, 7.2).
pub(crate) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = split_port(text).unwrap_or((text, b""));
    text.is_empty() || (is_host(host) && (port.is_empty() || is_port(port)))
}

/// Splits the text at the colon before a port of digits. A colon inside an address in brackets does not count.
fn split_port(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = text.iter().rev().take(PORT_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, port) = text.split_at_checked(text.len() - digits)?;
    rest.strip_suffix(b":").map(|host| (host, port))
}

const PORT_DIGITS: usize = 5;

fn is_port(port: &[u8]) -> bool {
    let digits = (1..=PORT_DIGITS).contains(&port.len()) && port.iter().all(u8::is_ascii_digit);
    let number = || port.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    digits && (port.len() < PORT_DIGITS || number() <= u32::from(u16::MAX))
}

/// Whether the text is a registered name or an address (RFC 3986, 3.2.2). Percent-encoding is refused, because
/// `http::Uri` does not accept it in a host.
fn is_host(host: &[u8]) -> bool {
    if let Some(address) = host.strip_prefix(b"[") {
        let address = address.strip_suffix(b"]").and_then(|address| std::str::from_utf8(address).ok());
        return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    !host.is_empty() && kinds(host) & NO_HOST == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::uri::Authority;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for (text, expected) in [
            ("", true),
            ("orders", true),
            ("orders:80", true),
            ("orders:", true),
            ("a_b.c-d", true),
            ("[::1]", true),
            ("[::1]:80", true),
            (":80", false),
            ("a:65535", true),
            ("a:65536", false),
            ("a:000080", false),
            ("[::1]:65535", true),
            ("[::1]:", true),
            ("[1:2:3:4:5:6:7:8]", true),
            ("a:b", false),
            ("a:1:2", false),
            ("::1", false),
            ("[::1", false),
            ("[]", false),
            ("[1:2:3:4:5:6:7:8:9]", false),
            ("[::ffff:10.0.0.1]:80", true),
            ("[a.b]", false),
            ("[::1]80", false),
            ("a b", false),
            ("a/b", false),
            ("u@a", false),
            ("a%41", false),
            ("\u{e4}", false),
        ] {
            assert_eq!(is_authority(text.as_bytes()), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        /// A host that was accepted can always be written as an authority of HTTP/2.
        #[test]
        fn an_authority_is_one_for_http_2(text in r"[\[\]a-f0-9.:_~!$&'()*+,;=-]{1,24}|\[[0-9a-f:.]{1,40}\](:[0-9]{0,6})?") {
            let is_taken = is_authority(text.as_bytes());
            proptest::prop_assert!(!is_taken || Authority::try_from(text.as_str()).is_ok());
        }
    }
}
