//! The objects of one namespace, as far as they belong to services that are followed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::merge::{Here, Merged, Wanted, endpoints};
use crate::objects::{Event, Kind, Object, Page, SERVICE_LABEL, Service, Slice};

/// The slices' endpoints that are kept of one namespace, at about 150 bytes each, and at most 1 KiB with the longest hints for
/// eight zones. Those beyond are not kept, whatever a
/// server sends.
const MOST_MEMBERS: usize = 100_000;
/// The objects of one kind that are kept of one namespace.
const MOST_OBJECTS: usize = 20_000;
/// The bytes of a selector. Where the names of all services take more, the whole namespace is asked for.
const LONGEST_SELECTOR: usize = 4096;

/// What is known of a namespace.
#[derive(Debug, Default)]
pub struct Namespace {
    /// The Services that are followed, by their names.
    followed: BTreeMap<String, Followed>,
    slices: Mirror<Slice>,
    services: Mirror<Service>,
    /// Why the last question for each kind failed. `None`: it has not, or a list has become complete since.
    failed: PerKind<Option<Arc<str>>>,
}

/// A value for each kind.
#[derive(Debug, Default)]
struct PerKind<T> {
    slices: T,
    services: T,
}

impl<T> PerKind<T> {
    const fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::EndpointSlices => &self.slices,
            Kind::Services => &self.services,
        }
    }

    const fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::EndpointSlices => &mut self.slices,
            Kind::Services => &mut self.services,
        }
    }
}

#[derive(Debug, Default)]
struct Followed {
    /// By how many clusters.
    times: usize,
    /// Whether a list of each kind that was asked for this Service has begun, and has become complete.
    begun: PerKind<bool>,
    listed: PerKind<bool>,
}

/// The objects of one kind.
#[derive(Debug)]
struct Mirror<T> {
    known: Objects<T>,
    /// The pages of a list that is not complete.
    staged: Objects<T>,
}

/// Objects by their names, within the bounds of a namespace.
#[derive(Debug)]
struct Objects<T> {
    all: BTreeMap<String, T>,
    /// The sum of their sizes.
    size: usize,
}

trait Counted {
    /// What the object counts as.
    fn size(&self) -> usize;

    /// Makes it no larger than this, if it can be smaller.
    fn shorten(&mut self, size: usize);
}

impl Counted for Slice {
    fn size(&self) -> usize {
        self.members.len()
    }

    fn shorten(&mut self, size: usize) {
        self.members.truncate(size);
    }
}

impl Counted for Service {
    fn size(&self) -> usize {
        1
    }

    fn shorten(&mut self, _size: usize) {}
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), size: 0 }
    }
}

impl<T: Counted> Objects<T> {
    /// Keeps as much of an object as there is room for: of one that is known at least as much as before. Returns whether it is whole.
    fn put(&mut self, name: String, mut object: T) -> bool {
        self.remove(&name);
        let room = MOST_MEMBERS.saturating_sub(self.size);
        let is_whole = object.size() <= room;
        object.shorten(room);
        let fits = object.size() <= room && (is_whole || object.size() > 0);
        let is_kept = fits && self.all.len() < MOST_OBJECTS;
        if is_kept {
            self.size += object.size();
            self.all.insert(name, object);
        }
        is_kept && is_whole
    }

    fn remove(&mut self, name: &str) -> Option<T> {
        let gone = self.all.remove(name);
        self.size -= gone.as_ref().map_or(0, T::size);
        gone
    }
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self { known: Objects::default(), staged: Objects::default() }
    }
}

impl Namespace {
    /// Follows a Service. Returns whether its objects have to be listed.
    pub fn follow(&mut self, service: &str) -> bool {
        let of = self.followed.entry(service.to_owned()).or_default();
        of.times += 1;
        of.times == 1
    }

    /// Follows a Service once less, and forgets it where that was the last time.
    pub fn forget(&mut self, service: &str) {
        match self.followed.get_mut(service) {
            Some(of) if of.times > 1 => of.times -= 1,
            _ => {
                self.followed.remove(service);
                let own = self.slices.known.all.iter().filter(|(_, slice)| slice.service == service);
                let own: Vec<String> = own.map(|(name, _)| name.clone()).collect();
                own.iter().for_each(|name| drop(self.slices.known.remove(name)));
                self.services.known.remove(service);
            }
        }
    }

    /// Whether no service is followed any more.
    pub fn is_unused(&self) -> bool {
        self.followed.is_empty()
    }

    /// The selector with which objects of this kind are asked for, as a parameter and its value.
    pub fn selector(&self, kind: Kind) -> Option<(&'static str, String)> {
        let mut names = self.followed.keys().map(String::as_str);
        match kind {
            Kind::EndpointSlices => {
                let selector = format!("{SERVICE_LABEL} in ({})", names.collect::<Vec<_>>().join(","));
                (selector.len() <= LONGEST_SELECTOR).then_some(("labelSelector", selector))
            }
            Kind::Services => match (names.next(), names.next()) {
                (Some(only), None) => Some(("fieldSelector", format!("metadata.name={only}"))),
                _ => None, // Services have no label of their own that names them
            },
        }
    }

    /// Begins a list. What was known stays until it is complete.
    pub fn begin_list(&mut self, kind: Kind) {
        self.followed.values_mut().for_each(|of| *of.begun.of_mut(kind) = true);
        match kind {
            Kind::EndpointSlices => self.slices.staged = Objects::default(),
            Kind::Services => self.services.staged = Objects::default(),
        }
    }

    /// Takes a page. Returns how many of its objects are beyond the bounds, wholly or in part.
    pub fn take_page(&mut self, page: Page) -> usize {
        let mut left_out = 0;
        for (name, object) in page.objects {
            let is_taken = match object {
                Object::Slice(slice) if self.followed.contains_key(&slice.service) => {
                    self.slices.staged.put(name, slice)
                }
                Object::Service(service) if self.followed.contains_key(&name) => {
                    self.services.staged.put(name, service)
                }
                _ => true,
            };
            left_out += usize::from(!is_taken);
        }
        left_out
    }

    /// The list is complete: what it did not have exists no longer. Any service may have changed.
    pub fn end_list(&mut self, kind: Kind) {
        self.followed.values_mut().for_each(|of| *of.listed.of_mut(kind) |= *of.begun.of(kind));
        *self.failed.of_mut(kind) = None;
        match kind {
            Kind::EndpointSlices => self.slices.end_list(),
            Kind::Services => self.services.end_list(),
        }
    }

    /// Applies an event. Returns the Services whose endpoints may have changed, and whether what the event brings is
    /// beyond the bounds, wholly or in part.
    pub fn apply(&mut self, kind: Kind, event: Event) -> (BTreeSet<String>, bool) {
        let mut touched = BTreeSet::new();
        let mut is_taken = true;
        match (kind, event) {
            (_, Event::Set { name, object: Object::Slice(slice), .. }) => {
                touched.extend(self.slices.known.remove(&name).map(|before| before.service));
                if self.followed.contains_key(&slice.service) {
                    touched.insert(slice.service.clone());
                    is_taken = self.slices.known.put(name, slice);
                }
            }
            (_, Event::Set { name, object: Object::Service(service), .. }) => {
                if self.followed.contains_key(&name) {
                    touched.insert(name.clone());
                    is_taken = self.services.known.put(name, service);
                }
            }
            (Kind::EndpointSlices, Event::Removed { name, .. }) => {
                touched.extend(self.slices.known.remove(&name).map(|before| before.service));
            }
            (Kind::Services, Event::Removed { name, .. }) => {
                if self.services.known.remove(&name).is_some() {
                    touched.insert(name);
                }
            }
            (_, Event::Bookmark { .. } | Event::Failed(_)) => {}
        }
        (touched, !is_taken)
    }

    /// A question has failed. What is known stays. Returns whether this is news for Services of which nothing is known.
    pub fn fail(&mut self, kind: Kind, why: Arc<str>) -> bool {
        let is_awaited = self.followed.values().any(|of| !of.listed.of(kind));
        let before = self.failed.of_mut(kind).replace(why.clone());
        is_awaited && before != Some(why)
    }

    /// Whether all have been listed, or asked for in vain.
    pub fn is_settled(&self) -> bool {
        self.followed.values().all(|of| self.has_answer(of))
    }

    fn has_answer(&self, of: &Followed) -> bool {
        Kind::ALL.into_iter().all(|kind| *of.listed.of(kind) || self.failed.of(kind).is_some())
    }

    /// The endpoints of a Service. `None`: nothing can be said yet.
    ///
    /// Where Services cannot be read, as a Role may have it, the slices decide alone.
    pub fn endpoints(&self, service: &str, name: &str, wanted: Wanted, here: Here<'_>) -> Option<Merged> {
        let of = self.followed.get(service).filter(|of| self.has_answer(of))?;
        if !of.listed.slices {
            let why = self.failed.slices.as_deref().unwrap_or_default();
            let problem = Some(format!("the API server of Kubernetes has not said where it is: {why}"));
            return Some(Merged { problem, ..Merged::default() });
        }
        let slices = self.slices.known.all.values().filter(|slice| slice.service == service);
        Some(endpoints(name, slices, self.services.known.all.get(service), wanted, here))
    }
}

impl<T> Mirror<T> {
    fn end_list(&mut self) {
        self.known = std::mem::take(&mut self.staged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{ForNodes, Member, Port, State};
    use proptest::prelude::*;

    const WANTED: Wanted = Wanted { port: 80, dialled: None };

    fn slice(service: &str, ips: &[u8]) -> Slice {
        let member = |last: &u8| Member {
            ip: [10, 0, 0, *last].into(),
            state: if last.is_multiple_of(3) { State::NotReady } else { State::Ready },
            zone: Some(format!("zone-{}", last % 2).into()),
            for_zones: Box::default(),
            for_nodes: ForNodes::default(),
        };
        let ports = vec![Port { name: String::new(), number: Some(8080) }];
        Slice { service: service.into(), ports, members: ips.iter().map(member).collect(), unusable: 0 }
    }

    fn set(name: &str, slice: Slice) -> Event {
        Event::Set { name: name.into(), object: Object::Slice(slice), version: "1".into() }
    }

    fn removed(name: &str) -> Event {
        Event::Removed { name: name.into(), version: "1".into() }
    }

    fn page(slices: &[(String, Slice)]) -> Page {
        let objects = slices.iter().map(|(name, slice)| (name.clone(), Object::Slice(slice.clone())));
        Page { objects: objects.collect(), version: "1".into(), next: None }
    }

    fn listed() -> Namespace {
        let mut namespace = Namespace::default();
        namespace.follow("orders");
        namespace.follow("billing");
        list(&mut namespace);
        namespace
    }

    fn list(namespace: &mut Namespace) {
        for kind in Kind::ALL {
            namespace.begin_list(kind);
            namespace.end_list(kind);
        }
    }

    fn addresses(of: &Namespace, service: &str) -> Vec<String> {
        let found = of.endpoints(service, service, WANTED, Here::default()).unwrap_or_default();
        found.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn nothing_is_said_until_both_kinds_are_listed_or_have_failed() {
        let mut namespace = Namespace::default();
        namespace.follow("orders");
        assert_eq!(namespace.endpoints("orders", "orders", WANTED, Here::default()), None);
        namespace.begin_list(Kind::EndpointSlices);
        namespace.end_list(Kind::EndpointSlices);
        assert_eq!(namespace.endpoints("orders", "orders", WANTED, Here::default()), None);
        assert!(namespace.fail(Kind::Services, "403".into()));
        let none =
            namespace.endpoints("orders", "orders.shop", WANTED, Here::default()).unwrap().problem.unwrap();
        assert!(none.contains("has no endpoints, or does not exist"), "{none}");
    }

    #[test]
    fn a_failure_before_the_first_list_is_the_reason_and_one_after_it_changes_nothing() {
        let mut namespace = Namespace::default();
        namespace.follow("orders");
        assert!(namespace.fail(Kind::EndpointSlices, "refused".into()));
        assert!(!namespace.fail(Kind::EndpointSlices, "refused".into()), "it is no news");
        assert!(namespace.fail(Kind::Services, "refused".into()));
        let why = namespace.endpoints("orders", "orders", WANTED, Here::default()).unwrap().problem.unwrap();
        assert_eq!(why, "the API server of Kubernetes has not said where it is: refused");

        let mut namespace = listed();
        namespace.apply(Kind::EndpointSlices, set("a", slice("orders", &[1])));
        assert!(!namespace.fail(Kind::EndpointSlices, "gone".into()));
        assert_eq!(addresses(&namespace, "orders"), ["10.0.0.1:8080"]);
    }

    #[test]
    fn nothing_is_said_of_a_service_that_was_added_until_a_list_with_it_is_complete() {
        let mut namespace = listed();
        namespace.begin_list(Kind::EndpointSlices);
        namespace.follow("search");
        namespace.end_list(Kind::EndpointSlices);
        let said =
            |namespace: &Namespace| namespace.endpoints("search", "search.shop", WANTED, Here::default());
        assert_eq!(said(&namespace), None, "the list was not asked for it");
        assert!(namespace.endpoints("orders", "orders.shop", WANTED, Here::default()).is_some());
        list(&mut namespace);
        assert!(said(&namespace).is_some());
    }

    #[test]
    fn a_list_replaces_everything_when_it_is_complete_and_not_before() {
        let mut namespace = listed();
        namespace.apply(Kind::EndpointSlices, set("a", slice("orders", &[1])));
        namespace.begin_list(Kind::EndpointSlices);
        namespace.take_page(page(&[("b".into(), slice("orders", &[2]))]));
        assert_eq!(addresses(&namespace, "orders"), ["10.0.0.1:8080"]);
        namespace.take_page(page(&[("c".into(), slice("orders", &[4])), ("d".into(), slice("other", &[5]))]));
        namespace.end_list(Kind::EndpointSlices);
        assert_eq!(addresses(&namespace, "orders"), ["10.0.0.2:8080", "10.0.0.4:8080"]);
        assert_eq!(namespace.slices.known.all.len(), 2, "slices of other services are not kept");
    }

    #[test]
    fn a_slice_that_moves_to_another_service_touches_both() {
        let mut namespace = listed();
        namespace.apply(Kind::EndpointSlices, set("a", slice("orders", &[1])));
        let (touched, _) = namespace.apply(Kind::EndpointSlices, set("a", slice("billing", &[1])));
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), ["billing", "orders"]);
        assert_eq!((addresses(&namespace, "orders").len(), addresses(&namespace, "billing").len()), (0, 1));
        let (touched, _) = namespace.apply(Kind::EndpointSlices, set("a", slice("unknown", &[1])));
        assert_eq!((touched.len(), namespace.slices.known.all.len()), (1, 0));
    }

    #[test]
    fn a_service_is_asked_for_by_its_name_and_forgotten_with_its_last_user() {
        let mut namespace = Namespace::default();
        assert!(namespace.follow("orders") && !namespace.follow("orders"));
        let selector = |namespace: &Namespace, kind| namespace.selector(kind).map(|(_, value)| value);
        assert_eq!(
            selector(&namespace, Kind::EndpointSlices).unwrap(),
            "kubernetes.io/service-name in (orders)"
        );
        assert_eq!(selector(&namespace, Kind::Services).unwrap(), "metadata.name=orders");
        namespace.follow("billing");
        assert_eq!(selector(&namespace, Kind::Services), None);
        namespace.forget("orders");
        assert!(selector(&namespace, Kind::EndpointSlices).unwrap().contains("orders"));
        namespace.forget("orders");
        namespace.forget("billing");
        assert!(namespace.is_unused());
        assert!((0..1000).all(|nth| namespace.follow(&format!("service-{nth}"))));
        assert_eq!(namespace.selector(Kind::EndpointSlices), None, "it would be too long");
    }

    #[test]
    fn a_namespace_keeps_a_bounded_number_of_endpoints() {
        let mut namespace = listed();
        let of = |members: usize| slice("orders", &vec![1; members]);
        let mut beyond =
            |name: &str, members| namespace.apply(Kind::EndpointSlices, set(name, of(members))).1;
        assert!(!beyond("a", 60_000));
        assert!(beyond("b", 60_000), "40,000 of them are kept");
        assert!(beyond("c", 1));
        assert!(!beyond("a", 60_000), "it replaces itself");
        assert!(beyond("a", 70_000), "and stays as it is where it grows");
        let kept = |namespace: &Namespace| {
            let known = namespace.slices.known.all.iter();
            known.map(|(name, slice)| format!("{name} {}", slice.members.len())).collect::<Vec<_>>()
        };
        assert_eq!(
            (kept(&namespace), namespace.slices.known.size),
            (vec!["a 60000".into(), "b 40000".into()], MOST_MEMBERS)
        );
        namespace.apply(Kind::EndpointSlices, removed("a"));
        assert!(!namespace.apply(Kind::EndpointSlices, set("b", of(60_000))).1, "there is room now");
    }

    #[test]
    fn a_namespace_keeps_a_bounded_number_of_objects_and_the_known_ones_go_on_changing() {
        let mut namespace = listed();
        for nth in 0..MOST_OBJECTS {
            assert!(!namespace.apply(Kind::EndpointSlices, set(&format!("{nth}"), slice("orders", &[1]))).1);
        }
        assert!(namespace.apply(Kind::EndpointSlices, set("more", slice("orders", &[1]))).1);
        assert!(!namespace.apply(Kind::EndpointSlices, set("0", slice("orders", &[4]))).1);
        assert_eq!(addresses(&namespace, "orders"), ["10.0.0.1:8080", "10.0.0.4:8080"]);
    }

    #[derive(Debug, Clone)]
    enum Change {
        Set(u8, bool, Vec<u8>),
        Removed(u8),
        /// The watch has expired: everything is listed anew, in pages of so many.
        Listed(usize),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let ips = || proptest::collection::vec(1..12u8, 0..5);
        let change = prop_oneof![
            6 => (0..5u8, any::<bool>(), ips()).prop_map(|(name, first, ips)| Change::Set(name, first, ips)),
            3 => (0..5u8).prop_map(Change::Removed),
            1 => (1..4usize).prop_map(Change::Listed),
        ];
        proptest::collection::vec(change, 0..40)
    }

    proptest! {
        #[test]
        fn any_order_of_events_gives_what_the_last_state_gives(changes in changes()) {
            let (mut namespace, mut last) = (listed(), BTreeMap::new());
            for change in changes {
                let name = |nth: u8| format!("slice-{nth}");
                match change {
                    Change::Set(nth, is_first, ips) => {
                        let service = if is_first { "orders" } else { "billing" };
                        last.insert(name(nth), slice(service, &ips));
                        namespace.apply(Kind::EndpointSlices, set(&name(nth), slice(service, &ips)));
                    }
                    Change::Removed(nth) => {
                        last.remove(&name(nth));
                        namespace.apply(Kind::EndpointSlices, removed(&name(nth)));
                    }
                    Change::Listed(size) => {
                        namespace.begin_list(Kind::EndpointSlices);
                        let all: Vec<_> = last.clone().into_iter().collect();
                        assert!(all.chunks(size).all(|part| namespace.take_page(page(part)) == 0));
                        namespace.end_list(Kind::EndpointSlices);
                    }
                }
            }
            for service in ["orders", "billing"] {
                let of = last.values().filter(|slice| slice.service == service);
                let expected = endpoints(service, of, None, WANTED, Here::default());
                prop_assert_eq!(namespace.endpoints(service, service, WANTED, Here::default()), Some(expected));
            }
        }
    }
}
