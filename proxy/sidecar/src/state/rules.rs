//! Rules that send some requests of a host to other routes: the compiled form of `routes` in the file.
//!
//! Pure: a request's head and the random number are arguments.

use std::sync::Arc;

use http::Method;
use pillion_http::message::{Headers, RequestHead};
use pillion_model::route::{HeaderMatch, PathMatch, RouteMatch, ValueMatch};

use super::Route;

pub struct Rule {
    pub matches: RouteMatch,
    pub to: Split,
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

    /// Picks a route. `dice` gives a random number.
    fn pick(&self, dice: impl FnOnce() -> u64) -> Option<&Arc<Route>> {
        let (sum, last) = self.ends.last()?;
        if self.ends.len() == 1 {
            return Some(last);
        }
        let drawn = dice() % sum;
        self.ends.iter().find(|(end, _)| drawn < *end).map(|(_, route)| route)
    }
}

impl Rule {
    /// A route of the first rule that matches, picked by weight.
    pub fn choose<'a>(
        rules: &'a [Arc<Self>],
        head: &RequestHead,
        dice: impl FnOnce() -> u64,
    ) -> Option<&'a Arc<Route>> {
        rules.iter().find(|rule| fits(&rule.matches, head)).and_then(|rule| rule.to.pick(dice))
    }
}

fn fits(wanted: &RouteMatch, head: &RequestHead) -> bool {
    wanted.path.as_ref().is_none_or(|path| path_fits(path, head.uri.path()))
        && method_fits(&wanted.methods, &head.method)
        && wanted.headers.iter().all(|header| header_fits(header, &head.headers))
}

fn path_fits(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn method_fits(wanted: &[String], method: &Method) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == method.as_str())
}

fn header_fits(wanted: &HeaderMatch, headers: &Headers) -> bool {
    let mut values = headers.named(&wanted.name);
    match &wanted.value {
        ValueMatch::Exact(exact) => values.any(|value| value == exact.as_bytes()),
        ValueMatch::Prefix(prefix) => values.any(|value| value.starts_with(prefix.as_bytes())),
        ValueMatch::Present(present) => values.next().is_some() == *present,
    }
}

#[cfg(test)]
mod tests {
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
        };
        let all = [("x-canary", "0"), ("X-Canary", "1"), ("x-user", "jo")];
        assert!(fits(&wanted, &head("GET", "/v2?query=is-not-looked-at", &all)));
        for (method, path, headers) in [
            ("POST", "/v2", &all[..]),
            ("GET", "/v2/", &all[..]),
            ("GET", "/v2", &all[..2]),
            ("GET", "/v2", &all[2..]),
            ("GET", "/v2", &[("x-canary", "1"), ("x-user", "jo"), ("x-debug", "")]),
        ] {
            assert!(!fits(&wanted, &head(method, path, headers)), "{method} {path} {headers:?}");
        }
        assert!(fits(&RouteMatch::default(), &head("DELETE", "/any", &[])));
    }
}
