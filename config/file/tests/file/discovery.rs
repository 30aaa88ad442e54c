//! Endpoints from DNS, and lists of revoked certificates.

use std::path::Path;
use std::time::Duration;

use pillion_model::cluster::{Discovery, DnsDiscovery, DnsRecords, KubernetesService};
use pillion_model::identity::Crl;

use crate::{bad, good, messages};

fn service(endpoints: &str) -> String {
    format!("services:\n  a:\n    endpoints: {endpoints}\n")
}

#[test]
fn a_name_that_cannot_be_looked_up_is_a_fault_with_help() {
    for (endpoints, place, help) in [
        ("{ dns: orders.shop }", "3:23", "\"orders.shop:15006\""),
        ("{ dns: \"10.0.0.1:80\" }", "3:23", "write a list: endpoints: [\"10.0.0.1:80\"]"),
        ("{ dns: \"[::1]:80\" }", "3:23", "write a list: endpoints: [\"[::1]:80\"]"),
        ("{ dns: \"a:80\", refresh: 999ms }", "3:40", "write 1s or more"),
        ("\"orders.shop:80\"", "3:16", "write { dns: \"orders.shop:80\" }"),
        ("[\"orders.shop:80\"]", "3:17", "endpoints: { dns:"),
        ("{ refresh: 5s }", "3:5", "endpoints: { dns:"),
        ("{ dns: \"a:80\", srv: _http._tcp.a }", "3:5", "keep one"),
        ("{ srv: orders.shop }", "3:23", "_http._tcp.orders.shop"),
        ("{ srv: _http._tcp.a, refresh: 999ms }", "3:46", "write 1s or more"),
        ("_http._tcp.orders.shop", "3:16", "write { srv: _http._tcp.orders.shop }"),
        ("{}", "3:5", "endpoints: { dns:"),
        ("{ dns: \"a:80\", kubernetes: \"a.shop:80\" }", "3:5", "keep one"),
        ("{ kubernetes: \"orders:80\" }", "3:30", "write \"orders.default:80\""),
        ("{ kubernetes: \"orders.shop.svc.cluster.local:80\" }", "3:30", "write \"orders.shop:80\""),
        ("{ kubernetes: \"orders.shop:80\", refresh: 5s }", "3:5", "leave it out"),
        ("{ dns: \"a:80\", port: 15006 }", "3:5", "leave it out"),
        ("{ kubernetes: \"orders.shop:80\", port: 0 }", "3:54", "from 1 to 65535"),
    ] {
        let errors = bad(&service(endpoints));
        let [fault] = errors.faults.as_slice() else { unreachable!("{errors}") };
        assert_eq!(format!("{}:{}", fault.line, fault.column), place, "{errors}");
        assert!(fault.help.as_deref().unwrap_or_default().contains(help), "{errors}");
    }
}

#[test]
fn endpoints_from_dns_have_a_name_a_port_and_a_refresh_time() {
    let learnt = |endpoints: &str| {
        let cluster = good(&service(endpoints)).clusters.remove(0);
        assert_eq!(cluster.endpoints, []);
        cluster.discovery.unwrap()
    };
    let discovery = |name: &str, refresh| {
        let records = DnsRecords::Addresses { name: name.into(), port: 15006 };
        Discovery::Dns(DnsDiscovery { records, refresh: Duration::from_secs(refresh) })
    };
    assert_eq!(learnt("{ dns: \"orders.shop:15006\" }"), discovery("orders.shop", 5));
    assert_eq!(learnt("{ dns: \"orders.shop.:15006\", refresh: 1s }"), discovery("orders.shop.", 1));
    assert_eq!(good(&service("[10.0.0.1:80]")).clusters[0].discovery, None);
}

#[test]
fn endpoints_from_srv_records_have_a_name_and_a_refresh_time() {
    for (endpoints, refresh) in
        [("{ srv: _http._tcp.orders.shop }", 5), ("{ srv: _http._tcp.orders.shop, refresh: 9s }", 9)]
    {
        let records = DnsRecords::Services { name: "_http._tcp.orders.shop".into() };
        let expected = Discovery::Dns(DnsDiscovery { records, refresh: Duration::from_secs(refresh) });
        let cluster = good(&service(endpoints)).clusters.remove(0);
        assert_eq!((cluster.discovery, cluster.endpoints), (Some(expected), Vec::new()));
    }
}

#[test]
fn endpoints_from_kubernetes_have_a_service_a_port_and_perhaps_another_port_to_dial() {
    for (endpoints, dialled) in [
        ("{ kubernetes: \"orders.shop:8080\" }", None),
        ("{ kubernetes: \"orders.shop:8080\", port: 15006 }", Some(15006)),
    ] {
        let expected =
            KubernetesService { name: "orders".into(), namespace: "shop".into(), port: 8080, dialled };
        let cluster = good(&service(endpoints)).clusters.remove(0);
        assert_eq!(cluster.discovery, Some(Discovery::Kubernetes(expected)));
    }
}

#[test]
fn a_crl_that_is_configured_is_required_and_that_of_a_directory_may_be_absent() {
    let crl =
        |keys: &str| good(&format!("identity: {{ {keys} }}")).identity.unwrap().files().unwrap().crl.clone();
    let path = |name: &str| Path::new("/etc/pillion").join(name);
    let files = "certificate: a, key: b, trust_bundle: c";
    assert_eq!(crl(files), Crl::None);
    assert_eq!(crl(&format!("{files}, crl: d.crl")), Crl::Required(path("d.crl")));
    assert_eq!(crl("directory: certs"), Crl::IfPresent(path("certs/ca.crl")));
    assert_eq!(crl("directory: certs, crl: revoked.pem"), Crl::Required(path("revoked.pem")));
    assert_eq!(messages("identity: { crl: a }"), ["1:1 identity does not say where the certificates are"]);
}
