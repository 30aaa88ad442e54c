//! `routes[].match`: which of a host's requests a route is for.

use pillion_model::Pattern;
use pillion_model::route::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use pillion_model::text::shortened;
use serde_json::Value;

use super::super::{Block, Static, field, headers};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::value::{BadWord, Leaf, Opt, Word};
use crate::words::{HeaderName, HeaderText, MatchPath, Method, QueryName, QueryText};

pub(super) static MATCH: Static<RouteMatch> = Static::new(|| {
    Block::new(RouteMatch::default)
        .key(
            "path",
            "The path as it is sent, without the query.",
            || PATH.schema(),
            |matches: &mut RouteMatch, node, reading| matches.path = path(node, reading),
            |matches, at, page| tell_path(matches.path.as_ref(), &at.key("path"), page),
        )
        .key(
            "methods",
            "The methods, one of which must match. Default: every method.",
            schema::words::<Method>,
            |matches: &mut RouteMatch, node, reading| {
                let methods = node.words::<Method>(reading);
                if methods.as_ref().is_some_and(Vec::is_empty) {
                    node.remark("is empty", reading).help("leave it out for every method");
                }
                matches.methods = methods.unwrap_or_default().into_iter().map(Method::value).collect();
            },
            |matches, at, page| {
                page.tell_list(matches.methods.iter().map(|it| it.as_str().into()), &at.whole("methods"));
            },
        )
        .key(
            "headers",
            "The headers by name; if a header has several values, one must match.",
            headers_schema,
            |matches: &mut RouteMatch, node, reading| matches.headers = headers(node, reading),
            |matches, at, page| tell_headers(&matches.headers, &at.key("headers"), page),
        )
        .key(
            "query",
            "The parameters of the query by name, as they are sent; if one has several values, one must match.",
            || values_schema::<QueryName, QueryText>(&QUERY_VALUE),
            |matches: &mut RouteMatch, node, reading| matches.query = query(node, reading),
            |matches, at, page| {
                let all = matches.query.iter().map(|it| (it.name.as_str(), &it.value));
                tell_values(all, &at.key("query"), page);
            },
        )
});

#[derive(Default)]
struct PathBlock {
    prefix: Option<String>,
    exact: Option<String>,
    regex: Option<Pattern>,
}

static PATH: Static<PathBlock> = Static::new(|| {
    Block::new(PathBlock::default)
        .word::<Opt<MatchPath>>(
            "prefix",
            field!(prefix),
            "A prefix of whole segments: /v2 matches /v2 and /v2/x, not /v2x.",
        )
        .word::<Opt<MatchPath>>("exact", field!(exact), "The whole path.")
        .word::<Opt<Pattern>>("regex", field!(regex), "A regular expression that must match the whole path.")
});

#[derive(Default)]
struct ValueBlock {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<Pattern>,
    present: Option<bool>,
}

static HEADER_VALUE: Static<ValueBlock> = Static::new(value_block::<HeaderText>);

static QUERY_VALUE: Static<ValueBlock> = Static::new(value_block::<QueryText>);

fn value_block<W: Leaf<Value = String> + 'static>() -> Block<ValueBlock> {
    Block::new(ValueBlock::default)
        .word::<Opt<W>>("exact", field!(exact), "The exact value.")
        .word::<Opt<W>>("prefix", field!(prefix), "The beginning of the value.")
        .word::<Opt<Pattern>>("regex", field!(regex), "A regular expression that must match the whole value.")
        .word::<Opt<bool>>("present", field!(present), "Whether it is present, with any value.")
}

fn values_schema<N: Described, W: Described>(block: &'static Static<ValueBlock>) -> Option<Value> {
    schema::entries::<N>(schema::any_of([W::described(), block.schema()]))
}

fn path(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<PathMatch> {
    const EXPECTED: &str = "{ prefix: … }, { exact: … } or { regex: … }";
    match node.shape(EXPECTED, reading)? {
        Shape::Word(leaf) => {
            let bad = MatchPath::parse(&leaf.text).map_or_else(
                |bad| bad,
                |_| {
                    let path = shortened(&leaf.text);
                    BadWord::new(format!("must be {EXPECTED}")).help(format!(
                        "write {{ prefix: {path} }}, or {{ exact: {path} }} for this path alone"
                    ))
                },
            );
            node.parsed(&leaf, Err(bad), reading)
        }
        Shape::List => {
            node.mismatch(EXPECTED, reading);
            None
        }
        Shape::Block => {
            let PathBlock { prefix, exact, regex } = PATH.read_new(node, reading);
            let exact = exact.map(PathMatch::Exact);
            let prefix = prefix.map(PathMatch::Prefix);
            let regex = regex.map(PathMatch::Regex);
            let mut written = [exact, prefix, regex].into_iter().flatten();
            match (written.next(), written.next()) {
                (one, None) if one.is_some() => one,
                (None, _) => {
                    let help = "write { prefix: /v2 }, or leave it out for every path";
                    node.remark("is an empty block", reading).help(help);
                    None
                }
                _ => {
                    let what = "has more than one of `exact`, `prefix` and `regex`";
                    node.remark(what, reading).help("keep one");
                    None
                }
            }
        }
    }
}

fn tell_path(path: Option<&PathMatch>, at: &Scopes<'_>, page: &mut Page<'_>) {
    match path {
        None => {}
        Some(PathMatch::Exact(text)) => page.tell_or(&at.key("exact"), at, text.as_str()),
        Some(PathMatch::Prefix(text)) => page.tell_or(&at.key("prefix"), at, text.as_str()),
        Some(PathMatch::Regex(pattern)) => page.tell(&at.key("regex"), pattern.text()),
    }
}

pub(in crate::keys) fn headers_schema() -> Option<Value> {
    values_schema::<HeaderName, HeaderText>(&HEADER_VALUE)
}

pub(in crate::keys) fn tell_headers(headers: &[HeaderMatch], at: &Scopes<'_>, page: &mut Page<'_>) {
    tell_values(headers.iter().map(|it| (it.name.as_str(), &it.value)), at, page);
}

pub(in crate::keys) fn headers(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<HeaderMatch> {
    let name = |HeaderName(typed): HeaderName| typed.to_ascii_lowercase();
    headers::each(node, reading, name, |name, value, reading| {
        Some(HeaderMatch { name, value: self::value::<HeaderText>(&HEADER_VALUE, value, reading)? })
    })
}

fn query(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<QueryMatch> {
    let mut matches = Vec::new();
    for (QueryName(name), entry) in node.map::<QueryName>(reading) {
        let value = value::<QueryText>(&QUERY_VALUE, &entry.value, reading);
        matches.extend(value.map(|value| QueryMatch { name, value }));
    }
    matches
}

/// The value of a header or of a parameter, whose words are `W`.
fn value<W: Leaf<Value = String>>(
    block: &Block<ValueBlock>,
    node: &Node<'_>,
    reading: &mut Reading<'_>,
) -> Option<ValueMatch> {
    const EXPECTED: &str = "a value, or { exact, prefix, regex or present: … }";
    let ValueBlock { exact, prefix, regex, present } = match node.is_null(reading)? {
        true => ValueBlock::default(),
        false => match node.shape(EXPECTED, reading)? {
            Shape::Word(leaf) => {
                let exact = node.parsed(&leaf, W::parse(&leaf.text), reading);
                return exact.map(|text| ValueMatch::Exact(text.value()));
            }
            Shape::List => {
                node.mismatch(EXPECTED, reading);
                return None;
            }
            Shape::Block => block.read_new(node, reading),
        },
    };
    let exact = exact.map(ValueMatch::Exact);
    let prefix = prefix.map(ValueMatch::Prefix);
    let regex = regex.map(ValueMatch::Regex);
    let present = present.map(ValueMatch::Present);
    let mut written = [exact, prefix, regex, present].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(_), Some(_)) => {
            let what = "has more than one of `exact`, `prefix`, `regex` and `present`";
            node.remark(what, reading).help("keep one");
            None
        }
        (None, _) => {
            node.remark("is empty", reading).help("write a value, or { present: true } for any value");
            None
        }
        (one, None) => one,
    }
}

fn tell_values<'m>(
    all: impl Iterator<Item = (&'m str, &'m ValueMatch)>,
    at: &Scopes<'_>,
    page: &mut Page<'_>,
) {
    for (name, value) in all {
        let at = at.key(name);
        match value {
            ValueMatch::Exact(text) => page.tell_or(&at.key("exact"), &at, text.as_str()),
            ValueMatch::Prefix(text) => page.tell(&at.key("prefix"), text.as_str()),
            ValueMatch::Regex(pattern) => page.tell(&at.key("regex"), pattern.text()),
            ValueMatch::Present(present) => page.tell(&at.key("present"), *present),
        }
    }
}
