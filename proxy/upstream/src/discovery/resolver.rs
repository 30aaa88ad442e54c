//! Asks the servers of resolv.conf for the addresses of a name, or for its SRV records and the addresses of their
//! targets.
//!
//! Works like glibc: first the hosts file, then the servers in their order. Unlike glibc, a search stops at a domain
//! that could not be asked: otherwise an outage would resolve the name in another domain. And a server that is silent for its share
//! of the time goes on being asked beside the next one: a slow server still counts, and a dead one costs no more than its share.
//! Deliberately absent: a cache. An answer says how long it may be used, and its reader asks again by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use pillion_model::cluster::DnsRecords;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Answer, FamilyAnswer, Service, SrvRecord};
use super::membership::MOST;
use super::search::{absolute, candidates};
use super::system::{FOR_ALL, Files, Server, Stamp, System, head_start};

/// The number of look-ups at once, over all services. Each sends two questions at once, or two for each of
/// [`TARGETS_AT_ONCE`] targets.
const AT_ONCE: usize = 64;

/// The number of targets of SRV records that one look-up asks for at once.
const TARGETS_AT_ONCE: usize = 8;

/// The time limit over all servers and search domains, which is shorter than most pauses after a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time for all targets of SRV records. Targets without an answer by then have failed, and the others are used.
const PATIENCE_FOR_TARGETS: Duration = Duration::from_secs(5);

/// The system's resolver. Changes of its files are noticed at the next look-up, because laptops change networks and
/// containers get new hosts.
#[derive(Debug)]
pub struct Resolver {
    files: Files,
    current: Mutex<Option<(Stamp, Arc<System>)>>,
    turns: Semaphore,
    /// The time within which all servers are asked: [`FOR_ALL`], except in tests.
    pub(super) for_all: Duration,
}

impl Resolver {
    /// Uses /etc/resolv.conf and /etc/hosts.
    pub fn system() -> Self {
        Self::of(Files::system())
    }

    pub fn of(files: Files) -> Self {
        Self { files, current: Mutex::new(None), turns: Semaphore::new(AT_ONCE), for_all: FOR_ALL }
    }

    /// Looks up the records. Returns within 10 s, after a wait for one of the places for look-ups.
    pub async fn ask(&self, records: &DnsRecords) -> Answer {
        let name = records.name();
        let Ok(_turn) = self.turns.acquire().await else {
            return Answer::Failed("the resolver is closed".into());
        };
        let Ok(parsed) = Name::from_str_relaxed(name) else {
            return Answer::Failed(format!("\"{name}\" is no name that DNS can hold"));
        };
        let Some(system) = self.system_now().await else {
            return Answer::Failed("the look-up was stopped".into());
        };
        let asked =
            timeout(PATIENCE, Box::pin(find(&system, self.for_all, &parsed, Kind::of(records)))).await;
        asked.unwrap_or_else(|_elapsed| Answer::Failed(format!("no answer within {PATIENCE:?}")))
    }

    /// The files are read on a thread for waits, because the workers of the data path look up names too. `None` while the
    /// process ends.
    async fn system_now(&self) -> Option<Arc<System>> {
        let (files, known) = (self.files.clone(), self.current.lock().clone());
        let (stamp, system) = spawn_blocking(move || as_of_now(&files, known)).await.ok()?;
        *self.current.lock() = Some((stamp, Arc::clone(&system)));
        Some(system)
    }
}

/// What is known, if the files have not changed since.
fn as_of_now(files: &Files, known: Option<(Stamp, Arc<System>)>) -> (Stamp, Arc<System>) {
    let stamp = files.stamp();
    match known {
        Some((read_at, system)) if read_at == stamp => (stamp, system),
        before => (stamp, Arc::new(files.read(before.as_ref().map(|(_, system)| &**system)))),
    }
}

/// The records that are looked up.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Addresses,
    Services,
}

impl Kind {
    fn of(records: &DnsRecords) -> Self {
        match records {
            DnsRecords::Addresses { .. } => Self::Addresses,
            DnsRecords::Services { .. } => Self::Services,
        }
    }
}

async fn find(system: &Arc<System>, for_all: Duration, name: &Name, kind: Kind) -> Answer {
    if let (Kind::Addresses, found @ Answer::Found { .. }) = (kind, in_hosts(system, &absolute(name))) {
        return found;
    }
    let servers = match &system.servers {
        Ok(servers) => servers,
        Err(why) => return Answer::Failed(why.clone()),
    };
    let names: Arc<[Name]> = candidates(name, servers.ndots, &servers.search).into();
    let head_start = head_start(for_all, servers.all.len());
    let (mut waiting, mut asked, mut failed) = (servers.all.iter(), JoinSet::new(), None);
    loop {
        if let Some(Server { address, resolver }) = waiting.next().cloned() {
            let (system, names) = (Arc::clone(system), Arc::clone(&names));
            asked.spawn(async move { (address, search(&system, &resolver, &names, kind).await) });
        }
        let answer = match waiting.len() {
            0 => asked.join_next().await,
            _ => match timeout(head_start, asked.join_next()).await {
                Ok(answer) => answer,
                Err(_silent) => continue,
            },
        };
        match answer {
            Some(Ok((address, Answer::Failed(why)))) => failed = Some(format!("{address}: {why}")),
            Some(Ok((_, answer))) => return answer,
            Some(Err(_stopped)) => {}
            None => return Answer::Failed(failed.unwrap_or_else(|| "no server to ask".into())),
        }
    }
}

fn in_hosts(system: &System, name: &Name) -> Answer {
    let said = |family| match system.hosts.lookup_static_host(&Query::query(name.clone(), family)) {
        Some(found) => {
            let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
            FamilyAnswer::from_addresses(addresses, None)
        }
        None => FamilyAnswer::Nothing("not in the hosts file".into()),
    };
    Answer::join(said(RecordType::A), said(RecordType::AAAA))
}

/// The records of the first name that has some. Stops at a name that could not be asked for.
async fn search(system: &Arc<System>, server: &TokioResolver, names: &[Name], kind: Kind) -> Answer {
    let mut denied = None;
    for name in names {
        let answer = match kind {
            Kind::Addresses => addresses(server, name).await,
            Kind::Services => services(system, server, name).await,
        };
        match answer {
            Answer::Nothing(why) => denied = Some(why),
            answer => return answer,
        }
    }
    Answer::Nothing(denied.unwrap_or_else(|| "no name to ask for".into()))
}

async fn addresses(server: &TokioResolver, name: &Name) -> Answer {
    let questions = (question(server, name, RecordType::A), question(server, name, RecordType::AAAA));
    let (v4, v6) = tokio::join!(questions.0, questions.1);
    Answer::join(v4, v6)
}

/// The SRV records of a name, with the addresses of their targets.
async fn services(system: &Arc<System>, server: &TokioResolver, name: &Name) -> Answer {
    let found = match server.lookup(name.clone(), RecordType::SRV).await {
        Ok(found) => found,
        Err(error) => {
            return match failure(name, "SRV records", error) {
                FamilyAnswer::Nothing(why) => Answer::Nothing(why),
                FamilyAnswer::Failed(why) => Answer::Failed(why),
                FamilyAnswer::Addresses(..) => Answer::Failed("no answer".into()),
            };
        }
    };
    match found.message().metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        code => return Answer::Failed(code.to_string()),
    }
    let records = found.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(record) => Some(record),
        _ => None,
    });
    match usable(name, records) {
        Ok((records, too_many)) => {
            let answers = answers_for_targets(system, server, &records).await;
            Answer::of_services(with_answers(records, &answers), too_many, lifetime(&found))
        }
        Err(answer) => answer,
    }
}

/// The records that name a target and a port, in order and without duplicates, and whether there were too many.
fn usable<'a>(name: &Name, all: impl Iterator<Item = &'a SRV>) -> Result<(Vec<SrvRecord>, bool), Answer> {
    let (mut records, mut is_denied) = (BTreeSet::new(), false);
    for SRV { priority, weight, port, target, .. } in all {
        is_denied |= target.is_root();
        if !target.is_root() && *port != 0 {
            let target = absolute(target).to_lowercase().to_string().into();
            records.insert(SrvRecord { priority: *priority, target, port: *port, weight: *weight });
        }
    }
    if records.is_empty() && is_denied {
        return Err(Answer::NotOffered(format!(
            "the SRV record of {name} says that there is no such service"
        )));
    }
    let too_many = records.len() > MOST;
    Ok((records.into_iter().take(MOST).collect(), too_many))
}

/// Looks up each target once: in the hosts file, then at the server.
async fn answers_for_targets(
    system: &Arc<System>,
    server: &TokioResolver,
    records: &[SrvRecord],
) -> BTreeMap<Arc<str>, Answer> {
    let deadline = Instant::now() + PATIENCE_FOR_TARGETS;
    let targets: BTreeSet<Arc<str>> = records.iter().map(|record| record.target.clone()).collect();
    let (mut waiting, mut asked, mut answers) = (targets.into_iter(), JoinSet::new(), BTreeMap::new());
    loop {
        for target in waiting.by_ref().take(TARGETS_AT_ONCE - asked.len()) {
            let (system, server) = (Arc::clone(system), server.clone());
            asked.spawn(async move {
                let answer = timeout_at(deadline, answer_for(&system, &server, &target)).await;
                let late = |_| Answer::Failed(format!("no answer within {PATIENCE_FOR_TARGETS:?}"));
                (target, answer.unwrap_or_else(late))
            });
        }
        match asked.join_next().await {
            Some(Ok((target, answer))) => drop(answers.insert(target, answer)),
            Some(Err(_stopped)) => {}
            None => return answers,
        }
    }
}

async fn answer_for(system: &System, server: &TokioResolver, target: &str) -> Answer {
    let Ok(name) = Name::from_str_relaxed(target) else {
        return Answer::Nothing(format!("\"{target}\" is no name that DNS can hold"));
    };
    match in_hosts(system, &name) {
        found @ Answer::Found { .. } => found,
        _ => bounded(addresses(server, &name).await),
    }
}

/// The answer with at most [`MOST`] addresses.
fn bounded(mut answer: Answer) -> Answer {
    if let Answer::Found { addresses, .. } = &mut answer {
        addresses.sort_unstable();
        addresses.truncate(MOST);
    }
    answer
}

fn with_answers(records: Vec<SrvRecord>, answers: &BTreeMap<Arc<str>, Answer>) -> Vec<Service> {
    let of = |record: SrvRecord| {
        let answer = answers.get(&record.target).cloned();
        Service { addresses: answer.unwrap_or_else(|| Answer::Failed("was not asked".into())), record }
    };
    records.into_iter().map(of).collect()
}

async fn question(server: &TokioResolver, name: &Name, family: RecordType) -> FamilyAnswer {
    match server.lookup(name.clone(), family).await {
        Ok(found) => match found.message().metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
                FamilyAnswer::from_addresses(addresses, lifetime(&found))
            }
            code => FamilyAnswer::Failed(code.to_string()),
        },
        Err(error) => failure(name, "addresses", error),
    }
}

/// The least time to live of the answer's records, aliases (CNAME) included. `None` where there is no record.
fn lifetime(found: &Lookup) -> Option<Duration> {
    let least = found.answers().iter().map(|record| record.ttl).min()?;
    Some(Duration::from_secs(least.into()))
}

/// The meaning of an error of the resolver, which reports an empty answer as an error.
fn failure(name: &Name, wanted: &str, error: NetError) -> FamilyAnswer {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => FamilyAnswer::Nothing(match none.response_code {
            ResponseCode::NXDomain => format!("no such name: {name} (NXDOMAIN)"),
            _ => format!("{name} has no {wanted}"),
        }),
        error => FamilyAnswer::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::discovery::answer::Family;
    use crate::discovery::testing::{DnsServer, Folder, LIFETIME, Script};

    fn ips(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn records(addresses: &[&str]) -> Script {
        Script::Records(ips(addresses))
    }

    fn found(addresses: &[&str]) -> Answer {
        Answer::Found { addresses: ips(addresses), unanswered: None, lifetime: Some(LIFETIME) }
    }

    /// From the hosts file, which has no times to live.
    fn found_in_hosts(addresses: &[&str]) -> Answer {
        Answer::Found { addresses: ips(addresses), unanswered: None, lifetime: None }
    }

    async fn ask(resolver: &Resolver, name: &str) -> Answer {
        resolver.ask(&DnsRecords::Addresses { name: name.into(), port: 80 }).await
    }

    async fn ask_srv(resolver: &Resolver, name: &str) -> Answer {
        resolver.ask(&DnsRecords::Services { name: name.into() }).await
    }

    #[tokio::test]
    async fn a_name_has_the_addresses_of_both_families_or_of_one() {
        let server = DnsServer::start().await;
        server.say("both.test.", &records(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        server.say("four.test.", &records(&["192.0.2.1"]));
        server.say("six.test.", &records(&["2001:db8::1"]));
        let (resolver, _folder) = server.resolver("", "");
        assert_eq!(ask(&resolver, "both.test").await, found(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        assert_eq!(ask(&resolver, "four.test").await, found(&["192.0.2.1"]));
        assert_eq!(ask(&resolver, "six.test").await, found(&["2001:db8::1"]));
    }

    #[tokio::test]
    async fn every_look_up_asks_the_server_and_tells_the_least_time_to_live() {
        let server = DnsServer::start().await;
        server.say("orders.test.", &records(&["192.0.2.1"]));
        let (resolver, _folder) = server.resolver("", "");
        assert_eq!(ask(&resolver, "orders.test.").await, found(&["192.0.2.1"]));
        server.say("orders.test.", &records(&["192.0.2.2"]));
        assert_eq!(ask(&resolver, "orders.test.").await, found(&["192.0.2.2"]));
        server.say("orders.test.", &Script::Code(ResponseCode::NXDomain));
        assert!(matches!(ask(&resolver, "orders.test.").await, Answer::Nothing(_)));
        server.say("orders.test.", &records(&["192.0.2.3"]));
        assert_eq!(ask(&resolver, "orders.test.").await, found(&["192.0.2.3"]));
        server.say_of("_a._tcp.test.", RecordType::SRV, Script::Services(vec![(0, 0, 80, "orders.test.")]));
        for seconds in [7, 0] {
            server.set_lifetime(seconds);
            let expected = Some(Duration::from_secs(seconds.into()));
            assert_eq!(ask(&resolver, "orders.test.").await.lifetime(), expected);
            assert_eq!(ask_srv(&resolver, "_a._tcp.test.").await.lifetime(), expected);
        }
    }

    #[tokio::test]
    async fn no_such_name_and_no_records_are_distinguished_from_failures() {
        let server = DnsServer::start().await;
        server.say("empty.test.", &records(&[]));
        server.say("broken.test.", &Script::Code(ResponseCode::ServFail));
        server.say("refused.test.", &Script::Code(ResponseCode::Refused));
        let (resolver, _folder) = server.resolver("", "");
        let gone = Answer::Nothing("no such name: gone.test. (NXDOMAIN)".into());
        assert_eq!(ask(&resolver, "gone.test.").await, gone);
        assert_eq!(
            ask(&resolver, "empty.test.").await,
            Answer::Nothing("empty.test. has no addresses".into())
        );
        for (name, words) in [("broken.test.", "Server Failure"), ("refused.test.", "Query Refused")] {
            let Answer::Failed(why) = ask(&resolver, name).await else { panic!("{name}") };
            assert!(why.contains(words) && why.contains("127.0.0.1"), "{why}");
        }
    }

    #[tokio::test]
    async fn a_truncated_answer_is_asked_for_again_over_tcp() {
        let server = DnsServer::start().await;
        server.say("large.test.", &Script::Truncated(ips(&["192.0.2.1", "2001:db8::1"])));
        let (resolver, _folder) = server.resolver("", "");
        assert_eq!(ask(&resolver, "large.test").await, found(&["192.0.2.1", "2001:db8::1"]));
        let _server = server.restart().await; // its TCP connection is closed
        assert_eq!(ask(&resolver, "large.test.").await, found(&["192.0.2.1", "2001:db8::1"]));
    }

    #[tokio::test]
    async fn a_family_that_fails_does_not_hide_the_other() {
        let server = DnsServer::start().await;
        server.say("half.test.", &records(&["192.0.2.1"]));
        server.say_of("half.test.", RecordType::AAAA, Script::Code(ResponseCode::ServFail));
        let (resolver, _folder) = server.resolver("", "");
        let Answer::Found { addresses, unanswered: Some((Family::V6, _)), .. } =
            ask(&resolver, "half.test").await
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
        assert_eq!(ask(&resolver, "orders").await, found(&["192.0.2.2"]));
        let mut asked = server.asked();
        asked.sort();
        let expected = ["A orders.a.test.", "A orders.b.test.", "AAAA orders.a.test.", "AAAA orders.b.test."];
        assert_eq!(asked, expected);
        server.say("orders.a.test.", &Script::Code(ResponseCode::ServFail));
        assert!(matches!(ask(&resolver, "orders").await, Answer::Failed(_)));
        assert!(matches!(ask(&resolver, "orders.").await, Answer::Nothing(_)));
    }

    #[tokio::test]
    async fn the_hosts_file_is_used_first_and_changed_files_are_noticed() {
        let server = DnsServer::start().await;
        server.say("orders.test.", &records(&["192.0.2.1"]));
        let (resolver, folder) = server.resolver("", "203.0.113.1 orders.test\n2001:db8::7 orders.test\n");
        assert_eq!(ask(&resolver, "orders.test").await, found_in_hosts(&["203.0.113.1", "2001:db8::7"]));
        assert!(server.asked().is_empty());
        std::fs::write(folder.0.join("hosts"), "203.0.113.1 other.test").unwrap();
        assert_eq!(ask(&resolver, "orders.test").await, found(&["192.0.2.1"]));
        std::fs::remove_file(folder.0.join("resolv.conf")).unwrap();
        assert_eq!(
            ask(&resolver, "orders.test").await,
            found(&["192.0.2.1"]),
            "servers known before are kept"
        );
    }

    #[tokio::test]
    async fn the_hosts_file_is_used_when_there_is_no_server() {
        let folder = Folder::new();
        std::fs::write(folder.0.join("hosts"), "203.0.113.1 orders").unwrap();
        let resolver = Resolver::of(folder.files(53));
        assert_eq!(ask(&resolver, "orders").await, found_in_hosts(&["203.0.113.1"]));
        let Answer::Failed(why) = ask(&resolver, "other").await else { panic!("no server") };
        assert!(why.contains("resolv.conf"), "{why}");
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_not_there() {
        let server = DnsServer::start().await;
        server.say("orders.test.", &records(&["192.0.2.1"]));
        let (resolver, folder) = server.resolver("", "");
        let nobody_first = "nameserver 127.0.0.2\nnameserver 127.0.0.1\noptions timeout:1";
        std::fs::write(folder.0.join("resolv.conf"), nobody_first).unwrap();
        assert_eq!(ask(&resolver, "orders.test").await, found(&["192.0.2.1"]));
    }

    #[tokio::test]
    async fn a_server_without_an_answer_is_a_failure_that_names_it() {
        let server = DnsServer::start().await;
        server.say("silent.test.", &Script::Silent);
        let (resolver, _folder) = server.resolver("options timeout:1", "");
        let Answer::Failed(why) = ask(&resolver, "silent.test.").await else { panic!("silence") };
        assert_eq!(why, "127.0.0.1: request timed out");
    }

    /// Priority, target, port, weight, and the addresses if the question for them was answered.
    type Told = (u16, String, u16, u16, Option<Vec<IpAddr>>);

    fn targets(answer: &Answer) -> Vec<Told> {
        let Answer::Services { services, too_many: false, .. } = answer else { panic!("{answer:?}") };
        let tell = |Service { record, addresses }: &Service| {
            let addresses = match addresses {
                Answer::Found { addresses, unanswered: None, .. } => Some(addresses.clone()),
                _ => None,
            };
            (record.priority, record.target.to_string(), record.port, record.weight, addresses)
        };
        services.iter().map(tell).collect()
    }

    #[tokio::test]
    async fn srv_records_have_the_addresses_of_their_targets_and_each_target_is_asked_for_once() {
        let server = DnsServer::start().await;
        let all =
            vec![(1, 0, 80, "B.test."), (1, 2, 81, "b.test."), (0, 5, 80, "a.test."), (2, 1, 0, "a.test.")];
        server.say_of("_http._tcp.orders.test.", RecordType::SRV, Script::Services(all));
        server.say("a.test.", &records(&["192.0.2.1", "2001:db8::1"]));
        let (resolver, _folder) = server.resolver("search test", "203.0.113.9 b.test\n");
        let hosts = Some(ips(&["203.0.113.9"]));
        let expected = [
            (0, "a.test.".to_owned(), 80, 5, Some(ips(&["192.0.2.1", "2001:db8::1"]))),
            (1, "b.test.".to_owned(), 80, 0, hosts.clone()),
            (1, "b.test.".to_owned(), 81, 2, hosts),
        ];
        assert_eq!(targets(&ask_srv(&resolver, "_http._tcp.orders").await), expected);
        let mut asked = server.asked();
        asked.retain(|question| !question.contains("orders"));
        asked.sort();
        assert_eq!(asked, ["A a.test.", "AAAA a.test."]);
    }

    #[tokio::test]
    async fn a_target_that_fails_does_not_hide_the_others() {
        let server = DnsServer::start().await;
        let all = vec![(0, 0, 80, "a.test."), (0, 0, 80, "broken.test."), (0, 0, 80, "gone.test.")];
        server.say_of("_http._tcp.orders.test.", RecordType::SRV, Script::Services(all));
        server.say("a.test.", &records(&["192.0.2.1"]));
        server.say("broken.test.", &Script::Code(ResponseCode::ServFail));
        let (resolver, _folder) = server.resolver("", "");
        let answer = ask_srv(&resolver, "_http._tcp.orders.test").await;
        let found: Vec<_> = targets(&answer).into_iter().map(|(.., addresses)| addresses).collect();
        assert_eq!(found, [Some(ips(&["192.0.2.1"])), None, None]);
        let Answer::Services { services, .. } = answer else { panic!("no services") };
        assert!(matches!(services[1].addresses, Answer::Failed(_)), "{services:?}");
        assert!(matches!(services[2].addresses, Answer::Nothing(_)), "{services:?}");
    }

    #[tokio::test]
    async fn names_without_a_service_are_distinguished_from_failures() {
        let server = DnsServer::start().await;
        let say = |name: &str, script| server.say_of(name, RecordType::SRV, script);
        say("_a._tcp.one.test.", Script::Services(vec![(0, 0, 0, ".")]));
        say("_a._tcp.two.test.", Script::Services(vec![(0, 0, 80, "a.test.")]));
        say("_b._tcp.one.test.", Script::Services(Vec::new()));
        say("_c._tcp.one.test.", Script::Code(ResponseCode::ServFail));
        say("_d._tcp.one.test.", Script::Services(vec![(0, 0, 80, "gone.test.")]));
        server.say("a.test.", &records(&["192.0.2.1"]));
        let (resolver, _folder) = server.resolver("search one.test two.test\noptions ndots:5", "");
        let not_offered = ask_srv(&resolver, "_a._tcp").await;
        assert!(matches!(not_offered, Answer::NotOffered(_)), "no other domain is searched: {not_offered:?}");
        let expected = "_b._tcp.one.test. has no SRV records";
        assert_eq!(ask_srv(&resolver, "_b._tcp.one.test.").await, Answer::Nothing(expected.into()));
        assert!(matches!(ask_srv(&resolver, "_c._tcp").await, Answer::Failed(_)));
        let expected = "target gone.test.: no such name: gone.test. (NXDOMAIN)";
        assert_eq!(ask_srv(&resolver, "_d._tcp.one.test.").await, Answer::Nothing(expected.into()));
        assert!(matches!(ask_srv(&resolver, "_e._tcp").await, Answer::Nothing(_)));
    }

    #[test]
    fn a_thousand_srv_records_are_used_those_of_the_first_priorities() {
        let name = Name::from_str_relaxed("_a._tcp.test.").unwrap();
        let target = Name::from_str_relaxed("a.test.").unwrap();
        let all: Vec<SRV> = (0..1500).rev().map(|nth| SRV::new(nth, 1, 80, target.clone())).collect();
        let (records, too_many) = usable(&name, all.iter()).unwrap();
        assert_eq!((records.len(), records.last().unwrap().priority, too_many), (MOST, 999, true));
    }

    #[tokio::test]
    async fn a_name_that_dns_cannot_hold_has_no_addresses() {
        let server = DnsServer::start().await;
        let (resolver, _folder) = server.resolver("", "");
        for name in ["a..b", &"a".repeat(64), ""] {
            assert!(matches!(ask(&resolver, name).await, Answer::Failed(_) | Answer::Nothing(_)), "{name}");
        }
    }
}
