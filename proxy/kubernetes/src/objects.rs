//! EndpointSlices and Services as the API server writes them in JSON, reduced to what endpoints are made of.
//!
//! Go writes an empty list as `null` or leaves it out, so everything may be absent. All kinds of answers are read through
//! one type, because each further one costs code.

use std::net::IpAddr;

use serde::Deserialize;

/// The label of a slice that names its Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The bytes of a zone's name. Names of nodes' labels are no longer.
const LONGEST_ZONE: usize = 63;
/// The zones of one endpoint's hints; Kubernetes allows as many.
const MOST_HINTS: usize = 8;
/// The ports of a slice or of a Service; Kubernetes allows as many.
const MOST_PORTS: usize = 100;

/// The kinds of objects that are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    EndpointSlices,
    Services,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::EndpointSlices, Self::Services];

    /// The path of the objects of a namespace. The name of the namespace is a DNS label.
    pub fn path(self, namespace: &str) -> String {
        match self {
            Self::EndpointSlices => {
                format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
            }
            Self::Services => format!("/api/v1/namespaces/{namespace}/services"),
        }
    }

    /// The resource, as a Role names it.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::EndpointSlices => "endpointslices",
            Self::Services => "services",
        }
    }
}

/// Some of the endpoints of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The Service to which it belongs.
    pub service: String,
    pub ports: Vec<Port>,
    pub members: Vec<Member>,
    /// How many of its endpoints cannot be used, because they have a name (`addressType: FQDN`) or no valid address.
    pub unusable: usize,
}

/// A TCP port of a slice or of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Empty where a Service has a single port.
    pub name: String,
    /// `None`: the endpoint listens on every port.
    pub number: Option<u16>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub ip: IpAddr,
    pub state: State,
    pub zone: Option<Box<str>>,
    /// The zones whose clients shall use it. Empty: no hints.
    pub for_zones: Box<[Box<str>]>,
    pub for_nodes: ForNodes,
}

/// The nodes whose clients shall use an endpoint, as far as they matter here: of a large cluster their names take much memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForNodes {
    /// No hints.
    #[default]
    Unsaid,
    Others,
    /// The own node is one of them.
    Own,
}

/// Whether an endpoint gets requests. A better state is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Ready,
    /// It is about to end, and still serves.
    Draining,
    NotReady,
}

/// What a Service says about its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub ports: Vec<Port>,
    /// It is a name in DNS (`type: ExternalName`), and has no endpoints.
    pub is_external_name: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Slice(Slice),
    Service(Service),
}

/// One page of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// By their names.
    pub objects: Vec<(String, Object)>,
    /// The version of the whole list.
    pub version: String,
    /// What to ask for the next page with. `None`: this is the last one.
    pub next: Option<String>,
}

/// One event of a watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Set {
        name: String,
        object: Object,
        version: String,
    },
    Removed {
        name: String,
        version: String,
    },
    /// Nothing has changed up to this version.
    Bookmark {
        version: String,
    },
    /// The watch has failed.
    Failed(Status),
}

/// How the API server says that it cannot answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// 0: it does not say.
    pub code: u16,
    pub message: String,
}

impl Status {
    /// Whether the version from which was asked has been forgotten.
    pub const fn is_expired(&self) -> bool {
        self.code == 410
    }
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadAnswer {
    #[error("it is not the JSON that is expected: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("its metadata has no {0}")]
    Lacks(&'static str),
    #[error("it has an event of the unknown type {0:?}")]
    UnknownEvent(String),
}

/// `node`: the own one, if it is known.
///
/// # Errors
/// The answer is no list.
pub fn page(kind: Kind, bytes: &[u8], node: Option<&str>) -> Result<Page, BadAnswer> {
    let raw: RawPage = serde_json::from_slice(bytes)?;
    let meta = raw.metadata.unwrap_or_default();
    let objects = raw.items.unwrap_or_default().into_iter().map(|raw| named(kind, raw, node));
    Ok(Page {
        objects: objects.collect::<Result<_, _>>()?,
        version: meta.resource_version.ok_or(BadAnswer::Lacks("resourceVersion"))?,
        next: meta.next.filter(|next| !next.is_empty()),
    })
}

/// `node`: the own one, if it is known.
///
/// # Errors
/// The bytes are no event of a watch.
pub fn event(kind: Kind, bytes: &[u8], node: Option<&str>) -> Result<Event, BadAnswer> {
    let RawEvent { of, object } = serde_json::from_slice(bytes)?;
    if of == "ERROR" {
        return Ok(Event::Failed(status_of(object)));
    }
    let meta = object.metadata.as_ref();
    let version = meta.and_then(|meta| meta.resource_version.clone());
    let version = version.ok_or(BadAnswer::Lacks("resourceVersion"))?;
    match &*of {
        "ADDED" | "MODIFIED" => {
            named(kind, object, node).map(|(name, object)| Event::Set { name, object, version })
        }
        "DELETED" => {
            let name = meta.and_then(|meta| meta.name.clone()).ok_or(BadAnswer::Lacks("name"))?;
            Ok(Event::Removed { name, version })
        }
        "BOOKMARK" => Ok(Event::Bookmark { version }),
        _ => Err(BadAnswer::UnknownEvent(of.chars().take(20).collect())),
    }
}

/// The reason in the content of an answer that is no good one. Whatever it is, there is a status.
pub fn status(code: u16, bytes: &[u8]) -> Status {
    let said = serde_json::from_slice(bytes).map(status_of).unwrap_or_default();
    Status { code, ..said }
}

fn status_of(raw: RawObject) -> Status {
    let message = raw.message.or(raw.reason).unwrap_or_default();
    Status { code: raw.code.unwrap_or_default(), message }
}

#[derive(Deserialize)]
struct RawPage {
    metadata: Option<RawMeta>,
    items: Option<Vec<RawObject>>,
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "type")]
    of: String,
    object: RawObject,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMeta {
    name: Option<String>,
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
    labels: Option<RawLabels>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLabels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<String>,
}

/// An EndpointSlice, a Service or a Status.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawObject {
    metadata: Option<RawMeta>,
    address_type: Option<String>,
    endpoints: Option<Vec<RawEndpoint>>,
    ports: Option<Vec<RawPort>>,
    spec: Option<RawSpec>,
    code: Option<u16>,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<RawConditions>,
    zone: Option<String>,
    hints: Option<RawHints>,
}

#[derive(Default, Deserialize)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHints {
    for_zones: Option<Vec<RawHint>>,
    for_nodes: Option<Vec<RawHint>>,
}

/// The name of a zone or of a node.
#[derive(Deserialize)]
struct RawHint {
    name: String,
}

#[derive(Deserialize)]
struct RawPort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

#[derive(Deserialize)]
struct RawSpec {
    #[serde(rename = "type")]
    of: Option<String>,
    ports: Option<Vec<RawPort>>,
}

fn named(kind: Kind, raw: RawObject, node: Option<&str>) -> Result<(String, Object), BadAnswer> {
    let meta = raw.metadata.unwrap_or_default();
    let name = meta.name.ok_or(BadAnswer::Lacks("name"))?;
    let object = match kind {
        Kind::EndpointSlices => {
            let service = meta.labels.and_then(|labels| labels.service).unwrap_or_default();
            let is_fqdn = raw.address_type.as_deref() == Some("FQDN");
            let endpoints = raw.endpoints.unwrap_or_default();
            let all = endpoints.len();
            let members: Vec<Member> = match is_fqdn {
                true => Vec::new(),
                false => endpoints.into_iter().filter_map(|raw| member(raw, node)).collect(),
            };
            let unusable = all - members.len();
            Object::Slice(Slice { service, ports: tcp_ports(raw.ports), members, unusable })
        }
        Kind::Services => {
            let (of, ports) = raw.spec.map_or((None, None), |spec| (spec.of, spec.ports));
            let is_external_name = of.as_deref() == Some("ExternalName");
            Object::Service(Service { ports: tcp_ports(ports), is_external_name })
        }
    };
    Ok((name, object))
}

fn tcp_ports(raw: Option<Vec<RawPort>>) -> Vec<Port> {
    let all = raw.unwrap_or_default().into_iter().take(MOST_PORTS);
    let tcp = all.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.map(|RawPort { name, port, .. }| Port { name: name.unwrap_or_default(), number: port }).collect()
}

/// The endpoint. Only its first address has a meaning (the API's reference, `Endpoint.addresses`). An address that no
/// connection can go to is left out, as it is from DNS.
fn member(raw: RawEndpoint, node: Option<&str>) -> Option<Member> {
    let ip: IpAddr = raw.addresses?.first()?.parse().ok()?;
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    let RawHints { for_zones, for_nodes } = raw.hints.unwrap_or_default();
    Some(Member {
        ip,
        state: state(&raw.conditions.unwrap_or_default()),
        zone: raw.zone.filter(|zone| is_zone(zone)).map(Into::into),
        for_zones: zones(for_zones.unwrap_or_default()),
        for_nodes: nodes(&for_nodes.unwrap_or_default(), node),
    })
}

fn zones(hints: Vec<RawHint>) -> Box<[Box<str>]> {
    let names = hints.into_iter().map(|hint| hint.name).filter(|name| is_zone(name));
    names.take(MOST_HINTS).map(Into::into).collect()
}

fn nodes(hints: &[RawHint], own: Option<&str>) -> ForNodes {
    let names = hints.iter().map(|hint| &*hint.name).filter(|name| !name.is_empty());
    let each = names.map(|name| if Some(name) == own { ForNodes::Own } else { ForNodes::Others });
    each.max().unwrap_or_default()
}

const fn is_zone(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_ZONE
}

/// An unknown `ready` counts as ready, an unknown `serving` is as `ready`, and an unknown `terminating` is false (the API's
/// reference, `EndpointConditions`).
fn state(of: &RawConditions) -> State {
    let is_ready = of.ready.unwrap_or(true);
    let is_terminating = of.terminating.unwrap_or(false);
    match (is_ready, of.serving.unwrap_or(is_ready), is_terminating) {
        (true, ..) => State::Ready,
        (false, true, true) => State::Draining,
        _ => State::NotReady,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn slice(value: &serde_json::Value) -> Slice {
        let event = json!({ "type": "ADDED", "object": value }).to_string();
        match event_of(&event) {
            Event::Set { object: Object::Slice(slice), .. } => slice,
            other => unreachable!("{other:?}"),
        }
    }

    fn event_of(text: &str) -> Event {
        event_on(text, Some("n1"))
    }

    fn event_on(text: &str, node: Option<&str>) -> Event {
        event(Kind::EndpointSlices, text.as_bytes(), node).unwrap()
    }

    #[test]
    fn an_endpoint_is_ready_drained_or_out_as_the_api_says() {
        let (yes, no, unknown) = (json!(true), json!(false), json!(null));
        let table = [
            (&unknown, &unknown, &unknown, State::Ready),
            (&yes, &yes, &no, State::Ready),
            (&yes, &unknown, &yes, State::Ready), // publishNotReadyAddresses
            (&no, &yes, &yes, State::Draining),
            (&no, &no, &yes, State::NotReady),
            (&no, &unknown, &yes, State::NotReady),
            (&no, &yes, &no, State::NotReady),
            (&no, &unknown, &unknown, State::NotReady),
        ];
        for (ready, serving, terminating, expected) in table {
            let conditions = json!({ "ready": ready, "serving": serving, "terminating": terminating });
            let of = slice(&json!({
                "metadata": { "name": "a", "resourceVersion": "1" }, "addressType": "IPv4",
                "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": conditions }],
            }));
            assert_eq!(of.members[0].state, expected, "{conditions}");
        }
    }

    #[test]
    fn of_hints_for_nodes_only_what_they_say_about_the_own_one_is_kept() {
        use ForNodes::{Others, Own, Unsaid};
        for (names, expected) in [
            (json!(null), Unsaid),
            (json!([]), Unsaid),
            (json!([{ "name": "" }]), Unsaid),
            (json!([{ "name": "n2" }, { "name": "n3" }]), Others),
            (json!([{ "name": "n2" }, { "name": "n1" }]), Own),
        ] {
            let endpoints = json!([{ "addresses": ["10.0.0.1"], "hints": { "forNodes": names } }]);
            let value =
                json!({ "metadata": { "name": "a", "resourceVersion": "1" }, "endpoints": endpoints });
            assert_eq!(slice(&value).members[0].for_nodes, expected, "{names}");
            let event = json!({ "type": "ADDED", "object": value }).to_string();
            let unknown = event_on(&event, None);
            let Event::Set { object: Object::Slice(of), .. } = unknown else { unreachable!("{unknown:?}") };
            assert_ne!(of.members[0].for_nodes, Own, "no node is known to be the own one: {names}");
        }
    }

    #[test]
    fn lists_may_be_null_and_other_fields_are_ignored() {
        let of = slice(&json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
            "metadata": {
                "name": "orders-abc", "resourceVersion": "7", "labels": { (SERVICE_LABEL): "orders", "x": "y" },
                "ownerReferences": [{ "kind": "Service" }], "managedFields": [{ "fieldsV1": { "f:a": {} } }],
            },
            "endpoints": null, "ports": null,
        }));
        let none = Slice { service: "orders".into(), ports: vec![], members: vec![], unusable: 0 };
        assert_eq!(of, none);
    }

    #[test]
    fn names_bad_addresses_and_other_protocols_are_left_out() {
        let meta = json!({ "name": "a", "resourceVersion": "1", "labels": { (SERVICE_LABEL): "orders" } });
        let of = |kind: &str, addresses: &[&str]| {
            let endpoints: Vec<_> =
                addresses.iter().map(|ip| json!({ "addresses": [ip, "10.9.9.9"] })).collect();
            let ports =
                json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "web", "port": 80 }]);
            slice(&json!({ "metadata": meta, "addressType": kind, "endpoints": endpoints, "ports": ports }))
        };
        let four = of("IPv4", &["10.0.0.1", "0.0.0.0", "224.0.0.1", "10.0.0", "::1"]);
        let ips: Vec<_> = four.members.iter().map(|member| member.ip.to_string()).collect();
        assert_eq!((ips, four.unusable), (vec!["10.0.0.1".to_owned(), "::1".to_owned()], 3));
        assert_eq!(four.ports, [Port { name: "web".into(), number: Some(80) }]);
        let names = of("FQDN", &["orders.example"]);
        assert_eq!((names.members.len(), names.unusable), (0, 1));
    }

    #[test]
    fn events_of_all_types_are_read_and_others_are_refused() {
        let bookmark = event_of(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#);
        assert_eq!(bookmark, Event::Bookmark { version: "12".into() });
        let gone = r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"13"}}}"#;
        assert_eq!(event_of(gone), Event::Removed { name: "a".into(), version: "13".into() });
        let failed = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        let Event::Failed(status) = event_of(failed) else { unreachable!() };
        assert!(status.is_expired() && status.message == "too old");
        for bad in [
            "{}",
            "[]",
            r#"{"type":"ADDED","object":{}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}}"#,
            r#"{"type":"DELETED","object":{"metadata":{"name":"a"}}}"#,
            r#"{"type":"MOVED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"},"ports":[{"port":70000}]}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"},"endpoints":7}}"#,
        ] {
            assert!(event(Kind::EndpointSlices, bad.as_bytes(), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_has_its_version_and_says_how_the_list_goes_on() {
        let text = json!({
            "metadata": { "resourceVersion": "9", "continue": "abc", "remainingItemCount": 3 },
            "items": [{ "metadata": { "name": "web" }, "spec": {
                "type": "ClusterIP", "clusterIP": "10.96.0.9",
                "ports": [{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" }],
            } }],
        });
        let ports = vec![Port { name: "http".into(), number: Some(80) }];
        let web = Object::Service(Service { ports, is_external_name: false });
        let read = page(Kind::Services, text.to_string().as_bytes(), None).unwrap();
        let expected =
            Page { objects: vec![("web".into(), web)], version: "9".into(), next: Some("abc".into()) };
        assert_eq!(read, expected);
        let last =
            page(Kind::Services, br#"{"metadata":{"resourceVersion":"9","continue":""},"items":null}"#, None);
        assert_eq!(last.unwrap().next, None);
        assert!(page(Kind::Services, br#"{"items":[]}"#, None).is_err());
    }

    #[test]
    fn a_refusal_has_its_reason_whatever_its_content_is() {
        let said = status(403, br#"{"kind":"Status","code":401,"message":"endpointslices is forbidden"}"#);
        assert_eq!((said.code, &*said.message), (403, "endpointslices is forbidden"));
        assert_eq!(status(502, b"<html>"), Status { code: 502, message: String::new() });
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in Kind::ALL {
                drop((event(kind, &bytes, None), page(kind, &bytes, None), status(500, &bytes)));
            }
        }
    }
}
