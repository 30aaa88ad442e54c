//! What of a new configuration protects less than the one at work: applied as it is written, and never in silence.

use std::collections::{BTreeSet, HashMap};

use pillion_model::Config;
use pillion_model::cluster::UpstreamTls;
use pillion_model::listener::{Inbound, Mtls};

/// A sentence for each key that asks for less than before.
pub(super) fn weakened(now: &Config, next: &Config) -> Vec<String> {
    let inbound = match (&now.inbound, &next.inbound) {
        (Some(now), Some(next)) => weakened_inbound(now, next),
        _ => Vec::new(),
    };
    inbound.into_iter().chain(weakened_services(now, next)).collect()
}

fn weakened_inbound(now: &Inbound, next: &Inbound) -> Vec<String> {
    let mut all = Vec::new();
    if strength(next.mtls) < strength(now.mtls) {
        all.push(told("inbound.mtls", now.mtls, next.mtls));
    }
    let of_port = |inbound: &Inbound, port| {
        inbound.ports.get(port).and_then(|single| single.mtls).unwrap_or(inbound.mtls)
    };
    for port in now.ports.keys().chain(next.ports.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (of_port(now, port), of_port(next, port));
        let is_told = (was, is) == (now.mtls, next.mtls); // with all ports, above
        if strength(is) < strength(was) && !is_told {
            all.push(told(&format!("inbound.ports.{port}.mtls"), was, is));
        }
    }
    all
}

fn weakened_services<'a>(now: &'a Config, next: &'a Config) -> impl Iterator<Item = String> {
    let known: HashMap<&str, &UpstreamTls> =
        now.clusters.iter().map(|of| (of.name.as_str(), &of.tls)).collect();
    next.clusters.iter().filter_map(move |next| {
        let (was, is) = (upstream(known.get(next.name.as_str())?), upstream(&next.tls));
        (is.0 < was.0).then(|| format!("services.{}.tls: {} instead of {}", next.name, is.1, was.1))
    })
}

fn told(key: &str, was: Mtls, is: Mtls) -> String {
    format!("{key}: {} instead of {}", word(is), word(was))
}

const fn strength(mtls: Mtls) -> u8 {
    match mtls {
        Mtls::Off => 0,
        Mtls::Permissive => 1,
        Mtls::Strict => 2,
    }
}

const fn word(mtls: Mtls) -> &'static str {
    match mtls {
        Mtls::Off => "off",
        Mtls::Permissive => "permissive",
        Mtls::Strict => "strict",
    }
}

/// How much it protects, and the file's word for it.
const fn upstream(tls: &UpstreamTls) -> (u8, &'static str) {
    match tls {
        UpstreamTls::Off => (0, "off"),
        UpstreamTls::Simple { .. } => (1, "simple"),
        UpstreamTls::Mutual { .. } => (2, "mutual"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(inbound: &str, tls: &str) -> Config {
        let file = format!(
            "identity: {{ directory: certs }}\ninbound: {{ {inbound} }}\n\
             services: {{ orders: {{ endpoints: [10.0.0.1:80], tls: {tls} }} }}\n"
        );
        pillion_config::parse(&file, Path::new("")).expect("a good file").0
    }

    #[test]
    fn c1_less_mtls_is_told_for_all_ports_for_single_ones_and_for_services() {
        let table: [(&str, &str, &[&str]); 9] = [
            ("mtls: strict", "mtls: permissive", &["inbound.mtls: permissive instead of strict"]),
            ("", "mtls: off", &["inbound.mtls: off instead of strict"]),
            ("mtls: permissive", "mtls: off", &["inbound.mtls: off instead of permissive"]),
            ("mtls: permissive", "mtls: strict", &[]),
            ("", "ports: { 80: { mtls: off } }", &["inbound.ports.80.mtls: off instead of strict"]),
            (
                "mtls: permissive, ports: { 80: { mtls: strict } }",
                "mtls: permissive",
                &["inbound.ports.80.mtls: permissive instead of strict"],
            ),
            (
                "mtls: strict, ports: { 80: { mtls: strict } }",
                "mtls: off, ports: { 80: { mtls: permissive } }",
                &[
                    "inbound.mtls: off instead of strict",
                    "inbound.ports.80.mtls: permissive instead of strict",
                ],
            ),
            ("ports: { 80: { mtls: off } }", "ports: { 80: { mtls: strict } }", &[]),
            ("", "ports: { 80: { protocol: tcp } }", &[]),
        ];
        for (now, next, expected) in table {
            assert_eq!(
                weakened(&config(now, "mutual"), &config(next, "mutual")),
                expected,
                "{now} to {next}"
            );
        }
        assert_eq!(
            weakened(&config("", "mutual"), &config("", "off")),
            ["services.orders.tls: off instead of mutual"]
        );
        assert_eq!(weakened(&config("", "off"), &config("", "mutual")), [""; 0]);
    }
}
