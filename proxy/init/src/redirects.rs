//! The ports to which the rules of this network namespace redirect connections, whoever installed the rules.
//!
//! For a running sidecar that wants to know whether the rules lead to it. Nothing is changed, and every wait has a bound.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{find, has_net_admin, legacy_tables};
use crate::nft::TABLE;
use crate::rules::{CHAINS, own_name};
use crate::words::Family;

/// More than the rules of any pod have. What is beyond is not read.
const MOST_BYTES: u64 = 4 * 1024 * 1024;
/// How often a program is asked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The ports to which rules redirect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirects {
    /// Those of rules in pillion's own table and chains.
    pub own: BTreeSet<u16>,
    /// Those of other rules.
    pub foreign: BTreeSet<u16>,
}

impl Redirects {
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.foreign.is_empty()
    }

    /// All ports, whoever installed the rules.
    pub fn all(&self) -> BTreeSet<u16> {
        self.own.union(&self.foreign).copied().collect()
    }

    /// Adds what a program has listed.
    fn read(&mut self, listing: &str) {
        for (port, is_own) in targets(listing) {
            let ports = if is_own { &mut self.own } else { &mut self.foreign };
            ports.insert(port);
        }
    }
}

/// The ports, or why the rules cannot be read. Blocks until `until` at the longest.
///
/// # Errors
/// The rules cannot be read.
pub fn redirects(until: Instant) -> Result<Redirects, String> {
    if !has_net_admin(&fs::read_to_string("/proc/self/status").unwrap_or_default()) {
        return Err("the sidecar has no CAP_NET_ADMIN".to_owned());
    }
    let listings = programs();
    if listings.is_empty() {
        return Err("neither nft nor iptables is installed beside the sidecar".to_owned());
    }
    let read: Vec<Result<String, String>> =
        listings.iter().map(|(program, words)| output(program, words, until)).collect();
    let failed = || read.iter().find_map(|read| read.as_ref().err().cloned());
    if !read.iter().any(Result::is_ok) {
        return Err(failed().unwrap_or_default());
    }
    let mut redirects = Redirects::default();
    read.iter().flatten().for_each(|text| redirects.read(text));
    Ok(redirects)
}

/// The programs that list all rules. The older kind of iptables is asked only if it has tables, which its program would
/// otherwise create.
fn programs() -> Vec<(&'static str, &'static [&'static str])> {
    let mut all: Vec<(&str, &[&str])> =
        vec![("nft", &["list", "ruleset"]), ("iptables-nft-save", &[]), ("ip6tables-nft-save", &[])];
    for (family, program) in [(Family::V4, "iptables-legacy-save"), (Family::V6, "ip6tables-legacy-save")] {
        if !legacy_tables(family).is_empty() {
            all.push((program, &[]));
        }
    }
    all.retain(|(program, _)| find(program).is_some());
    all
}

/// What a program prints. A program that takes too long is killed.
fn output(program: &str, words: &[&str], until: Instant) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| format!("`{program}` cannot list the rules: {why}");
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let Some(pipe) = child.stdout.take() else { return Err(failed(&"it has no output")) };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = pipe.take(MOST_BYTES).read_to_end(&mut text);
        drop(tell.send(read.map(|_| String::from_utf8_lossy(&text).into_owned())));
    });
    let text = told.recv_timeout(until.saturating_duration_since(Instant::now()));
    while text.is_ok() && Instant::now() < until {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => {
                return text.unwrap_or(Ok(String::new())).map_err(|error| failed(&error));
            }
            Ok(Some(status)) => return Err(failed(&status)),
            Ok(None) => thread::sleep(LOOK_EVERY),
            Err(error) => return Err(failed(&error)),
        }
    }
    drop(child.kill()); // it may have ended meanwhile
    drop(child.wait());
    Err(failed(&"it takes too long"))
}

/// The ports to which rules redirect, as `nft list` or `iptables-save` prints them, each with whether the rule is in our
/// table or in one of our chains.
fn targets(listing: &str) -> impl Iterator<Item = (u16, bool)> {
    let (mut is_own_table, mut is_own_chain) = (false, false);
    listing.lines().filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, ..] => is_own_table = TABLE.split(' ').eq([*family, *name]),
            ["chain" | "-A", name, ..] => {
                is_own_chain = CHAINS.iter().any(|(_, chain, _)| own_name(chain) == *name);
            }
            _ => {}
        }
        Some((target(&words)?, is_own_table || is_own_chain))
    })
}

/// The port to which one rule redirects.
fn target(rule: &[&str]) -> Option<u16> {
    let after = |name: &str| rule.iter().skip_while(|word| **word != name).nth(1).copied();
    let is = |action: &str| rule.contains(&action);
    let port = after("--to-ports").or_else(|| after("--on-port"));
    match after("--to-destination").or_else(|| after("to").filter(|_| is("dnat"))) {
        Some(destination) => own_port(destination),
        None if is("redirect") || is("tproxy") => after("to")?.rsplit(':').next()?.parse().ok(),
        None => port?.parse().ok(),
    }
}

/// The port of a destination on loopback. Other addresses of 127.0.0.0/8 belong to other programs, such as Docker's name server.
fn own_port(destination: &str) -> Option<u16> {
    let to: SocketAddr = destination.parse().ok()?;
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    loopback.contains(&to.ip()).then(|| to.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(listing: &str) -> Vec<u16> {
        targets(listing).map(|(port, _)| port).collect()
    }

    #[test]
    fn the_ports_are_read_from_both_languages() {
        let listing = "table inet pillion {\n\tchain inbound {\n\t\ttcp dport 15006 return\n\
                       \t\tmeta l4proto tcp redirect to :15006\n\t\tmeta l4proto tcp tproxy to :15007 accept\n\
                       \t\tmeta l4proto tcp tproxy ip to 127.0.0.1:15008\n\t\tdnat to 10.0.0.1:80\n";
        assert_eq!(ports(listing), [15006, 15007, 15008]);
        let saved = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\n-A X -p tcp --dport 80 -j RETURN\n\
                     -A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x0/0x0\n";
        assert_eq!(ports(saved), [15001, 15006]);
        assert_eq!(ports("-j REDIRECT --to-ports x\nredirect to\n\u{0}"), []);
    }

    #[test]
    fn a_destination_on_loopback_is_a_redirect_too() {
        let saved = "-A OUTPUT -p tcp -j DNAT --to-destination 127.0.0.1:15001\n\
                     -A OUTPUT -p tcp -j DNAT --to-destination [::1]:15002\n\
                     -A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:43567\n\
                     -A KUBE-SEP -p tcp -j DNAT --to-destination 10.0.0.1:15001\n";
        assert_eq!(ports(saved), [15001, 15002]);
        assert_eq!(
            ports("\t\tmeta l4proto tcp dnat ip to 127.0.0.1:15001\n\t\tdnat to 10.0.0.1:80\n"),
            [15001]
        );
    }

    #[test]
    fn rules_of_other_programs_are_told_apart_from_pillions() {
        let mut read = Redirects::default();
        read.read(
            "table ip other {\n\tchain output {\n\t\tredirect to :1\n\t}\n}\n\
             table inet pillion {\n\tchain output {\n\t\tredirect to :2\n\t}\n}\n\
             table inet pillion_old {\n\tchain output {\n\t\tredirect to :3\n\t}\n}\n\
             table ip nat {\n\tchain PILLION_OUTPUT {\n\t\tredirect to :4\n\t}\n\
             \tchain OUTPUT {\n\t\tredirect to :5\n\t}\n}\n",
        );
        read.read(
            "*nat\n-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 6\n\
             -A PILLION_INBOUND -p tcp -j REDIRECT --to-ports 7\n\
             -A PILLION_OUTPUT_OLD -p tcp -j REDIRECT --to-ports 8\n",
        );
        assert_eq!(read, Redirects { own: [2, 4, 7].into(), foreign: [1, 3, 5, 6, 8].into() });
    }

    #[test]
    fn a_program_that_fails_or_takes_too_long_is_an_error_that_names_it() {
        let soon = || Instant::now() + Duration::from_secs(60);
        assert_eq!(output("echo", &["a"], soon()).as_deref(), Ok("a\n"));
        assert!(
            output("false", &[], soon()).is_err_and(|why| why.starts_with("`false` cannot list the rules"))
        );
        assert!(output("no-such-program", &[], soon()).is_err());
        let late = output("sleep", &["60"], Instant::now());
        assert!(late.is_err_and(|why| why.contains("takes too long")));
    }
}
