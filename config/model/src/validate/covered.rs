//! Finds routes that are never reached, because an earlier route without conditions takes all requests to their hosts.

use std::collections::HashMap;

use crate::cluster::{Cluster, HostPattern};
use crate::route::RouteHost;

pub(super) struct Covered {
    /// The hosts of all services, for which `"*"` stands.
    known: Patterns<()>,
    /// Hosts that an earlier route without conditions takes, with the number of that route.
    taken: Patterns<usize>,
    all_known: Option<usize>,
}

impl Covered {
    pub(super) fn none_of(clusters: &[Cluster]) -> Self {
        let mut known = Patterns::default();
        clusters.iter().flat_map(|cluster| &cluster.hosts).for_each(|host| known.add(host, ()));
        Self { known, taken: Patterns::default(), all_known: None }
    }

    pub(super) fn add(&mut self, nth: usize, hosts: &[RouteHost]) {
        for host in hosts {
            match host {
                RouteHost::Any => self.all_known = Some(nth),
                RouteHost::One(host) => self.taken.add(host, nth),
            }
        }
    }

    /// If earlier routes take every one of `hosts`, the last of those earlier routes: no request can reach a route for
    /// `hosts`.
    pub(super) fn by(&self, hosts: &[RouteHost]) -> Option<usize> {
        let takers = hosts.iter().map(|host| match host {
            RouteHost::Any => self.all_known,
            RouteHost::One(host) => {
                let as_known = || self.all_known.filter(|_| self.known.covering(host).is_some());
                self.taken.covering(host).or_else(as_known)
            }
        });
        takers.collect::<Option<Vec<usize>>>()?.into_iter().max()
    }
}

/// Whether the pattern is a wildcard, and its port.
type Kind = (bool, Option<u16>);

/// Patterns by name. A host is covered by the same pattern or by a wildcard above it; a pattern without a port covers
/// every port.
struct Patterns<T>(HashMap<String, HashMap<Kind, T>>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy> Patterns<T> {
    fn add(&mut self, host: &HostPattern, by: T) {
        let of_name = self.0.entry(host.name.clone()).or_default();
        of_name.entry((host.wildcard, host.port)).or_insert(by);
    }

    fn covering(&self, host: &HostPattern) -> Option<T> {
        let above = host.name.match_indices('.').filter_map(|(dot, _)| host.name.get(dot + 1..));
        let above = above.map(|name| (name, true));
        [(host.name.as_str(), host.wildcard)].into_iter().chain(above).find_map(|(name, wildcard)| {
            let of_name = self.0.get(name)?;
            of_name.get(&(wildcard, host.port)).or_else(|| of_name.get(&(wildcard, None))).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `*.x:80`, as the file spells it.
    fn host(text: &str) -> HostPattern {
        let (name, port) =
            text.split_once(':').map_or((text, None), |(name, port)| (name, port.parse().ok()));
        let (name, wildcard) = name.strip_prefix("*.").map_or((name, false), |name| (name, true));
        HostPattern { name: name.to_owned(), wildcard, port }
    }

    fn covers(one: &str, other: &str) -> bool {
        let mut patterns = Patterns::default();
        patterns.add(&host(one), ());
        patterns.covering(&host(other)).is_some()
    }

    #[test]
    fn a_host_is_covered_by_itself_and_by_wildcards_above_it_whatever_the_port() {
        for (one, other) in [
            ("a", "a"),
            ("a", "a:80"),
            ("a:80", "a:80"),
            ("*.x", "a.x"),
            ("*.x", "b.a.x:80"),
            ("*.x", "*.a.x"),
            ("*.x", "*.x"),
        ] {
            assert!(covers(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("a", "b"),
            ("a:80", "a"),
            ("a:80", "a:81"),
            ("*.x", "x"),
            ("*.x", "ax"),
            ("*.a.x", "*.x"),
            ("a.x", "*.x"),
        ] {
            assert!(!covers(one, other), "{one} {other}");
        }
    }
}
