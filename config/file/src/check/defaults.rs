//! `defaults`: what stands in for the keys that a service leaves out.
//!
//! Merged key by key before anything is checked, also within blocks: lists, and `tls` and `load_balancer`,
//! which are one thing each, are taken whole or not at all. What is wrong with a key of `defaults` is told
//! there and once, however many services take it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{Remark, Remarks, Surroundings, Trail, cluster};
use crate::file;
use crate::value::OffOr;
use pillion_model::{Cluster, Path, Step};

pub(super) struct Defaults {
    service: file::Service,
    /// A service that has what they say, and nothing of its own.
    pub(super) cluster: Cluster,
    /// What a service that writes nothing would be told of them, by its words; and whether it is told already.
    known: HashMap<(String, String), bool>,
}

impl Defaults {
    /// They have to be good for a service that writes nothing beside them. What is merely odd is told once a
    /// service takes it: it may be right beside what the services write.
    pub(super) fn checked(
        file::ForEachService(mut service): file::ForEachService,
        at: &Trail<'_>,
        around: &Surroundings<'_>,
        remarks: &mut Remarks,
    ) -> Self {
        refuse_one_service_s_own(&mut service, at, remarks);
        let (cluster, said) = remarks.aside(|aside| cluster::nowhere("", service.clone(), at, around, aside));
        let known = said.iter().map(|remark| (remark.words(), remark.is_error())).collect();
        said.into_iter().filter(Remark::is_error).for_each(|error| remarks.push(error));
        Self { service, cluster, known }
    }

    /// Checks a service with these below its own keys.
    pub(super) fn below<T>(
        &mut self,
        name: &str,
        mut service: file::Service,
        remarks: &mut Remarks,
        check: impl FnOnce(file::Service, &mut Remarks) -> T,
    ) -> T {
        let mut inherited = Inherited::default();
        service.fill(&self.service, &mut inherited);
        let (checked, said) = remarks.aside(|aside| check(service, aside));
        for remark in said {
            match inherited.place(&remark) {
                None => remarks.push(remark),
                Some(place) => self.tell(remark.moved_to(place), name, remarks),
            }
        }
        checked
    }

    /// What is not known of them alone comes from what they are beside: then the service is named.
    fn tell(&mut self, remark: Remark, service: &str, remarks: &mut Remarks) {
        match self.known.entry(remark.words()) {
            Entry::Vacant(_) => remarks.push(remark.said_of(&format!("in service {service}"))),
            Entry::Occupied(mut told) => {
                if !told.insert(true) {
                    remarks.push(remark);
                }
            }
        }
    }
}

fn refuse_one_service_s_own(service: &mut file::Service, at: &Trail<'_>, remarks: &mut Remarks) {
    let file::Service { hosts, addresses, listen, endpoints, .. } = service;
    let written = [
        hosts.take().is_some(),
        addresses.take().is_some(),
        listen.take().is_some(),
        endpoints.take().is_some(),
    ];
    let keys = file::ForEachService::ONE_SERVICE_S_OWN;
    for (key, _) in keys.into_iter().zip(written).filter(|(_, written)| *written) {
        remarks
            .error(&at.key(key), "makes no sense: it is each service's own")
            .of_key()
            .help("write it in the service that it is for");
    }
}

/// Which keys of a block come from the one below it: of a service from `defaults`, of a route from its service.
#[derive(Default)]
pub(super) struct Inherited {
    /// The blocks that are being filled.
    within: Vec<&'static str>,
    keys: Vec<Vec<&'static str>>,
}

impl Inherited {
    fn value<T: Clone>(&mut self, key: &'static str, own: &mut Option<T>, default: &Option<T>) {
        if own.is_none() && default.is_some() {
            own.clone_from(default);
            self.keys.push(self.within.iter().copied().chain([key]).collect());
        }
    }

    pub(super) fn block<T: Block>(&mut self, key: &'static str, own: &mut Option<T>, default: &Option<T>) {
        match (own.as_mut(), default) {
            (Some(own), Some(default)) => {
                self.within.push(key);
                own.fill(default, self);
                self.within.pop();
            }
            _ => self.value(key, own, default),
        }
    }

    /// Where the key of a remark on `services.NAME.…` stands, if it stands in `defaults`.
    fn place(&self, remark: &Remark) -> Option<Path> {
        let rest = self.rest(remark)?;
        let root = Step::Key("defaults".to_owned());
        Some(Path([root].into_iter().chain(rest.iter().cloned()).collect()))
    }

    /// What follows `services.NAME`, or `routes[N]`, in the path of a remark on an inherited key.
    pub(super) fn rest<'r>(&self, remark: &'r Remark) -> Option<&'r [Step]> {
        let rest = remark.path().get(2..)?;
        let leads_to = |key: &Vec<&str>| {
            key.len() <= rest.len()
                && key.iter().zip(rest).all(|(key, step)| matches!(step, Step::Key(name) if name == key))
        };
        self.keys.iter().any(leads_to).then_some(rest)
    }
}

/// A block of keys, any of which may be left out.
pub(super) trait Block: Clone {
    fn fill(&mut self, defaults: &Self, inherited: &mut Inherited);
}

/// Every key of a block by its name: one that is added to the file and forgotten here does not compile.
macro_rules! block {
    ($name:ident { $($value:ident)* } $({ $($block:ident)* })?) => {
        impl Block for file::$name {
            fn fill(&mut self, defaults: &Self, inherited: &mut Inherited) {
                let Self { $($value,)* $($($block,)*)? } = self;
                $(inherited.value(stringify!($value), $value, &defaults.$value);)*
                $($(inherited.block(stringify!($block), $block, &defaults.$block);)*)?
            }
        }
    };
}

block!(Service {
    hosts addresses listen endpoints protocol tls load_balancer connect_timeout timeout stream_idle_timeout
    max_duration health_check slow_start
} { connection retry circuit_breaker outlier_detection });
block!(Connection { idle_timeout max_age max_requests keepalive });
block!(Retry { attempts conditions methods per_try_timeout max_body hedge_after } { backoff budget });
block!(Backoff { base max });
block!(Budget { ratio min_per_second });
block!(CircuitBreaker {
    max_connections max_pending_requests max_requests max_retries max_connections_per_endpoint adaptive
});
block!(OutlierDetection {
    consecutive_errors interval error_rate gateway_errors connect_failures base_ejection max_ejected
});

/// A service's own block turns on what `defaults` turn off, and the other way round.
impl<T: Block> Block for OffOr<T> {
    fn fill(&mut self, defaults: &Self, inherited: &mut Inherited) {
        if let (Self::Set(own), Self::Set(defaults)) = (self, defaults) {
            own.fill(defaults, inherited);
        }
    }
}
