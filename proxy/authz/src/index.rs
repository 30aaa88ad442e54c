//! Finds the rules that may fit, by peer and path, without trying the others.
//!
//! A rule stands in the bucket of every peer that it names, or in the bucket of any peer; in each bucket at every path
//! that it names. An exact peer is found by one look-up, a pattern `…/*` by one for each segment of the peer's ID, and a
//! path by one for each of its segments, but for no more than the rules' own.

use std::collections::HashMap;

use pillion_model::SpiffeId;
use pillion_model::authorization::Action;

use crate::Asked;
use crate::rule::{Compiled, Found, Path};

/// The most segments of paths that are kept in sum for rules that name several peers, each of which gets all paths of
/// its rule: at most about 40 MiB. Further rules of this kind are found by their peers alone, and their paths are tried
/// one by one. A rule for one peer, or for any, takes no more than its paths in the file, and has no bound here.
const MOST_SEGMENTS: usize = 65_536;

#[derive(Default)]
pub(crate) struct Index {
    /// Rules that name no peer.
    anyone: Bucket,
    exact: HashMap<Box<str>, Bucket>,
    below: Above,
}

/// A segment of SPIFFE IDs, with the rules for all IDs below it.
#[derive(Default)]
struct Above {
    bucket: Option<Box<Bucket>>,
    next: HashMap<Box<str>, Self>,
}

/// The rules of a peer.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(crate) deny: Rules,
    pub(crate) allow: Rules,
}

/// Numbers of rules; each list ascends.
#[derive(Default)]
pub(crate) struct Rules {
    /// Rules without a path, and those with too many.
    any_path: Vec<u32>,
    /// Every deny rule that has paths here, for what has no path. No allow rule with paths fits that.
    with_path: Vec<u32>,
    root: Segment,
}

/// A segment of paths, with the rules whose paths end here.
#[derive(Default)]
struct Segment {
    exact: Vec<Entry>,
    /// Rules for all paths below.
    below: Vec<Entry>,
    next: HashMap<Box<[u8]>, Self>,
}

struct Entry {
    rule: u32,
    path: u32,
}

impl Index {
    pub(crate) fn of(rules: &[Compiled]) -> Self {
        let mut index = Self::default();
        let mut room = MOST_SEGMENTS;
        for (nth, rule) in (0_u32..).zip(rules) {
            let from = &rule.when.of.from;
            let taken =
                if from.len() > 1 { from.len().saturating_mul(segments_of(&rule.when.paths)) } else { 0 };
            let left = room.checked_sub(taken);
            room = left.unwrap_or(room);
            let paths = if left.is_some() { &*rule.when.paths } else { &[] };
            if from.is_empty() {
                index.anyone.add(nth, rule.action, paths);
            }
            for peer in from {
                let bucket = match peer.is_below {
                    false => index.exact.entry(peer.id.as_str().into()).or_default(),
                    true => index.below.bucket(&peer.id),
                };
                bucket.add(nth, rule.action, paths);
            }
        }
        index
    }

    /// The buckets with the rules that may be for this peer.
    pub(crate) fn buckets<'a>(&'a self, peer: Option<&'a SpiffeId>) -> impl Iterator<Item = &'a Bucket> {
        let exact = peer.filter(|_| !self.exact.is_empty()).and_then(|peer| self.exact.get(peer.as_str()));
        let mut above = Some(&self.below).filter(|below| !below.next.is_empty());
        let mut segments = peer.into_iter().flat_map(segments).peekable();
        let below = std::iter::from_fn(move || {
            loop {
                let next = above?.next.get(segments.next()?)?;
                above = Some(next);
                segments.peek()?; // a pattern needs one more segment
                if let Some(bucket) = &next.bucket {
                    return Some(&**bucket);
                }
            }
        });
        std::iter::once(&self.anyone).chain(exact).chain(below)
    }
}

fn segments_of(paths: &[Path]) -> usize {
    paths.iter().map(|path| path.segments().count()).sum()
}

/// The trust domain, and the segments of the path.
fn segments(id: &SpiffeId) -> impl Iterator<Item = &str> {
    std::iter::once(id.trust_domain()).chain(id.path().split('/').skip(1))
}

impl Above {
    fn bucket(&mut self, id: &SpiffeId) -> &mut Bucket {
        let last = segments(id).fold(self, |above, name| above.next.entry(name.into()).or_default());
        last.bucket.get_or_insert_default()
    }
}

impl Bucket {
    fn add(&mut self, rule: u32, action: Action, paths: &[Path]) {
        let rules = match action {
            Action::Deny => &mut self.deny,
            Action::Allow => &mut self.allow,
        };
        if paths.is_empty() {
            return push(&mut rules.any_path, rule);
        }
        if action == Action::Deny {
            push(&mut rules.with_path, rule);
        }
        for (nth, path) in (0_u32..).zip(paths) {
            let last = path
                .segments()
                .fold(&mut rules.root, |segment, name| segment.next.entry(name.into()).or_default());
            let list = if path.is_below { &mut last.below } else { &mut last.exact };
            list.push(Entry { rule, path: nth });
        }
    }
}

/// A rule that names a peer twice is added once.
fn push(rules: &mut Vec<u32>, rule: u32) {
    if rules.last() != Some(&rule) {
        rules.push(rule);
    }
}

impl Rules {
    /// Puts the least number that `fits` into `best`, if it is less than what is there.
    pub(crate) fn first(
        &self,
        asked: Option<&Asked<'_>>,
        best: &mut Option<u32>,
        fits: impl Fn(u32, Found) -> bool,
    ) {
        find(&self.any_path, best, |rule| fits(rule, Found::ByPeer));
        match asked.and_then(|asked| asked.path) {
            None => find(&self.with_path, best, |rule| fits(rule, Found::ByPeer)),
            Some(_) if self.root.next.is_empty() => {}
            Some(path) => {
                self.first_at(path.decoded(), best, &fits);
                if path.has_parameters() {
                    self.first_at(path.plain(), best, &fits);
                }
                if let Some(path) = path.before_query() {
                    self.first_at(path, best, &fits);
                }
            }
        }
    }

    fn first_at(&self, path: &[u8], best: &mut Option<u32>, fits: impl Fn(u32, Found) -> bool) {
        let mut look = |entries: &[Entry]| {
            let is_before = |entry: &&Entry| best.is_none_or(|best| entry.rule < best);
            let fits = |entry: &&Entry| fits(entry.rule, Found::ByPath(entry.path));
            let found = entries.iter().take_while(is_before).find(fits);
            *best = found.map(|entry| entry.rule).or(*best);
        };
        let (mut segment, mut names) = (&self.root, path.split(|byte| *byte == b'/').peekable());
        while let Some(next) = names.next().and_then(|name| segment.next.get(name)) {
            segment = next;
            match names.peek() {
                Some(_) => look(&segment.below),
                None => look(&segment.exact),
            }
        }
    }
}

fn find(rules: &[u32], best: &mut Option<u32>, fits: impl Fn(u32) -> bool) {
    let is_before = |rule: &&u32| best.is_none_or(|best| **rule < best);
    let found = rules.iter().take_while(is_before).find(|rule| fits(**rule));
    *best = found.copied().or(*best);
}

#[cfg(test)]
mod tests {
    use pillion_model::authorization::{Conditions, PathPattern, PeerPattern, Rule};

    use super::*;

    fn kept(segment: &Segment) -> usize {
        segment.next.values().map(|next| kept(next) + 1).sum()
    }

    /// Each rule is for other peers and paths.
    fn index(rules: usize, peers: usize, paths: usize) -> Index {
        let rule = |nth: usize| {
            let peer = |peer| PeerPattern::new(&format!("spiffe://a/{nth}/{peer}")).expect("a pattern");
            let path = |path| PathPattern::new(&format!("/{nth}/{path}")).expect("a pattern");
            let (from, paths) = ((0..peers).map(peer).collect(), (0..paths).map(path).collect());
            let when = Conditions { from, paths, ..Conditions::default() };
            Compiled::new(&Rule { name: nth.to_string(), action: Action::Allow, when, not: None })
        };
        Index::of(&(0..rules).map(rule).collect::<Vec<_>>())
    }

    fn segments_in(index: &Index) -> usize {
        index.exact.values().map(|bucket| kept(&bucket.allow.root)).sum()
    }

    #[test]
    fn rules_for_many_peers_and_paths_keep_a_bounded_number_of_segments_in_sum() {
        let many = index(40, 64, 64);
        assert_eq!(many.exact.len(), 40 * 64);
        assert!((1..=MOST_SEGMENTS).contains(&segments_in(&many)), "{}", segments_in(&many));
        let one_each = index(1, 1, MOST_SEGMENTS);
        assert!(segments_in(&one_each) > MOST_SEGMENTS, "paths of one peer are all found by their segments");
    }
}
