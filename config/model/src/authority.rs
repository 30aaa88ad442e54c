//! The host and port of a URL that an operator writes.

use std::net::Ipv6Addr;

/// The host without brackets, in lower case, and the port where one is written. `None`: the text is no host with a port.
pub(crate) fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")).map(str::to_owned)?)
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            (!host.is_empty() && host.bytes().all(is_name)).then_some(())?;
            (host, port.to_owned())
        }
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port.as_str() {
        "" if !authority.ends_with(':') => None,
        port => Some(port.parse().ok().filter(|port| is_number && *port != 0)?),
    };
    Some((host.to_ascii_lowercase(), port))
}

/// The host and the port, as a URL names them. The usual port is left out.
pub(crate) fn authority(host: &str, port: u16, usual: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == usual { host } else { format!("{host}:{port}") }
}

/// The usual port of HTTP.
pub(crate) const fn http_port(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}

/// Whether requests can carry this path with its query.
pub(crate) fn is_sendable_path(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte))
}
