//! `services`: one cluster each.

use std::num::NonZeroU32;

use super::defaults::Defaults;
use super::{Remarks, Surroundings, Trail, policy};
use crate::file::{self, Balancer, Endpoints};
use crate::shape::{Entries, OneOrMore, Typed};
use crate::value::{Count, OffOr, Text};
use crate::words::{DnsName, ServiceName, Sni, Target, TlsMode};
use pillion_model::Endpoint;
use pillion_model::cluster::{
    AddressPattern, Cluster, Discovery, HostPattern, LoadBalancer, UpstreamProtocol, UpstreamTls,
};
use pillion_model::identity::SpiffeId;

/// A service, and what was typed of its `retry`, `defaults` below it: a route may write over single keys.
pub(super) struct Served {
    pub(super) cluster: Cluster,
    pub(super) retry: Option<OffOr<file::Retry>>,
}

pub(super) fn services(
    file: Option<Entries<ServiceName, Option<file::Service>>>,
    mut defaults: Option<Defaults>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Vec<Served> {
    let services = file.map(|Entries(entries)| entries).unwrap_or_default();
    let each = |(ServiceName(name), service): (_, Option<_>)| {
        let (service, at) = (service.unwrap_or_default(), at.key(&name));
        match &mut defaults {
            None => served(&name, service, &at, around, remarks),
            Some(defaults) => defaults.below(&name, service, remarks, |service, remarks| {
                served(&name, service, &at, around, remarks)
            }),
        }
    };
    services.into_iter().map(each).collect()
}

fn served(
    name: &str,
    file: file::Service,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Served {
    Served { retry: file.retry.clone(), cluster: cluster(name, file, at, around, remarks) }
}

fn cluster(
    name: &str,
    mut file: file::Service,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Cluster {
    let (endpoints, discovery) = endpoints(file.endpoints.take(), at, remarks);
    Cluster {
        hosts: hosts(name, file.hosts.take()),
        addresses: addresses(file.addresses.take()),
        listen: file.listen.take().map(|OneOrMore(addresses)| addresses).unwrap_or_default(),
        endpoints,
        discovery,
        ..nowhere(name, file, at, around, remarks)
    }
}

/// All that `defaults` can say too: how, and not yet where to.
pub(super) fn nowhere(
    name: &str,
    file: file::Service,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Cluster {
    refuse_unbuilt(&file, at, remarks);
    let timeouts = policy::timeouts(&file);
    Cluster {
        hosts: vec![HostPattern::exact(name)],
        addresses: Vec::new(),
        listen: Vec::new(),
        endpoints: Vec::new(),
        discovery: None,
        protocol: file.protocol.map_or(UpstreamProtocol::Auto, |Typed(protocol)| protocol),
        tls: tls(file.tls, &at.key("tls"), around, remarks),
        load_balancer: load_balancer(file.load_balancer, &at.key("load_balancer"), remarks),
        connection: policy::connection(file.connection.unwrap_or_default()),
        retry: policy::retry(file.retry, &at.key("retry"), remarks),
        limits: policy::limits(file.circuit_breaker.unwrap_or_default(), &at.key("circuit_breaker"), remarks),
        outlier_detection: policy::outliers(file.outlier_detection, &at.key("outlier_detection"), remarks),
        timeouts,
        name: name.to_owned(),
    }
}

fn refuse_unbuilt(file: &file::Service, at: &Trail<'_>, remarks: &mut Remarks) {
    remarks.unless_off(&at.key("health_check"), &file.health_check);
    remarks.unless_off(&at.key("slow_start"), &file.slow_start);
}

/// Its own name, when nothing is written.
fn hosts(name: &str, file: Option<OneOrMore<HostPattern>>) -> Vec<HostPattern> {
    file.map_or_else(|| vec![HostPattern::exact(name)], |OneOrMore(hosts)| hosts)
}

/// None is as good as an empty list: most services are known by name alone.
fn addresses(file: Option<OneOrMore<AddressPattern>>) -> Vec<AddressPattern> {
    file.map(|OneOrMore(addresses)| addresses).unwrap_or_default()
}

/// A list, or where to learn it.
fn endpoints(
    file: Option<Endpoints>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> (Vec<Endpoint>, Option<Discovery>) {
    let own = at.key("endpoints");
    match file {
        None => {
            remarks.error(at, "needs endpoints").help("endpoints: [\"10.0.1.10:15006\"]");
            (Vec::new(), None)
        }
        Some(Endpoints::Learnt(learnt)) => (Vec::new(), discovery(learnt, &own, remarks)),
        Some(Endpoints::Static(list)) if list.is_empty() => {
            remarks.error(&own, "is empty").help("endpoints: [\"10.0.1.10:15006\"]");
            (Vec::new(), None)
        }
        Some(Endpoints::Static(list)) => (static_endpoints(list, &own, remarks), None),
    }
}

/// The default's reason stands at [`Discovery`].
fn discovery(file: file::LearntEndpoints, at: &Trail<'_>, remarks: &mut Remarks) -> Option<Discovery> {
    remarks.not_yet(&at.key("srv"), &file.srv);
    let refresh = file.refresh.map_or(Discovery::REFRESH, |Typed(refresh)| refresh);
    let Some(Typed(DnsName { name, port })) = file.dns else {
        if file.srv.is_none() {
            remarks
                .error(at, "has neither a list nor `dns` nor `srv`")
                .help("endpoints: [\"10.0.1.10:15006\"], or endpoints: { dns: \"orders.shop:15006\" }");
        }
        return None;
    };
    Some(Discovery { name, port, refresh })
}

fn static_endpoints(list: Vec<file::Endpoint>, at: &Trail<'_>, remarks: &mut Remarks) -> Vec<Endpoint> {
    let each = |(nth, file)| endpoint(file, &at.index(nth), remarks);
    list.into_iter().enumerate().filter_map(each).collect()
}

fn endpoint(file: file::Endpoint, at: &Trail<'_>, remarks: &mut Remarks) -> Option<Endpoint> {
    let block = match file {
        file::Endpoint::Address(Target(address)) => {
            return Some(Endpoint::at(address));
        }
        file::Endpoint::Full(block) => block,
    };
    remarks.not_yet(&at.key("zone"), &block.zone);
    remarks.not_yet(&at.key("priority"), &block.priority);
    let weight =
        block.weight.and_then(|Typed(Count(weight))| NonZeroU32::new(weight)).unwrap_or(NonZeroU32::MIN);
    let Some(Typed(Target(address))) = block.address else {
        remarks.error(at, "needs `address`").help("{ address: 10.0.1.10:15006, weight: 2 }");
        return None;
    };
    Some(Endpoint { weight, ..Endpoint::at(address) })
}

fn load_balancer(file: Option<Balancer>, at: &Trail<'_>, remarks: &mut Remarks) -> LoadBalancer {
    match file {
        None => LoadBalancer::PeakEwma,
        Some(Balancer::Word(balancer)) => balancer,
        Some(Balancer::Hash(block)) => {
            if block.ring_hash.is_none() && block.maglev.is_none() {
                remarks.error(at, "is an empty block").help("leave it out for peak_ewma");
            }
            remarks.not_yet(&at.key("ring_hash"), &block.ring_hash);
            remarks.not_yet(&at.key("maglev"), &block.maglev);
            LoadBalancer::PeakEwma
        }
    }
}

/// Mutual wherever it can be.
fn tls(
    file: Option<file::UpstreamTls>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> UpstreamTls {
    match file {
        None if !around.identity => UpstreamTls::Off,
        None => mutual(file::TlsBlock::default(), Vec::new(), around),
        Some(file::UpstreamTls::Identity(id)) => mutual(file::TlsBlock::default(), vec![id], around),
        Some(file::UpstreamTls::Mode(mode)) => in_full(mode, file::TlsBlock::default(), at, around, remarks),
        Some(file::UpstreamTls::Full(block)) => {
            let mode = block.mode.map_or(TlsMode::Mutual, |Typed(mode)| mode);
            in_full(mode, block, at, around, remarks)
        }
    }
}

fn in_full(
    mode: TlsMode,
    mut block: file::TlsBlock,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> UpstreamTls {
    let identities = block.identities.take();
    if mode != TlsMode::Mutual && identities.is_some() {
        remarks.error(&at.key("identities"), "makes sense with mode: mutual only");
    }
    match mode {
        TlsMode::Off => off(&block, at, remarks),
        TlsMode::Simple => simple(block, around),
        TlsMode::Mutual => mutual(block, identities.map(|OneOrMore(ids)| ids).unwrap_or_default(), around),
    }
}

fn off(block: &file::TlsBlock, at: &Trail<'_>, remarks: &mut Remarks) -> UpstreamTls {
    for (key, written) in [("sni", block.sni.is_some()), ("trust_bundle", block.trust_bundle.is_some())] {
        if written {
            remarks.error(&at.key(key), "makes no sense with mode: off");
        }
    }
    UpstreamTls::Off
}

fn simple(block: file::TlsBlock, around: &Surroundings<'_>) -> UpstreamTls {
    let (sni, trust_bundle) = (sni(block.sni), bundle(block.trust_bundle, around));
    UpstreamTls::Simple { sni, trust_bundle }
}

fn mutual(block: file::TlsBlock, identities: Vec<SpiffeId>, around: &Surroundings<'_>) -> UpstreamTls {
    let (sni, trust_bundle) = (sni(block.sni), bundle(block.trust_bundle, around));
    UpstreamTls::Mutual { identities, sni, trust_bundle }
}

fn sni(file: Option<Typed<Sni>>) -> Option<String> {
    file.map(|Typed(Sni(name))| name)
}

fn bundle(file: Option<Typed<Text>>, around: &Surroundings<'_>) -> Option<std::path::PathBuf> {
    file.map(|Typed(Text(path))| around.resolve(&path))
}
