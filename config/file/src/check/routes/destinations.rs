//! `to`: the services of a route, each with its policies under it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::check::cluster::Served;
use crate::check::defaults::Inherited;
use crate::check::{Remark, Remarks, Trail, policy};
use crate::file;
use crate::place::Step;
use crate::salvage::MOST;
use crate::shape::Typed;
use crate::value::{Count, OffOr, shortened};
use crate::words::{ServiceName, nearest};
use pillion_model::cluster::UpstreamProtocol;
use pillion_model::policy::{Retry, Timeout, Timeouts};
use pillion_model::route::Weighted;

/// What a route writes over its services' own.
pub(super) struct Overrides<'a> {
    /// The route.
    pub(super) at: &'a Trail<'a>,
    pub(super) timeout: Option<Typed<OffOr<Duration>>>,
    pub(super) retry: Option<OffOr<file::Retry>>,
}

/// The services that routes can lead to.
pub(super) struct Services<'a> {
    by_name: HashMap<&'a str, &'a Served>,
    /// Asked for and not there: past [`MOST`] nobody looks for what was meant.
    strangers: usize,
}

impl<'a> Services<'a> {
    pub(super) fn new(services: &'a [Served]) -> Self {
        let by_name = services.iter().map(|served| (served.cluster.name.as_str(), served)).collect();
        Self { by_name, strangers: 0 }
    }

    pub(super) fn destinations(
        &mut self,
        to: file::Destinations,
        route: &Overrides<'_>,
        remarks: &mut Remarks,
    ) -> Vec<Weighted> {
        let at = route.at.key("to");
        let mut told = HashSet::new();
        let to: Vec<Weighted> = match to {
            file::Destinations::One(one) => {
                self.weighted(one, &at, route, &mut told, remarks).into_iter().collect()
            }
            file::Destinations::Several(list) if list.is_empty() => {
                remarks.error(&at, "is empty").help("to: orders");
                return Vec::new();
            }
            file::Destinations::Several(list) => {
                let each = |(nth, one)| self.weighted(one, &at.index(nth), route, &mut told, remarks);
                list.into_iter().enumerate().filter_map(each).collect()
            }
        };
        look_at_weights(&to, &at, remarks);
        to
    }

    fn weighted(
        &mut self,
        file: file::Destination,
        at: &Trail<'_>,
        route: &Overrides<'_>,
        told: &mut HashSet<(String, String)>,
        remarks: &mut Remarks,
    ) -> Option<Weighted> {
        let (service, weight) = match file {
            file::Destination::Name(ServiceName(name)) => (self.named(&name, at, remarks)?, 1),
            file::Destination::Full(block) => {
                let Some(Typed(ServiceName(name))) = block.service else {
                    remarks.error(at, "needs `service`").help("{ service: orders, weight: 90 }");
                    return None;
                };
                let weight = block.weight.map_or(1, |Typed(Count(weight))| weight);
                (self.named(&name, &at.key("service"), remarks)?, weight)
            }
        };
        let (timeouts, retry) = route.over(service, told, remarks);
        Some(Weighted { service: service.cluster.name.clone(), weight, timeouts, retry })
    }

    /// The service of this name, unless routes cannot lead there.
    fn named(&mut self, name: &str, at: &Trail<'_>, remarks: &mut Remarks) -> Option<&'a Served> {
        let Some(service) = self.by_name.get(name).copied() else {
            self.refuse_stranger(name, at, remarks);
            return None;
        };
        if service.cluster.protocol == UpstreamProtocol::Tcp {
            remarks
                .error(at, format!("is {name}, whose protocol is tcp: it has no requests to route"))
                .help("leave it out, or give the service another `protocol`");
        }
        Some(service)
    }

    fn refuse_stranger(&mut self, name: &str, at: &Trail<'_>, remarks: &mut Remarks) {
        // it is there, and was faulty as a whole
        if remarks.is_missing("services") || remarks.is_missing(&format!("services.{name}")) {
            return;
        }
        self.strangers += 1;
        let mut known: Vec<&str> = match self.strangers <= MOST {
            true => self.by_name.keys().copied().collect(),
            false => Vec::new(),
        };
        known.sort_unstable();
        let help = match nearest(name, &known) {
            Some(meant) => format!("did you mean {meant}?"),
            None if known.is_empty() => "write it under `services` with its endpoints".to_owned(),
            None => shortened(&format!("`services` has {}", known.join(", "))),
        };
        remarks.error(at, format!("is {}, which is none of `services`", shortened(name))).help(help);
    }
}

fn look_at_weights(to: &[Weighted], at: &Trail<'_>, remarks: &mut Remarks) {
    if !to.is_empty() && to.iter().all(|one| one.weight == 0) {
        remarks.error(at, "gives no service any weight").help("give one of them a weight of 1 or more");
    }
    let mut seen = HashSet::new();
    if let Some(twice) = to.iter().find(|one| !seen.insert(&one.service)) {
        remarks
            .warn(at, format!("has {} more than once", twice.service))
            .help("once with a higher weight says the same");
    }
}

impl Overrides<'_> {
    /// A service's policies under this route. `told` holds what was remarked on the route's own keys already.
    fn over(
        &self,
        service: &Served,
        told: &mut HashSet<(String, String)>,
        remarks: &mut Remarks,
    ) -> (Timeouts, Option<Retry>) {
        let own = &service.cluster;
        if self.timeout.is_none() && self.retry.is_none() {
            return (own.timeouts.clone(), own.retry.clone());
        }
        let timeouts = self.timeouts(&own.timeouts);
        let (mut retry, mut inherited) = (self.retry.clone(), Inherited::default());
        inherited.block("retry", &mut retry, &service.retry);
        let at = self.at.key("retry");
        let (_, alone) =
            remarks.aside(|aside| policy::retry(service.retry.clone(), &own.timeouts, &at, aside));
        let (retry, said) = remarks.aside(|aside| policy::retry(retry, &timeouts, &at, aside));
        // what is wrong with the service alone is told there
        let known: HashSet<_> = alone.iter().map(Remark::words).collect();
        for remark in said {
            match inherited.rest(&remark) {
                Some(_) if known.contains(&remark.words()) => {}
                Some(rest) => {
                    let rest = rest.to_vec();
                    remarks.push(remark.met_at(self.meeting(&rest).path(), &own.name, &rest));
                }
                None if told.insert(remark.words()) => remarks.push(remark),
                None => {}
            }
        }
        (timeouts, retry)
    }

    fn timeouts(&self, own: &Timeouts) -> Timeouts {
        match self.timeout {
            None => own.clone(),
            Some(Typed(timeout)) => {
                Timeouts { request: timeout.set().map_or(Timeout::Off, Timeout::Set), ..own.clone() }
            }
        }
    }

    /// The key of the route that does not go with one of the service's.
    fn meeting(&self, key: &[Step]) -> Trail<'_> {
        match key.last() {
            Some(Step::Key(key)) if key == "per_try_timeout" && self.timeout.is_some() => {
                self.at.key("timeout")
            }
            _ => self.at.key("retry"),
        }
    }
}
