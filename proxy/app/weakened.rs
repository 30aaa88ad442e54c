//! Finds where a new configuration protects less than the current one. Such a configuration is applied as it is
//! written, but with warnings.
//!
//! The texts of the two configurations are compared. Deliberately absent: the content of certificates and bundles (a
//! new CA in a bundle is the normal way to change CAs), and the destinations to which `routes` send single requests.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use pillion_model::authorization::{Action, Authorization, EncodedSlash, ExtAuthz, Jwks, Jwt, Mode};
use pillion_model::cluster::{AddressPattern, HostPattern, UpstreamTls};
use pillion_model::identity::{Crl, Identity, TlsVersion};
use pillion_model::listener::{
    AppProtocol, ClientCertificates, Inbound, MaxMemory, Mtls, PortPolicy, Unknown,
};
use pillion_model::text::shortened;
use pillion_model::{Cluster, Config};

/// A sentence for each key that protects less than before.
pub(super) fn weakened(now: &Config, next: &Config) -> Vec<String> {
    let inbound = match (&now.inbound, &next.inbound) {
        (Some(now), Some(next)) => weakened_inbound(now, next),
        _ => Vec::new(),
    };
    let whole = weakened_whole(now, next).into_iter().map(str::to_owned);
    whole.chain(inbound).chain(federated(now, next)).chain(weakened_services(now, next)).collect()
}

/// The trust domains whose workloads are admitted since.
fn federated(now: &Config, next: &Config) -> Vec<String> {
    let files = |config: &Config| config.identity.as_ref().and_then(Identity::files).cloned();
    let (Some(now), Some(next)) = (files(now), files(next)) else { return Vec::new() };
    let new = next.federation.keys().filter(|domain| !now.federation.contains_key(*domain));
    new.map(|domain| format!("identity.federation: workloads of {domain} are admitted too")).collect()
}

fn weakened_whole(now: &Config, next: &Config) -> Vec<&'static str> {
    // whether a Workload API brings lists is seen when it does
    let reads_list = |config: &Config| {
        let files = |of: &Identity| of.files().is_none_or(|files| files.crl != Crl::None);
        config.identity.as_ref().is_some_and(files)
    };
    let table = [
        (
            passes_unknown(next) && now.outbound.is_some() && !passes_unknown(now),
            "outbound.unknown: passthrough instead of deny",
        ),
        (
            reads_list(now) && next.identity.is_some() && !reads_list(next),
            "identity.crl: there is no revocation list any more, so revoked certificates are accepted again",
        ),
        (
            now.tls.min_version == TlsVersion::Tls13 && next.tls.min_version == TlsVersion::Tls12,
            "tls.min_version: 1.2 instead of 1.3",
        ),
        (
            now.limits.max_memory != MaxMemory::Off && next.limits.max_memory == MaxMemory::Off,
            "limits.max_memory: off, so that clients may take memory until the kernel ends the sidecar",
        ),
        (now.tls.post_quantum && !next.tls.post_quantum, "tls.post_quantum: off instead of prefer"),
    ];
    table.into_iter().filter(|(is_weaker, _)| *is_weaker).map(|(_, what)| what).collect()
}

fn passes_unknown(config: &Config) -> bool {
    config.outbound.as_ref().is_some_and(|outbound| outbound.unknown == Unknown::Passthrough)
}

fn weakened_inbound(now: &Inbound, next: &Inbound) -> Vec<String> {
    let mtls =
        |of: &Inbound, port: Option<u16>| port.and_then(|port| of.ports.get(&port)?.mtls).unwrap_or(of.mtls);
    let protocol = |of: &Inbound, port: Option<u16>| {
        port.and_then(|port| of.ports.get(&port)?.protocol).unwrap_or(of.protocol)
    };
    let mut all = weakened_ports(now, next, mtls, weaker_mtls);
    all.extend(weakened_ports(now, next, protocol, weaker_protocol));
    all.extend(weakened_tls_of_ports(now, next));
    all.extend(weakened_rules(now.authorization.as_ref(), next.authorization.as_ref()));
    all
}

/// Ports at whose listeners clients outside the mesh are admitted with less than before.
fn weakened_tls_of_ports(now: &Inbound, next: &Inbound) -> Vec<String> {
    let strength = |of: &PortPolicy| match of.tls.as_ref().map(|tls| &tls.clients) {
        Some(ClientCertificates::Off) => (0, "off"),
        Some(ClientCertificates::Request { .. }) => (1, "request"),
        Some(ClientCertificates::Require { .. }) => (2, "require"),
        None => (3, "no tls"),
    };
    let weaker = |(port, is): (&u16, &PortPolicy)| {
        let was = now.ports.get(port);
        let mtls = |of: &Inbound, port: Option<&PortPolicy>| port.and_then(|it| it.mtls).unwrap_or(of.mtls);
        let listened = was.filter(|was| !was.listen.is_empty());
        match (listened.map_or((3, "no listener"), strength), strength(is)) {
            ((3, _), (0..=2, _)) if mtls(now, was) == Mtls::Strict => Some(format!(
                "inbound.ports.{port}.tls: clients outside the mesh are admitted at its listeners"
            )),
            ((0..=2, _), (3, _)) if !is.listen.is_empty() && mtls(next, Some(is)) != Mtls::Strict => Some(
                format!("inbound.ports.{port}.tls: there is none any more, so its listeners serve plaintext"),
            ),
            ((before @ 1..=2, was), (after @ 0..=1, is)) if after < before => {
                Some(format!("inbound.ports.{port}.tls.client: {is} instead of {was}"))
            }
            _ => None,
        }
    };
    next.ports.iter().filter_map(weaker).collect()
}

/// How authorization is weaker. Of single rules only this is told: a name that no deny rule has any more.
fn weakened_rules(now: Option<&Authorization>, next: Option<&Authorization>) -> Vec<String> {
    let Some(now) = now.filter(|of| of.mode == Mode::Enforce) else { return Vec::new() };
    let Some(next) = next else {
        let what = "inbound.authorization: there are no rules any more, so every peer that mTLS admits may send anything";
        return vec![what.to_owned()];
    };
    if next.mode == Mode::Audit {
        return vec!["inbound.authorization.mode: audit instead of enforce".to_owned()];
    }
    let default = (now.default == Action::Deny && next.default == Action::Allow)
        .then_some("inbound.authorization.default: allow instead of deny");
    let slash = (now.encoded_slash == EncodedSlash::Reject && next.encoded_slash == EncodedSlash::Keep)
        .then_some("inbound.authorization.encoded_slash: keep instead of reject");
    let outside = weakened_checks(now.ext_authz.as_ref(), next.ext_authz.as_ref());
    let others = default.into_iter().chain(slash).map(str::to_owned);
    others
        .chain(outside)
        .chain(weakened_tokens(now.jwt.as_ref(), next.jwt.as_ref()))
        .chain(lost_denials(now, next))
        .collect()
}

/// How an external authorizer judges less, or another one judges.
fn weakened_checks(now: Option<&ExtAuthz>, next: Option<&ExtAuthz>) -> Vec<String> {
    let Some(now) = now else { return Vec::new() };
    let told = |key: &str, what: &str| format!("inbound.authorization.ext_authz{key}: {what}");
    let Some(next) = next else { return vec![told("", "no external authorizer is asked any more")] };
    let mut all = Vec::new();
    if now.service != next.service {
        all.push(told("", &format!("{} is asked instead of {}", next.service, now.service)));
    }
    if now.on_error == Action::Deny && next.on_error == Action::Allow {
        all.push(told(".on_error", "allow instead of deny"));
    }
    if now.with_body.is_some() && next.with_body.is_none() {
        all.push(told(".with_body", "off, so that bodies are judged no more"));
    }
    if let Some(name) = now.send_headers.iter().find(|name| !next.send_headers.contains(name)) {
        all.push(told(
            ".send_headers",
            &format!("the authorizer does not get `{}` any more", shortened(name)),
        ));
    }
    all
}

/// How other tokens are accepted. The content of keys is not compared.
fn weakened_tokens(now: Option<&Jwt>, next: Option<&Jwt>) -> Vec<String> {
    let Some(now) = now else { return Vec::new() };
    let told = |key: &str, what: &str| format!("inbound.authorization.jwt{key}: {what}");
    let Some(next) = next else { return vec![told("", "no token is verified any more")] };
    let mut all = Vec::new();
    if now.required && !next.required {
        all.push(told(".required", "off instead of on"));
    }
    if now.issuer != next.issuer {
        let (now, next) = (shortened(&now.issuer), shortened(&next.issuer));
        all.push(told(".issuer", &format!("tokens of {next} are accepted, in place of those of {now}")));
    }
    if let Some(more) = next.audiences.iter().find(|audience| !now.audiences.contains(audience)) {
        all.push(told(".audiences", &format!("tokens for {} are accepted too", shortened(more))));
    }
    let is_same_source = match (&now.jwks, &next.jwks) {
        (Jwks::Url { url: now, .. }, Jwks::Url { url: next, .. }) => now == next,
        (now, next) => now == next,
    };
    if !is_same_source {
        all.push(told(".jwks", "another source says which keys verify tokens"));
    }
    all
}

/// The first name of a deny rule that none has any more, and how many more there are.
fn lost_denials(now: &Authorization, next: &Authorization) -> Option<String> {
    fn denials(of: &Authorization) -> impl Iterator<Item = &str> {
        of.rules.iter().filter(|rule| rule.action == Action::Deny).map(|rule| rule.name.as_str())
    }
    let kept: HashSet<&str> = denials(next).collect();
    let mut lost = denials(now).filter(|name| !kept.contains(name));
    let first = shortened(lost.next()?);
    let more = match lost.count() {
        0 => String::new(),
        more => format!(", and so for {more} more"),
    };
    Some(format!("inbound.authorization.rules: no deny rule is called `{first}` any more{more}"))
}

/// How a key is weaker that all ports have and single ports may override. `of` reads the key, and `weaker` compares its
/// values.
fn weakened_ports<T: Copy + PartialEq>(
    now: &Inbound,
    next: &Inbound,
    of: impl Fn(&Inbound, Option<u16>) -> T,
    weaker: impl Fn(&str, T, T) -> Option<String>,
) -> Vec<String> {
    let (was_usual, is_usual) = (of(now, None), of(next, None));
    let mut all = Vec::from_iter(weaker("inbound", was_usual, is_usual));
    for port in now.ports.keys().chain(next.ports.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (of(now, Some(*port)), of(next, Some(*port)));
        let is_told = (was, is) == (was_usual, is_usual); // reported above, for all ports
        if !is_told {
            all.extend(weaker(&format!("inbound.ports.{port}"), was, is));
        }
    }
    all
}

fn weakened_services(now: &Config, next: &Config) -> Vec<String> {
    let (before, owners) = (Owners::of(now), Owners::of(next));
    let mut all = Vec::new();
    for was in now.clusters.iter().filter(|was| upstream(&was.tls).0 > 0) {
        let is = owners.by_name.get(was.name.as_str());
        all.extend(is.and_then(|is| weakened_service(was, is)));
        all.extend(owners.lost(was));
    }
    all.extend(next.clusters.iter().filter_map(|is| before.taken(is)));
    all
}

fn weakened_service(was: &Cluster, is: &Cluster) -> Option<String> {
    let what = weakened_tls(&was.tls, &is.tls)?;
    Some(format!("services.{}.tls: {what}", is.name))
}

/// How `is` verifies a server less strictly than `was`.
fn weakened_tls(was: &UpstreamTls, is: &UpstreamTls) -> Option<String> {
    let ((before, word_before), (after, word)) = (upstream(was), upstream(is));
    if after < before {
        return Some(format!("{word} instead of {word_before}"));
    }
    if let (UpstreamTls::Mutual { identities: was, .. }, UpstreamTls::Mutual { identities: is, .. }) =
        (was, is)
    {
        let more = is.iter().find(|id| !was.contains(id));
        match (was.is_empty(), is.is_empty(), more) {
            (false, true, _) => {
                return Some("any identity of the trust domain instead of those that were named".to_owned());
            }
            (false, false, Some(more)) => return Some(format!("{more} is accepted besides those of before")),
            _ => {}
        }
    }
    match (bundle(was), bundle(is)) {
        (Some(own), None) if after == before => {
            let (own, usual) = (own.display(), if after == 1 { "system's" } else { "mesh's" });
            Some(format!("trusts the {usual} authorities instead of those in {own}"))
        }
        _ => None,
    }
}

fn bundle(tls: &UpstreamTls) -> Option<&Path> {
    match tls {
        UpstreamTls::Off => None,
        UpstreamTls::Simple { trust_bundle, .. } | UpstreamTls::Mutual { trust_bundle, .. } => {
            trust_bundle.as_deref()
        }
    }
}

/// Finds the service to which a destination belongs. A look-up takes the same time however many services there are.
struct Owners<'a> {
    by_name: HashMap<&'a str, &'a Cluster>,
    hosts: HashMap<HostKey<'a>, &'a Cluster>,
    addresses: HashMap<AddressPattern, &'a Cluster>,
    /// The lengths of the prefixes in `addresses`, the longest first.
    prefixes: Vec<u8>,
    passes_unknown: bool,
}

/// The key of a [`HostPattern`]: its name, which is a suffix of the host that is looked up; whether it is a wildcard;
/// the port.
type HostKey<'a> = (&'a str, bool, Option<u16>);

impl<'a> Owners<'a> {
    fn of(config: &'a Config) -> Self {
        let all = &config.clusters;
        let hosts = all.iter().flat_map(|of| of.hosts.iter().map(move |host| (host, of)));
        let addresses = || all.iter().flat_map(|of| of.addresses.iter().map(move |address| (*address, of)));
        let prefixes: BTreeSet<u8> = addresses().map(|(address, _)| address.prefix).collect();
        Self {
            by_name: all.iter().map(|of| (of.name.as_str(), of)).collect(),
            hosts: hosts.map(|(host, of)| ((host.name.as_str(), host.wildcard, host.port), of)).collect(),
            addresses: addresses().collect(),
            prefixes: prefixes.into_iter().rev().collect(),
            passes_unknown: passes_unknown(config),
        }
    }

    /// The first destination of `was` that now belongs to no service, or to one that protects it less.
    fn lost(&self, was: &Cluster) -> Option<String> {
        let hosts = was.hosts.iter().map(|host| (host.to_string(), self.host(host)));
        let addresses = was.addresses.iter().map(|address| (address.to_string(), self.address(address)));
        hosts.chain(addresses).find_map(|(what, owner)| self.lost_to(&what, owner, was))
    }

    fn lost_to(&self, what: &str, owner: Option<&Cluster>, was: &Cluster) -> Option<String> {
        let name = &was.name;
        match owner {
            Some(owner) if owner.name == *name => None, // this service was compared before
            Some(owner) => {
                let weaker = weakened_tls(&was.tls, &owner.tls)?;
                Some(format!("services.{name}: {what} belongs to {} now: tls: {weaker}", owner.name))
            }
            None if self.passes_unknown => Some(format!(
                "services.{name}: {what} belongs to no service any more, and outbound.unknown is passthrough: traffic to it \
                 is sent without this sidecar's TLS"
            )),
            None => None,
        }
    }

    /// The first destination that now belongs to `is`, and that another service, which protected it more, had as a part
    /// of its own.
    fn taken(&self, is: &Cluster) -> Option<String> {
        let hosts = is.hosts.iter().filter_map(|host| {
            let was = self.host(host).filter(|was| !was.hosts.contains(host))?;
            Some((host.to_string(), was))
        });
        let addresses = is.addresses.iter().filter_map(|address| {
            let was = self.address(address).filter(|was| !was.addresses.contains(address))?;
            Some((address.to_string(), was))
        });
        hosts.chain(addresses).filter(|(_, was)| was.name != is.name).find_map(|(what, was)| {
            let weaker = weakened_tls(&was.tls, &is.tls)?;
            Some(format!("services.{}: {what} belonged to {} before: tls: {weaker}", is.name, was.name))
        })
    }

    fn host(&self, host: &HostPattern) -> Option<&'a Cluster> {
        host_patterns(host).find_map(|pattern| self.hosts.get(&pattern).copied())
    }

    fn address(&self, address: &AddressPattern) -> Option<&'a Cluster> {
        let AddressPattern { network, prefix, port } = *address;
        let wide = self.prefixes.iter().filter(|wide| **wide <= prefix);
        let patterns = wide.flat_map(|&prefix| {
            let network = AddressPattern::first(network, prefix);
            ports(port).map(move |port| AddressPattern { network, prefix, port })
        });
        patterns.into_iter().find_map(|pattern| self.addresses.get(&pattern).copied())
    }
}

/// The patterns that match `host`, from the most specific: a longer name precedes a shorter one, and a pattern with a
/// port precedes one without.
fn host_patterns(host: &HostPattern) -> impl Iterator<Item = HostKey<'_>> {
    let parents = host.name.match_indices('.').filter_map(|(dot, _)| host.name.get(dot + 1..));
    let wildcards = parents.map(|parent| (parent, true));
    let names = std::iter::once((host.name.as_str(), host.wildcard)).chain(wildcards);
    names.flat_map(|(name, is_wild)| ports(host.port).map(move |port| (name, is_wild, port)))
}

/// This port and then "every port", or only "every port".
fn ports(port: Option<u16>) -> impl Iterator<Item = Option<u16>> {
    port.map(Some).into_iter().chain([None])
}

fn weaker_mtls(of: &str, was: Mtls, is: Mtls) -> Option<String> {
    let is_weaker = strength(is) < strength(was);
    is_weaker.then(|| format!("{of}.mtls: {} instead of {}", word(is), word(was)))
}

fn weaker_protocol(of: &str, was: AppProtocol, is: AppProtocol) -> Option<String> {
    let is_opaque = |protocol| matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls);
    let is_weaker = is_opaque(is) && !is_opaque(was);
    is_weaker.then(|| {
        let (was, is) = (protocol_word(was), protocol_word(is));
        format!(
            "{of}.protocol: {is} instead of {was}: HTTP is no longer parsed there, so no header is removed, and \
             max_body and max_requests do not hold"
        )
    })
}

const fn protocol_word(protocol: AppProtocol) -> &'static str {
    match protocol {
        AppProtocol::Auto => "auto",
        AppProtocol::Http1 => "http1",
        AppProtocol::Http2 => "http2",
        AppProtocol::Tcp => "tcp",
        AppProtocol::Tls => "tls",
    }
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

/// The strength of the protection, and the file's word for it.
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

    use proptest::prelude::*;

    use super::*;

    fn config(inbound: &str, tls: &str) -> Config {
        let file = format!(
            "identity: {{ directory: certs }}\ninbound: {{ {inbound} }}\n\
             services: {{ orders: {{ endpoints: [10.0.0.1:80], tls: {tls} }} }}\n"
        );
        pillion_config::parse(&file, Path::new("")).expect("a good file").0
    }

    #[test]
    fn c1_weaker_mtls_gives_a_warning_for_all_ports_for_single_ports_and_for_services() {
        let table: [(&str, &str, &[&str]); 8] = [
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

    #[test]
    fn c1_a_change_from_http_to_opaque_gives_a_warning_for_all_ports_and_for_single_ports() {
        let table: [(&str, &str, &[&str]); 6] = [
            ("protocol: http1", "protocol: tcp", &["inbound.protocol: tcp instead of http1"]),
            ("", "ports: { 80: { protocol: tls } }", &["inbound.ports.80.protocol: tls instead of auto"]),
            (
                "protocol: tcp, ports: { 80: { protocol: http2 } }",
                "protocol: tcp",
                &["inbound.ports.80.protocol: tcp instead of http2"],
            ),
            ("protocol: tcp", "protocol: http1", &[]),
            ("protocol: tcp", "protocol: tls", &[]),
            ("protocol: http1", "protocol: auto", &[]),
        ];
        for (now, next, expected) in table {
            let warnings = weakened(&config(now, "mutual"), &config(next, "mutual"));
            assert_eq!(warnings.len(), expected.len(), "{now} to {next}: {warnings:?}");
            for (warning, expected) in warnings.iter().zip(expected) {
                assert!(warning.starts_with(expected), "{now} to {next}: {warning}");
            }
        }
    }

    #[test]
    fn a_listener_that_admits_clients_outside_the_mesh_or_loses_its_tls_gives_a_warning() {
        const TLS: &str = "ports: { 80: { listen: \"0.0.0.0:443\", tls: { certificate: a, key: b } } }";
        const PLAIN: &str = "ports: { 80: { listen: \"0.0.0.0:443\" } }";
        let table: [(&str, &str, &[&str]); 8] = [
            ("", TLS, &["inbound.ports.80.tls: clients outside the mesh are admitted at its listeners"]),
            (PLAIN, TLS, &["inbound.ports.80.tls: clients outside the mesh are admitted at its listeners"]),
            ("mtls: off", &format!("mtls: off, {TLS}"), &[]),
            (
                &format!("mtls: off, {TLS}"),
                &format!("mtls: off, {PLAIN}"),
                &["inbound.ports.80.tls: there is none any more"],
            ),
            (
                &format!("mtls: permissive, {TLS}"),
                &format!("mtls: permissive, {PLAIN}"),
                &["inbound.ports.80.tls: there is none any more"],
            ),
            (TLS, PLAIN, &[]),
            (TLS, "", &[]),
            (TLS, TLS, &[]),
        ];
        for (now, next, expected) in table {
            let warnings = weakened(&config(now, "mutual"), &config(next, "mutual"));
            assert_eq!(warnings.len(), expected.len(), "{now} to {next}: {warnings:?}");
            for (warning, expected) in warnings.iter().zip(expected) {
                assert!(warning.starts_with(expected), "{now} to {next}: {warning}");
            }
        }
    }

    #[test]
    fn weaker_authorization_gives_a_warning() {
        const DENIALS: &str = "{ default: allow, rules: [{ name: a, action: deny, ports: [80] }, { name: b, action: deny, ports: [81] }] }";
        const TOKENS: &str = "{ jwt: { issuer: a, audiences: b, jwks: { file: c } } }";
        const OPTIONAL: &str = "{ jwt: { issuer: a, audiences: b, jwks: { file: c }, required: off } }";
        let block = |text: &str| config(&format!("authorization: {text}"), "mutual");
        let table = [
            ("{}", "off", "inbound.authorization: there are no rules any more"),
            ("{}", "{ mode: audit }", "inbound.authorization.mode: audit instead of enforce"),
            ("{}", "{ default: allow }", "inbound.authorization.default: allow instead of deny"),
            ("{}", "{ rules: [{ name: a }] }", ""),
            ("{}", "{ encoded_slash: keep }", "inbound.authorization.encoded_slash: keep instead of reject"),
            ("{ encoded_slash: keep }", "{}", ""),
            (TOKENS, "{}", "inbound.authorization.jwt: no token is verified any more"),
            (TOKENS, OPTIONAL, "inbound.authorization.jwt.required: off instead of on"),
            (OPTIONAL, TOKENS, ""),
            (
                TOKENS,
                "{ jwt: { issuer: x, audiences: b, jwks: { file: c } } }",
                "inbound.authorization.jwt.issuer: tokens of x are accepted, in place of those of a",
            ),
            (
                TOKENS,
                "{ jwt: { issuer: a, audiences: [b, x], jwks: { file: c } } }",
                "inbound.authorization.jwt.audiences: tokens for x are accepted too",
            ),
            ("{ jwt: { issuer: a, audiences: [b, x], jwks: { file: c } } }", TOKENS, ""),
            (
                TOKENS,
                "{ jwt: { issuer: a, audiences: b, jwks: { file: x } } }",
                "inbound.authorization.jwt.jwks: another source",
            ),
            (
                "{ jwt: { issuer: a, audiences: b, jwks: { url: \"https://a/\" } } }",
                "{ jwt: { issuer: a, audiences: b, jwks: { url: \"https://a/\", refresh: 1m } } }",
                "",
            ),
            (
                "{ ext_authz: { http: \"http://127.0.0.1:1/\", with_body: 1KiB } }",
                "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
                "inbound.authorization.ext_authz.with_body: off",
            ),
            (
                "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
                "{}",
                "inbound.authorization.ext_authz: no external authorizer is asked any more",
            ),
            (
                "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
                "{ ext_authz: { http: \"http://127.0.0.1:1/\", on_error: allow } }",
                "inbound.authorization.ext_authz.on_error: allow instead of deny",
            ),
            (
                "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
                "{ ext_authz: { http: \"http://127.0.0.1:1/x\" } }",
                "inbound.authorization.ext_authz: http://127.0.0.1:1/x is asked instead of http://127.0.0.1:1",
            ),
            (
                "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
                "{ ext_authz: { grpc: \"127.0.0.1:1\" } }",
                "inbound.authorization.ext_authz: 127.0.0.1:1 is asked instead of http://127.0.0.1:1",
            ),
            (
                "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [cookie, x-team] } }",
                "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [cookie, x-other] } }",
                "inbound.authorization.ext_authz.send_headers: the authorizer does not get `x-team` any more",
            ),
            (
                "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [cookie] } }",
                "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [x-team, cookie], timeout: 1s } }",
                "",
            ),
            (
                DENIALS,
                "{ default: allow }",
                "inbound.authorization.rules: no deny rule is called `a` any more, and so for 1 more",
            ),
            (
                DENIALS,
                "{ default: allow, rules: [{ name: a }, { name: b, action: deny, ports: [81] }] }",
                "inbound.authorization.rules: no deny rule is called `a` any more",
            ),
            (
                DENIALS,
                "{ default: allow, rules: [{ name: b, action: deny }, { name: a, action: deny }, { name: c }] }",
                "",
            ),
            ("{ mode: audit }", "off", ""),
            ("{ mode: audit }", "{}", ""),
            ("off", "{}", ""),
        ];
        for (now, next, expected) in table {
            let warnings = weakened(&block(now), &block(next));
            let is_expected = if expected.is_empty() { warnings.is_empty() } else { warnings.len() == 1 };
            assert!(
                is_expected && warnings.iter().all(|it| it.starts_with(expected)),
                "{now} to {next}: {warnings:?}"
            );
        }
        let now = "{ ext_authz: { http: \"http://127.0.0.1:1/\", with_body: 1KiB, send_headers: [a] } }";
        let next = "{ ext_authz: { grpc: \"127.0.0.1:2\", on_error: allow, send_headers: [b] } }";
        let warnings = weakened(&block(now), &block(next));
        assert_eq!(warnings.len(), 4, "each of several is told: {warnings:?}");
    }

    fn outbound(unknown: &str, services: &str) -> Config {
        let file = format!(
            "identity: {{ directory: certs }}\noutbound: {{ unknown: {unknown} }}\nservices: {{ {services} }}\n"
        );
        pillion_config::parse(&file, Path::new("")).expect("a good file").0
    }

    fn service(name: &str, more: &str) -> String {
        format!("{name}: {{ endpoints: [10.0.0.1:80], {more} }}")
    }

    #[test]
    fn c1_a_destination_that_no_service_protects_any_more_gives_a_warning() {
        let whole = "hosts: [orders, orders.shop], addresses: [10.96.0.10:80]";
        let now = service("orders", whole);
        let warnings_of =
            |unknown: &str, next: &str| weakened(&outbound(unknown, &now), &outbound(unknown, next));
        for (next, words) in [
            (String::new(), "orders belongs to no service any more"),
            (
                service("orders", "hosts: [orders], addresses: [10.96.0.10:80]"),
                "orders.shop belongs to no service",
            ),
            (service("orders", "hosts: [orders, orders.shop]"), "10.96.0.10:80 belongs to no service"),
            (
                service("other", &format!("{whole}, tls: off")),
                "orders belongs to other now: tls: off instead of mutual",
            ),
            (
                service("other", "hosts: [orders, \"*.shop\"], addresses: [10.96.0.0/16], tls: off"),
                "orders belongs to other now",
            ),
        ] {
            let warnings = warnings_of("passthrough", &next);
            assert!(matches!(&warnings[..], [one] if one.contains(words)), "{next}: {warnings:?}");
        }
        for next in [
            now.clone(),
            service("renamed", whole),
            service("wide", "hosts: [orders, \"*.shop\"], addresses: [10.96.0.0/16]"),
        ] {
            assert_eq!(warnings_of("passthrough", &next), [""; 0], "{next}");
        }
        assert_eq!(warnings_of("deny", ""), [""; 0], "it is denied");
        assert_eq!(
            weakened(&outbound("passthrough", &service("a", "tls: off")), &outbound("passthrough", "")),
            [""; 0]
        );
    }

    #[test]
    fn c1_a_part_of_a_destination_that_moves_to_a_less_protected_service_gives_a_warning() {
        let shop = service("shop", "hosts: [\"*.shop\"], addresses: [10.0.0.0/8]");
        let warnings_of = |more: &str| {
            let next = format!("{shop}, {}", service("pay", more));
            weakened(&outbound("passthrough", &shop), &outbound("passthrough", &next))
        };
        assert_eq!(
            warnings_of("hosts: [pay.shop], tls: off"),
            ["services.pay: pay.shop belonged to shop before: tls: off instead of mutual"]
        );
        assert_eq!(
            warnings_of("addresses: [10.1.0.0/16], tls: off"),
            ["services.pay: 10.1.0.0/16 belonged to shop before: tls: off instead of mutual"]
        );
        for more in
            ["hosts: [pay.shop], addresses: [10.1.0.0/16]", "hosts: [pay], addresses: [11.0.0.0/8], tls: off"]
        {
            assert_eq!(warnings_of(more), [""; 0], "{more}");
        }
    }

    /// The owner of a destination, found by comparing it with every pattern.
    fn compared<'a, P: PartialEq>(
        all: &[(P, &'a Cluster)],
        one: &P,
        is_of: impl Fn(&P) -> bool,
        length: impl Fn(&P) -> (usize, bool),
    ) -> Option<&'a Cluster> {
        let exact = all.iter().rfind(|(of, _)| of == one);
        let wide = || all.iter().filter(|(of, _)| is_of(of)).max_by_key(|(of, _)| length(of));
        exact.or_else(wide).map(|(_, of)| *of)
    }

    fn compared_host<'a>(all: &[(HostPattern, &'a Cluster)], host: &HostPattern) -> Option<&'a Cluster> {
        let is_of = |wide: &HostPattern| {
            let is_below = host.name.strip_suffix(&wide.name).is_some_and(|rest| rest.ends_with('.'));
            let is_same = host.name == wide.name && host.wildcard == wide.wildcard;
            (is_same || (wide.wildcard && is_below)) && wide.port.is_none_or(|port| Some(port) == host.port)
        };
        compared(all, host, is_of, |of| (of.name.len(), of.port.is_some()))
    }

    fn compared_address<'a>(
        all: &[(AddressPattern, &'a Cluster)],
        address: &AddressPattern,
    ) -> Option<&'a Cluster> {
        let is_of = |wide: &AddressPattern| {
            let is_within = wide.prefix <= address.prefix && wide.contains(address.network);
            is_within && wide.port.is_none_or(|port| Some(port) == address.port)
        };
        compared(all, address, is_of, |of| (of.prefix.into(), of.port.is_some()))
    }

    fn host_pattern() -> impl Strategy<Value = HostPattern> {
        let name = prop::sample::select(vec!["a", "b.a", "c.b.a", "ba", "x.ba", "b"]);
        (name, any::<bool>(), prop::option::of(80..82_u16)).prop_map(|(name, wildcard, port)| HostPattern {
            name: name.to_owned(),
            wildcard,
            port,
        })
    }

    fn address_pattern() -> impl Strategy<Value = AddressPattern> {
        let prefix = prop::sample::select(vec![0, 8, 15, 16, 24, 31, 32]);
        let network = prop::sample::select(vec!["10.1.0.0", "10.0.0.1", "10.1.2.3", "fd00::1"]);
        (network, prefix, prop::option::of(80..82_u16)).prop_map(|(network, prefix, port)| {
            let network = AddressPattern::first(network.parse().unwrap(), prefix);
            AddressPattern { network, prefix, port }
        })
    }

    proptest! {
        #[test]
        fn c1_the_owner_of_a_destination_is_the_one_that_a_comparison_with_all_finds(
            hosts in prop::collection::vec(host_pattern(), 0..12),
            addresses in prop::collection::vec(address_pattern(), 0..12),
            host in host_pattern(),
            address in address_pattern(),
        ) {
            let mut config = outbound("deny", &service("a", ""));
            let template = config.clusters.remove(0);
            let pairs = hosts.iter().map(|host| (Some(host), None));
            for (nth, (host, address)) in pairs.chain(addresses.iter().map(|of| (None, Some(of)))).enumerate() {
                config.clusters.push(Cluster {
                    name: nth.to_string(),
                    hosts: host.into_iter().cloned().collect(),
                    addresses: address.into_iter().copied().collect(),
                    ..template.clone()
                });
            }
            let name = |of: Option<&Cluster>| of.map(|of| of.name.clone());
            let (of_hosts, of_addresses) = config.clusters.split_at(hosts.len());
            let all_hosts: Vec<_> = hosts.iter().cloned().zip(of_hosts).collect();
            let all_addresses: Vec<_> = addresses.iter().copied().zip(of_addresses).collect();
            let owners = Owners::of(&config);
            prop_assert_eq!(name(owners.host(&host)), name(compared_host(&all_hosts, &host)));
            prop_assert_eq!(name(owners.address(&address)), name(compared_address(&all_addresses, &address)));
        }
    }

    #[test]
    fn c1_the_owner_of_a_host_is_found_in_few_steps_among_ten_thousand_wildcards() {
        let mut config = outbound("deny", &service("orders", ""));
        config.clusters[0].hosts = (0..10_000)
            .map(|nth| HostPattern { name: format!("n{nth}.shop"), wildcard: true, port: None })
            .collect();
        let owners = Owners::of(&config);
        for nth in 0..10_000 {
            let host = HostPattern { port: Some(80), ..HostPattern::exact(&format!("a.n{nth}.shop")) };
            assert_eq!(owners.host(&host).map(|of| of.name.as_str()), Some("orders"), "{host}");
            assert_eq!(host_patterns(&host).count(), 6, "three names, with the port and without");
        }
        let all_ports = HostPattern { name: "n1.shop".to_owned(), wildcard: true, port: None };
        let questions: Vec<_> = host_patterns(&all_ports).collect();
        assert_eq!(questions, [("n1.shop", true, None), ("shop", true, None)]);
    }

    #[test]
    fn c1_passing_unknown_destinations_through_gives_a_warning() {
        let (deny, pass) = (outbound("deny", ""), outbound("passthrough", ""));
        assert_eq!(weakened(&deny, &pass), ["outbound.unknown: passthrough instead of deny"]);
        assert_eq!(weakened(&pass, &deny), [""; 0]);
    }

    #[test]
    fn c1_accepting_more_servers_for_a_service_gives_a_warning() {
        let (one, two) = ("spiffe://a/ns/x/sa/one", "spiffe://a/ns/x/sa/two");
        let mutual = |more: &str| format!("{{ mode: mutual, {more} }}");
        let both = format!("identities: [{one}, {two}]");
        for (now, next, expected) in [
            (format!("\"{one}\""), "mutual".to_owned(), Some("any identity of the trust domain")),
            (format!("\"{one}\""), mutual(&both), Some("sa/two is accepted besides")),
            (mutual(&both), format!("\"{one}\""), None),
            ("mutual".to_owned(), format!("\"{one}\""), None),
            (mutual("trust_bundle: own.pem"), "mutual".to_owned(), Some("trusts the mesh's authorities")),
            ("mutual".to_owned(), mutual("trust_bundle: own.pem"), None),
        ] {
            let tls = |tls: &str| outbound("deny", &service("orders", &format!("tls: {tls}")));
            let warnings = weakened(&tls(&now), &tls(&next));
            match expected {
                None => assert_eq!(warnings, [""; 0], "{now} to {next}"),
                Some(words) => {
                    assert!(
                        matches!(&warnings[..], [one] if one.contains(words)),
                        "{now} to {next}: {warnings:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn c1_weaker_tls_settings_of_the_whole_sidecar_give_a_warning() {
        let config =
            |more: &str| pillion_config::parse(&format!("{more}\n"), Path::new("")).expect("a good file").0;
        let files = "certificate: a, key: b, trust_bundle: c";
        let (with, without) =
            (format!("identity: {{ {files}, crl: d }}"), format!("identity: {{ {files} }}"));
        let warnings = weakened(&config(&with), &config(&without));
        assert!(
            matches!(&warnings[..], [one] if one.contains("no revocation list any more")),
            "{warnings:?}"
        );
        let federated = format!("identity: {{ {files}, federation: {{ partner.example: d }} }}");
        let warnings = weakened(&config(&without), &config(&federated));
        assert_eq!(warnings, ["identity.federation: workloads of partner.example are admitted too"]);
        assert_eq!(weakened(&config(&federated), &config(&without)), [""; 0]);
        let (strong, weak) = ("tls: { min_version: \"1.3\" }", "tls: { post_quantum: off }");
        assert_eq!(
            weakened(&config(strong), &config(weak)),
            ["tls.min_version: 1.2 instead of 1.3", "tls.post_quantum: off instead of prefer"]
        );
        assert_eq!(weakened(&config(weak), &config(strong)), [""; 0]);
    }

    #[test]
    fn a_memory_limit_that_is_turned_off_is_told() {
        let of = |limits: &str| pillion_config::parse(limits, Path::new("")).expect("a good file").0;
        let [auto, off] = ["auto", "off"].map(|max| of(&format!("limits: {{ max_memory: {max} }}\n")));
        assert!(weakened(&auto, &off).iter().any(|what| what.starts_with("limits.max_memory: off")));
        assert_eq!(weakened(&off, &auto), Vec::<String>::new());
    }
}
