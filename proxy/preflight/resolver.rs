//! Whether the name servers answer, and how fast.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use super::Line;
use crate::dns::{servers_in, system_servers};
use pillion_base::net::Network;
use pillion_model::Config;
use pillion_model::authorization::Jwks;
use pillion_model::cluster::Discovery;
use pillion_model::dns::NameServers;

const CHECK: &str = "resolver";
/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A slower answer delays every connection to a name by more than most services take.
const SLOW: Duration = Duration::from_millis(500);
/// How many name servers of one list are asked; glibc and the DNS proxy ask no more.
const MOST: usize = 3;
const HELP: &str = "see /etc/resolv.conf, `dns.upstream`, and network policies for port 53";

/// A name server, with the time that it took or why there is no answer.
pub(super) type Server = (SocketAddr, Result<Duration, String>);

/// Whether anything of the configuration needs names.
pub(super) fn is_needed(config: &Config) -> bool {
    let rules = config.inbound.as_ref().and_then(|inbound| inbound.authorization.as_ref());
    let keys = rules.and_then(|rules| rules.jwt.as_ref()).and_then(|jwt| match &jwt.jwks {
        Jwks::Url { url, .. } => Some(&url.host),
        Jwks::File(_) => None,
    });
    let collector = config.tracing.as_ref().map(|tracing| &tracing.otlp.host);
    config.dns.is_some()
        || config.clusters.iter().any(|of| of.discovery.as_ref().and_then(Discovery::dns).is_some())
        || keys.into_iter().chain(collector).any(|host| is_name(host))
}

/// Whether a host is found by a name server.
fn is_name(host: &str) -> bool {
    host != "localhost" && host.parse::<IpAddr>().is_err()
}

/// The name servers that the sidecar uses: those of the system for its own questions, and `dns.upstream` for the questions
/// of the application.
pub(super) fn servers(config: &Config) -> Vec<SocketAddr> {
    union(system_servers(), config.dns.as_ref().map(|dns| &dns.upstream))
}

fn union(system: Vec<SocketAddr>, upstream: Option<&NameServers>) -> Vec<SocketAddr> {
    let upstream = match upstream {
        Some(NameServers::List(all)) => all.clone(),
        Some(NameServers::File(path)) => servers_in(path),
        None => Vec::new(),
    };
    let mut all: Vec<SocketAddr> = system.into_iter().take(MOST).collect();
    for server in upstream.into_iter().take(MOST) {
        if !all.contains(&server) {
            all.push(server);
        }
    }
    all
}

/// Asks all of them at once. The network in memory has no name servers.
pub(super) async fn ask(network: &Network, servers: Vec<SocketAddr>) -> Vec<Server> {
    let Network::Os = network else { return Vec::new() };
    let mut asked = tokio::task::JoinSet::new();
    for (nth, server) in servers.into_iter().enumerate() {
        asked.spawn(async move {
            let began = Instant::now();
            let answer = timeout(PATIENCE, ask_one(server, fastrand::u16(..))).await;
            let why = match answer {
                Ok(Ok(())) => Ok(began.elapsed()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_elapsed) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            (nth, (server, why))
        });
    }
    let mut all = asked.join_all().await;
    all.sort_by_key(|(nth, _)| *nth);
    all.into_iter().map(|(_, server)| server).collect()
}

/// Any answer to the query counts.
async fn ask_one(server: SocketAddr, id: u16) -> std::io::Result<()> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&query(id)).await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answer.get(..length).is_some_and(|answer| is_answer(answer, id)) {
            return Ok(());
        }
    }
}

/// A query for the address of `localhost` (RFC 1035, 4.1), which name servers answer by themselves (RFC 6761).
fn query(id: u16) -> Vec<u8> {
    const RECURSION_DESIRED: u8 = 1;
    let [high, low] = id.to_be_bytes();
    let head = [high, low, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&head[..], b"\x09localhost\0", &[0, 1, 0, 1]].concat()
}

fn is_answer(message: &[u8], id: u16) -> bool {
    const RESPONSE: u8 = 0x80;
    matches!(message, [high, low, flags, ..] if [*high, *low] == id.to_be_bytes() && flags & RESPONSE != 0)
}

/// `is_needed`: something of the configuration needs names. Without it, silence is a warning.
pub(super) fn judge(servers: &[Server], is_needed: bool) -> Option<Line> {
    let silent: Vec<String> = servers
        .iter()
        .filter_map(|(server, answer)| Some(format!("{server}: {}", answer.as_ref().err()?)))
        .collect();
    let fastest = servers.iter().filter_map(|(server, answer)| Some((answer.as_ref().ok()?, server))).min();
    let failed = |what: String| match is_needed {
        true => Line::bad(CHECK, what, HELP),
        false => Line::warning(CHECK, format!("{what}; nothing in the configuration needs names"), HELP),
    };
    Some(match fastest {
        None if servers.is_empty() && !is_needed => return None,
        None if servers.is_empty() => failed("there is no name server".to_owned()),
        None => failed(format!("no name server answers ({})", silent.join("; "))),
        Some(_) if !silent.is_empty() => {
            Line::warning(CHECK, format!("not every name server answers ({})", silent.join("; ")), HELP)
        }
        Some((took, server)) => {
            let what = format!("{server} answers in {:.1} ms", took.as_secs_f64() * 1e3);
            if *took >= SLOW { Line::warning(CHECK, what, HELP) } else { Line::good(CHECK, what) }
        }
    })
}

#[cfg(test)]
mod tests {
    use pillion_upstream::discovery::testing::Folder;

    use super::super::Verdict::{Bad, Good, Warning};
    use super::*;

    fn server(nth: u8, answer: Result<u64, &str>) -> Server {
        (([10, 0, 0, nth], 53).into(), answer.map(Duration::from_millis).map_err(str::to_owned))
    }

    #[test]
    fn name_servers_are_judged_by_their_answers_and_by_the_need_for_them() {
        let (fast, slow, silent) =
            (server(1, Ok(2)), server(2, Ok(600)), server(3, Err("no answer within 2 s")));
        for (servers, is_needed, expected) in [
            (vec![fast.clone(), slow.clone()], true, Some((Good, "10.0.0.1:53 answers in 2.0 ms"))),
            (vec![slow.clone()], true, Some((Warning, "answers in 600.0 ms"))),
            (vec![silent.clone(), fast.clone()], true, Some((Warning, "10.0.0.3:53: no answer within 2 s"))),
            (vec![silent.clone()], true, Some((Bad, "no name server answers"))),
            (vec![silent.clone()], false, Some((Warning, "nothing in the configuration needs names"))),
            (vec![], true, Some((Bad, "there is no name server"))),
            (vec![], false, None),
        ] {
            let line = judge(&servers, is_needed);
            match expected {
                None => assert_eq!(line, None),
                Some((verdict, part)) => {
                    let line = line.expect("a line");
                    assert!(line.verdict == verdict && line.what.contains(part), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn the_servers_of_the_system_are_asked_and_those_of_the_dns_proxy() {
        let at = |nth: u8| SocketAddr::from(([10, 0, 0, nth], 53));
        let folder = Folder::new();
        let file = folder.0.join("resolv.conf");
        std::fs::write(&file, "nameserver 10.0.0.2\nnameserver 10.0.0.3\n").expect("a file");
        for (upstream, expected) in [
            (None, vec![at(1), at(2)]),
            (Some(NameServers::List(vec![at(9)])), vec![at(1), at(2), at(9)]),
            (Some(NameServers::File(file)), vec![at(1), at(2), at(3)]),
            (Some(NameServers::File("/nowhere".into())), vec![at(1), at(2)]),
        ] {
            assert_eq!(union(vec![at(1), at(2)], upstream.as_ref()), expected, "{upstream:?}");
        }
    }

    #[test]
    fn names_are_needed_by_a_collector_and_by_key_sets_that_have_one() {
        let jwks = |host: &str| {
            format!(
                "inbound: {{ authorization: {{ default: deny, jwt: {{ issuer: \"https://i\", audiences: [a], jwks: {{ url: \"https://{host}/k\" }} }} }} }}\n"
            )
        };
        for (text, expected) in [
            ("{}\n".to_owned(), false),
            ("tracing: { otlp: \"http://collector:4318\" }\n".to_owned(), true),
            ("tracing: { otlp: \"http://127.0.0.1:4318\" }\n".to_owned(), false),
            ("tracing: { otlp: \"http://localhost:4318\" }\n".to_owned(), false),
            (jwks("issuer.example"), true),
            (jwks("[::1]"), false),
        ] {
            let parsed = pillion_config::parse(&text, "".as_ref());
            let (config, _) = parsed.unwrap_or_else(|faults| unreachable!("{text}: {faults:?}"));
            assert_eq!(is_needed(&config), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_server_that_answers_is_timed_and_another_message_is_no_answer() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let at = socket.local_addr().expect("bound");
        let answering = async {
            let mut message = [0; 512];
            let (length, from) = socket.recv_from(&mut message).await.expect("a query");
            assert_eq!(&message[2..length], &query(0)[2..]);
            socket.send_to(&[0, 0, 0], from).await.expect("a client");
            message[2] |= 0x80;
            socket.send_to(&message[..length], from).await.expect("a client");
        };
        let (found, ()) = tokio::join!(ask(&Network::Os, vec![at]), answering);
        assert!(matches!(&found[..], [(server, Ok(_))] if *server == at), "{found:?}");
        assert!(!is_answer(&query(7), 7) && !is_answer(&[], 7));
    }
}
