//! `to`: the services of a route, each with its policies under it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::check::cluster::Served;
use crate::check::defaults::Inherited;
use crate::check::{Remark, Remarks, Trail, policy};
use crate::file;
use crate::shape::Typed;
use crate::value::{Count, OffOr};
use crate::words::ServiceName;
use pillion_model::Step;
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
}

impl<'a> Services<'a> {
    pub(super) fn new(services: &'a [Served]) -> Self {
        let by_name = services.iter().map(|served| (served.cluster.name.as_str(), served)).collect();
        Self { by_name }
    }

    pub(super) fn destinations(
        &self,
        to: file::Destinations,
        route: &Overrides<'_>,
        remarks: &mut Remarks,
    ) -> Vec<Weighted> {
        let at = route.at.key("to");
        let mut told = HashSet::new();
        match to {
            file::Destinations::One(one) => {
                self.weighted(one, &at, route, &mut told, remarks).into_iter().collect()
            }
            file::Destinations::Several(list) => {
                let each = |(nth, one)| self.weighted(one, &at.index(nth), route, &mut told, remarks);
                list.into_iter().enumerate().filter_map(each).collect()
            }
        }
    }

    fn weighted(
        &self,
        file: file::Destination,
        at: &Trail<'_>,
        route: &Overrides<'_>,
        told: &mut HashSet<(String, String)>,
        remarks: &mut Remarks,
    ) -> Option<Weighted> {
        let (service, weight) = match file {
            file::Destination::Name(ServiceName(name)) => (name, 1),
            file::Destination::Full(block) => {
                let Some(Typed(ServiceName(name))) = block.service else {
                    remarks.error(at, "needs `service`").help("{ service: orders, weight: 90 }");
                    remarks.lacks(at);
                    return None;
                };
                let weight = block.weight.map_or(1, |Typed(Count(weight))| weight);
                (name, weight)
            }
        };
        let known = self.by_name.get(service.as_str());
        let (timeouts, retry) = known.map(|known| route.over(known, told, remarks)).unwrap_or_default();
        Some(Weighted { service, weight, timeouts, retry })
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
        let (_, alone) = remarks.aside(|aside| policy::retry(service.retry.clone(), &at, aside));
        let (retry, said) = remarks.aside(|aside| policy::retry(retry, &at, aside));
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
