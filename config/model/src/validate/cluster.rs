//! The checks of one entry of `services`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::policy;
use crate::cluster::{
    AddressPattern, Cluster, Discovery, DnsDiscovery, HashKey, LoadBalancer, UpstreamProtocol, UpstreamTls,
};
use crate::endpoint::Endpoint;
use crate::fault::Faults;
use crate::path::Trail;
use crate::policy::Cache;

pub(super) fn validate(cluster: &Cluster, has_identity: bool, at: &Trail<'_>, faults: &mut Faults) {
    if cluster.hosts.is_empty() {
        faults.error(&at.key("hosts"), "is empty").help("leave it out for the service's own name");
    }
    addresses(&cluster.addresses, &at.key("addresses"), faults);
    endpoints(&cluster.endpoints, &at.key("endpoints"), faults);
    if let Some(of) = cluster.discovery.as_ref().and_then(Discovery::dns) {
        discovery(of, &at.key("endpoints"), faults);
    }
    balancer(cluster, &at.key("load_balancer"), faults);
    tls(&cluster.tls, has_identity, &at.key("tls"), faults);
    if let Some(check) = &cluster.health_check {
        policy::health_check(check, &at.key("health_check"), faults);
    }
    if let Some(cache) = &cluster.cache {
        self::cache(cache, cluster.protocol, &at.key("cache"), faults);
    }
    if let Some(detection) = &cluster.outlier_detection {
        policy::outlier_detection(detection, &at.key("outlier_detection"), faults);
    }
    policy::retry(cluster.retry.as_ref(), &cluster.timeouts, &at.key("retry"), faults);
}

/// Opaque connections have no answers. A tiny cache holds nothing.
fn cache(cache: &Cache, protocol: UpstreamProtocol, at: &Trail<'_>, faults: &mut Faults) {
    if protocol == UpstreamProtocol::Tcp {
        faults
            .error(at, "is for HTTP, and `protocol` is tcp")
            .help("write cache: off, or leave `protocol` out");
    }
    if cache.max < Cache::LEAST {
        faults
            .error(&at.key("max"), format!("is {} bytes, too little", cache.max))
            .help("write 64KiB or more");
    }
    if cache.max_object == 0 {
        faults.error(&at.key("max_object"), "is 0, so nothing would be stored").help("write cache: off");
    }
}

fn addresses(addresses: &[AddressPattern], at: &Trail<'_>, faults: &mut Faults) {
    for pattern in addresses.iter().filter(|it| it.is_single() && it.network.is_unspecified()) {
        faults
            .warn(at, format!("has `{pattern}`, to which no connection can go"))
            .help(format!("every address is {}/0", pattern.network));
    }
}

fn endpoints(endpoints: &[Endpoint], at: &Trail<'_>, faults: &mut Faults) {
    let mut seen: HashSet<SocketAddr> = HashSet::with_capacity(endpoints.len());
    for (nth, endpoint) in endpoints.iter().enumerate() {
        if !seen.insert(endpoint.address) {
            faults
                .warn(&at.index(nth), format!("repeats {}", endpoint.address))
                .help("give it more traffic with { address: …, weight: 2 }");
        }
    }
}

/// Opaque connections have no headers, cookies and paths. A cookie's age is written in whole seconds, and with an age of
/// zero clients drop it at once.
fn balancer(cluster: &Cluster, at: &Trail<'_>, faults: &mut Faults) {
    let is_tcp = cluster.protocol == UpstreamProtocol::Tcp;
    if is_tcp && cluster.load_balancer.hash_key().is_some_and(HashKey::is_of_http) {
        faults
            .warn(at, "hashes what opaque connections do not have, so they go to random endpoints")
            .help("protocol is tcp: write source: true in its place");
    }
    if let Some(HashKey::Cookie { ttl: Some(ttl), .. }) = cluster.load_balancer.hash_key()
        && *ttl < Duration::from_secs(1)
    {
        let rule = at.key(if matches!(cluster.load_balancer, LoadBalancer::Maglev(_)) {
            "maglev"
        } else {
            "ring_hash"
        });
        faults
            .error(&rule.key("cookie").key("ttl"), format!("is {ttl:?}, too short"))
            .help("write 1s or more");
    }
}

fn discovery(discovery: &DnsDiscovery, at: &Trail<'_>, faults: &mut Faults) {
    let refresh = discovery.refresh;
    if refresh < LEAST_REFRESH {
        faults.error(&at.key("refresh"), format!("is {refresh:?}, too often")).help("write 1s or more");
    }
}

/// 1 s: the shortest `refresh`. Records rarely change faster, and every sidecar asks the resolver this often.
const LEAST_REFRESH: Duration = Duration::from_secs(1);

fn tls(tls: &UpstreamTls, has_identity: bool, at: &Trail<'_>, faults: &mut Faults) {
    let root = Trail::root();
    let identity = root.key("identity");
    match tls {
        UpstreamTls::Mutual { .. } if !has_identity => {
            faults
                .error(at, "is mutual, but there is no `identity` to prove")
                .help("add identity: { directory: certs }, or write tls: off")
                .depends_on(&identity);
        }
        UpstreamTls::Mutual { identities, .. } if identities.is_empty() => {
            faults.warn(at, "is mutual with any identity of the own trust domain").help(
                "name the identity of the endpoints: tls: \"spiffe://cluster.local/ns/default/sa/NAME\"",
            );
        }
        _ => {}
    }
}
