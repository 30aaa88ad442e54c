//! The addresses of a host that is no cluster: of an unknown destination, or of a server that a command names.
//!
//! The C library is not asked. Its look-up holds a thread for each name, and in a static binary it loads the host's own
//! modules.

use std::cell::OnceCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pillion_base::net::Network;
use pillion_base::race::interleaved;
use pillion_model::cluster::DnsRecords;
use tokio::time::timeout;

use super::{Answer, Resolver};

/// The time limit of a look-up, the wait for its turn included. A caller that waits for an answer has no more.
const PATIENCE: Duration = Duration::from_secs(5);

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
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    let resolver = match network {
        Network::Memory(memory) => return memory.resolve(host, port).map(to_try),
        Network::Os => SYSTEM.with(|known| Arc::clone(known.get_or_init(|| Arc::new(Resolver::system())))),
    };
    look_up(&resolver, host, port).await
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
    use super::super::testing::{DnsServer, Script};
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
}
