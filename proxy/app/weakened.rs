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
mod tests;
