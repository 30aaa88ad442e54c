//! Whether the application listens, and on which address; and whether ports are in the way of each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::Line;
use super::endpoints::fault;
use super::sockets::Socket;
use crate::listening::{Listening, Role};
use pillion_base::net::own::is_own;
use pillion_base::net::{Leg, Network};
use pillion_model::listener::{Inbound, RedirectTo};

const CHECK: &str = "application";
const PORTS: &str = "ports";
const START: &str = "start the application, or correct the port (`inbound.app`, `inbound.ports`)";
const ADDRESS: &str = "let the application listen on that address too, or correct `inbound.app`";
const LOOPBACK: &str =
    "let the application listen on 127.0.0.1 only, or capture what others send with `pillion init`";
const TO_LOOPBACK: &str = "write `inbound.redirect_to: loopback`, or let the application listen on 0.0.0.0";
const CHANGE: &str = "give one of them another port";

/// What is found of an application on another host: why it does not accept connections. The outer `None`: it is on this
/// host, or not known.
pub(super) async fn try_remote(network: &Network, inbound: Option<&Inbound>) -> Option<Option<String>> {
    let app = inbound?.app.filter(|app| !is_own(app.ip()))?;
    Some(fault(network, app, Leg::Inbound).await)
}

/// A line for each port of the application that the configuration names. `sockets`: those that listen here; `None`: they
/// cannot be read. `is_captured`: what others send to the application comes to this sidecar.
pub(super) fn judge(
    inbound: Option<&Inbound>,
    sockets: Option<&[Socket]>,
    remote: Option<Option<String>>,
    is_captured: bool,
) -> Vec<Line> {
    let Some(inbound) = inbound else { return Vec::new() };
    let app = inbound.app;
    if let (Some(app), Some(fault)) = (app, remote) {
        return vec![match fault {
            None => Line::good(CHECK, format!("the application at {app} accepts connections")),
            Some(why) => Line::bad(CHECK, format!("the application at {app} {why}"), START),
        }];
    }
    let declared = inbound.ports.keys().filter(|port| app.is_none_or(|app| app.port() != **port));
    let wanted: Vec<(u16, Option<IpAddr>)> = app
        .map(|app| (app.port(), Some(app.ip())))
        .into_iter()
        .chain(declared.map(|port| (*port, None)))
        .collect();
    let Some(sockets) = sockets else {
        let is_known = !wanted.is_empty();
        let line =
            Line::warning(CHECK, "the sockets of this host cannot be read", "mount /proc in the container");
        return is_known.then_some(line).into_iter().collect();
    };
    wanted
        .into_iter()
        .map(|(port, ip)| judge_port(port, ip, sockets, (inbound.redirect_to, is_captured)))
        .collect()
}

/// `ip`: where the sidecar connects to what was not redirected.
fn judge_port(
    port: u16,
    ip: Option<IpAddr>,
    sockets: &[Socket],
    (redirect_to, is_captured): (RedirectTo, bool),
) -> Line {
    let at: BTreeSet<SocketAddr> =
        sockets.iter().filter(|one| one.at.port() == port && !one.is_own).map(|one| one.at).collect();
    if at.is_empty() {
        let what = match sockets.iter().any(|one| one.at.port() == port) {
            true => format!("on port {port}, which is the application's, the sidecar itself listens"),
            false => format!("the application does not listen: nothing does on port {port}"),
        };
        return Line::bad(CHECK, what, START);
    }
    let listens = format!("the application listens on {}", list(&at));
    let is_everywhere = at.iter().any(|at| at.ip().is_unspecified());
    let is_on_loopback = at.iter().all(|at| at.ip().is_loopback());
    match ip.filter(|ip| !at.iter().any(|at| accepts(*at, *ip))) {
        Some(ip) => {
            let what = format!("{listens}, and the sidecar connects to {}", SocketAddr::new(ip, port));
            Line::bad(CHECK, what, ADDRESS)
        }
        None if is_captured && is_on_loopback && redirect_to == RedirectTo::Original => Line::warning(
            CHECK,
            format!("{listens}, and redirected connections go to their original address"),
            TO_LOOPBACK,
        ),
        None if is_everywhere && !is_captured => {
            Line::warning(CHECK, format!("{listens}: other hosts can reach it past the sidecar"), LOOPBACK)
        }
        None => Line::good(CHECK, listens),
    }
}

/// Whether a listener at `at` accepts connections to `ip`. `[::]` accepts those of IPv4 too, unless its program has chosen
/// otherwise.
fn accepts(at: SocketAddr, ip: IpAddr) -> bool {
    let (at, ip) = (at.ip().to_canonical(), ip.to_canonical());
    at == ip || at.is_unspecified() && (at.is_ipv4() == ip.is_ipv4() || at.is_ipv6())
}

/// Whether other programs listen where this sidecar does.
pub(super) fn clashes(listening: &[Listening], sockets: &[Socket]) -> Vec<Line> {
    let mut lines: Vec<Line> = listening.iter().filter_map(|one| clash(one, sockets)).collect();
    if lines.is_empty() && !listening.is_empty() {
        let ports: BTreeSet<u16> = listening.iter().map(|one| one.on.port()).collect();
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>();
        lines.push(Line::good(
            PORTS,
            format!("no other program listens on the ports of the sidecar ({})", some(&ports)),
        ));
    }
    lines
}

fn clash(one: &Listening, sockets: &[Socket]) -> Option<Line> {
    let others = sockets.iter().filter(|socket| !socket.is_own && socket.at.port() == one.on.port());
    let others: BTreeSet<SocketAddr> = others.map(|socket| socket.at).collect();
    if others.is_empty() {
        return None;
    }
    let what = format!(
        "another program listens on {}, beside {} of the sidecar ({})",
        list(&others),
        one.on,
        one.role.as_str()
    );
    let takes = |at: &SocketAddr| accepts(*at, one.on.ip()) || one.on.ip().is_unspecified();
    let is_redirected = matches!(one.role, Role::Inbound | Role::Outbound);
    match others.iter().any(takes) {
        true => Some(Line::bad(PORTS, format!("{what}, and takes connections"), CHANGE)),
        // the kernel redirects to the port at any address of this host
        false if is_redirected => {
            Some(Line::warning(PORTS, format!("{what}: it may take redirected connections"), CHANGE))
        }
        false => None,
    }
}

fn list(all: &BTreeSet<SocketAddr>) -> String {
    all.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" and ")
}

/// The first of many ports.
fn some(ports: &[String]) -> String {
    const NAMED: usize = 8;
    let named = ports.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if ports.len() > NAMED { format!("{named}, …") } else { named }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Bad, Good, Warning};
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn others(all: &[&str]) -> Vec<Socket> {
        all.iter().map(|text| Socket { at: at(text), is_own: false }).collect()
    }

    fn app(sockets: &[Socket], redirect_to: RedirectTo, is_captured: bool) -> (Verdict, String) {
        let inbound = Inbound { app: Some(at("127.0.0.1:8080")), redirect_to, ..Inbound::default() };
        let lines = judge(Some(&inbound), Some(sockets), None, is_captured);
        assert_eq!(lines.len(), 1, "{lines:?}");
        (lines[0].verdict, lines[0].what.clone())
    }

    #[test]
    fn the_application_is_judged_by_where_it_listens() {
        use RedirectTo::{Loopback, Original};
        for (sockets, redirect_to, is_captured, verdict, part) in [
            (&["127.0.0.1:8080"][..], Original, false, Good, "listens on 127.0.0.1:8080"),
            (&["127.0.0.1:8080", "[::1]:8080"], Original, false, Good, "127.0.0.1:8080 and [::1]:8080"),
            (&["0.0.0.0:8080"], Original, false, Warning, "past the sidecar"),
            (&["0.0.0.0:8080"], Original, true, Good, "0.0.0.0:8080"),
            (&["[::]:8080"], Original, true, Good, "[::]:8080"),
            (&["127.0.0.1:8080"], Original, true, Warning, "go to their original address"),
            (&["127.0.0.1:8080"], Loopback, true, Good, "listens on"),
            (
                &["10.0.0.5:8080"],
                Original,
                false,
                Bad,
                "listens on 10.0.0.5:8080, and the sidecar connects to 127.0.0.1:8080",
            ),
            (&["127.0.0.1:80"], Original, false, Bad, "does not listen: nothing does on port 8080"),
        ] {
            let (found, what) = app(&others(sockets), redirect_to, is_captured);
            assert!(found == verdict && what.contains(part), "{sockets:?}: {found:?} {what}");
        }
        let own = [Socket { at: at("0.0.0.0:8080"), is_own: true }];
        let (found, what) = app(&own, Original, false);
        assert!(found == Bad && what.contains("the sidecar itself listens"), "{what}");
    }

    #[test]
    fn an_application_elsewhere_is_tried_and_a_port_that_is_declared_must_listen() {
        let inbound = Inbound { app: Some(at("10.0.0.9:80")), ..Inbound::default() };
        let line = |fault: Option<&str>| {
            judge(Some(&inbound), None, Some(fault.map(str::to_owned)), false).remove(0)
        };
        assert_eq!(line(None).verdict, Good);
        assert!(line(Some("refuses connections")).what.ends_with("10.0.0.9:80 refuses connections"));
        let (config, _) =
            pillion_config::parse("inbound: { ports: { 8080: { protocol: tcp } } }\n", "".as_ref())
                .expect("a good file");
        let lines = judge(config.inbound.as_ref(), Some(&[]), None, false);
        assert!(lines.len() == 1 && lines[0].verdict == Bad, "{lines:?}");
        assert_eq!(judge(config.inbound.as_ref(), None, None, false)[0].verdict, Warning);
        assert!(judge(Some(&Inbound::default()), Some(&[]), None, false).is_empty(), "no port is known");
        assert!(judge(None, None, None, false).is_empty());
    }

    #[test]
    fn another_program_on_a_port_of_the_sidecar_is_a_clash() {
        let listening = [
            Listening { on: at("127.0.0.1:15001"), role: Role::Outbound },
            Listening { on: at("127.0.0.1:15000"), role: Role::Admin },
        ];
        let of = |sockets: &[&str]| clashes(&listening, &others(sockets)).remove(0);
        let good = of(&["127.0.0.1:8080"]);
        assert!(good.verdict == Good && good.what.contains("15000, 15001"), "{good:?}");
        assert_eq!(of(&["127.0.0.1:15001"]).verdict, Bad);
        assert_eq!(of(&["0.0.0.0:15000"]).verdict, Bad);
        let near = of(&["10.0.0.1:15001"]);
        assert!(near.verdict == Warning && near.what.contains("may take redirected"), "{near:?}");
        assert_eq!(of(&["10.0.0.1:15000"]).verdict, Good, "nothing is redirected there");
        let own = [Socket { at: at("127.0.0.1:15001"), is_own: true }];
        assert_eq!(clashes(&listening, &own)[0].verdict, Good);
        assert!(clashes(&[], &own).is_empty());
    }
}
