//! The DNS proxy with a real name server, on real sockets.

use std::net::SocketAddr;
use std::path::Path;

use hickory_resolver::proto::op::{Edns, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use pillion_model::dns::NameServers;

use super::*;
use pillion_base::net::own::OwnListeners;
use pillion_upstream::discovery::testing::{DnsServer, Folder, Script};

/// A DNS proxy that asks `servers`, and knows the services `orders` and `web`.
fn proxy(servers: NameServers) -> Arc<Dns> {
    let yaml = "admin: { listen: 127.0.0.1:0 }\ninbound: off\ndns: { upstream: 192.0.2.1 }\nservices:\n  \
                orders: { endpoints: [10.0.0.1:80], addresses: [10.96.0.10] }\n  web: { endpoints: [10.0.0.1:80] }\n";
    let config = pillion_config::parse(yaml, Path::new("")).expect("a good file").0;
    let metrics = Metrics::new(1000);
    let dns = Dns::new(Network::Os, crate::app::store(&config, &metrics), metrics);
    dns.use_upstream(Some(upstream(servers)));
    Arc::new(dns)
}

fn upstream(servers: NameServers) -> Upstream {
    Upstream::new(&servers, OwnListeners::default(), SystemTime::now()).expect("servers to ask")
}

fn list(servers: &[SocketAddr]) -> NameServers {
    NameServers::List(servers.to_vec())
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn tell(dns: &Dns, question: &Message, over: Over) -> Message {
    let answer = dns.answer(&question.to_vec().unwrap(), over).await.expect("an answer");
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
    answer
}

/// The response code and the addresses.
async fn ask(dns: &Dns, name: &str, over: Over) -> (ResponseCode, Vec<String>) {
    let answer = tell(dns, &query(name, RecordType::A), over).await;
    let addresses = answer.answers.iter().filter_map(|record| record.data.ip_addr());
    (answer.metadata.response_code, addresses.map(|ip| ip.to_string()).collect())
}

fn found(address: &str) -> (ResponseCode, Vec<String>) {
    (ResponseCode::NoError, vec![address.to_owned()])
}

fn records(address: &str) -> Script {
    Script::Records(vec![address.parse().unwrap()])
}

fn counted(dns: &Dns, outcome: DnsOutcome) -> u64 {
    dns.metrics.dns_queries(outcome).get()
}

/// An address at which no server listens.
async fn nobody() -> SocketAddr {
    tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn names_of_services_are_answered_without_a_name_server() {
    let server = DnsServer::start().await;
    server.say("orders.", &records("192.0.2.1"));
    let dns = proxy(list(&[server.address]));
    for over in [Over::Udp, Over::Tcp] {
        assert_eq!(ask(&dns, "Orders.", over).await, found("10.96.0.10"));
        assert_eq!(ask(&dns, "web.", over).await, found("240.240.233.59"));
    }
    assert_eq!(server.asked(), Vec::<String>::new());
    assert_eq!((counted(&dns, DnsOutcome::Own), counted(&dns, DnsOutcome::Virtual)), (2, 2));
}

#[tokio::test]
async fn other_names_are_asked_for_once_while_their_answers_are_cached() {
    let server = DnsServer::start().await;
    server.say("a.test.", &records("192.0.2.1"));
    let dns = proxy(list(&[server.address]));
    for over in [Over::Udp, Over::Tcp, Over::Udp] {
        assert_eq!(ask(&dns, "A.test.", over).await, found("192.0.2.1"));
    }
    assert_eq!(server.asked(), ["A a.test."]);
    assert_eq!((counted(&dns, DnsOutcome::Forwarded), counted(&dns, DnsOutcome::Cached)), (1, 2));
}

#[tokio::test]
async fn equal_queries_at_once_are_sent_once() {
    let server = DnsServer::start().await;
    server.say("a.test.", &records("192.0.2.1"));
    let dns = proxy(list(&[server.address]));
    let questions = (0..20).map(|_| {
        let dns = dns.clone();
        tokio::spawn(async move { ask(&dns, "a.test.", Over::Udp).await })
    });
    for question in questions.collect::<Vec<_>>() {
        assert_eq!(question.await.unwrap(), found("192.0.2.1"));
    }
    assert_eq!(server.asked(), ["A a.test."]);
    assert!(dns.asking.lock().is_empty(), "no query is in progress any more");
}

#[tokio::test]
async fn failures_are_passed_on_and_not_cached() {
    let server = DnsServer::start().await;
    server.say("broken.test.", &Script::Code(ResponseCode::ServFail));
    let dns = proxy(list(&[server.address]));
    for _ in 0..2 {
        assert_eq!(ask(&dns, "broken.test.", Over::Udp).await.0, ResponseCode::ServFail);
        assert_eq!(
            ask(&dns, "gone.test.", Over::Udp).await.0,
            ResponseCode::NXDomain,
            "without an SOA record the answer is not cached"
        );
    }
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn the_next_server_is_asked_if_one_is_down_or_knows_no_answer() {
    let [first, second] = [DnsServer::start().await, DnsServer::start().await];
    first.say("a.test.", &Script::Code(ResponseCode::Refused));
    second.say("a.test.", &records("192.0.2.2"));
    second.say("b.test.", &Script::Code(ResponseCode::ServFail));
    first.say("b.test.", &Script::Code(ResponseCode::Refused));
    let dns = proxy(list(&[nobody().await, first.address, second.address]));
    for over in [Over::Udp, Over::Tcp] {
        assert_eq!(ask(&dns, "a.test.", over).await, found("192.0.2.2"));
        dns.cache.lock().clear();
        assert_eq!(
            ask(&dns, "b.test.", over).await.0,
            ResponseCode::Refused,
            "the first server that responded"
        );
    }
}

#[tokio::test]
async fn without_a_server_that_responds_the_answer_is_a_failure_with_the_reason() {
    let nobody = nobody().await;
    let dns = proxy(list(&[nobody]));
    let mut question = query("a.test.", RecordType::A);
    question.edns = Some(Edns::new());
    for over in [Over::Udp, Over::Tcp] {
        let answer = tell(&dns, &question, over).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        let options = format!("{:?}", answer.edns.unwrap().options());
        let expected: Vec<String> = nobody.to_string().bytes().map(|byte| byte.to_string()).collect();
        assert!(options.contains(&expected.join(", ")), "{options} names {nobody}");
    }
    assert_eq!(counted(&dns, DnsOutcome::Failed), 2);
}

#[tokio::test]
async fn an_answer_that_is_truncated_over_udp_is_complete_over_tcp() {
    let server = DnsServer::start().await;
    server.say("large.test.", &Script::Truncated(vec!["192.0.2.1".parse().unwrap()]));
    let dns = proxy(list(&[server.address]));
    let answer = tell(&dns, &query("large.test.", RecordType::A), Over::Udp).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    assert_eq!(ask(&dns, "large.test.", Over::Tcp).await, found("192.0.2.1"));
    assert_eq!(
        ask(&dns, "large.test.", Over::Udp).await,
        found("192.0.2.1"),
        "small enough for UDP: answered from the cache"
    );
}

#[tokio::test]
async fn beyond_the_limit_of_queries_in_flight_the_answer_is_a_failure_at_once() {
    let server = DnsServer::start().await;
    server.say("a.test.", &records("192.0.2.1"));
    let dns = proxy(list(&[server.address]));
    let all = dns.room.clone().acquire_many_owned(IN_FLIGHT.try_into().unwrap()).await.unwrap();
    assert_eq!(ask(&dns, "a.test.", Over::Udp).await.0, ResponseCode::ServFail);
    assert_eq!(
        ask(&dns, "web.", Over::Udp).await,
        found("240.240.233.59"),
        "the name of a service needs no name server"
    );
    drop(all);
    assert_eq!(ask(&dns, "a.test.", Over::Udp).await, found("192.0.2.1"));
}

#[tokio::test]
async fn new_name_servers_empty_the_cache() {
    let [first, second] = [DnsServer::start().await, DnsServer::start().await];
    first.say("a.test.", &records("192.0.2.1"));
    second.say("a.test.", &records("192.0.2.2"));
    let dns = proxy(list(&[first.address]));
    assert_eq!(ask(&dns, "a.test.", Over::Udp).await, found("192.0.2.1"));
    dns.use_upstream(Some(upstream(list(&[first.address]))));
    assert_eq!(ask(&dns, "a.test.", Over::Udp).await, found("192.0.2.1"));
    assert_eq!(first.asked().len(), 1, "the servers are the same, so the cache is kept");
    dns.use_upstream(Some(upstream(list(&[second.address]))));
    assert_eq!(ask(&dns, "a.test.", Over::Udp).await, found("192.0.2.2"));
}

#[test]
fn a_file_of_name_servers_is_read_again_after_changes_and_loops_are_refused() {
    let folder = Folder::new();
    let path = folder.0.join("resolv.conf");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let own = || OwnListeners::new(vec!["127.0.0.1:53".parse().unwrap(), "[::1]:15053".parse().unwrap()]);
    let new = || Upstream::new(&NameServers::File(path.clone()), own(), SystemTime::now());
    let error =
        |upstream: Result<Upstream, _>| anyhow::Error::from(upstream.expect_err("refused")).to_string();
    assert!(error(new()).ends_with("resolv.conf cannot be read"));
    write("search a.test\n");
    let nobody = error(new());
    assert!(nobody.contains("no nameservers") && nobody.contains("write `nameserver ADDRESS`"), "{nobody}");
    write("nameserver 10.96.0.10\nnameserver 127.0.0.1\n");
    assert!(error(new()).ends_with("names 127.0.0.1:53, where the DNS proxy itself listens: a loop"));

    write("nameserver 10.96.0.10\nnameserver ::1\noptions timeout:2 attempts:9\n");
    let mut upstream = new().expect("servers to ask");
    let servers = |all: [&str; 2]| all.map(|server| server.parse().unwrap()).to_vec();
    let expected = servers(["10.96.0.10:53", "[::1]:53"]);
    let all = upstream::Servers { all: expected, timeout: std::time::Duration::from_secs(2), attempts: 3 };
    assert_eq!(**upstream.servers(), all);

    let mut now = Instant::now();
    let mut look = |upstream: &mut Upstream| {
        now += std::time::Duration::from_secs(1);
        upstream.look(now, SystemTime::now())
    };
    assert!(!look(&mut upstream), "nothing has changed");
    for bad in ["", "nameserver 127.0.0.1\n"] {
        write(bad);
        assert!(!look(&mut upstream));
        assert_eq!(**upstream.servers(), all, "the former servers are kept");
    }
    write("nameserver 10.96.0.10\nnameserver 10.96.0.11\n");
    assert!(look(&mut upstream));
    assert_eq!(upstream.servers().all, servers(["10.96.0.10:53", "10.96.0.11:53"]));
}
