//! What came to the application, in sum: who sent which methods to which paths and ports. Pure, and bounded whatever
//! clients send.
//!
//! Only what authorization rules can express is kept. Their paths are exact, or end with a star for everything below a
//! slash. So a path is cut at its first segment that names a single thing, such as a number, and where one place has more
//! than [`MOST_DIFFERENT`] different segments.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pillion_model::SpiffeId;
use pillion_model::authorization::path::JudgedPath;

/// 16 different segments at one place: more of them are names of things, as of users, and no fixed words of an interface.
const MOST_DIFFERENT: usize = 16;
/// 16 segments: what is deeper is not told apart.
const DEEPEST: usize = 16;
/// 64 bytes: a longer segment is no word of an interface.
const LONGEST_SEGMENT: usize = 64;
/// 32 bytes: twice the longest registered method.
const LONGEST_METHOD: usize = 32;
/// 64 methods of one peer at one port: there are some 40 registered ones.
const MOST_METHODS: usize = 64;
/// 2 MiB for all that is kept, and for the page that has it as JSON without spaces. What takes room in both counts twice.
pub const MOST_BYTES: usize = 2 * 1024 * 1024;
/// 256 KiB of them for clients without an identity. They cannot use up what is for peers with one, whom rules name.
const MOST_BYTES_OF_STRANGERS: usize = 256 * 1024;
/// A peer at a port takes at most 250 bytes in its B-tree, and 110 on the page, beside its identity.
const PEER: usize = 384;
/// A method takes at most 140 bytes in memory, and 100 on the page for requests without a path.
const METHOD: usize = 256;
/// A segment takes at most 104 bytes beside its name: 48 in the list of its parent, and the overhead of two allocations.
const SEGMENT: usize = 128;
/// A path takes at most 53 bytes on the page beside its own text and the method.
const LINE: usize = 64;
/// `/*` at the end of a path.
const STAR: usize = 2;
/// The addresses that are kept of clients without an identity.
const MOST_STRANGERS: usize = 32;

/// What came since the recording began.
#[derive(Clone)]
pub struct Traffic {
    /// By the peer, which is `None` for clients without a verified identity, and by the port of the application.
    all: BTreeMap<(Option<SpiffeId>, u16), FromPeer>,
    strangers: BTreeSet<IpAddr>,
    room: Room,
    room_of_strangers: Room,
    pub left_out: LeftOut,
}

/// The bytes that were taken, of so many.
#[derive(Clone, Copy)]
struct Room {
    taken: usize,
    most: usize,
}

/// What one peer sent to one port.
#[derive(Clone, Default)]
pub struct FromPeer {
    pub connections: u64,
    methods: Few<Method>,
}

/// The requests with one method.
#[derive(Clone, Default)]
pub struct Method {
    /// CONNECT and `OPTIONS *`.
    pub without_path: u64,
    root: Segment,
}

/// What is not among the traffic, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Requests and connections beyond [`MOST_BYTES`] or [`MOST_METHODS`].
    pub beyond_bound: u64,
    /// Requests with paths that no rule judges: they get 400 as soon as rules name paths.
    pub unclear_paths: u64,
    /// Requests with methods that no rule can name: in lower case, or very long.
    pub methods: u64,
    /// Some addresses of clients without an identity.
    pub strangers: bool,
}

#[derive(Clone, Default)]
struct Segment {
    /// Requests whose path ends here.
    here: u64,
    below: Below,
}

#[derive(Clone)]
enum Below {
    Named(Few<Segment>),
    /// The number of requests. Their segments are not told apart.
    Any(u64),
}

impl Default for Below {
    fn default() -> Self {
        Self::Named(Few::default())
    }
}

/// A few values by their names, in the order of the names. A B-tree would take 630 bytes for a single segment.
#[derive(Clone)]
struct Few<T>(Vec<(Box<str>, T)>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Default> Few<T> {
    /// The value with this name. A new one is made only if `has_room`.
    fn entry(&mut self, name: &str, has_room: impl FnOnce() -> bool) -> Option<&mut T> {
        let at = match self.place(name) {
            Ok(at) => at,
            Err(at) => {
                if !has_room() {
                    return None;
                }
                self.0.reserve_exact(1); // by itself a vector takes room for four at once
                self.0.insert(at, (name.into(), T::default()));
                at
            }
        };
        self.0.get_mut(at).map(|(_, value)| value)
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

/// A place in the paths of a method.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    /// The bytes that the page takes for a path that ends here.
    line: usize,
}

impl Place {
    const fn root(method: &str) -> Self {
        Self { depth: 0, line: LINE + method.len() }
    }

    /// The place below this one. In JSON a quotation mark and a backslash take two bytes; other bytes that would take more
    /// are in no name (see [`names_a_single_thing`]).
    fn below(self, name: &str) -> Self {
        let escaped = name.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
        Self { depth: self.depth + 1, line: self.line + 1 + name.len() + escaped }
    }
}

/// The path of a request.
#[derive(Clone, Copy)]
pub enum Path<'a> {
    Judged(&'a JudgedPath<'a>),
    /// The request has none.
    None,
    /// Two readers could see two different paths.
    Unclear,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            strangers: BTreeSet::new(),
            room: Room::of(MOST_BYTES - MOST_BYTES_OF_STRANGERS),
            room_of_strangers: Room::of(MOST_BYTES_OF_STRANGERS),
            left_out: LeftOut::default(),
        }
    }
}

impl Room {
    const fn of(most: usize) -> Self {
        Self { taken: 0, most }
    }

    /// Takes these bytes, if there are as many left.
    const fn take(&mut self, wanted: usize) -> bool {
        let has_room = self.taken + wanted <= self.most;
        if has_room {
            self.taken += wanted;
        }
        has_room
    }
}

impl Traffic {
    pub fn add_connection(&mut self, peer: Option<&SpiffeId>, source: IpAddr, port: u16) {
        self.note_source(peer, source);
        match self.from(peer, port) {
            Some((from, _)) => from.connections += 1,
            None => self.left_out.beyond_bound += 1,
        }
    }

    pub fn add_request(
        &mut self,
        peer: Option<&SpiffeId>,
        source: IpAddr,
        port: u16,
        method: &str,
        path: Path<'_>,
    ) {
        self.note_source(peer, source);
        let path = match path {
            Path::Unclear => return self.left_out.unclear_paths += 1,
            Path::None => None,
            Path::Judged(path) => Some(&*path.forwarded),
        };
        if method.len() > LONGEST_METHOD || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return self.left_out.methods += 1;
        }
        if self.kept(peer, port, method, path).is_none() {
            self.left_out.beyond_bound += 1;
        }
    }

    /// `None`: there is no room.
    fn kept(&mut self, peer: Option<&SpiffeId>, port: u16, method: &str, path: Option<&str>) -> Option<()> {
        let (from, room) = self.from(peer, port)?;
        let place = Place::root(method);
        let others = from.methods.0.len();
        let method = from.methods.entry(method, || others < MOST_METHODS && room.take(METHOD))?;
        let Some(path) = path else {
            method.without_path += 1;
            return Some(());
        };
        method.root.add(path.split('/').skip(1), place, room)
    }

    /// What is known of this peer at this port. `None`: there is no room for it.
    fn from(&mut self, peer: Option<&SpiffeId>, port: u16) -> Option<(&mut FromPeer, &mut Room)> {
        let taken = PEER + 2 * peer.map_or(0, |peer| peer.as_str().len());
        let room = match peer {
            Some(_) => &mut self.room,
            None => &mut self.room_of_strangers,
        };
        let from = match self.all.entry((peer.cloned(), port)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => match room.take(taken) {
                true => new.insert(FromPeer::default()),
                false => return None,
            },
        };
        Some((from, room))
    }

    fn note_source(&mut self, peer: Option<&SpiffeId>, source: IpAddr) {
        if peer.is_some() || self.strangers.contains(&source) {
            return;
        }
        match self.strangers.len() < MOST_STRANGERS {
            true => drop(self.strangers.insert(source)),
            false => self.left_out.strangers = true,
        }
    }

    pub fn all(&self) -> impl Iterator<Item = (Option<&SpiffeId>, u16, &FromPeer)> {
        self.all.iter().map(|((peer, port), from)| (peer.as_ref(), *port, from))
    }

    /// The addresses of clients without an identity.
    pub fn strangers(&self) -> impl Iterator<Item = IpAddr> {
        self.strangers.iter().copied()
    }
}

impl FromPeer {
    pub fn methods(&self) -> impl Iterator<Item = (&str, &Method)> {
        self.methods.iter()
    }
}

impl Method {
    /// The paths as rules write them, each with the number of its requests.
    pub fn paths(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        self.root.tell("", &mut all);
        all
    }
}

impl Segment {
    /// Counts a request with the rest of its path. `None`: there is no room.
    fn add<'a>(
        &mut self,
        mut rest: impl Iterator<Item = &'a str>,
        place: Place,
        room: &mut Room,
    ) -> Option<()> {
        let Some(name) = rest.next() else {
            if self.here == 0 && !room.take(place.line) {
                return None;
            }
            self.here += 1;
            return Some(());
        };
        let named = match &mut self.below {
            Below::Any(count) => {
                *count += 1;
                return Some(());
            }
            Below::Named(named) => named,
        };
        let is_one_too_many = named.0.len() >= MOST_DIFFERENT && named.place(name).is_err();
        if place.depth >= DEEPEST || is_one_too_many || names_a_single_thing(name) {
            let freed: usize = named.iter().map(|(name, next)| next.bytes(name, place.below(name))).sum();
            let mut after = Room { taken: room.taken.saturating_sub(freed), ..*room };
            if !after.take(place.line + STAR) {
                return None;
            }
            *room = after;
            self.below = Below::Any(named.iter().map(|(_, next)| next.requests()).sum::<u64>() + 1);
            return Some(());
        }
        let next = named.entry(name, || room.take(SEGMENT + name.len()))?;
        next.add(rest, place.below(name), room)
    }

    fn requests(&self) -> u64 {
        let below = match &self.below {
            Below::Any(count) => *count,
            Below::Named(named) => named.iter().map(|(_, next)| next.requests()).sum(),
        };
        self.here + below
    }

    /// The bytes that were taken for this segment, which is at `place`, and for all below.
    fn bytes(&self, name: &str, place: Place) -> usize {
        let here = if self.here > 0 { place.line } else { 0 };
        let below = match &self.below {
            Below::Any(_) => place.line + STAR,
            Below::Named(named) => named.iter().map(|(name, next)| next.bytes(name, place.below(name))).sum(),
        };
        SEGMENT + name.len() + here + below
    }

    fn tell(&self, path: &str, all: &mut Vec<(String, u64)>) {
        if self.here > 0 {
            all.push((path.to_owned(), self.here));
        }
        match &self.below {
            Below::Any(count) => all.push((format!("{path}/*"), *count)),
            Below::Named(named) => {
                named.iter().for_each(|(name, next)| next.tell(&format!("{path}/{name}"), all))
            }
        }
    }
}

/// Whether the segment most likely names one thing of many: a number, a UUID, a long hexadecimal number, a long text, or
/// one with characters that rules cannot name.
fn names_a_single_thing(segment: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let has_digit = || segment.bytes().any(|byte| byte.is_ascii_digit());
    let is_number = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let is_uuid = segment.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && segment.split('-').all(is_hex);
    let is_key = segment.len() >= 16 && is_hex(segment) && has_digit();
    let cannot_be_named = segment.bytes().any(|byte| byte == b'*' || !byte.is_ascii_graphic());
    is_number || is_uuid || is_key || cannot_be_named || segment.len() > LONGEST_SEGMENT
}

#[cfg(test)]
mod tests {
    use pillion_authz::{Asked, Claims, Engine, Facts, Headers};
    use pillion_model::authorization::{
        Action, Authorization, Conditions, EncodedSlash, PathPattern, PeerPattern, Rule,
    };
    use proptest::prelude::*;

    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn web() -> SpiffeId {
        WEB.parse().expect("an ID")
    }

    fn add(traffic: &mut Traffic, peer: Option<&SpiffeId>, method: &str, path: &str) {
        let judged = JudgedPath::of(path, EncodedSlash::Reject);
        let path = judged.as_ref().map_or(Path::Unclear, Path::Judged);
        traffic.add_request(peer, SOURCE, 80, method, path);
    }

    fn paths(sent: &[&str]) -> Vec<(String, u64)> {
        let mut traffic = Traffic::default();
        sent.iter().for_each(|path| add(&mut traffic, Some(&web()), "GET", path));
        traffic.all().flat_map(|(.., from)| from.methods().flat_map(|(_, method)| method.paths())).collect()
    }

    #[test]
    fn paths_are_cut_where_they_name_single_things() {
        let uuid = "/orders/0b7f9a3e-8c1d-4f5e-9a2b-1c3d5e7f9a0b";
        for (sent, expected) in [
            (&["/"][..], &["/"][..]),
            (&["/a", "/a/", "/a/b"], &["/a", "/a/", "/a/b"]),
            (&["/users/17", "/users/18/orders"], &["/users/*"]),
            (&["/users/me", "/users/17", "/users"], &["/users", "/users/*"]),
            (&[uuid], &["/orders/*"]),
            (&["/blobs/00000000000000ff", "/cafe/decafbad"], &["/blobs/*", "/cafe/decafbad"]),
            (&["/7"], &["/*"]),
            (&["/files/*"], &["/files/*"]),
            (&["/a//b/../c%2d"], &["/a/c-"]),
        ] {
            let found: Vec<String> = paths(sent).into_iter().map(|(path, _)| path).collect();
            assert_eq!(found, expected, "{sent:?}");
        }
        let long = format!("/a/{}", "x".repeat(LONGEST_SEGMENT + 1));
        assert_eq!(paths(&[&long]), [("/a/*".to_owned(), 1)]);
        let deep = "/a".repeat(DEEPEST + 1);
        assert_eq!(paths(&[&deep]), [(format!("{}/*", "/a".repeat(DEEPEST)), 1)]);
    }

    #[test]
    fn a_place_with_many_different_segments_becomes_one_pattern_and_counts_all_its_requests() {
        let names: Vec<String> = (0..=MOST_DIFFERENT).map(|nth| format!("/users/u{nth}x/orders")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(paths(&all[..MOST_DIFFERENT]).len(), MOST_DIFFERENT);
        assert_eq!(paths(&all), [("/users/*".to_owned(), MOST_DIFFERENT as u64 + 1)]);
    }

    #[test]
    fn memory_is_bounded_whatever_clients_send_and_what_is_left_out_is_counted() {
        let mut traffic = Traffic::default();
        let peer =
            |nth: usize| format!("spiffe://a/{nth}{}", "x".repeat(1000)).parse::<SpiffeId>().expect("an ID");
        (0..4000).for_each(|nth| add(&mut traffic, Some(&peer(nth)), "GET", "/a"));
        assert!(traffic.room.taken <= MOST_BYTES && traffic.all.len() < 4000);
        assert!(traffic.left_out.beyond_bound > 1000, "{:?}", traffic.left_out);
        let known = traffic.left_out.clone();
        add(&mut traffic, Some(&peer(0)), "GET", "/a");
        assert_eq!(traffic.left_out, known, "what is known is counted on");
        let addresses = (0..100).map(|nth| IpAddr::from([10, 0, 0, nth]));
        addresses.for_each(|source| traffic.add_connection(None, source, 80));
        assert_eq!((traffic.strangers().count(), traffic.left_out.strangers), (MOST_STRANGERS, true));
    }

    #[test]
    fn clients_without_an_identity_leave_room_for_peers() {
        let mut traffic = Traffic::default();
        let name = |nth: usize| ('a'..='p').nth(nth % 16).unwrap_or('a').to_string().repeat(60);
        for nth in 0..16 * 16 * 16 {
            let path = format!("/{}/{}/{}", name(nth), name(nth / 16), name(nth / 256));
            add(&mut traffic, None, "GET", &path);
        }
        assert!(traffic.left_out.beyond_bound > 0, "{:?}", traffic.left_out);
        let before = traffic.left_out.clone();
        add(&mut traffic, Some(&web()), "GET", "/orders");
        assert_eq!(traffic.left_out, before);
    }

    /// What an allocation of so many bytes takes, with glibc: 8 bytes more, in steps of 16 bytes, and 32 at least.
    fn allocated(bytes: usize) -> usize {
        if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
    }

    fn heap<T>(of: &Few<T>, below: impl Fn(&T) -> usize) -> usize {
        let entries = |(name, value): &(Box<str>, T)| allocated(name.len()) + below(value);
        allocated(of.0.capacity() * size_of::<(Box<str>, T)>()) + of.0.iter().map(entries).sum::<usize>()
    }

    fn heap_of_segment(of: &Segment) -> usize {
        match &of.below {
            Below::Any(_) => 0,
            Below::Named(named) => heap(named, heap_of_segment),
        }
    }

    /// The leaves of a B-tree have room for 11 entries, and are filled with 5 at least; its other nodes are a fifth of them.
    fn heap_of_all(of: &Traffic) -> usize {
        let leaf = allocated(16 + 11 * size_of::<((Option<SpiffeId>, u16), FromPeer)>());
        let (leaves, ids) = (of.all.len() / 5 + 1, of.all().filter_map(|(peer, ..)| peer));
        let methods = of.all().map(|(.., from)| heap(&from.methods, |method| heap_of_segment(&method.root)));
        let ids = ids.map(|id| allocated(16 + id.as_str().len()));
        leaves * leaf + leaves / 5 * (leaf + 96) + ids.sum::<usize>() + methods.sum::<usize>()
    }

    /// The caller, the method and the path of the nth request.
    type Nth<'a> = &'a dyn Fn(usize) -> (SpiffeId, String, String);

    #[test]
    fn the_memory_that_all_parts_take_by_their_sizes_is_within_the_bound() {
        let peer = |nth: usize| format!("spiffe://a/{nth}").parse::<SpiffeId>().expect("an ID");
        let kinds: [(&str, Nth<'_>); 4] = [
            ("peers", &|nth| (peer(nth), "GET".to_owned(), "/".to_owned())),
            ("methods", &|nth| (peer(nth / 64), format!("M{}", nth % 64), "/".to_owned())),
            ("chains", &|nth| {
                let name = |level: usize| format!("/x{}", (nth >> (4 * level)) & 15);
                (web(), "GET".to_owned(), (0..4).map(name).collect::<String>() + &"/a".repeat(12))
            }),
            ("leaves", &|nth| {
                (
                    web(),
                    "GET".to_owned(),
                    (0..4).map(|level| format!("/x{}", (nth >> (4 * level)) & 15)).collect(),
                )
            }),
        ];
        for (kind, sent) in kinds {
            let mut traffic = Traffic::default();
            (0..60_000).for_each(|nth| {
                let (peer, method, path) = sent(nth);
                add(&mut traffic, Some(&peer), &method, &path);
            });
            assert!(traffic.left_out.beyond_bound > 0, "{kind}: the bound is not reached");
            let heap = heap_of_all(&traffic);
            assert!(heap <= MOST_BYTES && traffic.room.taken <= MOST_BYTES, "{kind}: {heap}");
        }
    }

    #[test]
    fn what_is_joined_gives_back_all_that_it_took() {
        let mut traffic = Traffic::default();
        add(&mut traffic, Some(&web()), "GET", "/users/7");
        let joined = traffic.room.taken;
        traffic = Traffic::default();
        for path in ["/users/a", "/users/a/b/7", "/users/b\"/c", "/users/"] {
            add(&mut traffic, Some(&web()), "GET", path);
        }
        assert!(traffic.room.taken > joined + 4 * SEGMENT);
        add(&mut traffic, Some(&web()), "GET", "/users/7");
        assert_eq!(traffic.room.taken, joined);
    }

    #[test]
    fn a_peer_has_a_bounded_number_of_methods() {
        let mut traffic = Traffic::default();
        (0..=MOST_METHODS).for_each(|nth| add(&mut traffic, Some(&web()), &format!("M{nth}"), "/"));
        assert_eq!(traffic.all().map(|(.., from)| from.methods().count()).sum::<usize>(), MOST_METHODS);
        assert_eq!(traffic.left_out.beyond_bound, 1);
    }

    #[test]
    fn what_rules_cannot_express_is_counted() {
        let mut traffic = Traffic::default();
        add(&mut traffic, Some(&web()), "GET", "/a/..;/b");
        add(&mut traffic, Some(&web()), "delete", "/a");
        traffic.add_request(Some(&web()), SOURCE, 80, "OPTIONS", Path::None);
        let expected = LeftOut { unclear_paths: 1, methods: 1, ..LeftOut::default() };
        assert_eq!(traffic.left_out, expected);
        let without = |from: &FromPeer| from.methods().map(|(_, method)| method.without_path).sum::<u64>();
        assert_eq!(traffic.all().map(|(.., from)| without(from)).sum::<u64>(), 1);
    }

    struct NoHeaders;

    impl Headers for NoHeaders {
        fn values(&self, _: &str, _: &mut dyn FnMut(&[u8], bool)) {}
    }

    /// The rules of the paths that were found.
    fn engine(found: &[(String, u64)]) -> Engine {
        let paths = found.iter().map(|(path, _)| PathPattern::new(path).expect("a pattern")).collect();
        let from = vec![PeerPattern::new(WEB).expect("a peer")];
        let when = Conditions { from, paths, ..Conditions::default() };
        let rules = vec![Rule { name: "web".to_owned(), action: Action::Allow, when, not: None }];
        Engine::new(&Authorization { rules, ..Authorization::default() })
    }

    proptest! {
        #[test]
        fn every_request_that_was_seen_fits_a_pattern(
            sent in prop::collection::vec("(/[ab17;.%é*-]{0,3}(%3[Bb]|%2[Aa])?){1,4}", 1..40),
        ) {
            let all: Vec<&str> = sent.iter().map(String::as_str).collect();
            let engine = engine(&paths(&all));
            let (peer, claims): (_, Option<&Claims>) = (web(), None);
            for path in &all {
                let Ok(judged) = JudgedPath::of(path, EncodedSlash::Reject) else { continue };
                let request = Asked { method: "GET", path: Some(&judged), host: None, headers: &NoHeaders, claims };
                let facts = Facts { peer: Some(&peer), source: SOURCE, port: 80, request: Some(request) };
                prop_assert_eq!(engine.judge(&facts).action, Action::Allow, "{} in {:?}", path, all);
            }
        }
    }
}
