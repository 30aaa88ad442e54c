//! The rules of authorization, written a second time: slowly and without an index.

use std::net::IpAddr;

use pillion_model::SpiffeId;
use pillion_model::authorization::{Action, Authorization, ClaimMatch, Conditions, PathPattern, Rule};
use pillion_model::cluster::HostPattern;
use pillion_model::route::{HeaderMatch, ValueMatch};
use serde_json::Value;

/// A request or a connection. An opaque connection has no `http`.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) source: IpAddr,
    pub(crate) port: u16,
    pub(crate) http: Option<Http>,
}

#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) method: String,
    /// As text; `None`: no path.
    pub(crate) path: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    /// Of a verified token; `None`: there is none.
    pub(crate) claims: Option<Value>,
}

/// True, false, or not known.
type Perhaps = Option<bool>;

pub(crate) fn judge(by: &Authorization, case: &Case) -> (Action, Option<usize>) {
    for action in [Action::Deny, Action::Allow] {
        for (nth, rule) in by.rules.iter().enumerate() {
            if rule.action == action && matches(rule, case) {
                return (action, Some(nth));
            }
        }
    }
    (by.default, None)
}

fn matches(rule: &Rule, case: &Case) -> bool {
    if rule.action == Action::Allow && case.http.is_none() && rule.needs_http() {
        return false;
    }
    if !rule.when.from.is_empty() && case.peer.is_none() {
        return false;
    }
    let has_token = case.http.as_ref().is_some_and(|http| http.claims.is_some());
    if !rule.when.claims.is_empty() && !has_token {
        return false;
    }
    let unknown_fits = rule.action == Action::Deny;
    let is_excepted = rule.not.as_ref().is_some_and(|not| all(not, case).unwrap_or(!unknown_fits));
    all(&rule.when, case).unwrap_or(unknown_fits) && !is_excepted
}

/// False if a condition is false, else unknown if one is unknown.
fn all(of: &Conditions, case: &Case) -> Perhaps {
    let conditions = [from, paths, methods, hosts, headers, claims].map(|fits| fits(of, case));
    let ports = of.ports.is_empty() || of.ports.contains(&case.port);
    let sources = of.sources.is_empty() || of.sources.iter().any(|it| it.contains(case.source));
    let mut known = Some(true);
    for condition in conditions.into_iter().chain([Some(ports), Some(sources)]) {
        match condition {
            Some(false) => return Some(false),
            None => known = None,
            Some(true) => {}
        }
    }
    known
}

/// Whether one of `all` fits: unknown if none fits, and one is unknown.
fn one<T>(all: &[T], fits: impl Fn(&T) -> Perhaps) -> Perhaps {
    if all.is_empty() || all.iter().any(|it| fits(it) == Some(true)) {
        return Some(true);
    }
    if all.iter().any(|it| fits(it).is_none()) { None } else { Some(false) }
}

fn from(of: &Conditions, case: &Case) -> Perhaps {
    one(&of.from, |wanted| {
        let (peer, wanted) = (case.peer.as_ref()?.to_string(), wanted.to_string());
        Some(match wanted.strip_suffix('*') {
            Some(begin) => peer.len() > begin.len() && peer.starts_with(begin),
            None => peer == wanted,
        })
    })
}

fn methods(of: &Conditions, case: &Case) -> Perhaps {
    one(&of.methods, |wanted| {
        let method = &case.http.as_ref()?.method;
        if method == wanted {
            Some(true)
        } else if method.to_uppercase() == *wanted {
            None
        } else {
            Some(false)
        }
    })
}

/// The paths of the cases are normalised, and have letters, `%21`, `%3F`, `%23` and parameters at most.
fn paths(of: &Conditions, case: &Case) -> Perhaps {
    one(&of.paths, |wanted| {
        let path = case.http.as_ref()?.path.as_ref()?;
        let decode = |text: &str| text.replace("%21", "!").replace("%3F", "?").replace("%23", "#");
        let pattern = PathPattern { path: decode(&wanted.path), ..wanted.clone() };
        let bare = PathPattern { path: plain(&pattern.path), ..wanted.clone() };
        let (decoded, without) = (decode(path), plain(&decode(path)));
        let before_query = plain(decoded.split(['?', '#']).next().unwrap_or_default());
        if path_fits(wanted, path) && path_fits(&pattern, &decoded) && path_fits(&bare, &without) {
            Some(true)
        } else if [&decoded, &without, &before_query].iter().any(|path| path_fits(&pattern, path)) {
            None
        } else {
            Some(false)
        }
    })
}

fn path_fits(wanted: &PathPattern, path: &str) -> bool {
    if wanted.is_below { path.starts_with(&wanted.path) } else { path == wanted.path }
}

fn plain(path: &str) -> String {
    let names: Vec<&str> =
        path.split('/').skip(1).map(|it| it.split(';').next().unwrap_or_default()).collect();
    let last = names.last().is_some_and(|it| it.is_empty());
    let kept: Vec<&str> = names.into_iter().filter(|it| !it.is_empty()).collect();
    let end = if last && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

fn hosts(of: &Conditions, case: &Case) -> Perhaps {
    one(&of.hosts, |wanted: &HostPattern| {
        let host = case.http.as_ref()?.host.as_ref()?.to_lowercase();
        let (name, port) =
            host.split_once(':').map_or((host.as_str(), None), |(name, port)| (name, Some(port)));
        let name = name.trim_end_matches('.');
        let is_name = match wanted.wildcard {
            true => name.strip_suffix(&format!(".{}", wanted.name)).is_some_and(|labels| !labels.is_empty()),
            false => name == wanted.name,
        };
        match (is_name, wanted.port, port) {
            (true, None, _) => Some(true),
            (true, Some(_), None) => None,
            (true, Some(wanted), Some(port)) => Some(wanted.to_string() == port),
            (false, ..) => Some(false),
        }
    })
}

fn claims(of: &Conditions, case: &Case) -> Perhaps {
    if of.claims.is_empty() {
        return Some(true);
    }
    let token = case.http.as_ref()?.claims.as_ref()?;
    let has = |wanted: &ClaimMatch| {
        let value = &token[&wanted.name];
        let members = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        let texts = members.iter().filter_map(|member| match member {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(member.to_string()),
            _ => None,
        });
        let patterns = || wanted.values.iter().map(ToString::to_string);
        texts.into_iter().any(|text| {
            patterns().any(|pattern| match pattern.strip_suffix('*') {
                Some(begin) => text.starts_with(begin),
                None => text == pattern,
            })
        })
    };
    Some(of.claims.iter().all(has))
}

fn headers(of: &Conditions, case: &Case) -> Perhaps {
    let each: Vec<Perhaps> = of.headers.iter().map(|wanted| header(wanted, case)).collect();
    if each.contains(&Some(false)) {
        return Some(false);
    }
    if each.contains(&None) { None } else { Some(true) }
}

fn header(wanted: &HeaderMatch, case: &Case) -> Perhaps {
    let sent = &case.http.as_ref()?.headers;
    let alike: Vec<&(String, String)> =
        sent.iter().filter(|(name, _)| name.replace('_', "-") == wanted.name).collect();
    let values: Vec<&str> = alike.iter().map(|(_, value)| value.as_str()).collect();
    let is_there = alike.iter().any(|(name, _)| *name == wanted.name);
    let fits = |value: &&str| match &wanted.value {
        ValueMatch::Exact(exact) => value == exact,
        ValueMatch::Prefix(prefix) => value.starts_with(prefix.as_str()),
        ValueMatch::Present(present) => *present,
        ValueMatch::Regex(_) => false,
    };
    let absent = !is_there && wanted.value == ValueMatch::Present(false);
    if values.iter().all(&fits) && (is_there || absent) {
        return Some(true);
    }
    let list = values.join(", ");
    let members = list.split(',').map(str::trim).filter(|member| !member.is_empty());
    let mut members = members.chain([list.as_str()]);
    let one = !values.is_empty() && members.any(|it| fits(&it));
    if absent || one || values.iter().any(fits) { None } else { Some(false) }
}
