//! The schemas of the leaves of the file. They accept a little more than [`Word`](crate::value::Word) does.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::schema::{Described, any_of, defined, off, one_of};
use crate::value::{AutoOr, Bytes, Count, Delay, OffOr, Port, Share, Size, Text, Threads};
use crate::words::{
    Authority, CONDITIONS, ChangedHeader, ClaimName, CollectionName, CookieName, DnsName, EndpointSocket,
    FieldName, FileMode, GRPC, Glob, Grpc, GrpcService, HashedHeader, HeaderName, HeaderText, HiddenValue,
    MatchPath, Method, NameServer, OwnerIds, ProbeName, ProbePath, QueryName, QueryText, RedirectPath,
    RespondBody, RouteName, RuleName, ServiceName, ServicePort, Sni, Source, SourceName, SrvName, Target,
    TokenHeader, TrustDomain,
};
use pillion_model::Pattern;
use pillion_model::authorization::{
    AuthorizerAddress, AuthorizerUrl, ClaimPattern, JwksUrl, PathPattern, PeerPattern,
};
use pillion_model::cluster::{AddressPattern, HostPattern};
use pillion_model::identity::SpiffeId;
use pillion_model::listener::MaxMemory;
use pillion_model::logs::{IndexName, MongodbUrl, SinkUrl, SyslogUrl};
use pillion_model::policy::{Adaptive, HedgeAfter, IdleTimeout, RetryCondition, Timeout};
use pillion_model::route::RouteHost;
use pillion_model::sync::{HttpCall, SyncUrl};
use pillion_model::telemetry::{LogPath, SourceUrl};
use pillion_model::tracing::OtlpUrl;

/// Definitions of words that many keys use.
pub(super) fn definitions() -> Value {
    let pattern =
        |pattern: &str, about: &str| json!({ "type": "string", "pattern": pattern, "description": about });
    let mut all = json!({
        "left_open": {
            "type": ["string", "null"],
            "pattern": "\\$",
            "description": "\"${NAME}\" or \"${NAME:-default}\" from the environment; an empty value means the default"
        },
        "off": { "enum": off() },
        "duration": pattern("^([0-9]+(\\.[0-9]+)?(us|ms|s|m|h|d))+$", "A duration: 250ms, 15s, 1m30s, 1h"),
        "size": {
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(B|[kKMG]B|[KMG]iB)?$" }
            ],
            "description": "A size: 64KiB, 10MiB, or bytes"
        },
        "share": pattern("^[0-9]+(\\.[0-9]+)?%$", "A share: 20%"),
        "text": { "type": ["string", "number", "boolean"], "minLength": 1 },
        "address": pattern(
            "^([0-9.]+|\\[[0-9A-Fa-f:.]+(%[0-9]+)?\\]):[0-9]+$",
            "An IP address and a port: 127.0.0.1:8080, \"[::1]:8080\""
        ),
        "dns_name": pattern("^[A-Za-z0-9._-]+:[0-9]+$", "A name and a port: \"orders.shop:15006\""),
        "srv_name": pattern(
            "^_[A-Za-z0-9_-]+\\._[A-Za-z0-9_-]+\\.[A-Za-z0-9._-]+$",
            "The name of SRV records: _http._tcp.orders.shop"
        ),
        "name_server": pattern(
            "^([0-9.]+(:[0-9]+)?|[0-9A-Fa-f:.]+|\\[[0-9A-Fa-f:.]+\\](:[0-9]+)?)$",
            "An IP address, and a port that is not 53: 10.96.0.10, \"10.96.0.10:5353\""
        ),
        "destination": pattern(
            "^[0-9A-Fa-f:.\\[\\]]+(/[0-9]+)?$",
            "An address or a network: \"10.96.0.10:80\", 10.96.0.10, 10.96.1.0/24"
        ),
        "host": pattern(
            "^(\\*\\.)?([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]+)?$",
            "A host: orders, \"orders.shop:8080\", \"*.shop\""
        ),
        "name": { "type": ["string", "number", "boolean"], "pattern": "^[A-Za-z0-9._-]+$" },
        "endpoint_socket": pattern("^unix:(//)?/[^?#]+$", "A Unix socket: unix:///run/spire/agent.sock"),
        "spiffe_id": pattern("^spiffe://", "A SPIFFE ID: spiffe://cluster.local/ns/default/sa/web"),
        "peer_pattern": pattern("^spiffe://[^*]+(/\\*)?$", "A SPIFFE ID, or all below a path: \"spiffe://cluster.local/ns/batch/*\""),
        "path_pattern": pattern("^/[!-\"$-)+->@-~]*\\*?$", "A path, or all below it: \"/api/*\""),
        "source": pattern("^[0-9A-Fa-f:.]+(/[0-9]+)?$", "An address or a network: 10.1.2.3, 10.0.0.0/8"),
        "source_url": pattern("^http://[!-\"$-~]+$", "The address of metrics: http://127.0.0.1:8080/metrics"),
        "source_name": pattern("^[a-z][a-z0-9_-]*$", "A source's name: jvm"),
        "jwks_url": pattern("^https?://[!-\"$-~]+$", "The address of a key set: https://id.example/jwks.json"),
        "authorizer_url": pattern("^http://[!-\"$-~]+$", "The address of an authorizer: http://127.0.0.1:9191/check"),
        "authorizer_address": pattern(
            "^(localhost|[0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]+$",
            "The address of an authorizer: 127.0.0.1:9191"
        ),
        "claim_name": pattern("^([^/]|/.)", "The name of a claim, or the way to one within others: sub, /realm_access/roles"),
        "claim_value": {
            "type": ["string", "number", "boolean"],
            "pattern": "^[^*]*\\*?$",
            "description": "The value of a claim, or its beginning: admin, \"svc-*\""
        },
        "method": pattern("^[A-Z0-9!#$%&'*+.^_`|~-]+$", "A method, in upper case"),
        "path": pattern("^/[!-\"$->@-~]*$", "A path as it is sent, without the query: /v2"),
        "header_name": pattern("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "A header's name: x-canary"),
        "cookie_name": pattern("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "A cookie's name: sid"),
        "header_text": {
            "type": ["string", "number", "boolean"],
            "pattern": "^([^ \\t]([^\\r\\n]*[^ \\t])?)?$",
            "description": "A header's value"
        },
        "authority": pattern("^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]+)?$", "A host, and perhaps a port"),
        "redirect_path": pattern("^/([!-\"$-.0->@-~][!-\"$-~]*|\\?[!-\"$-~]*)?$", "A path, perhaps with a query: /v2"),
        "any_text": { "type": ["string", "number", "boolean"], "description": "Any text" },
        "grpc_status": grpc_status(),
        "query_name": pattern("^[!\"$%'-<>-~]+$", "A parameter's name as it is sent: beta"),
        "query_text": {
            "type": ["string", "number", "boolean"],
            "pattern": "^[!\"$%'-~]*$",
            "description": "A parameter's value as it is sent"
        },
        "regex": {
            "type": ["string", "number", "boolean"],
            "maxLength": Pattern::LONGEST,
            "description": "A regular expression for a whole value: /v[0-9]+"
        },
        "probe_path": pattern("^/[!$-;=?-\\[\\]_a-z~]*$", "A path as it is sent: /healthz"),
        "grpc_service": pattern("^[!-~]*$", "A service as in gRPC health checking; \"\" is the server as a whole"),
        "on_off": { "enum": on_off() },
        "condition": condition(),
    });
    // the macro has a limit for the number of its entries
    all["otlp_url"] = pattern(
        "^(https?|grpcs?)://[!-\"$->@-~]+$",
        "The address of a collector: http://127.0.0.1:4318, grpc://collector:4317",
    );
    all["sync_url"] = pattern(
        "^((consuls?|etcds?|https?)://[!-\"$->@-~]+(\\?[!-\"$-~]*)?|file:///.*)$",
        "A source: consul://consul:8500/app/settings, etcd://etcd:2379/app/, https://config.example/app.yaml, file:///etc/shared/",
    );
    all["file_mode"] = pattern("^0?[0-7]{3}$", "Permissions in octal: \"0640\"");
    all["owner"] = json!({
        "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+(:[0-9]+)?$" }],
        "description": "A user and a group by number: \"1000:1000\""
    });
    all["http_call"] = pattern(
        "^(GET|POST|PUT|DELETE) https?://[!-\"$-~]+$",
        "A request: \"POST http://127.0.0.1:8080/-/reload\"",
    );
    all["glob"] = pattern("^/(.*[^/])?$", "A glob of an absolute path: \"/var/log/app/*.log\"");
    all["field_name"] = pattern("^[A-Za-z_][A-Za-z0-9_]*$", "A field's name: team");
    all["sink_url"] =
        pattern("^https?://[!-\"$->@-~?]+$", "The address of a sink: https://logs.example/ingest");
    all["syslog_url"] =
        pattern("^(tcp|udp|tls)://[A-Za-z0-9._:\\[\\]-]+/?$", "A receiver of syslog: tcp://logs:601");
    all["mongodb_url"] = pattern("^mongodb://[!-~]+$", "A server of MongoDB: mongodb://mongo:27017");
    all["index_name"] =
        pattern("^[a-z0-9.%][a-z0-9.+_YmdH%-]*$", "An index of Elasticsearch: \"app-%Y.%m.%d\"");
    all["kubernetes_service"] = pattern(
        "^[a-z0-9-]+\\.[a-z0-9-]+:[0-9]+$",
        "A Service, its namespace and a port of it: \"orders.shop:8080\"",
    );
    all
}

fn on_off() -> Vec<Value> {
    let on = ["on", "On", "ON", "true", "True", "TRUE"].map(Value::from);
    on.into_iter().chain([Value::Bool(true)]).chain(off()).collect()
}

/// In lower case and, as in gRPC's documents, in upper case.
fn grpc_status() -> Value {
    let lower = GRPC.iter().map(|(name, _)| (*name).to_owned());
    let both: Vec<String> = lower.flat_map(|name| [name.to_uppercase(), name]).collect();
    json!({ "enum": both, "description": "A gRPC status that is a failure: NOT_FOUND" })
}

/// The file accepts gRPC statuses in any case; the schema has only lower case.
fn condition() -> Value {
    let names = CONDITIONS.iter().map(|(name, _)| *name).chain(GRPC.iter().map(|(name, _)| *name));
    json!({
        "anyOf": [
            one_of(names),
            { "type": "integer", "minimum": 300, "maximum": 599 },
            { "type": "string", "pattern": "^[3-5][0-9][0-9]$" }
        ]
    })
}

macro_rules! described {
    ($($name:ty: $definition:literal),* $(,)?) => {$(
        impl Described for $name {
            fn described() -> Option<Value> {
                defined($definition)
            }
        }
    )*};
}
described!(
    Duration: "duration",
    Size: "size",
    Bytes<u32>: "size",
    Bytes<usize>: "size",
    Share: "share",
    Text: "text",
    LogPath: "text",
    SocketAddr: "address",
    Target: "address",
    DnsName: "dns_name",
    ServicePort: "kubernetes_service",
    SrvName: "srv_name",
    NameServer: "name_server",
    AddressPattern: "destination",
    HostPattern: "host",
    ServiceName: "name",
    RouteName: "name",
    MatchPath: "path",
    HeaderName: "header_name",
    HashedHeader: "header_name",
    CookieName: "cookie_name",
    HeaderText: "header_text",
    HiddenValue: "header_text",
    QueryName: "query_name",
    ChangedHeader: "header_name",
    Authority: "authority",
    RedirectPath: "redirect_path",
    RespondBody: "any_text",
    Grpc: "grpc_status",
    QueryText: "query_text",
    Pattern: "regex",
    ProbeName: "name",
    ProbePath: "probe_path",
    GrpcService: "grpc_service",
    bool: "on_off",
    Sni: "name",
    TrustDomain: "name",
    EndpointSocket: "endpoint_socket",
    SpiffeId: "spiffe_id",
    PeerPattern: "peer_pattern",
    PathPattern: "path_pattern",
    Source: "source",
    RuleName: "name",
    SourceName: "source_name",
    SourceUrl: "source_url",
    AuthorizerUrl: "authorizer_url",
    AuthorizerAddress: "authorizer_address",
    JwksUrl: "jwks_url",
    OtlpUrl: "otlp_url",
    SyncUrl: "sync_url",
    FileMode: "file_mode",
    OwnerIds: "owner",
    HttpCall: "http_call",
    Glob: "glob",
    FieldName: "field_name",
    CollectionName: "name",
    SinkUrl: "sink_url",
    SyslogUrl: "syslog_url",
    MongodbUrl: "mongodb_url",
    IndexName: "index_name",
    TokenHeader: "header_name",
    ClaimName: "claim_name",
    ClaimPattern: "claim_value",
    Method: "method",
    RetryCondition: "condition",
);

impl<const LEAST: u32, const MOST: u32> Described for Count<LEAST, MOST> {
    fn described() -> Option<Value> {
        let number = json!({ "type": "integer", "minimum": LEAST, "maximum": MOST });
        any_of([Some(number), Some(json!({ "type": "string", "pattern": "^[0-9]+$" }))])
    }
}

impl Described for Port {
    fn described() -> Option<Value> {
        Some(json!({ "pattern": "^[1-9][0-9]{0,4}$" }))
    }
}

/// A duration or `off`.
macro_rules! or_off {
    ($($name:ty),*) => {$(
        impl Described for $name {
            fn described() -> Option<Value> {
                OffOr::<Duration>::described()
            }
        }
    )*};
}
or_off!(Delay, Timeout, IdleTimeout);

impl Described for MaxMemory {
    fn described() -> Option<Value> {
        OffOr::<AutoOr<Size>>::described()
    }
}

impl Described for Adaptive {
    fn described() -> Option<Value> {
        Some(one_of(["gradient"].into_iter()))
    }
}

impl Described for HedgeAfter {
    fn described() -> Option<Value> {
        any_of([Some(json!({ "enum": ["p95"] })), Duration::described()])
    }
}

impl Described for Threads {
    fn described() -> Option<Value> {
        Count::<1, 1024>::described()
    }
}

impl Described for RouteHost {
    fn described() -> Option<Value> {
        any_of([Some(json!({ "enum": ["*"] })), HostPattern::described()])
    }
}
