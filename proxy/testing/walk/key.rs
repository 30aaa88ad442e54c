//! A key with a value, and configuration files that contain it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::mesh::{Mesh, Sidecar, identity};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::Ca;

/// A key under test, and its value.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) path: String,
    pub(super) value: Value,
}

impl Key {
    /// `value` is JSON, or else a plain string.
    pub(super) fn new(path: &str, value: &str) -> Self {
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Self { path: path.to_owned(), value }
    }

    /// A caller's sidecar. `orders` is the content of its service besides the key.
    pub(super) fn caller(&self, mesh: &Mesh, orders: Value) -> Sidecar {
        self.start(mesh, caller(orders), None)
    }

    /// A caller's sidecar with the identity `web`.
    pub(super) fn known_caller(&self, mesh: &Mesh, ca: &Ca, orders: Value) -> Sidecar {
        let mut file = caller(orders);
        file["identity"] = json!({ "directory": "in-memory" });
        self.start(mesh, file, Some(identity(ca, "web")))
    }

    /// An application's sidecar. `inbound` is the content of the block besides the key and the listening address.
    pub(super) fn application(&self, mesh: &Mesh, inbound: Value) -> Sidecar {
        self.start(mesh, application(inbound), None)
    }

    pub(super) fn start(&self, mesh: &Mesh, file: Value, credentials: Option<Credentials>) -> Sidecar {
        let config = self.load(file, Path::new("")).expect("a good file");
        mesh.start(&config, credentials).expect("a sidecar that can start")
    }

    /// Reads `file` with the key in it, as if it were in `folder`.
    pub(super) fn load(
        &self,
        mut file: Value,
        folder: &Path,
    ) -> Result<pillion_model::Config, pillion_config::Errors> {
        if self.path.starts_with("routes[]") && file["routes"].is_null() {
            file["routes"] = json!([{ "hosts": ["orders"], "to": { "service": "orders" } }]);
        }
        if self.path.starts_with("metrics.merge[]") {
            file["metrics"] = json!({ "merge": [{ "url": "http://10.0.0.2:80/" }] });
        }
        if self.path.starts_with("sync.*.") {
            file["sync"] = json!({ "settings": { "from": "http://10.0.0.2/a", "to": "/x" } });
            file["sync"]["settings"]["on_change"] = match self.path.rsplit('.').next() {
                Some("signal") => json!({ "process": "a" }),
                Some("process" | "pid_file") => json!({ "signal": "HUP" }),
                Some("timeout") => json!({ "exec": ["a"] }),
                _ => Value::Null,
            };
            if self.path.ends_with("check.timeout") {
                file["sync"]["settings"]["check"] = json!({ "exec": ["a", "{file}"] });
            }
        }
        if self.path.starts_with("logs.") {
            file["logs"] = logs(&self.path);
        }
        if self.path.starts_with("defaults") {
            to_defaults(&mut file); // where nothing of the service's own goes before it
        }
        let path = self.path.replace("services.*", "services.orders").replace("headers.*", "headers.x-test");
        let path = path.replace("sync.*", "sync.settings");
        let path = path.replace("claims.*", "claims.x-test");
        let path = path.replace("query.*", "query.x-test");
        let path = path.replace("ports.*", "ports.9090");
        let path = path.replace("sources.*", "sources.app").replace("sinks.*", "sinks.hook");
        let path = path.replace("fields.*", "fields.team");
        let path = path.replace("set.*", "set.x-test").replace("add.*", "add.x-test");
        let path = path.replace("federation.*", "federation.partner");
        let steps: Vec<&str> = path.split('.').collect();
        set(&mut file, &steps, self.value.clone());
        pillion_config::parse(&file.to_string(), folder).map(|(config, _warnings)| config)
    }

    /// The text with which a file with this value is refused.
    pub(super) fn refusal(&self) -> Option<String> {
        let orders = json!({ "endpoints": ["10.0.0.1:80"] });
        self.load(caller(orders), Path::new("")).err().map(|faults| faults.to_string())
    }
}

/// A source and a sink of the kind that has the key.
fn logs(path: &str) -> Value {
    let sink = match path.rsplit('.').next() {
        Some("elasticsearch" | "index") => json!({ "elasticsearch": "http://a", "index": "app" }),
        Some("loki" | "labels") => json!({ "loki": "http://a" }),
        Some("mongodb" | "database" | "collection") => {
            json!({ "mongodb": "mongodb://a", "database": "logs", "collection": "app" })
        }
        Some("otlp" | "syslog") => json!({}),
        Some("trust_bundle") => json!({ "syslog": "tls://a" }),
        _ => json!({ "http": "http://a" }),
    };
    json!({ "sources": { "app": { "files": "/var/log/app/*.log" } }, "sinks": { "hook": sink } })
}

/// Moves the service's own settings to `defaults`.
fn to_defaults(file: &mut Value) {
    let Some(orders) = file["services"]["orders"].as_object_mut() else { return };
    let all = std::mem::take(orders);
    let (own, rest): (Map<_, _>, Map<_, _>) = all.into_iter().partition(|(key, _)| key == "endpoints");
    *orders = own;
    file["defaults"] = Value::Object(rest);
}

/// Sets a value. For `name[]` it sets the first item of the list.
fn set(at: &mut Value, steps: &[&str], to: Value) {
    let Some((step, rest)) = steps.split_first() else {
        *at = to;
        return;
    };
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    match step.strip_suffix("[]") {
        None => set(&mut at[*step], rest, to),
        Some(list) => {
            if !at[list].is_array() {
                at[list] = json!([{}]);
            }
            set(&mut at[list][0], rest, to);
        }
    }
}

pub(super) fn caller(orders: Value) -> Value {
    let mut file = quiet();
    file["outbound"] = json!({ "listen": "127.0.0.1:0" });
    file["services"] = json!({ "orders": orders });
    file
}

pub(super) fn application(mut inbound: Value) -> Value {
    let mut file = quiet();
    if inbound["listen"].is_null() {
        inbound["listen"] = "127.0.0.1:0".into();
    }
    file["inbound"] = inbound;
    file
}

/// A file with neither side.
fn quiet() -> Value {
    json!({
        "workers": 1,
        "admin": { "listen": "127.0.0.1:0" },
        "metrics": "off",
        "inbound": "off",
        "outbound": "off",
    })
}
