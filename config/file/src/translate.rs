//! Translates faults of the model to remarks on the file.
//!
//! The model knows the final policies of a service or a route; the file knows which key set them. A fault that a
//! service has from `defaults` is reported at `defaults`, once. A fault that a route has from its service is reported
//! at the route whose keys conflict with the service, and is left out if it is reported at the service.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use pillion_model::{Cluster, Config, Fault, Path, PathStep, Severity, validate, validate_cluster};

use crate::place::{NodeId, Tree};
use crate::remark::Remarks;

/// Adds the faults that the model finds in `config`. `defaults` is a service with the values of the file's `defaults`.
pub(crate) fn add_faults_of_model(
    config: &Config,
    defaults: Option<&Cluster>,
    tree: &Tree,
    remarks: &mut Remarks,
) {
    let mut translator = Translator::new(tree, config);
    if let Some(defaults) = defaults {
        translator.know_defaults(validate_cluster(defaults, config.identity.is_some()), remarks);
    }
    let faults: Vec<Fault> = validate(config).into_iter().collect();
    translator.know_services(&faults);
    for fault in faults {
        translator.add(fault, remarks);
    }
}

struct Translator<'a> {
    tree: &'a Tree,
    config: &'a Config,
    /// Services by name: a linear search for every fault would take quadratic time.
    services: HashMap<&'a str, NodeId>,
    defaults: Option<NodeId>,
    routes: Option<NodeId>,
    /// The faults of a service that sets nothing beside the defaults, and whether each has been reported.
    of_defaults: HashMap<(Path, String), bool>,
    /// The faults of single services: service, key and text.
    of_services: HashSet<(String, Path, String)>,
    /// The faults of routes in keys that they set themselves: route, key and text.
    of_routes: HashSet<(usize, Path, String)>,
}

impl<'a> Translator<'a> {
    fn new(tree: &'a Tree, config: &'a Config) -> Self {
        let root = tree.root();
        let section = |name| root.and_then(|root| tree.child(root, name));
        Self {
            tree,
            config,
            services: section("services").map(|services| tree.children(services)).unwrap_or_default(),
            defaults: section("defaults"),
            routes: section("routes"),
            of_defaults: HashMap::new(),
            of_services: HashSet::new(),
            of_routes: HashSet::new(),
        }
    }

    /// Records the faults of the defaults alone. Errors are reported: the defaults must be valid for a service that
    /// sets nothing else. A warning is reported once a service inherits it, because it may not apply beside what the
    /// services set.
    fn know_defaults(&mut self, faults: impl IntoIterator<Item = Fault>, remarks: &mut Remarks) {
        for fault in faults {
            let is_error = fault.severity == Severity::Error;
            self.of_defaults.insert((fault.path.clone(), fault.what.clone()), is_error);
            if is_error {
                let path = at_defaults(&fault.path.0);
                remarks.add_fault(Fault { path, ..fault });
            }
        }
    }

    fn know_services(&mut self, faults: &[Fault]) {
        for fault in faults {
            if let [PathStep::Key(section), PathStep::Key(service), rest @ ..] = fault.path.0.as_slice()
                && section == "services"
            {
                self.of_services.insert((service.clone(), Path(rest.to_vec()), fault.what.clone()));
            }
        }
    }

    fn add(&mut self, fault: Fault, remarks: &mut Remarks) {
        let path = fault.path.clone();
        match path.0.as_slice() {
            [PathStep::Key(section), PathStep::Key(name), rest @ ..] if section == "services" => {
                let own = self.services.get(name.as_str()).copied();
                match self.inherits(own, self.defaults, rest) {
                    true => self.add_inherited(fault, name, rest, remarks),
                    false => remarks.add_fault(fault),
                }
            }
            [
                PathStep::Key(section),
                PathStep::Index(nth),
                PathStep::Key(to),
                PathStep::Index(target),
                rest @ ..,
            ] if section == "routes"
                && to == "to"
                && rest.first() != Some(&PathStep::Key("service".into())) =>
            {
                self.add_of_route(fault, *nth, *target, rest, remarks);
            }
            _ => remarks.add_fault(fault),
        }
    }

    /// Adds a fault in a key that a service inherits from `defaults`. If the defaults alone do not have this fault, it
    /// comes from their combination with the service, and the message names the service.
    fn add_inherited(&mut self, fault: Fault, service: &str, rest: &[PathStep], remarks: &mut Remarks) {
        let moved = Fault { path: at_defaults(rest), ..fault };
        match self.of_defaults.entry((Path(rest.to_vec()), moved.what.clone())) {
            Entry::Vacant(_) => {
                let what = format!("{} (in service {service})", moved.what);
                remarks.add_fault(Fault { what, ..moved });
            }
            Entry::Occupied(mut reported) => {
                if !reported.insert(true) {
                    remarks.add_fault(moved);
                }
            }
        }
    }

    /// A fault of the policies that a route gives to one of its targets.
    fn add_of_route(
        &mut self,
        fault: Fault,
        nth: usize,
        target: usize,
        rest: &[PathStep],
        remarks: &mut Remarks,
    ) {
        let route = self.routes.and_then(|routes| self.tree.item(routes, nth));
        let name = self.config.routes.get(nth).and_then(|route| route.to.get(target)).map(|to| &to.service);
        let service = name.and_then(|name| self.services.get(name.as_str()).copied());
        let key = Path(rest.to_vec());
        let own = |key: &[PathStep]| {
            let route = [PathStep::Key("routes".into()), PathStep::Index(nth)];
            Path(route.into_iter().chain(key.iter().cloned()).collect())
        };
        let inherits = self.inherits(route, service, rest) || self.inherits(route, self.defaults, rest);
        match name.filter(|_| inherits) {
            // a fault that the service has by itself is reported there
            Some(name) if self.of_services.contains(&(name.clone(), key.clone(), fault.what.clone())) => {}
            Some(name) => {
                let what = format!("conflicts with service {name}, whose `{key}` {}", fault.what);
                remarks.add_fault(Fault { path: own(&self.meeting(route, rest)), what, ..fault });
            }
            None => {
                if self.of_routes.insert((nth, key, fault.what.clone())) {
                    remarks.add_fault(Fault { path: own(rest), ..fault });
                }
            }
        }
    }

    /// The key of the route that conflicts with a key of its service.
    fn meeting(&self, route: Option<NodeId>, key: &[PathStep]) -> [PathStep; 1] {
        let has_timeout = route.and_then(|route| self.tree.child(route, "timeout")).is_some();
        let key = match key.last() {
            Some(PathStep::Key(key)) if key == "per_try_timeout" && has_timeout => "timeout",
            _ => "retry",
        };
        [PathStep::Key(key.to_owned())]
    }

    /// Whether `key` is not set in `own`, but is set in `below`.
    fn inherits(&self, own: Option<NodeId>, below: Option<NodeId>, key: &[PathStep]) -> bool {
        let (mut own, mut below) = (own, below);
        for step in key {
            let PathStep::Key(name) = step else { return false };
            let child = |of: Option<NodeId>| of.and_then(|of| self.tree.child(of, name));
            (own, below) = (child(own), child(below));
            if own.is_none() {
                return below.is_some();
            }
        }
        false
    }
}

fn at_defaults(rest: &[PathStep]) -> Path {
    let root = PathStep::Key("defaults".to_owned());
    Path([root].into_iter().chain(rest.iter().cloned()).collect())
}
