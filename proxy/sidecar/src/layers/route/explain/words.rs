//! Says in words which condition does not fit. Pure.

use std::fmt::Display;

use pillion_authz::Misfit as RuleMisfit;
use pillion_http::message::RequestHead;
use pillion_model::authorization::{ClaimMatch, Conditions, Rule};
use pillion_model::route::{PathMatch, RouteHost, ValueMatch};
use pillion_model::text::shortened;

use super::super::authorize::path_of;
use super::Question;
use crate::state::Misfit;

/// The values of a condition that are written out.
const MOST_LISTED: usize = 5;

/// Why a route does not match.
pub(super) fn of_route(misfit: Misfit<'_>, head: &RequestHead) -> String {
    let path = shortened(head.uri.path());
    match misfit {
        Misfit::Path(PathMatch::Exact(exact)) => format!("path: {path} is not {}", shortened(exact)),
        Misfit::Path(PathMatch::Prefix(prefix)) => format!("path: {path} is not below {}", shortened(prefix)),
        Misfit::Path(PathMatch::Regex(regex)) => {
            format!("path: the whole of {path} does not fit {}", shortened(regex.text()))
        }
        Misfit::Methods(all) => format!("methods: {} is none of {}", head.method, list(all)),
        Misfit::Header(of) => {
            let values =
                head.headers.named(&of.name).map(|value| String::from_utf8_lossy(value).into_owned());
            format!("header {}: {}", of.name, value(&of.value, &values.collect::<Vec<_>>()))
        }
        Misfit::Query(of) => {
            let query = head.uri.query().unwrap_or_default().split('&');
            let named = query.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
            let values = named.filter(|(name, _)| *name == of.name).map(|(_, value)| value.to_owned());
            format!("query {}: {}", of.name, value(&of.value, &values.collect::<Vec<_>>()))
        }
    }
}

pub(super) fn hosts(of: &[RouteHost], host: &str) -> String {
    let name = |host: &RouteHost| match host {
        RouteHost::Any => "*".to_owned(),
        RouteHost::One(pattern) => pattern.to_string(),
    };
    let all: Vec<String> = of.iter().map(name).collect();
    format!("hosts: {} is none of {}", shortened(host), list(&all))
}

fn value(wanted: &ValueMatch, values: &[String]) -> String {
    let sent = match values {
        [] => "there is none".to_owned(),
        all => format!("{} does not fit", list(all)),
    };
    match wanted {
        ValueMatch::Exact(exact) => format!("{sent} (exact {})", shortened(exact)),
        ValueMatch::Prefix(prefix) => format!("{sent} (prefix {})", shortened(prefix)),
        ValueMatch::Regex(regex) => format!("{sent} (regex {})", shortened(regex.text())),
        ValueMatch::Present(true) => "there is none, and it must be present".to_owned(),
        ValueMatch::Present(false) => "there is one, and it must be absent".to_owned(),
    }
}

/// Why an authorization rule does not match.
pub(super) fn of_rule(misfit: RuleMisfit<'_>, rule: &Rule, of: &Question, port: u16) -> String {
    let Conditions { from, methods, paths, ports, hosts, sources, claims, headers: _ } = &rule.when;
    match misfit {
        RuleMisfit::Opaque => "it has conditions that only requests can fit".to_owned(),
        RuleMisfit::From => match &of.peer {
            Some(peer) => format!("from: {peer} is none of {}", list(from)),
            None => "from: the caller has no identity (--source)".to_owned(),
        },
        RuleMisfit::Paths => match of.head.as_ref().and_then(path_of) {
            Some(path) => format!("paths: {} is none of {}", shortened(path), list(paths)),
            None => format!("paths: there is no path, and wanted is {}", list(paths)),
        },
        RuleMisfit::Claims => {
            let names: Vec<&str> = claims.iter().map(|ClaimMatch { name, .. }| name.as_str()).collect();
            format!("claims: no token is verified here, and the rule asks for {}", list(&names))
        }
        RuleMisfit::Ports => format!("ports: {port} is none of {}", list(ports)),
        RuleMisfit::Sources => match of.source {
            Some(source) => format!("sources: {source} is in none of {}", list(sources)),
            None => {
                format!("sources: the caller's address is not known (--source); wanted is {}", list(sources))
            }
        },
        RuleMisfit::Methods => {
            let method = of.head.as_ref().map_or("", |head| head.method.as_str());
            format!("methods: {method} is none of {}", list(methods))
        }
        RuleMisfit::Hosts => format!("hosts: {} is none of {}", shortened(of.name()), list(hosts)),
        RuleMisfit::Header(name) => format!("header {name}: does not fit"),
        RuleMisfit::Excepted => "not: it excepts this".to_owned(),
    }
}

fn list<T: Display>(all: &[T]) -> String {
    let told: Vec<String> =
        all.iter().take(MOST_LISTED).map(|value| shortened(&value.to_string()).to_string()).collect();
    let more = all.len().saturating_sub(MOST_LISTED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    told.join(", ") + &rest
}
