//! What would happen to a request or a connection that comes to the application.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pillion_authz::{Asked, Facts, Headers as HeadersOf, Verdict};
use pillion_http::message::RequestHead;
use pillion_model::authorization::path::JudgedPath;
use pillion_model::authorization::{Action, ExtAuthz, Mode, Rule};
use pillion_model::listener::{AppProtocol, ClientCertificates, Mtls, PortTls};

use super::super::authorize::{clear_host, path_of, sent_values};
use super::super::external;
use super::{Explained, Question, words};
use crate::state::authorization::{Authorization, OpaqueConnection};
use crate::state::{InboundSide, Snapshot, split_port};

/// What the authorization rules decide.
pub struct Judged {
    pub action: Action,
    pub mode: Mode,
    /// As access log and metrics name what decides.
    pub name: String,
    /// More than the name says.
    pub why: Option<String>,
    /// The number of the rule in the file. `None`: no rule decides.
    pub rule: Option<usize>,
    /// The numbers of earlier rules, each with the first condition that does not fit.
    pub rejected: Vec<(usize, String)>,
}

pub(super) fn explain(snapshot: &Snapshot, of: &Question, port: u16) -> Explained {
    let Some(side) = &snapshot.inbound else {
        return Explained {
            refused: Some("the file says `inbound: off`".to_owned()),
            ..Explained::default()
        };
    };
    let ip = side.policy.app.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |app| app.ip());
    let to = SocketAddr::from((ip, port));
    let mut explained =
        Explained { service: Some("app".into()), endpoints: vec![(to, "eligible")], ..Explained::default() };
    let outside = outside(side, of, port);
    match outside {
        Some(tls) => explained.notes.push(admitted_outside(tls, port)),
        None => explained.refused = not_admitted(side, to, of),
    }
    if explained.refused.is_some() {
        return explained;
    }
    if let Some(by) = &side.authorization {
        if let (Some(_), Err(why)) = (&of.head, clear_host(&of.host)) {
            explained.refused = Some(format!("bad_request: {}", why.detail));
            return explained;
        }
        let mut judged = judged(by, side, of, port);
        if let (Action::Allow, Some(why)) = (judged.action, cannot_be_asked(by, of)) {
            judged.deny(ExtAuthz::NAME, why);
        }
        let is_denied = judged.action == Action::Deny && judged.mode == Mode::Enforce;
        if is_denied {
            let reason = if judged.name == Rule::BAD_PATH { "bad_request" } else { "authz_denied" };
            let why = judged.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            explained.refused = Some(format!("{reason}: decided by {}{why}", judged.name));
        } else {
            explained.notes.extend(further(by, of, &judged));
        }
        explained.authorization = Some(judged);
    }
    explained
}

/// The TLS of the port's own listeners, if the caller comes there, as clients outside the mesh do. A caller with an
/// identity comes over mTLS, to the listener of the mesh.
fn outside<'a>(side: &'a InboundSide, of: &Question, port: u16) -> Option<&'a PortTls> {
    let own = side.policy.ports.get(&port).filter(|_| of.peer.is_none());
    own.and_then(|own| own.tls.as_ref())
}

fn admitted_outside(tls: &PortTls, port: u16) -> String {
    let needs = match tls.clients {
        ClientCertificates::Require { .. } => ", and must show a certificate (client: require)",
        ClientCertificates::Off | ClientCertificates::Request { .. } => "",
    };
    format!(
        "port {port} has `tls`: a caller without an identity (--source) is taken for a client outside the mesh, which \
         comes over TLS to the listeners of this port{needs}"
    )
}

/// Why the caller is refused before any rule is asked.
fn not_admitted(side: &InboundSide, to: SocketAddr, of: &Question) -> Option<String> {
    let is_strict = side.mtls(Some(to)) == Mtls::Strict;
    (is_strict && of.peer.is_none()).then(|| {
        format!(
            "mtls_required: mTLS is strict on port {}, and the caller has no identity (--source)",
            to.port()
        )
    })
}

impl Judged {
    /// Makes it the denial of what comes after the rules.
    fn deny(&mut self, by: &str, why: String) {
        (self.action, self.name, self.why, self.rule) = (Action::Deny, by.to_owned(), Some(why), None);
    }
}

/// Why the external authorizer denies the request without being asked.
fn cannot_be_asked(by: &Authorization, of: &Question) -> Option<String> {
    external::cannot_be_asked(of.head.as_ref()?, by.of.ext_authz.as_ref()?)
}

/// What is asked besides the rules, and cannot be known here. The external authorizer is asked about what they allow.
fn further(by: &Authorization, of: &Question, judged: &Judged) -> Vec<String> {
    let mut notes = Vec::new();
    if of.head.is_some() && by.of.jwt.as_ref().is_some_and(|jwt| jwt.required) {
        notes.push("a token is required: without a good one the answer is 401 jwt_invalid".to_owned());
    }
    let authorizer = by.authorizer.as_ref().filter(|_| of.head.is_some() && judged.action == Action::Allow);
    if let Some(authorizer) = authorizer {
        notes.push("the external authorizer is asked last".to_owned());
        if authorizer.is_circuit_open() {
            notes.push(
                "it has not answered of late: requests are treated as ext_authz.on_error says".to_owned(),
            );
        }
    }
    notes
}

fn judged(by: &Authorization, side: &InboundSide, of: &Question, port: u16) -> Judged {
    let source = of.source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let Some(head) = &of.head else {
        let protocol = side.policy.ports.get(&port).and_then(|own| own.protocol);
        let is_declared = protocol.unwrap_or(side.policy.protocol) == AppProtocol::Tcp;
        let connection = OpaqueConnection { peer: of.peer.as_ref(), source, port, is_declared };
        let (name, verdict) = by.explain_opaque(&connection);
        let facts = Facts { peer: of.peer.as_ref(), source, port, request: None };
        return told(by, name, verdict, &facts, of);
    };
    let path = if by.judges_paths(port) { path_of(head) } else { None };
    let path = match path.map(|path| JudgedPath::of(path, by.encoded_slash())).transpose() {
        Ok(path) => path,
        Err(why) => {
            let (name, action) = (Rule::BAD_PATH.to_owned(), Action::Deny);
            let why = Some(why.to_string());
            return Judged { action, mode: by.of.mode, name, why, rule: None, rejected: Vec::new() };
        }
    };
    let request = Asked {
        method: head.method.as_str(),
        path: path.as_ref(),
        host: Some(split_port(&of.host)),
        headers: &Sent { head, of, is_outside: outside(side, of, port).is_some() },
        claims: None,
    };
    let facts = Facts { peer: of.peer.as_ref(), source, port, request: Some(request) };
    let (name, verdict) = by.explain(&facts);
    told(by, name, verdict, &facts, of)
}

fn told(by: &Authorization, name: String, verdict: Verdict, facts: &Facts<'_>, of: &Question) -> Judged {
    let before = verdict.rule.unwrap_or(by.of.rules.len());
    let misfits = by.of.rules.iter().zip(by.misfits(facts)).enumerate().take(before);
    let rejected = misfits.map(|(nth, (rule, misfit))| {
        let fits = || "it fits, but deny rules go before allow rules".to_owned();
        (nth, misfit.map_or_else(fits, |misfit| words::of_rule(misfit, rule, of, facts.port)))
    });
    let rejected = rejected.collect();
    Judged { action: verdict.action, mode: by.of.mode, name, why: None, rule: verdict.rule, rejected }
}

/// The headers of the request in question, as the application would get them.
struct Sent<'a> {
    head: &'a RequestHead,
    of: &'a Question,
    /// The caller is a client outside the mesh.
    is_outside: bool,
}

impl HeadersOf for Sent<'_> {
    fn values(&self, name: &str, each: &mut dyn FnMut(&[u8], bool)) {
        if name == "x-forwarded-proto" && self.is_outside {
            return each(b"https", true); // what the client sent is replaced
        }
        if sent_values(&self.head.headers, true, name, each) {
            return;
        }
        let added = match name {
            "x-forwarded-host" => &*self.of.host,
            "x-forwarded-proto" if self.of.peer.is_some() => "https",
            "x-forwarded-proto" => "http",
            _ => return,
        };
        each(added.as_bytes(), true);
    }
}
