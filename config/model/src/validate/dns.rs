//! `dns`: a DNS proxy that would send queries to itself, or whose answers would not arrive.

use std::net::SocketAddr;

use crate::dns::{Dns, NameServers};
use crate::fault::Faults;
use crate::path::Trail;

pub(super) fn validate(dns: &Dns, at: &Trail<'_>, faults: &mut Faults) {
    super::listener::refuse_no_address(&dns.listen, at, faults);
    warn_of_wildcards(&dns.listen, at, faults);
    if let NameServers::List(servers) = &dns.upstream {
        refuse_bad(servers, &dns.listen, &at.key("upstream"), faults);
    }
}

/// An answer over UDP leaves from the address that the route to the client prefers, which may not be the address to
/// which the redirected query came. The kernel then does not recognise the answer, and the client does not receive it.
fn warn_of_wildcards(listen: &[SocketAddr], at: &Trail<'_>, faults: &mut Faults) {
    if let Some(all) = listen.iter().find(|own| own.ip().is_unspecified()) {
        let loopback = if all.is_ipv4() { "127.0.0.1" } else { "[::1]" };
        faults
            .warn(
                &at.key("listen"),
                format!("has {all}: redirected queries over UDP (`pillion init --dns`) get no answer there"),
            )
            .help(format!("write {loopback}:{}; queries from other hosts are never answered", all.port()));
    }
}

/// A query that is forwarded to the DNS proxy's own listener would be forwarded forever.
fn refuse_bad(servers: &[SocketAddr], listen: &[SocketAddr], at: &Trail<'_>, faults: &mut Faults) {
    if servers.is_empty() {
        faults
            .error(at, "is empty")
            .help("write the addresses of name servers, or leave it out for /etc/resolv.conf");
    }
    for (nth, server) in servers.iter().enumerate() {
        let Some(own) = listen.iter().find(|own| reaches(*server, **own)) else { continue };
        let what = format!("is {server}, where the DNS proxy itself listens ({own}): a loop");
        faults.error(&at.index(nth), what).help("write the name servers that the DNS proxy should ask");
    }
}

/// Whether a packet to `server` arrives at a listener on `own`.
fn reaches(server: SocketAddr, own: SocketAddr) -> bool {
    let (to, at) = (server.ip().to_canonical(), own.ip().to_canonical());
    let anywhere = (at.is_unspecified() && to.is_loopback()) || (to.is_unspecified() && at.is_loopback());
    server.port() == own.port() && own.port() != 0 && (to == at || anywhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_reaches_a_listener_at_its_address_or_anywhere() {
        for (server, own, expected) in [
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "0.0.0.0:53", true),
            ("[::ffff:127.0.0.1]:53", "127.0.0.1:53", true),
            ("0.0.0.0:53", "127.0.0.1:53", true),
            ("[::1]:53", "[::]:53", true),
            ("127.0.0.53:53", "127.0.0.1:53", false),
            ("127.0.0.1:53", "127.0.0.1:15053", false),
            ("10.96.0.10:53", "0.0.0.0:53", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(reaches(server.parse().unwrap(), own.parse().unwrap()), expected, "{server} {own}");
        }
    }
}
