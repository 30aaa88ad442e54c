//! Asks the servers of resolv.conf for the addresses of a name.
//!
//! Works like glibc: first the hosts file, then the servers in their order. Unlike glibc, a search stops at a domain
//! that could not be asked: otherwise an outage would resolve the name in another domain.
//! Deliberately absent: a cache. Names are looked up at each refresh, whatever their records' time to live is.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Answer, FamilyAnswer};
use super::search::{absolute, candidates};
use super::system::{Files, Stamp, System};

/// The number of look-ups at once, over all services. Each sends two questions.
const AT_ONCE: usize = 64;

/// The time limit over all servers and search domains, which is shorter than most pauses after a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// The system's resolver. Changes of its files are noticed at the next look-up, because laptops change networks and
/// containers get new hosts.
#[derive(Debug)]
pub struct Resolver {
    files: Files,
    current: Mutex<Option<(Stamp, Arc<System>)>>,
    turns: Semaphore,
}

impl Resolver {
    /// Uses /etc/resolv.conf and /etc/hosts.
    pub fn system() -> Self {
        Self::of(Files::system())
    }

    pub fn of(files: Files) -> Self {
        Self { files, current: Mutex::new(None), turns: Semaphore::new(AT_ONCE) }
    }

    /// Looks up the A and AAAA records of a name. Returns within 10 s, after a wait for one of the places for look-ups.
    pub async fn ask(&self, name: &str) -> Answer {
        let Ok(_turn) = self.turns.acquire().await else {
            return Answer::Failed("the resolver is closed".into());
        };
        let Ok(parsed) = Name::from_str_relaxed(name) else {
            return Answer::Failed(format!("\"{name}\" is no name that DNS can hold"));
        };
        let system = self.system_now();
        let asked = timeout(PATIENCE, Box::pin(find(&system, &parsed))).await;
        asked.unwrap_or_else(|_elapsed| Answer::Failed(format!("no answer within {PATIENCE:?}")))
    }

    fn system_now(&self) -> Arc<System> {
        let stamp = self.files.stamp();
        let mut current = self.current.lock();
        match &*current {
            Some((read_at, system)) if *read_at == stamp => Arc::clone(system),
            before => {
                let system = Arc::new(self.files.read(before.as_ref().map(|(_, system)| &**system)));
                *current = Some((stamp, Arc::clone(&system)));
                system
            }
        }
    }
}

async fn find(system: &System, name: &Name) -> Answer {
    if let found @ Answer::Found { .. } = in_hosts(system, &absolute(name)) {
        return found;
    }
    let servers = match &system.servers {
        Ok(servers) => servers,
        Err(why) => return Answer::Failed(why.clone()),
    };
    let names = candidates(name, servers.ndots, &servers.search);
    let mut failed = None;
    for server in &servers.all {
        match search(&server.resolver, &names).await {
            Answer::Failed(why) => failed = Some(format!("{}: {why}", server.address)),
            answer => return answer,
        }
    }
    Answer::Failed(failed.unwrap_or_else(|| "no server to ask".into()))
}

fn in_hosts(system: &System, name: &Name) -> Answer {
    let said = |family| match system.hosts.lookup_static_host(&Query::query(name.clone(), family)) {
        Some(found) => {
            FamilyAnswer::from_addresses(found.answers().iter().filter_map(|record| record.data.ip_addr()))
        }
        None => FamilyAnswer::Nothing("not in the hosts file".into()),
    };
    Answer::join(said(RecordType::A), said(RecordType::AAAA))
}

/// The addresses of the first name that has some. Stops at a name that could not be asked for.
async fn search(server: &TokioResolver, names: &[Name]) -> Answer {
    let mut denied = None;
    for name in names {
        let questions = (question(server, name, RecordType::A), question(server, name, RecordType::AAAA));
        let (v4, v6) = tokio::join!(questions.0, questions.1);
        match Answer::join(v4, v6) {
            Answer::Nothing(why) => denied = Some(why),
            answer => return answer,
        }
    }
    Answer::Nothing(denied.unwrap_or_else(|| "no name to ask for".into()))
}

async fn question(server: &TokioResolver, name: &Name, family: RecordType) -> FamilyAnswer {
    match server.lookup(name.clone(), family).await {
        Ok(found) => match found.message().metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => FamilyAnswer::from_addresses(
                found.answers().iter().filter_map(|record| record.data.ip_addr()),
            ),
            code => FamilyAnswer::Failed(code.to_string()),
        },
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            FamilyAnswer::Nothing(match none.response_code {
                ResponseCode::NXDomain => format!("no such name: {name} (NXDOMAIN)"),
                _ => format!("{name} has no addresses"),
            })
        }
        Err(error) => FamilyAnswer::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::discovery::answer::Family;
    use crate::discovery::testing::{DnsServer, Folder, Script};

    fn ips(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn records(addresses: &[&str]) -> Script {
        Script::Records(ips(addresses))
    }

    fn found(addresses: &[&str]) -> Answer {
        Answer::Found { addresses: ips(addresses), unanswered: None }
    }

    #[tokio::test]
    async fn a_name_has_the_addresses_of_both_families_or_of_one() {
        let server = DnsServer::start().await;
        server.say("both.test.", &records(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        server.say("four.test.", &records(&["192.0.2.1"]));
        server.say("six.test.", &records(&["2001:db8::1"]));
        let (resolver, _folder) = server.resolver("", "");
        assert_eq!(resolver.ask("both.test").await, found(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        assert_eq!(resolver.ask("four.test").await, found(&["192.0.2.1"]));
        assert_eq!(resolver.ask("six.test").await, found(&["2001:db8::1"]));
    }

    #[tokio::test]
    async fn every_look_up_asks_the_server_whatever_the_time_to_live() {
        let server = DnsServer::start().await;
        server.say("orders.test.", &records(&["192.0.2.1"]));
        let (resolver, _folder) = server.resolver("", "");
        assert_eq!(resolver.ask("orders.test.").await, found(&["192.0.2.1"]));
        server.say("orders.test.", &records(&["192.0.2.2"]));
        assert_eq!(resolver.ask("orders.test.").await, found(&["192.0.2.2"]));
        server.say("orders.test.", &Script::Code(ResponseCode::NXDomain));
        assert!(matches!(resolver.ask("orders.test.").await, Answer::Nothing(_)));
        server.say("orders.test.", &records(&["192.0.2.3"]));
        assert_eq!(resolver.ask("orders.test.").await, found(&["192.0.2.3"]));
    }

    #[tokio::test]
    async fn no_such_name_and_no_records_are_distinguished_from_failures() {
        let server = DnsServer::start().await;
        server.say("empty.test.", &records(&[]));
        server.say("broken.test.", &Script::Code(ResponseCode::ServFail));
        server.say("refused.test.", &Script::Code(ResponseCode::Refused));
        let (resolver, _folder) = server.resolver("", "");
        let gone = Answer::Nothing("no such name: gone.test. (NXDOMAIN)".into());
        assert_eq!(resolver.ask("gone.test.").await, gone);
        assert_eq!(resolver.ask("empty.test.").await, Answer::Nothing("empty.test. has no addresses".into()));
        for (name, words) in [("broken.test.", "Server Failure"), ("refused.test.", "Query Refused")] {
            let Answer::Failed(why) = resolver.ask(name).await else { panic!("{name}") };
            assert!(why.contains(words) && why.contains("127.0.0.1"), "{why}");
        }
    }

    #[tokio::test]
    async fn a_truncated_answer_is_asked_for_again_over_tcp() {
        let server = DnsServer::start().await;
        server.say("large.test.", &Script::Truncated(ips(&["192.0.2.1", "2001:db8::1"])));
        let (resolver, _folder) = server.resolver("", "");
        assert_eq!(resolver.ask("large.test").await, found(&["192.0.2.1", "2001:db8::1"]));
        let _server = server.restart().await; // its TCP connection is closed
        assert_eq!(resolver.ask("large.test.").await, found(&["192.0.2.1", "2001:db8::1"]));
    }

    #[tokio::test]
    async fn a_family_that_fails_does_not_hide_the_other() {
        let server = DnsServer::start().await;
        server.say("half.test.", &records(&["192.0.2.1"]));
        server.say_of("half.test.", RecordType::AAAA, Script::Code(ResponseCode::ServFail));
        let (resolver, _folder) = server.resolver("", "");
        let Answer::Found { addresses, unanswered: Some((Family::V6, _)) } = resolver.ask("half.test").await
        else {
            panic!("half an answer")
        };
        assert_eq!(addresses, ips(&["192.0.2.1"]));
    }

    #[tokio::test]
    async fn search_domains_are_tried_in_order_and_the_search_stops_at_one_that_fails() {
        let server = DnsServer::start().await;
        server.say("orders.b.test.", &records(&["192.0.2.2"]));
        let (resolver, _folder) = server.resolver("search a.test b.test\noptions ndots:5", "");
        assert_eq!(resolver.ask("orders").await, found(&["192.0.2.2"]));
        let mut asked = server.asked();
        asked.sort();
        let expected = ["A orders.a.test.", "A orders.b.test.", "AAAA orders.a.test.", "AAAA orders.b.test."];
        assert_eq!(asked, expected);
        server.say("orders.a.test.", &Script::Code(ResponseCode::ServFail));
        assert!(matches!(resolver.ask("orders").await, Answer::Failed(_)));
        assert!(matches!(resolver.ask("orders.").await, Answer::Nothing(_)));
    }

    #[tokio::test]
    async fn the_hosts_file_is_used_first_and_changed_files_are_noticed() {
        let server = DnsServer::start().await;
        server.say("orders.test.", &records(&["192.0.2.1"]));
        let (resolver, folder) = server.resolver("", "203.0.113.1 orders.test\n2001:db8::7 orders.test\n");
        assert_eq!(resolver.ask("orders.test").await, found(&["203.0.113.1", "2001:db8::7"]));
        assert!(server.asked().is_empty());
        std::fs::write(folder.0.join("hosts"), "203.0.113.1 other.test").unwrap();
        assert_eq!(resolver.ask("orders.test").await, found(&["192.0.2.1"]));
        std::fs::remove_file(folder.0.join("resolv.conf")).unwrap();
        assert_eq!(resolver.ask("orders.test").await, found(&["192.0.2.1"]), "servers known before are kept");
    }

    #[tokio::test]
    async fn the_hosts_file_is_used_when_there_is_no_server() {
        let folder = Folder::new();
        std::fs::write(folder.0.join("hosts"), "203.0.113.1 orders").unwrap();
        let resolver = Resolver::of(folder.files(53));
        assert_eq!(resolver.ask("orders").await, found(&["203.0.113.1"]));
        let Answer::Failed(why) = resolver.ask("other").await else { panic!("no server") };
        assert!(why.contains("resolv.conf"), "{why}");
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_not_there() {
        let server = DnsServer::start().await;
        server.say("orders.test.", &records(&["192.0.2.1"]));
        let (resolver, folder) = server.resolver("", "");
        let nobody_first = "nameserver 127.0.0.2\nnameserver 127.0.0.1\noptions timeout:1";
        std::fs::write(folder.0.join("resolv.conf"), nobody_first).unwrap();
        assert_eq!(resolver.ask("orders.test").await, found(&["192.0.2.1"]));
    }

    #[tokio::test]
    async fn a_server_without_an_answer_is_a_failure_that_names_it() {
        let server = DnsServer::start().await;
        server.say("silent.test.", &Script::Silent);
        let (resolver, _folder) = server.resolver("options timeout:1", "");
        let Answer::Failed(why) = resolver.ask("silent.test.").await else { panic!("silence") };
        assert_eq!(why, "127.0.0.1: request timed out");
    }

    #[tokio::test]
    async fn a_name_that_dns_cannot_hold_has_no_addresses() {
        let server = DnsServer::start().await;
        let (resolver, _folder) = server.resolver("", "");
        for name in ["a..b", &"a".repeat(64), ""] {
            assert!(matches!(resolver.ask(name).await, Answer::Failed(_) | Answer::Nothing(_)), "{name}");
        }
    }
}
