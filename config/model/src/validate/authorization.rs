//! `inbound.authorization`: names that are used twice, and rules that can never match.

use std::collections::HashSet;

use super::actions::{Side, reserved};
use crate::authorization::{
    Action, Authorization, ClaimMatch, ClaimPattern, Conditions, ExtAuthz, Jwks, PathPattern, PeerPattern,
    Rule,
};
use crate::cluster::{AddressPattern, HostPattern};
use crate::fault::Faults;
use crate::listener::{AppProtocol, Inbound, Mtls};
use crate::path::Trail;
use crate::route::{HeaderMatch, ValueMatch};
use crate::text::shortened;

/// The deny rules with which each rule is compared. Only a deny rule for every peer can make rules of others useless,
/// and few files have more than a handful of these.
const MOST_COMPARED: usize = 64;
/// The regular expressions of all rules. Each may take 64 KiB, and they are tried one by one.
const MOST_EXPRESSIONS: usize = 1024;

pub(super) fn validate(inbound: &Inbound, at: &Trail<'_>, faults: &mut Faults) {
    let Some(authorization) = &inbound.authorization else { return };
    let at = at.key("authorization");
    let rules = at.key("rules");
    refuse_shared_names(authorization, &rules, faults);
    refuse_many_expressions(authorization, &rules, faults);
    refuse_headers(authorization, &rules, faults);
    validate_jwt(authorization, &at, faults);
    validate_ext_authz(authorization, &at, faults);
    let admits_unknown_peers =
        authorization.default == Action::Allow || authorization.rules.iter().any(allows_unknown_peers);
    let broad: Vec<(usize, &Rule)> = broad_denials(authorization).take(MOST_COMPARED).collect();
    for (nth, rule) in authorization.rules.iter().enumerate() {
        let at = rules.index(nth);
        if let Some((what, help)) = never_matches(rule, inbound) {
            faults.warn(&at, what).help(help);
        } else if let Some((wins, deny)) = always_denied(nth, rule, &broad) {
            let what = format!(
                "can never decide: the deny rule `{}` matches all that it matches",
                shortened(&deny.name)
            );
            let fault = faults.warn(&at, what);
            fault.help("narrow that rule, or remove this one").depends_on(&rules.index(wins));
        } else if admits_unknown_peers && spares_unknown_peers(rule, inbound) {
            let what = "does not hold for peers without an identity, and its ports admit them: the same peer in plaintext is not denied";
            faults.warn(&at, what).help("write mtls: strict, or name in allow rules who is admitted");
        }
    }
}

fn refuse_shared_names(of: &Authorization, at: &Trail<'_>, faults: &mut Faults) {
    let mut seen = HashSet::new();
    for (nth, rule) in of.rules.iter().enumerate() {
        if !seen.insert(rule.name.as_str()) && !rule.name.is_empty() {
            faults
                .error(
                    &at.index(nth).key("name"),
                    format!("is `{}`, as an earlier rule is called", shortened(&rule.name)),
                )
                .help("the access log and metrics tell rules apart by their names");
        }
    }
}

fn refuse_many_expressions(of: &Authorization, at: &Trail<'_>, faults: &mut Faults) {
    let conditions = of.rules.iter().flat_map(|rule| std::iter::once(&rule.when).chain(&rule.not));
    let headers = conditions.flat_map(|of| &of.headers);
    if headers.filter(|it| matches!(it.value, ValueMatch::Regex(_))).count() > MOST_EXPRESSIONS {
        faults.error(at, format!("has more than {MOST_EXPRESSIONS} regular expressions")).help(
            "they are tried one by one, and each takes up to 64 KiB; `exact` and `prefix` have no such bound",
        );
    }
}

/// Refuses headers that the application does not get as the peer has sent them.
fn refuse_headers(of: &Authorization, at: &Trail<'_>, faults: &mut Faults) {
    let mut refuse = |of: &Conditions, at: &Trail<'_>| {
        for HeaderMatch { name, .. } in &of.headers {
            let (why, help) = match (name.as_str(), reserved(name, Side::Request)) {
                ("x-forwarded-for", _) => ("to which the sidecar adds the peer's address", "write `sources`"),
                (name, Some((why, _))) if name.contains("client") => {
                    (why, "write `from`: it has the verified identity")
                }
                (_, Some((why, _))) => {
                    (why, "leave it out: the application does not get it as the peer has sent it")
                }
                (_, None) => continue,
            };
            faults.error(&at.key("headers").key(name), format!("is {name}, {why}")).help(help);
        }
    };
    for (nth, rule) in of.rules.iter().enumerate() {
        let at = at.index(nth);
        refuse(&rule.when, &at);
        if let Some(not) = &rule.not {
            refuse(not, &at.key("not"));
        }
    }
}

fn validate_ext_authz(of: &Authorization, at: &Trail<'_>, faults: &mut Faults) {
    let Some(of) = &of.ext_authz else { return };
    let at = at.key("ext_authz");
    if of.timeout.is_zero() || of.timeout > ExtAuthz::LONGEST_TIMEOUT {
        let what = format!("is not above 0 and up to {:?}", ExtAuthz::LONGEST_TIMEOUT);
        faults.error(&at.key("timeout"), what).help("every request waits for it: 200ms");
    }
    if of.with_body.is_some_and(|most| most == 0 || most > ExtAuthz::LARGEST_BODY) {
        faults
            .error(&at.key("with_body"), "is not above 0 and up to 1MiB")
            .help("each request holds its body twice while the authorizer is asked: 8KiB; or off");
    }
    for name in &of.send_headers {
        if let Some((why, help)) = reserved(name, Side::Request) {
            faults.error(&at.key("send_headers"), format!("has {name}, {why}")).help(help);
        }
    }
}

/// Checks `jwt`, and that rules name claims only where it exists.
fn validate_jwt(of: &Authorization, at: &Trail<'_>, faults: &mut Faults) {
    let Some(jwt) = &of.jwt else {
        let named = of.rules.iter().position(|rule| rule.claims().next().is_some());
        if let Some(nth) = named {
            faults.error(&at.key("rules").index(nth), "names claims, and no token is verified").help(
                "write `jwt` in `authorization`: { issuer: …, audiences: […], jwks: { file: jwks.json } }",
            );
        }
        return;
    };
    let at = at.key("jwt");
    if let Some((why, _)) = reserved(&jwt.header, Side::Request) {
        let fault = faults.error(&at.key("from").key("header"), format!("is {}, {why}", jwt.header));
        fault.help("leave it out: tokens come in `authorization`");
    }
    if let Jwks::Url { refresh, .. } = &jwt.jwks
        && *refresh < Jwks::SHORTEST_REFRESH
    {
        faults
            .error(&at.key("jwks").key("refresh"), format!("is shorter than {:?}", Jwks::SHORTEST_REFRESH))
            .help("an unknown key is fetched early in any case");
    }
}

/// A sentence on why the rule can never match, and what to do.
fn never_matches(rule: &Rule, inbound: &Inbound) -> Option<(String, &'static str)> {
    let ports = || Ports::of(rule, inbound);
    if !rule.when.from.is_empty() && ports().all(|port| port.mtls == Mtls::Off) {
        let what = "can never match: it names identities with `from`, and mTLS is off on its ports";
        return Some((
            what.to_owned(),
            "only mTLS proves an identity: write mtls: strict, with an `identity`",
        ));
    }
    let is_opaque = |port: Port| matches!(port.protocol, AppProtocol::Tcp | AppProtocol::Tls);
    if rule.action == Action::Allow && rule.needs_http() && ports().all(is_opaque) {
        let what =
            "can never match: its ports carry opaque bytes, which have no method, path, host or header";
        return Some((what.to_owned(), "leave these conditions out, or change the protocol of the port"));
    }
    // A deny rule matches also what its conditions for requests may fit, and is excepted only from what certainly fits.
    let is_certain = |not: &&Conditions| rule.action == Action::Allow || !not.need_http();
    let not = rule.not.as_ref().filter(is_certain)?;
    covers(not, &rule.when).then(|| {
        let what = "can never match: `not` excepts everything that its other conditions match".to_owned();
        (what, "narrow `not`, or remove the rule")
    })
}

/// An earlier or a wider deny rule that always decides in place of this one.
fn always_denied<'a>(nth: usize, rule: &Rule, broad: &[(usize, &'a Rule)]) -> Option<(usize, &'a Rule)> {
    let wins = |(other, deny): &&(usize, &Rule)| {
        let goes_before = rule.action == Action::Allow || *other < nth;
        *other != nth
            && goes_before
            && covers(&deny.when, &rule.when)
            && (deny.when.need_http() <= rule.when.need_http())
    };
    broad.iter().find(wins).copied()
}

fn allows_unknown_peers(rule: &Rule) -> bool {
    rule.action == Action::Allow && std::iter::once(&rule.when).chain(&rule.not).all(|of| of.from.is_empty())
}

/// Whether this is a deny rule by identity, for a port that admits peers without one.
fn spares_unknown_peers(rule: &Rule, inbound: &Inbound) -> bool {
    let is_by_identity = rule.action == Action::Deny && !rule.when.from.is_empty();
    is_by_identity && Ports::of(rule, inbound).any(|port| port.mtls != Mtls::Strict)
}

fn broad_denials(of: &Authorization) -> impl Iterator<Item = (usize, &Rule)> {
    let is_broad =
        |rule: &Rule| rule.action == Action::Deny && rule.not.is_none() && rule.when.from.is_empty();
    of.rules.iter().enumerate().filter(move |(_, rule)| is_broad(rule))
}

#[derive(Clone, Copy)]
struct Port {
    mtls: Mtls,
    protocol: AppProtocol,
}

struct Ports;

impl Ports {
    /// The ports for which the rule is: those that it names, or every port.
    fn of<'a>(rule: &'a Rule, inbound: &'a Inbound) -> impl Iterator<Item = Port> + 'a {
        let usual = Port { mtls: inbound.mtls, protocol: inbound.protocol };
        let single = move |port: &u16| {
            inbound.ports.get(port).map_or(usual, |own| Port {
                // at the port's own listener, clients outside the mesh have no identity
                mtls: match own.mtls.unwrap_or(usual.mtls) {
                    Mtls::Strict if own.tls.is_some() => Mtls::Permissive,
                    mtls => mtls,
                },
                protocol: own.protocol.unwrap_or(usual.protocol),
            })
        };
        let named = rule.when.ports.iter().map(single);
        let is_every = rule.when.ports.is_empty();
        let all = inbound.ports.keys().filter(move |_| is_every).map(single);
        named.chain(is_every.then_some(usual)).chain(all)
    }
}

/// Whether everything that fits `narrow` certainly fits `wide`.
fn covers(wide: &Conditions, narrow: &Conditions) -> bool {
    fn covered<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
        let is_covered = |narrow: &T| wide.iter().any(|wide| covers(wide, narrow));
        wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(is_covered))
    }
    let Conditions { from, methods, paths, ports, hosts, headers, sources, claims } = wide;
    covered(from, &narrow.from, peer_covers)
        && covered(methods, &narrow.methods, |wide, narrow| wide == narrow)
        && covered(paths, &narrow.paths, path_covers)
        && covered(ports, &narrow.ports, |wide, narrow| wide == narrow)
        && covered(hosts, &narrow.hosts, host_covers)
        && headers.iter().all(|wide| narrow.headers.contains(wide))
        && covered(sources, &narrow.sources, source_covers)
        && claims.iter().all(|wide| narrow.claims.iter().any(|narrow| claim_covers(wide, narrow)))
}

fn peer_covers(wide: &PeerPattern, narrow: &PeerPattern) -> bool {
    wide == narrow || (wide.is_below && (wide.fits(&narrow.id) || wide.id == narrow.id && narrow.is_below))
}

fn path_covers(wide: &PathPattern, narrow: &PathPattern) -> bool {
    wide == narrow || (wide.is_below && narrow.path.starts_with(&wide.path))
}

fn host_covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    let is_name = if narrow.wildcard { wide == narrow } else { wide.fits_name(&narrow.name) };
    is_name && (wide.port.is_none() || wide.port == narrow.port)
}

fn claim_covers(wide: &ClaimMatch, narrow: &ClaimMatch) -> bool {
    let is_covered = |narrow: &ClaimPattern| wide.values.iter().any(|wide| wide.covers(narrow));
    wide.name == narrow.name && narrow.values.iter().all(is_covered)
}

fn source_covers(wide: &AddressPattern, narrow: &AddressPattern) -> bool {
    wide.prefix <= narrow.prefix && wide.contains(narrow.network)
}
