//! Rules that send some requests of a host to other routes: the compiled form of `routes` in the file.
//!
//! Pure: a request's head and the random number are arguments.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use pillion_http::message::RequestHead;
use pillion_model::route::{HeaderMatch, PathMatch, QueryMatch, RouteMatch};
use pillion_telemetry::Symbol;

use super::Route;
use super::actions::Actions;

pub struct Rule {
    /// Its place among the routes of the file.
    pub nth: usize,
    pub matches: RouteMatch,
    pub then: Then,
}

/// What happens to a request that matches.
pub enum Then {
    To(Split),
    /// The sidecar answers the request itself, under this route's name.
    Answer(Symbol, Arc<Actions>),
}

/// Routes by weight.
pub struct Split {
    /// Each route with the sum of the weights up to and including its own.
    ends: Box<[(u64, Arc<Route>)]>,
}

impl Split {
    /// A route with weight 0 gets no requests.
    pub fn new(routes: impl IntoIterator<Item = (u32, Arc<Route>)>) -> Self {
        let mut sum = 0;
        let mut end = |(weight, route)| {
            sum += u64::from(weight);
            (sum, route)
        };
        Self { ends: routes.into_iter().filter(|(weight, _)| *weight > 0).map(&mut end).collect() }
    }

    /// The routes with the weight of each.
    pub fn weighted(&self) -> impl Iterator<Item = (u64, &Arc<Route>)> {
        let before = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        self.ends.iter().zip(before).map(|((end, route), before)| (end - before, route))
    }

    /// Picks a route. `dice` gives a random number.
    pub fn pick(&self, dice: impl FnOnce() -> u64) -> Option<&Arc<Route>> {
        let (sum, last) = self.ends.last()?;
        if self.ends.len() == 1 {
            return Some(last);
        }
        let drawn = dice() % sum;
        self.ends.iter().find(|(end, _)| drawn < *end).map(|(_, route)| route)
    }
}

/// Rules in the order in which they are tried. The first rule that matches wins.
///
/// A table with many rules has an index: rules with a prefix or an exact path are found by the segments of the
/// request's path. Rules without a path, or with a regular expression for it, are tried one by one.
#[derive(Default)]
pub struct RuleTable {
    rules: Box<[Arc<Rule>]>,
    index: Option<Box<PathIndex>>,
}

/// A table with fewer rules has no index: looking up one segment of a path costs as much as trying four rules.
const FEW: usize = 16;

/// The numbers of the rules. They ascend in each list.
#[derive(Default)]
struct PathIndex {
    root: Segment,
    /// Rules without a path, or with a regular expression for it.
    others: Vec<u32>,
}

#[derive(Default)]
struct Segment {
    below: HashMap<Box<str>, Self>,
    exact: Vec<u32>,
    prefix: Vec<u32>,
}

impl FromIterator<Arc<Rule>> for RuleTable {
    fn from_iter<I: IntoIterator<Item = Arc<Rule>>>(rules: I) -> Self {
        let rules: Box<[Arc<Rule>]> = rules.into_iter().collect();
        let index = (rules.len() >= FEW).then(|| Box::new(PathIndex::of(&rules)));
        Self { rules, index }
    }
}

impl RuleTable {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// In their order.
    pub fn all(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The first rule that matches.
    pub fn find(&self, head: &RequestHead) -> Option<&Arc<Rule>> {
        match &self.index {
            None => self.rules.iter().find(|rule| fits(&rule.matches, head)),
            Some(index) => {
                let first = index.first(head.uri.path(), |nth| {
                    self.nth(nth).is_some_and(|rule| fits(&rule.matches, head))
                });
                self.nth(first?)
            }
        }
    }

    fn nth(&self, nth: u32) -> Option<&Arc<Rule>> {
        self.rules.get(nth as usize)
    }
}

impl PathIndex {
    fn of(rules: &[Arc<Rule>]) -> Self {
        let mut index = Self::default();
        for (nth, rule) in (0_u32..).zip(rules) {
            match &rule.matches.path {
                Some(PathMatch::Exact(path)) => index.segment(path).exact.push(nth),
                Some(PathMatch::Prefix(path)) => index.segment(path.trim_end_matches('/')).prefix.push(nth),
                Some(PathMatch::Regex(_)) | None => index.others.push(nth),
            }
        }
        index
    }

    fn segment(&mut self, path: &str) -> &mut Segment {
        path.split('/').fold(&mut self.root, |segment, name| segment.below.entry(name.into()).or_default())
    }

    /// The least number that `fits`, of those whose path may. Goes no deeper than the rules' own paths.
    fn first(&self, path: &str, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = None;
        let mut look = |rules: &[u32]| {
            let before = |nth: &u32| best.is_none_or(|best| *nth < best);
            let found = rules.iter().copied().take_while(before).find(|nth| fits(*nth));
            best = found.or(best);
        };
        let (mut segment, mut names) = (&self.root, path.split('/').peekable());
        while let Some(below) = names.next().and_then(|name| segment.below.get(name)) {
            segment = below;
            look(&segment.prefix);
            if names.peek().is_none() {
                look(&segment.exact);
            }
        }
        look(&self.others);
        best
    }
}

/// The first condition of a route that a request does not fit.
#[derive(Debug, Clone, Copy)]
pub enum Misfit<'a> {
    Path(&'a PathMatch),
    Methods(&'a [String]),
    Header(&'a HeaderMatch),
    Query(&'a QueryMatch),
}

impl Rule {
    /// The first condition that does not fit; `None`: the rule matches. This is beside the way of requests.
    pub fn misfit(&self, head: &RequestHead) -> Option<Misfit<'_>> {
        let RouteMatch { path, methods, headers, query } = &self.matches;
        let sent = head.uri.query().unwrap_or_default();
        let path = path.as_ref().filter(|path| !path_fits(path, head.uri.path())).map(Misfit::Path);
        let method = || (!method_fits(methods, &head.method)).then_some(Misfit::Methods(methods));
        let header = || headers.iter().find(|of| !of.value.fits(head.headers.named(&of.name)));
        let parameter = || query.iter().find(|of| !query_fits(of, sent));
        path.or_else(method)
            .or_else(|| header().map(Misfit::Header))
            .or_else(|| parameter().map(Misfit::Query))
    }
}

fn fits(wanted: &RouteMatch, head: &RequestHead) -> bool {
    wanted.path.as_ref().is_none_or(|path| path_fits(path, head.uri.path()))
        && method_fits(&wanted.methods, &head.method)
        && wanted.headers.iter().all(|header| header.value.fits(head.headers.named(&header.name)))
        && wanted.query.iter().all(|parameter| query_fits(parameter, head.uri.query().unwrap_or_default()))
}

fn path_fits(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(pattern) => pattern.fits(path.as_bytes()),
    }
}

fn method_fits(wanted: &[String], method: &Method) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == method.as_str())
}

fn query_fits(wanted: &QueryMatch, query: &str) -> bool {
    let parameters = query.split('&').map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
    let named = parameters.filter(|(name, _)| *name == wanted.name);
    wanted.value.fits(named.map(|(_, value)| value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use pillion_model::Pattern;
    use pillion_model::route::ValueMatch;
    use proptest::prelude::*;

    use super::*;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> RequestHead {
        let request = http::Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0.into()
    }

    fn header(name: &str, value: ValueMatch) -> HeaderMatch {
        HeaderMatch { name: name.to_owned(), value }
    }

    #[test]
    fn a_prefix_ends_at_the_border_of_a_segment() {
        for (prefix, path, expected) in [
            ("/v2", "/v2", true),
            ("/v2", "/v2/", true),
            ("/v2", "/v2/x", true),
            ("/v2/", "/v2", true),
            ("/v2", "/v2x", false),
            ("/v2", "/V2", false),
            ("/", "/", true),
            ("/", "/anything", true),
        ] {
            assert_eq!(path_fits(&PathMatch::Prefix(prefix.to_owned()), path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn a_rule_matches_only_if_all_its_conditions_match() {
        let wanted = RouteMatch {
            path: Some(PathMatch::Exact("/v2".to_owned())),
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            headers: vec![
                header("x-canary", ValueMatch::Exact("1".to_owned())),
                header("x-user", ValueMatch::Prefix("jo".to_owned())),
                header("x-debug", ValueMatch::Present(false)),
            ],
            query: Vec::new(),
        };
        let all = [("x-canary", "0"), ("X-Canary", "1"), ("x-user", "jo")];
        assert!(fits(&wanted, &head("GET", "/v2?query=is-not-looked-at", &all)));
        let rule = Rule { nth: 0, matches: wanted.clone(), then: Then::To(Split::new([])) };
        for (method, path, headers) in [
            ("POST", "/v2", &all[..]),
            ("GET", "/v2/", &all[..]),
            ("GET", "/v2", &all[..2]),
            ("GET", "/v2", &all[2..]),
            ("GET", "/v2", &[("x-canary", "1"), ("x-user", "jo"), ("x-debug", "")]),
        ] {
            assert!(!fits(&wanted, &head(method, path, headers)), "{method} {path} {headers:?}");
            assert!(rule.misfit(&head(method, path, headers)).is_some(), "{method} {path} {headers:?}");
        }
        assert!(fits(&RouteMatch::default(), &head("DELETE", "/any", &[])));
    }

    #[test]
    fn a_parameter_is_compared_as_it_is_sent_and_any_of_its_values_may_fit() {
        let query = |name: &str, value| QueryMatch { name: name.to_owned(), value };
        let regex = |text| ValueMatch::Regex(Pattern::new(text).expect("a pattern"));
        for (wanted, sent, expected) in [
            (query("a", ValueMatch::Exact("1".into())), "a=1", true),
            (query("a", ValueMatch::Exact("1".into())), "b=2&a=0&a=1", true),
            (query("a", ValueMatch::Exact("1".into())), "a=12", false),
            (query("a", ValueMatch::Exact("1".into())), "A=1", false),
            (query("a", ValueMatch::Exact("1".into())), "aa=1", false),
            (query("a", ValueMatch::Exact("1=2".into())), "a=1=2", true),
            (query("a", ValueMatch::Exact("b c".into())), "a=b%20c", false),
            (query("a", ValueMatch::Exact("b%20c".into())), "a=b%20c", true),
            (query("a", ValueMatch::Exact(String::new())), "a", true),
            (query("a", ValueMatch::Prefix("1".into())), "a=12", true),
            (query("a", regex("[0-9]+")), "a=x&a=12", true),
            (query("a", regex("[0-9]+")), "a=12x", false),
            (query("a", ValueMatch::Present(true)), "b&a", true),
            (query("a", ValueMatch::Present(true)), "", false),
            (query("a", ValueMatch::Present(false)), "b=a", true),
            (query("a", ValueMatch::Present(false)), "a=", false),
        ] {
            assert_eq!(query_fits(&wanted, sent), expected, "{wanted:?} {sent}");
        }
        let wanted =
            RouteMatch { query: vec![query("a", ValueMatch::Present(true))], ..RouteMatch::default() };
        assert!(fits(&wanted, &head("GET", "/?a=1", &[])));
        assert!(!fits(&wanted, &head("GET", "/", &[])));
    }

    fn path_match() -> impl Strategy<Value = Option<PathMatch>> {
        let path = || "(/[ab]{0,2}){1,3}";
        prop_oneof![
            Just(None),
            path().prop_map(|path| Some(PathMatch::Exact(path))),
            path().prop_map(|path| Some(PathMatch::Prefix(path))),
            Just(Some(PathMatch::Regex(Pattern::new("/a.*").expect("a pattern")))),
        ]
    }

    proptest! {
        #[test]
        fn the_index_finds_the_rule_that_comes_first(
            paths in prop::collection::vec((path_match(), any::<bool>()), FEW..60),
            asked in "(/[ab]{0,2}){1,4}|\\*",
        ) {
            let rule = |(path, only_put): (Option<PathMatch>, bool)| {
                let methods = if only_put { vec!["PUT".to_owned()] } else { Vec::new() };
                let matches = RouteMatch { path, methods, ..RouteMatch::default() };
                Arc::new(Rule { nth: 0, matches, then: Then::To(Split::new([])) })
            };
            let table: RuleTable = paths.into_iter().map(rule).collect();
            prop_assert!(table.index.is_some());
            for method in ["GET", "PUT"] {
                let head = head(method, &asked, &[]);
                for rule in &table.rules {
                    prop_assert_eq!(rule.misfit(&head).is_none(), fits(&rule.matches, &head));
                }
                let first = table.rules.iter().find(|rule| fits(&rule.matches, &head)).map(Arc::as_ptr);
                prop_assert_eq!(table.find(&head).map(Arc::as_ptr), first);
            }
        }
    }
}
