//! The document of `pillion policy record`: rules made of the traffic that a sidecar has seen. Pure.
//!
//! Each rule names peers, a port, and for requests methods and paths. What differs in one of these is never joined, because
//! the joined rule would allow more. No rule is made for callers without an identity: `from` never matches them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// 2 MiB of rules: a configuration file has at most 4 MiB.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// The requests of callers without an identity that the document lists.
const MOST_LISTED: usize = 50;
/// 40 bytes of an account's name in the name of a rule, which is a label of metrics.
const LONGEST_ACCOUNT: usize = 40;

/// What the document says of the recording.
pub(super) struct About {
    /// The address of the sidecar.
    pub(super) from: String,
    pub(super) lasted: Duration,
    pub(super) at: SystemTime,
    /// Why the recording ended early.
    pub(super) lost: Option<String>,
}

pub(super) struct Document {
    pub(super) text: String,
    /// What no rule covers, or covers too widely: a sentence for each, which is in the text, too.
    pub(super) gaps: Vec<String>,
}

/// The traffic of one peer to one port.
struct Sent {
    /// `None`: callers without an identity.
    peer: Option<String>,
    port: u16,
    connections: u64,
    requests: Vec<Requests>,
}

struct Requests {
    method: String,
    /// `None`: they have no path.
    path: Option<String>,
    count: u64,
}

/// What a rule names besides peers. Empty methods and paths: every one, and opaque connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    port: u16,
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
}

/// The peers of a rule, and how often it would have matched.
#[derive(Debug, Default)]
struct Callers {
    peers: BTreeSet<String>,
    count: u64,
}

type Rules = BTreeMap<Target, Callers>;

/// `found` is the answer of the admin port.
pub(super) fn write(found: &Value, about: &About) -> Document {
    let all = found["traffic"].as_array().into_iter().flatten().filter_map(Sent::read);
    let (sent, without_port): (Vec<Sent>, Vec<Sent>) = all.partition(|sent| sent.port != 0);
    let (rules, mixed) = rules(&sent);
    let (rules, dropped) = rules_text(&rules);
    let mut gaps = about.lost.clone().into_iter().collect::<Vec<_>>();
    gaps.extend(mixed.iter().map(|port| {
        format!(
            "the rules for port {port} have no methods and paths, because it carries HTTP and other bytes, which match no \
             rule with these: declare a port with `protocol: tcp` if it carries no HTTP"
        )
    }));
    gaps.extend(left_out(&found["left_out"], dropped));
    gaps.extend(unknown_port(&without_port));
    let strangers = strangers(found, &sent);
    gaps.extend(strangers.first().cloned());
    let mut text = head(about);
    gaps.iter().filter(|gap| Some(*gap) != strangers.first()).chain(&strangers).for_each(|line| {
        text.push_str(&format!("# {line}\n"));
    });
    text.push_str(&identity(&found["identity"]));
    text.push_str("inbound:\n  authorization:\n    mode: audit\n");
    if found["keeps_encoded_slashes"] == true {
        text.push_str("    encoded_slash: keep\n");
    }
    text.push_str(&rules);
    Document { text, gaps }
}

impl Sent {
    fn read(of: &Value) -> Option<Self> {
        let requests = of["requests"].as_array()?.iter().filter_map(Requests::read);
        Some(Self {
            peer: of["peer"].as_str().map(str::to_owned),
            port: of["port"].as_u64()?.try_into().ok()?,
            connections: of["connections"].as_u64()?,
            requests: requests.collect(),
        })
    }

    fn count(&self) -> u64 {
        self.connections + self.requests.iter().map(|requests| requests.count).sum::<u64>()
    }
}

impl Requests {
    fn read(of: &Value) -> Option<Self> {
        let (method, path) = (of["method"].as_str()?.to_owned(), of["path"].as_str().map(str::to_owned));
        Some(Self { method, path, count: of["count"].as_u64()? })
    }
}

/// The rules, and the ports that carry both HTTP and opaque bytes.
fn rules(sent: &[Sent]) -> (Rules, BTreeSet<u16>) {
    let known = || sent.iter().filter(|sent| sent.peer.is_some());
    let ports = |has: fn(&Sent) -> bool| known().filter(move |sent| has(sent)).map(|sent| sent.port);
    let http: BTreeSet<u16> = ports(|sent| !sent.requests.is_empty()).collect();
    let mixed: BTreeSet<u16> =
        ports(|sent| sent.connections > 0).filter(|port| http.contains(port)).collect();
    let mut rules = Rules::new();
    for sent in known() {
        let Some(peer) = &sent.peer else { continue };
        for (target, count) in targets(sent, mixed.contains(&sent.port)) {
            let callers = rules.entry(target).or_default();
            callers.peers.insert(peer.clone());
            callers.count += count;
        }
    }
    (rules, mixed)
}

/// What one peer sent to one port: methods with the same paths are joined.
fn targets(sent: &Sent, is_mixed: bool) -> Vec<(Target, u64)> {
    let whole =
        |count| Target { port: sent.port, methods: BTreeSet::new(), paths: BTreeSet::new() }.with(count);
    if is_mixed {
        return vec![whole(sent.count())];
    }
    let mut by_method: BTreeMap<&str, (BTreeSet<String>, u64, bool)> = BTreeMap::new();
    for Requests { method, path, count } in &sent.requests {
        let (paths, sum, is_every) = by_method.entry(method).or_default();
        paths.extend(path.clone());
        *sum += count;
        *is_every |= path.is_none(); // a rule with paths matches no request without one
    }
    let mut by_paths: BTreeMap<BTreeSet<String>, (BTreeSet<String>, u64)> = BTreeMap::new();
    for (method, (paths, count, is_every)) in by_method {
        let (methods, sum) = by_paths.entry(if is_every { BTreeSet::new() } else { paths }).or_default();
        methods.insert(method.to_owned());
        *sum += count;
    }
    let each = |(paths, (methods, count))| Target { port: sent.port, methods, paths }.with(count);
    let opaque = (sent.connections > 0).then(|| whole(sent.connections));
    by_paths.into_iter().map(each).chain(opaque).collect()
}

impl Target {
    fn with(self, count: u64) -> (Self, u64) {
        (self, count)
    }
}

/// The block `rules`, and the number of rules for which it has no room.
fn rules_text(rules: &Rules) -> (String, usize) {
    if rules.is_empty() {
        return ("    rules: []\n".to_owned(), 0);
    }
    let (mut text, mut dropped) = ("    rules:\n".to_owned(), 0);
    for (nth, (target, callers)) in rules.iter().enumerate() {
        let rule = rule(nth + 1, target, callers);
        match text.len() + rule.len() <= MOST_BYTES {
            true => text.push_str(&rule),
            false => dropped += 1,
        }
    }
    (text, dropped)
}

fn rule(nth: usize, target: &Target, callers: &Callers) -> String {
    let name = format!("{}-{nth}", account(callers));
    let mut text = format!("      # matches {} of the recording\n      - name: {name}\n", callers.count);
    let mut list = |key: &str, all: &BTreeSet<String>| {
        if !all.is_empty() {
            let all: Vec<String> = all.iter().map(|text| quoted(text)).collect();
            text.push_str(&format!("        {key}: [{}]\n", all.join(", ")));
        }
    };
    list("from", &callers.peers);
    list("methods", &target.methods);
    list("paths", &target.paths);
    text.push_str(&format!("        ports: [{}]\n", target.port));
    text
}

/// The last segment of the first peer's identity, as far as names of rules may have it.
fn account(of: &Callers) -> String {
    let last = of.peers.first().and_then(|peer| peer.rsplit('/').next()).unwrap_or_default();
    let usual = last.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    let name: String = usual.take(LONGEST_ACCOUNT).collect();
    if name.is_empty() { "peer".to_owned() } else { name }
}

/// A text of YAML, in which no variable is replaced.
fn quoted(text: &str) -> String {
    Value::from(text.replace('$', "$$")).to_string()
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn head(about: &About) -> String {
    let at = OffsetDateTime::from(about.at).replace_nanosecond(0).ok();
    let at = at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
    format!(
        "# The least allow rules under which the traffic of {} s to the sidecar at {} would have passed,\n\
         # written at {at} by `pillion policy record`. Put `authorization` into `inbound` of that sidecar's file, beside the\n\
         # `jwt`, `ext_authz` and deny rules that it has. In `mode: audit` nothing is denied. Remove `mode` when\n\
         # pillion_authorization_total{{decision=\"would_deny\"}} counts only what shall be denied.\n",
        about.lasted.as_secs(),
        about.from,
    )
}

/// The identity of the sidecar, without which `from` could match nobody.
fn identity(of: &Value) -> String {
    let keys: Vec<String> = ["certificate", "key", "trust_bundle", "workload_api"]
        .into_iter()
        .filter_map(|key| Some(format!("{key}: {}", quoted(of[key].as_str()?))))
        .collect();
    match keys.is_empty() {
        true => String::new(),
        false => format!("identity: {{ {} }}\n", keys.join(", ")),
    }
}

/// A sentence for each reason why traffic is in no rule.
fn left_out(of: &Value, dropped: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut tell = |key: &str, why: &str| {
        if let Some(count @ 1..) = of[key].as_u64() {
            all.push(format!("not covered: {}", counted(count, "request") + why));
        }
    };
    tell(
        "beyond_bound",
        " or connections beyond what a recording keeps (2 MiB of peers, ports, methods and paths; 64 methods of a peer)",
    );
    tell(
        "unclear_paths",
        " with paths that two programs could read as two paths: they get 400 where rules name paths",
    );
    tell("methods", " with methods that no rule names: in lower case, or of more than 32 bytes");
    if dropped > 0 {
        all.push(format!("not covered: {} beyond 2 MiB of rules", counted(dropped as u64, "rule")));
    }
    all
}

/// A sentence about traffic to port 0, which stands for a port that the sidecar did not know.
fn unknown_port(sent: &[Sent]) -> Option<String> {
    let count = sent.iter().map(Sent::count).sum::<u64>();
    (count > 0).then(|| {
        let count = counted(count, "request");
        format!("not covered: {count} or connections whose port of the application was not known, so that no rule can name it")
    })
}

/// What callers without an identity sent: a sentence, then a line for each kind of request. Empty: there were none.
fn strangers(found: &Value, sent: &[Sent]) -> Vec<String> {
    let addresses: Vec<&str> =
        found["without_identity"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let more = if found["left_out"]["without_identity"] == true { " and others" } else { "" };
    let mut all = vec![format!(
        "not covered: callers without an identity, which `from` never matches ({}{more})",
        addresses.join(", ")
    )];
    let lines = sent.iter().filter(|sent| sent.peer.is_none()).flat_map(lines);
    all.extend(lines.map(|line| format!("  {line}")));
    if let more @ 1.. = all.len().saturating_sub(MOST_LISTED + 1) {
        all.truncate(MOST_LISTED + 1);
        all.push(format!("  and {more} more kinds of requests"));
    }
    all
}

fn lines(sent: &Sent) -> Vec<String> {
    let port = sent.port;
    let request = |of: &Requests| {
        let path = of.path.as_deref().unwrap_or("(without a path)");
        format!("{} {path} to port {port}: {}", of.method, counted(of.count, "request"))
    };
    let opaque = (sent.connections > 0)
        .then(|| format!("opaque bytes to port {port}: {}", counted(sent.connections, "connection")));
    sent.requests.iter().map(request).chain(opaque).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
    const BATCH: &str = "spiffe://cluster.local/ns/shop/sa/batch";

    fn sent(peer: Option<&str>, port: u16, connections: u64, requests: &[(&str, Option<&str>)]) -> Value {
        let each =
            |(method, path): &(&str, Option<&str>)| json!({ "method": method, "path": path, "count": 2 });
        let requests: Vec<Value> = requests.iter().map(each).collect();
        json!({ "peer": peer, "port": port, "connections": connections, "requests": requests })
    }

    fn written(traffic: &[Value], more: &[(&str, Value)]) -> Document {
        let mut found = json!({
            "traffic": traffic, "identity": { "certificate": "/c.crt", "key": "/c.key", "trust_bundle": "/ca.crt" },
        });
        more.iter().for_each(|(key, value)| found[*key] = value.clone());
        let about = About {
            from: "http://127.0.0.1:15000".to_owned(),
            lasted: Duration::from_secs(600),
            at: SystemTime::UNIX_EPOCH,
            lost: None,
        };
        write(&found, &about)
    }

    /// The rules as they are read from the document, each on a line.
    fn read(text: &str) -> Vec<String> {
        let parsed = pillion_config::parse(text, std::path::Path::new("/"));
        let (config, warnings) = parsed.unwrap_or_else(|faults| unreachable!("{faults}\n{text}"));
        assert_eq!(warnings.len(), 0, "{warnings:?}\n{text}");
        let rules = config.inbound.and_then(|inbound| inbound.authorization).expect("authorization").rules;
        let list = |all: Vec<String>| all.join(",");
        let line = |rule: &pillion_model::authorization::Rule| {
            let of = &rule.when;
            let from = list(
                of.from
                    .iter()
                    .map(|peer| peer.id.path().rsplit('/').next().unwrap_or_default().to_owned())
                    .collect(),
            );
            let paths = list(of.paths.iter().map(ToString::to_string).collect());
            format!("{}: {from} {} {paths} {:?}", rule.name, list(of.methods.clone()), of.ports)
        };
        rules.iter().map(line).collect()
    }

    #[test]
    fn rules_are_joined_only_where_they_allow_nothing_more() {
        let traffic = [
            sent(Some(BATCH), 80, 0, &[("GET", Some("/api/*")), ("POST", Some("/jobs"))]),
            sent(
                Some(WEB),
                80,
                0,
                &[("GET", Some("/api/*")), ("HEAD", Some("/api/*")), ("PUT", Some("/a$b"))],
            ),
            sent(Some(WEB), 3306, 3, &[]),
            sent(Some(BATCH), 3306, 1, &[]),
        ];
        let Document { text, gaps } = written(&traffic, &[]);
        assert_eq!(
            read(&text),
            [
                "batch-1: batch GET /api/* [80]",
                "web-2: web GET,HEAD /api/* [80]",
                "batch-3: batch POST /jobs [80]",
                "web-4: web PUT /a$b [80]",
                "batch-5: batch,web   [3306]",
            ],
            "{text}"
        );
        assert_eq!(gaps, [""; 0]);
    }

    #[test]
    fn what_no_rule_covers_is_told_in_the_text_and_beside_it() {
        let traffic = [
            sent(None, 80, 1, &[("GET", Some("/healthz")), ("OPTIONS", None)]),
            sent(Some(WEB), 80, 1, &[("GET", Some("/api"))]),
        ];
        let more = [
            ("without_identity", json!(["10.0.0.5"])),
            ("keeps_encoded_slashes", json!(true)),
            (
                "left_out",
                json!({ "beyond_bound": 3, "unclear_paths": 1, "methods": 0, "without_identity": true }),
            ),
        ];
        let Document { text, gaps } = written(&traffic, &more);
        assert_eq!(read(&text), ["web-1: web   [80]"], "{text}");
        for (found, line) in [
            (&gaps[0], "port 80"),
            (&gaps[1], "3 requests or connections"),
            (&gaps[2], "1 request with paths"),
            (&gaps[3], "10.0.0.5 and others"),
        ] {
            assert!(found.contains(line) && text.contains(&format!("# {found}\n")), "{found}\n{text}");
        }
        for line in ["GET /healthz to port 80: 2 requests", "OPTIONS (without a path)", "1 connection\n"] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("encoded_slash: keep") && gaps.len() == 4);
    }

    #[test]
    fn traffic_whose_port_was_not_known_is_counted_in_a_sentence() {
        let traffic = [
            sent(Some(WEB), 0, 1, &[("GET", Some("/a"))]),
            sent(None, 0, 0, &[("GET", Some("/b"))]),
            sent(Some(WEB), 80, 0, &[("GET", Some("/a"))]),
        ];
        let Document { text, gaps } = written(&traffic, &[]);
        assert_eq!(read(&text), ["web-1: web GET /a [80]"], "{text}");
        assert!(gaps.len() == 1 && gaps[0].contains("5 requests or connections whose port"), "{gaps:?}");
        assert!(text.contains(&gaps[0]), "{text}");
    }

    #[test]
    fn requests_without_a_path_get_a_rule_without_paths() {
        let traffic =
            [sent(Some(WEB), 80, 0, &[("OPTIONS", None), ("OPTIONS", Some("/a")), ("GET", Some("/a"))])];
        let text = written(&traffic, &[]).text;
        assert_eq!(read(&text), ["web-1: web GET /a [80]", "web-2: web OPTIONS  [80]"], "{text}");
        assert_eq!(read(&written(&[], &[]).text), [""; 0]);
    }

    #[test]
    fn a_document_has_a_bound_and_says_what_went_over_it() {
        let path = |nth: usize| format!("/{nth}x{}", "y".repeat(1000));
        let traffic: Vec<Value> = (0..2500)
            .map(|nth| sent(Some(&format!("spiffe://a/{nth}")), 80, 0, &[("GET", Some(&path(nth)))]))
            .collect();
        let Document { text, gaps } = written(&traffic, &[]);
        assert!(text.len() < MOST_BYTES + 4096 && gaps[0].contains("beyond 2 MiB of rules"), "{gaps:?}");
        assert!(read(&text).len() > 1000);
    }
}
