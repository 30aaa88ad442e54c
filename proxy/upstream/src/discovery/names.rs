//! The addresses of a host that is no cluster: of an unknown destination, or of a server that a command names.
//!
//! The C library is not asked. Its look-up holds a thread for each name, and in a static binary it loads the host's own
//! modules.

use std::cell::OnceCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pillion_base::net::Network;
use pillion_base::race::interleaved;
use pillion_model::cluster::DnsRecords;
use tokio::time::timeout;

use super::{Answer, Resolver};

/// The time limit of a look-up, the wait for its turn included. A caller that waits for an answer has no more.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The number of addresses of one name that are tried.
const MOST: usize = 4;

thread_local! {
    /// A resolver keeps sockets on the runtime of its thread, so each worker has its own.
    static SYSTEM: OnceCell<Arc<Resolver>> = const { OnceCell::new() };
}

/// At most four addresses of a host, at least one, in the order in which they should be tried: the order of the answer,
/// with the families taking turns. `host` may be an address, without brackets.
///
/// # Errors
/// The name has no address, or none was found within five seconds.
pub async fn addresses(network: &Network, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some(ip) = literal(host) {
        return Ok(vec![(ip, port).into()]);
    }
    let resolver = match network {
        Network::Memory(memory) => return memory.resolve(host, port).map(to_try),
        Network::Os => SYSTEM.with(|known| Arc::clone(known.get_or_init(|| Arc::new(Resolver::system())))),
    };
    look_up(&resolver, host, port).await
}

/// The address that a host is, also in the forms of inet_aton(3), which programs understand: `127.1`, `0x7f000001`.
fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok().or_else(|| ipv4_of_numbers(host).map(IpAddr::V4))
}

/// One to four numbers, of which the last one fills the bytes that are left.
fn ipv4_of_numbers(host: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last().filter(|(_, first)| first.len() < 4)?;
    let bits_left = 32 - 8 * u32::try_from(first.len()).ok()?;
    if first.iter().any(|byte| *byte > 255) || last.checked_shr(bits_left).unwrap_or(0) > 0 {
        return None;
    }
    let begun = first.iter().fold(0_u32, |all, byte| (all << 8) | byte);
    Some(Ipv4Addr::from(begun.checked_shl(bits_left).unwrap_or(0) | last))
}

/// A number in decimal, in octal after `0`, or in hexadecimal after `0x`.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| u32::from_str_radix(digits, radix).ok())?
}

async fn look_up(resolver: &Resolver, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let records = DnsRecords::Addresses { name: host.to_owned(), port };
    match timeout(PATIENCE, resolver.ask(&records)).await {
        Ok(Answer::Found { addresses, .. }) => Ok(to_try(addresses.into_iter().map(|ip| (ip, port).into()))),
        Ok(Answer::Nothing(why) | Answer::NotOffered(why)) => {
            Err(io::Error::new(io::ErrorKind::NotFound, why))
        }
        Ok(Answer::Failed(why)) => Err(io::Error::other(why)),
        Ok(Answer::Services { .. }) => Err(io::ErrorKind::NotFound.into()), // not asked for
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Both families are among the addresses that are tried, where the name has both.
fn to_try(found: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found = interleaved(found);
    found.truncate(MOST);
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::{DnsServer, Folder, Script};
    use super::*;

    fn text(found: &[SocketAddr]) -> Vec<String> {
        found.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn both_families_are_among_the_four_addresses_that_are_tried() {
        let server = DnsServer::start().await;
        let v4 = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];
        server.say(
            "large.test.",
            &Script::Records(v4.iter().chain(&["2001:db8::1"]).map(|ip| ip.parse().unwrap()).collect()),
        );
        let (resolver, _folder) = server.resolver("", "");
        let found = look_up(&resolver, "large.test", 80).await.unwrap();
        assert_eq!(text(&found), ["192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.2:80", "192.0.2.3:80"]);
    }

    /// What a look-up finds with these servers, which have shares of some milliseconds. `system` has the test of the shares.
    async fn asked_in_turn(server: &DnsServer, servers: &[&str]) -> Vec<String> {
        let folder = Folder::new();
        let lines: String = servers.iter().map(|ip| format!("nameserver {ip}\n")).collect();
        std::fs::write(folder.0.join("resolv.conf"), lines).unwrap();
        let mut resolver = Resolver::of(folder.files(server.address.port()));
        resolver.for_all = Duration::from_millis(60);
        text(&look_up(&resolver, "orders.test.", 80).await.unwrap())
    }

    #[tokio::test]
    async fn the_third_server_is_asked_after_two_that_are_silent() {
        let (server, _silent) = DnsServer::beside(&["127.0.0.2", "127.0.0.3"]).await;
        server.say("orders.test.", &Script::Records(vec!["192.0.2.1".parse().unwrap()]));
        let found = asked_in_turn(&server, &["127.0.0.2", "127.0.0.3", "127.0.0.1"]).await;
        assert_eq!(found, ["192.0.2.1:80"]);
    }

    #[tokio::test]
    async fn a_server_that_takes_longer_than_its_share_counts_beside_others_that_are_silent() {
        let (server, _silent) = DnsServer::beside(&["127.0.0.2", "127.0.0.3"]).await;
        let slow = Script::Slow(Duration::from_millis(100), vec!["192.0.2.1".parse().unwrap()]);
        server.say("orders.test.", &slow);
        let found = asked_in_turn(&server, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
        assert_eq!(found, ["192.0.2.1:80"]);
    }

    #[tokio::test]
    async fn an_error_says_whether_the_name_or_the_server_is_at_fault() {
        let server = DnsServer::start().await;
        let (resolver, _folder) = server.resolver("", "");
        let gone = look_up(&resolver, "gone.test.", 80).await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(gone.to_string().contains("gone.test."), "{gone}");
    }

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
        assert_eq!(text(&addresses(&Network::Os, "2001:db8::1", 80).await.unwrap()), ["[2001:db8::1]:80"]);
    }

    #[test]
    fn the_forms_of_inet_aton_are_addresses_too() {
        for (host, ip) in [
            ("127.1", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0177.0.1", "127.0.0.1"),
            ("10.1.515", "10.1.2.3"),
            ("0", "0.0.0.0"),
        ] {
            assert_eq!(literal(host).map(|ip| ip.to_string()).as_deref(), Some(ip), "{host}");
        }
        for host in ["", "127.", "256.1", "1.2.3.4.5", "1.2.3.256", "4294967296", "0x", "08", "+1", "a.1"] {
            assert_eq!(literal(host), None, "{host}");
        }
    }
}
