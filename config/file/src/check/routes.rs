//! `routes`: whose requests, which of them, to whom.

mod destinations;

use std::collections::HashSet;

use super::cluster::Served;
use super::{Remarks, Trail};
use crate::file;
use crate::shape::{Entries, OneOrMore, Typed};
use crate::words::{HeaderName, HeaderText, MatchPath, Method, RouteName};
use destinations::{Overrides, Services};
use pillion_model::route::{HeaderMatch, PathMatch, Route, RouteHost, RouteMatch, ValueMatch};

pub(super) fn routes(
    file: Option<file::Routes>,
    services: &[Served],
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Vec<Route> {
    let list = file.map(|file::Routes(list)| list).unwrap_or_default();
    let directory = Services::new(services);
    let each = |(nth, file)| route(file, &at.index(nth), &directory, remarks);
    list.into_iter().enumerate().map(each).collect()
}

fn route(file: file::Route, at: &Trail<'_>, services: &Services<'_>, remarks: &mut Remarks) -> Route {
    refuse_unbuilt(&file, at, remarks);
    // what answers by itself goes nowhere, once it is built
    let answers = file.redirect.is_some() || file.respond.is_some();
    if file.to.is_none() {
        remarks.lacks(&at.key("to"));
    }
    if file.to.is_none() && !answers {
        remarks.error(at, "needs `to`").help("to: orders, or to: [{ service: orders, weight: 90 }, …]");
    }
    let overrides = Overrides { at, timeout: file.timeout, retry: file.retry };
    Route {
        name: file.name.map(|Typed(RouteName(name))| name),
        hosts: hosts(file.hosts, at, remarks),
        matches: matches(file.r#match.unwrap_or_default(), &at.key("match"), remarks),
        to: file.to.map(|to| services.destinations(to, &overrides, remarks)).unwrap_or_default(),
    }
}

fn refuse_unbuilt(file: &file::Route, at: &Trail<'_>, remarks: &mut Remarks) {
    remarks.unless_off(&at.key("mirror"), &file.mirror);
    remarks.unless_off(&at.key("fault"), &file.fault);
    remarks.unless_off(&at.key("rewrite"), &file.rewrite);
    remarks.not_yet(&at.key("redirect"), &file.redirect);
    remarks.not_yet(&at.key("respond"), &file.respond);
    remarks.unless_off(&at.key("request_headers"), &file.request_headers);
    remarks.unless_off(&at.key("response_headers"), &file.response_headers);
    remarks.unless_off(&at.key("rate_limit"), &file.rate_limit);
}

fn hosts(file: Option<OneOrMore<RouteHost>>, at: &Trail<'_>, remarks: &mut Remarks) -> Vec<RouteHost> {
    if file.is_none() {
        remarks
            .error(at, "needs `hosts`")
            .help("hosts: [orders], or hosts: [\"*\"] for every host of every service");
        remarks.lacks(&at.key("hosts"));
    }
    file.map(|OneOrMore(hosts)| hosts).unwrap_or_default()
}

fn matches(file: file::Match, at: &Trail<'_>, remarks: &mut Remarks) -> RouteMatch {
    remarks.unless_off(&at.key("query"), &file.query);
    RouteMatch {
        path: file.path.and_then(|file::Path(path)| path_match(path, &at.key("path"), remarks)),
        methods: methods(file.methods, &at.key("methods"), remarks),
        headers: headers(file.headers, &at.key("headers"), remarks),
    }
}

fn path_match(file: file::PathBlock, at: &Trail<'_>, remarks: &mut Remarks) -> Option<PathMatch> {
    remarks.not_yet(&at.key("regex"), &file.regex);
    match (file.exact, file.prefix) {
        (Some(Typed(MatchPath(path))), None) => Some(PathMatch::Exact(path)),
        (None, Some(Typed(MatchPath(path)))) => Some(PathMatch::Prefix(path)),
        (Some(_), Some(_)) => {
            remarks.error(at, "has `exact` and `prefix`").help("keep one of the two");
            None
        }
        (None, None) => {
            if file.regex.is_none() {
                remarks
                    .error(at, "is an empty block")
                    .help("write { prefix: /v2 }, or leave it out for every path");
            }
            None
        }
    }
}

fn methods(file: Option<OneOrMore<Method>>, at: &Trail<'_>, remarks: &mut Remarks) -> Vec<String> {
    let methods = file.map(|OneOrMore(methods)| methods);
    if methods.as_ref().is_some_and(Vec::is_empty) {
        remarks.error(at, "is empty").help("leave it out for every method");
    }
    methods.unwrap_or_default().into_iter().map(|Method(method)| method).collect()
}

fn headers(
    file: Option<Entries<HeaderName, Option<file::HeaderValue>>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Vec<HeaderMatch> {
    let entries = file.map(|Entries(entries)| entries).unwrap_or_default();
    let mut seen: HashSet<String> = HashSet::new();
    let mut matches = Vec::with_capacity(entries.len());
    for (HeaderName(typed), value) in entries {
        let (at, name) = (at.key(&typed), typed.to_ascii_lowercase());
        if !seen.insert(name.clone()) {
            remarks
                .error(&at, format!("is `{name}` once more"))
                .of_key()
                .help("headers are the same in any case; keep one");
        }
        let value = header_value(value, &at, remarks);
        matches.extend(value.map(|value| HeaderMatch { name, value }));
    }
    matches
}

fn header_value(
    file: Option<file::HeaderValue>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<ValueMatch> {
    let block = match file {
        Some(file::HeaderValue::Exact(HeaderText(text))) => return Some(ValueMatch::Exact(text)),
        Some(file::HeaderValue::Full(block)) => block,
        None => file::ValueBlock::default(),
    };
    remarks.not_yet(&at.key("regex"), &block.regex);
    let exact = block.exact.map(|Typed(HeaderText(text))| ValueMatch::Exact(text));
    let prefix = block.prefix.map(|Typed(HeaderText(text))| ValueMatch::Prefix(text));
    let present = block.present.map(|Typed(present)| ValueMatch::Present(present));
    let mut written = [exact, prefix, present].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(_), Some(_)) => {
            remarks.error(at, "has more than one of `exact`, `prefix` and `present`").help("keep one");
            None
        }
        (None, _) if block.regex.is_none() => {
            remarks.error(at, "is empty").help("write a value, or { present: true } for any value");
            None
        }
        (one, _) => one,
    }
}
