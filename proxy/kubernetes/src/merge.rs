//! Makes the endpoints of a service of its slices.
//!
//! An address may be in several slices while Kubernetes moves it from one to another: its best state counts, and of equal
//! ones the first by the slices' names. So the result depends on the slices alone, and not on the order of their events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use pillion_model::Endpoint;
use pillion_model::endpoint::Nearness;

use crate::objects::{ForNodes, Member, Port, Service, Slice, State};

/// The endpoints of one service. The first ones in sorted order are used, so that all sidecars use the same.
const MOST: usize = 5000;

/// What the file says about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// A port of the Service. It chooses the slices' port.
    pub port: u16,
    /// The port that is dialled. `None`: that of the slices.
    pub dialled: Option<u16>,
}

/// Where the sidecar itself runs, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Here<'a> {
    pub zone: Option<&'a str>,
}

/// The endpoints, in sorted order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged {
    pub endpoints: Vec<Endpoint>,
    /// How many more there are than are used.
    pub left_out: usize,
    /// Why there are none.
    pub problem: Option<String>,
}

/// Makes the endpoints of the slices of `name`, which come in the order of their names. `service`: `None` where the API
/// server has none, or does not show it.
pub fn endpoints<'a>(
    name: &str,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    service: Option<&Service>,
    wanted: Wanted,
    here: Here<'_>,
) -> Merged {
    let choice = match Choice::of(service, wanted.port) {
        Ok(choice) => choice,
        Err(why) => {
            return Merged { problem: Some(format!("the Service {name} {why}")), ..Merged::default() };
        }
    };
    let mut all: BTreeMap<SocketAddr, &Member> = BTreeMap::new();
    let mut has_port = false;
    for slice in slices.clone() {
        let Some(port) = choice.port_of(slice, wanted) else { continue };
        has_port = true;
        for member in &slice.members {
            let known = all.entry(SocketAddr::new(member.ip, port)).or_insert(member);
            if member.state < known.state {
                *known = member;
            }
        }
    }
    let best = all.values().map(|member| member.state).min();
    let Some(best) = best.filter(|best| *best != State::NotReady) else {
        let why = why_none(name, slices, has_port || all.is_empty() && service.is_some(), all.len(), wanted);
        return Merged { problem: Some(why), ..Merged::default() };
    };
    // as kube-proxy does, those that are about to end are used where no other one is left
    let used: Vec<_> = all.into_iter().filter(|(_, member)| member.state == best).collect();
    let left_out = used.len().saturating_sub(MOST);
    let used = used.get(..used.len() - left_out).unwrap_or_default();
    Merged { endpoints: specs(used, here), left_out, problem: None }
}

/// How the port of a slice is chosen.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    /// By the name of the Service's port.
    Named(&'a str),
    /// The Service has no ports: every endpoint has the one that is wanted.
    Any,
    /// The Service is not known: a slice's only port, or the one with the wanted number.
    Unknown,
}

impl<'a> Choice<'a> {
    fn of(service: Option<&'a Service>, port: u16) -> Result<Self, String> {
        let Some(service) = service else { return Ok(Self::Unknown) };
        if service.is_external_name {
            return Err(
                "is of the type ExternalName and has no endpoints; write endpoints: { dns: … }".into()
            );
        }
        match service.ports.iter().find(|known| known.number == Some(port)) {
            Some(Port { name, .. }) => Ok(Self::Named(name)),
            None if service.ports.is_empty() => Ok(Self::Any),
            None => Err(format!("has no TCP port {port}; it has {}", numbers(&service.ports))),
        }
    }

    /// The port to dial at the endpoints of a slice.
    fn port_of(&self, slice: &Slice, wanted: Wanted) -> Option<u16> {
        let own = match (self, &*slice.ports) {
            (Self::Named(name), ports) => ports.iter().find(|port| port.name == **name)?.number,
            (Self::Any, _) | (Self::Unknown, []) => None,
            (Self::Unknown, [only]) => only.number,
            (Self::Unknown, ports) => ports.iter().find(|port| port.number == Some(wanted.port))?.number,
        };
        wanted.dialled.or(own).or(Some(wanted.port)).filter(|port| *port != 0)
    }
}

fn numbers(ports: &[Port]) -> String {
    let shown = ports.iter().take(10).filter_map(|port| port.number).map(|number| number.to_string());
    shown.collect::<Vec<_>>().join(", ")
}

fn why_none<'a>(
    name: &str,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    has_port: bool,
    not_ready: usize,
    wanted: Wanted,
) -> String {
    let unusable: usize = slices.clone().map(|slice| slice.unusable).sum();
    match (slices.clone().next(), not_ready, unusable) {
        (None, ..) => format!("the Service {name} has no endpoints, or does not exist"),
        (Some(_), 0, 0) if has_port => format!("the Service {name} has no endpoints"),
        (Some(first), 0, 0) if !first.ports.is_empty() => format!(
            "the slices of the Service {name} have no port that belongs to {}; they have {}",
            wanted.port,
            numbers(&first.ports)
        ),
        (Some(_), 0, 0) => format!("the Service {name} has no endpoints"),
        (Some(_), 0, _) => {
            format!(
                "the Service {name} has {unusable} endpoints with names or bad addresses, which are not used"
            )
        }
        (Some(_), not_ready, _) => {
            format!("none of the {not_ready} endpoints of the Service {name} is ready")
        }
    }
}

fn specs(used: &[(SocketAddr, &Member)], here: Here<'_>) -> Vec<Endpoint> {
    let hints = deciding(used, here);
    let mut zones: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut shared = |zone: &str| match zones.get(zone) {
        Some(same) => same.clone(),
        None => {
            let zone: Arc<str> = zone.into();
            zones.insert(zone.clone());
            zone
        }
    };
    let spec = |(address, member): &(SocketAddr, &Member)| Endpoint {
        zone: member.zone.as_deref().map(&mut shared),
        nearness: match hints {
            None => Nearness::ByZone,
            Some(hints) if hints.are_for(member) => Nearness::Near,
            Some(_) => Nearness::Far,
        },
        ..Endpoint::at(*address)
    };
    used.iter().map(spec).collect()
}

/// The hints of one kind.
#[derive(Debug, Clone, Copy)]
enum Hints<'a> {
    ForNodes,
    /// With the own zone.
    ForZones(&'a str),
}

impl Hints<'_> {
    fn has(self, member: &Member) -> bool {
        match self {
            Self::ForNodes => member.for_nodes != ForNodes::Unsaid,
            Self::ForZones(_) => !member.for_zones.is_empty(),
        }
    }

    fn are_for(self, member: &Member) -> bool {
        match self {
            Self::ForNodes => member.for_nodes == ForNodes::Own,
            Self::ForZones(own) => member.for_zones.iter().any(|hinted| **hinted == *own),
        }
    }

    /// Whether they decide: every endpoint has some, and one is for the own node or zone.
    fn count(self, used: &[(SocketAddr, &Member)]) -> bool {
        used.iter().all(|(_, member)| self.has(member)) && used.iter().any(|(_, member)| self.are_for(member))
    }
}

/// The hints that decide, by kube-proxy's rule: those for nodes go before those for zones. `None`: the zones of the endpoints
/// decide.
fn deciding<'a>(used: &[(SocketAddr, &Member)], here: Here<'a>) -> Option<Hints<'a>> {
    let kinds = [Some(Hints::ForNodes), here.zone.map(Hints::ForZones)];
    kinds.into_iter().flatten().find(|hints| hints.count(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(of: &[(&str, u16)]) -> Vec<Port> {
        of.iter().map(|(name, number)| Port { name: (*name).into(), number: Some(*number) }).collect()
    }

    fn service(of: &[(&str, u16)]) -> Service {
        Service { ports: ports(of), is_external_name: false }
    }

    fn member(ip: &str, state: State) -> Member {
        let (for_zones, for_nodes) = Default::default();
        Member { ip: ip.parse().unwrap(), state, zone: None, for_zones, for_nodes }
    }

    fn in_zone(ip: &str, zone: &str, hints: &[&str]) -> Member {
        let for_zones = hints.iter().map(|zone| (*zone).into()).collect();
        Member { zone: Some(zone.into()), for_zones, ..member(ip, State::Ready) }
    }

    fn slice(of: &[(&str, u16)], members: &[Member]) -> Slice {
        Slice { service: "orders".into(), ports: ports(of), members: members.to_vec(), unusable: 0 }
    }

    fn merged(slices: &[Slice], service: Option<&Service>, port: u16, dialled: Option<u16>) -> Merged {
        endpoints("orders.shop", slices.iter(), service, Wanted { port, dialled }, Here::default())
    }

    fn addresses(of: &Merged) -> Vec<String> {
        of.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn the_port_of_the_service_chooses_that_of_the_slices_by_its_name() {
        let slices = [
            slice(&[("web", 8080), ("metrics", 9090)], &[member("10.0.0.1", State::Ready)]),
            slice(&[("metrics", 9091), ("web", 8081)], &[member("10.0.0.2", State::Ready)]),
            slice(&[("metrics", 9092)], &[member("10.0.0.3", State::Ready)]),
        ];
        let known = service(&[("web", 80), ("metrics", 9090)]);
        let of = |port, dialled| addresses(&merged(&slices, Some(&known), port, dialled));
        assert_eq!(of(80, None), ["10.0.0.1:8080", "10.0.0.2:8081"]);
        assert_eq!(of(80, Some(15006)), ["10.0.0.1:15006", "10.0.0.2:15006"]);
        assert_eq!(of(9090, None), ["10.0.0.1:9090", "10.0.0.2:9091", "10.0.0.3:9092"]);
        let none = merged(&slices, Some(&known), 81, None);
        let why = none.problem.unwrap();
        assert_eq!(why, "the Service orders.shop has no TCP port 81; it has 80, 9090");
    }

    #[test]
    fn without_the_service_the_only_port_or_the_one_with_its_number_is_taken() {
        let one = [slice(&[("", 8080)], &[member("10.0.0.1", State::Ready)])];
        assert_eq!(addresses(&merged(&one, None, 80, None)), ["10.0.0.1:8080"]);
        let two = [slice(&[("a", 8080), ("b", 8081)], &[member("10.0.0.1", State::Ready)])];
        assert_eq!(addresses(&merged(&two, None, 8081, None)), ["10.0.0.1:8081"]);
        let why = merged(&two, None, 80, None).problem.unwrap();
        assert!(why.contains("no port that belongs to 80; they have 8080, 8081"), "{why}");
    }

    #[test]
    fn a_headless_service_without_ports_has_the_written_one() {
        let slices = [slice(&[], &[member("fd00::1", State::Ready)])];
        assert_eq!(addresses(&merged(&slices, Some(&service(&[])), 80, None)), ["[fd00::1]:80"]);
        assert_eq!(addresses(&merged(&slices, Some(&service(&[])), 80, Some(81))), ["[fd00::1]:81"]);
    }

    #[test]
    fn endpoints_that_are_not_ready_are_left_out_and_draining_ones_are_used_where_no_other_is_left() {
        let of = |states: &[State]| {
            let members = states.iter().zip(1..).map(|(state, nth)| member(&format!("10.0.0.{nth}"), *state));
            merged(&[slice(&[("", 80)], &members.collect::<Vec<_>>())], None, 80, None)
        };
        use State::{Draining, NotReady, Ready};
        assert_eq!(addresses(&of(&[Draining, Ready, NotReady])), ["10.0.0.2:80"]);
        assert_eq!(addresses(&of(&[Draining, NotReady])), ["10.0.0.1:80"]);
        let why = of(&[NotReady, NotReady]).problem.unwrap();
        assert_eq!(why, "none of the 2 endpoints of the Service orders.shop is ready");
    }

    #[test]
    fn an_address_in_two_slices_is_one_endpoint_with_its_best_state() {
        let one =
            slice(&[("", 80)], &[member("10.0.0.1", State::NotReady), member("10.0.0.2", State::Ready)]);
        let two = slice(&[("", 80)], &[in_zone("10.0.0.1", "a", &[]), in_zone("10.0.0.2", "a", &[])]);
        let all = merged(&[one, two], None, 80, None);
        assert_eq!(addresses(&all), ["10.0.0.1:80", "10.0.0.2:80"]);
        let zones: Vec<_> = all.endpoints.iter().map(|endpoint| endpoint.zone.as_deref()).collect();
        assert_eq!(zones, [Some("a"), None], "of equal states the first slice counts");
    }

    #[test]
    fn hints_count_only_if_every_endpoint_has_some_and_one_is_for_the_own_zone() {
        let (a, b) = (in_zone("10.0.0.1", "a", &["a"]), in_zone("10.0.0.2", "b", &["b", "a"]));
        let c = in_zone("10.0.0.3", "c", &["c"]);
        let of = |members: &[Member], own: Option<&str>| {
            let slices = [slice(&[("", 80)], members)];
            let wanted = Wanted { port: 80, dialled: None };
            let here = Here { zone: own };
            let found = endpoints("orders.shop", slices.iter(), None, wanted, here);
            found.endpoints.iter().map(|endpoint| endpoint.nearness).collect::<Vec<_>>()
        };
        use Nearness::{ByZone, Far, Near};
        let all = [a, b, c];
        assert_eq!(of(&all, Some("a")), [Near, Near, Far]);
        assert_eq!(of(&all, Some("d")), [ByZone; 3], "no endpoint is for this zone");
        assert_eq!(of(&all, None), [ByZone; 3]);
        let with_one_without = [&all[..], &[in_zone("10.0.0.4", "a", &[])]].concat();
        assert_eq!(of(&with_one_without, Some("a")), [ByZone; 4]);
        let out = Member { state: State::NotReady, ..in_zone("10.0.0.4", "a", &[]) };
        assert_eq!(of(&[&all[..], &[out]].concat(), Some("a")), [Near, Near, Far], "of those that are used");
    }

    #[test]
    fn hints_for_nodes_go_before_those_for_zones_and_count_by_the_same_rule() {
        use ForNodes::{Others, Own, Unsaid};
        let on = |ip: &str, for_nodes| Member { for_nodes, ..in_zone(ip, "a", &["a"]) };
        let of = |members: &[Member], zone: Option<&str>| {
            let (slices, wanted) = ([slice(&[("", 80)], members)], Wanted { port: 80, dialled: None });
            let found = endpoints("orders.shop", slices.iter(), None, wanted, Here { zone });
            found.endpoints.iter().map(|endpoint| endpoint.nearness).collect::<Vec<_>>()
        };
        use Nearness::{ByZone, Far, Near};
        let all = [on("10.0.0.1", Others), on("10.0.0.2", Own)];
        assert_eq!(of(&all, Some("a")), [Far, Near]);
        assert_eq!(of(&all, None), [Far, Near], "no zone is needed");
        let elsewhere = [on("10.0.0.1", Others), on("10.0.0.2", Others)];
        assert_eq!(of(&elsewhere, Some("a")), [Near, Near], "none is for this node: those for the zone");
        assert_eq!(of(&elsewhere, Some("b")), [ByZone, ByZone]);
        let one_without = [on("10.0.0.1", Own), on("10.0.0.2", Unsaid)];
        assert_eq!(of(&one_without, None), [ByZone, ByZone]);
        let out = Member { state: State::NotReady, ..on("10.0.0.3", Unsaid) };
        let with_one_out = [on("10.0.0.1", Own), on("10.0.0.2", Others), out];
        assert_eq!(of(&with_one_out, None), [Near, Far], "of those that are used");
    }

    #[test]
    fn reasons_name_what_is_missing() {
        let why =
            |slices: &[Slice], known: Option<&Service>| merged(slices, known, 80, None).problem.unwrap();
        assert!(why(&[], None).ends_with("has no endpoints, or does not exist"));
        assert!(why(&[slice(&[], &[])], Some(&service(&[("", 80)]))).ends_with("has no endpoints"));
        let fqdn = Slice { unusable: 2, ..slice(&[("", 80)], &[]) };
        assert!(why(&[fqdn], None).contains("2 endpoints with names or bad addresses"));
        let external = Service { ports: vec![], is_external_name: true };
        assert!(why(&[], Some(&external)).contains("write endpoints: { dns: … }"));
    }

    #[test]
    fn a_service_has_a_bounded_number_of_endpoints() {
        let members: Vec<_> = (0..=u16::try_from(MOST).unwrap())
            .map(|nth| member(&format!("10.0.{}.{}", nth >> 8, nth & 255), State::Ready))
            .collect();
        let all = merged(&[slice(&[("", 80)], &members)], None, 80, None);
        assert_eq!((all.endpoints.len(), all.left_out), (MOST, 1));
    }
}
