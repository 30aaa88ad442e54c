//! `dns`: the DNS proxy.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::listener::listen;
use super::{Remarks, Surroundings, Trail};
use crate::file;
use crate::shape::Typed;
use crate::value::OffOr;
use pillion_model::dns::{Dns, NameServers};

const DNS_PORT: u16 = 15053;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Loopback alone: others have name servers of their own. On both families, as a redirected question over IPv6
/// arrives at ::1.
pub(super) fn dns(
    file: Option<OffOr<file::Dns>>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Option<Dns> {
    let file = file?.set()?;
    let own = vec![(Ipv4Addr::LOCALHOST, DNS_PORT).into(), (Ipv6Addr::LOCALHOST, DNS_PORT).into()];
    let listen = listen(file.listen, own, at, remarks);
    warn_of_wildcards(&listen, at, remarks);
    let upstream = match file.upstream {
        None => NameServers::File(PathBuf::from(RESOLV_CONF)),
        Some(file::NameServers::File(path)) => NameServers::File(around.folder.join(path)),
        Some(file::NameServers::List(servers)) => {
            refuse_bad(&servers, &listen, &at.key("upstream"), remarks);
            NameServers::List(servers)
        }
    };
    let virtual_addresses = file.virtual_addresses.is_none_or(|Typed(on)| on);
    Some(Dns { listen, upstream, virtual_addresses })
}

/// An answer over UDP leaves from the address that the route back prefers, which is not the one that a redirected
/// question came to: the kernel then does not know it as its answer, and the client never hears it.
fn warn_of_wildcards(listen: &[SocketAddr], at: &Trail<'_>, remarks: &mut Remarks) {
    if let Some(all) = listen.iter().find(|own| own.ip().is_unspecified()) {
        let loopback = if all.is_ipv4() { "127.0.0.1" } else { "[::1]" };
        remarks
            .warn(
                &at.key("listen"),
                format!(
                    "has {all}: redirected questions over UDP (`pillion init --dns`) get no answer there"
                ),
            )
            .help(format!("write {loopback}:{}; nobody but this host is answered anyway", all.port()));
    }
}

/// What is forwarded to an own listener is forwarded for ever.
fn refuse_bad(servers: &[SocketAddr], listen: &[SocketAddr], at: &Trail<'_>, remarks: &mut Remarks) {
    if servers.is_empty() {
        remarks
            .error(at, "is empty")
            .help("write the addresses of name servers, or leave it out for /etc/resolv.conf");
    }
    for (nth, server) in servers.iter().enumerate() {
        let Some(own) = listen.iter().find(|own| reaches(*server, **own)) else { continue };
        let what = format!("is {server}, where the DNS proxy itself listens ({own}): a loop");
        let of_list = at.index(nth);
        let at = if servers.len() > 1 { &of_list } else { at }; // a single one may stand there without a list
        remarks.error(at, what).help("write the name servers that the DNS proxy should ask");
    }
}

/// Whether what is sent to `server` arrives at a listener on `own`.
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
