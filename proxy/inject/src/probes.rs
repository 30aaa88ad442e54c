//! Sends the kubelet's probes to the sidecar, which asks the application: the kubelet has no certificate for mTLS.
//!
//! Hooks by HTTP are not sent there: the metrics port answers everybody, and a hook changes the application.

use pillion_config::GivenProbe;

use crate::value::{Path, Step, Value, below};
use crate::wishes::Wrong;

/// The probes of a container, with the end of the name that each gets.
const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
/// The forms of a probe that go over the network.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// What rewriting needs to know.
pub(crate) struct Rewriting<'r> {
    /// The port of the sidecar that answers `/probe/NAME`.
    pub(crate) port: u16,
    /// Ports that do not pass the sidecar: the kubelet reaches them itself.
    pub(crate) excluded: &'r [u16],
    /// Connections to the application's ports are redirected to the sidecar.
    pub(crate) redirects: bool,
    /// What an earlier run has written.
    pub(crate) earlier: &'r Earlier,
    /// The names of the probes of the configuration. `None`: the configuration is not known here.
    pub(crate) configured: Option<&'r [String]>,
}

/// What an earlier run has written into the sidecar that is there.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    pub(crate) probes: Vec<GivenProbe>,
    /// The port that answered `/probe/NAME`.
    pub(crate) port: Option<u16>,
}

impl Rewriting<'_> {
    /// Rewrites the probes of a container. Returns those that the sidecar needs for them.
    ///
    /// # Errors
    /// Every probe that the sidecar cannot ask, and every hook that would be refused by it.
    pub(crate) fn container(
        &self,
        container: &mut Value,
        path: &[Step],
    ) -> Result<Vec<GivenProbe>, Vec<Wrong>> {
        let name = container.name().unwrap_or_default().to_owned();
        let ports = container.get("ports").cloned().unwrap_or(Value::Null);
        let (mut needed, mut wrong) = (Vec::new(), Vec::new());
        for (key, end) in PROBES {
            let Some(asks) = container.find_mut(&below(&[], &[key])) else { continue };
            let called = format!("{name}-{end}");
            match self.question(asks, &ports, (&called, &below(path, &[key]))) {
                Ok(probe) => needed.extend(probe),
                Err(why) => wrong.push(why),
            }
        }
        // a hook with tcpSocket does nothing in Kubernetes
        for keys in HOOKS.map(|key| ["lifecycle", key, "httpGet"]) {
            let asks = container.at(&keys);
            wrong.extend(asks.and_then(|asks| self.refused_hook(asks, &ports, &below(path, &keys))));
        }
        if wrong.is_empty() { Ok(needed) } else { Err(wrong) }
    }

    /// Why a hook by HTTP cannot stay as it is. `None`: the kubelet reaches its port.
    fn refused_hook(&self, asks: &Value, ports: &Value, path: &Path) -> Option<Wrong> {
        let port = number(asks.get("port"), ports);
        let is_elsewhere = asks.text_at(&["host"]).is_some_and(|host| !host.is_empty());
        let is_of_sidecar = self.is_of_sidecar(port) && probe_name(asks).is_some();
        let is_reached = !self.redirects || port.is_some_and(|port| self.excluded.contains(&port));
        if is_elsewhere || (is_reached && !is_of_sidecar) {
            return None;
        }
        let what = match port {
            Some(port) if is_of_sidecar => {
                format!(
                    "the hook asks the metrics port {port}, where every client could call it without authentication"
                )
            }
            Some(port) => format!(
                "the hook asks the port {port}, which is redirected to the sidecar, and the kubelet has no certificate for it"
            ),
            None => "the hook names a port that its container does not have".to_owned(),
        };
        let help = "write the hook as a command of the container (`exec`), or exclude the application's port with \
                    pillion.io/exclude-inbound-ports";
        Some(Wrong::new(path.clone(), what, help))
    }

    /// Rewrites one probe. `None`: it stays as it is, and the sidecar needs no probe for it.
    fn question(
        &self,
        asks: &mut Value,
        ports: &Value,
        (name, path): (&str, &Path),
    ) -> Result<Option<GivenProbe>, Wrong> {
        let Some((handler, what)) = HANDLERS.into_iter().find_map(|key| Some((key, asks.get(key)?.clone())))
        else {
            return Ok(None);
        };
        let refuse = |what: String| {
            let help = "exclude its port with pillion.io/exclude-inbound-ports, use another form of probe, or leave all \
                        probes as they are with `pillion.io/probes: keep`";
            Wrong::new(below(path, &[handler]), what, help)
        };
        let asked = number(what.get("port"), &Value::Null);
        if let Some(sent) = probe_name(&what).filter(|_| handler == "httpGet" && self.is_of_sidecar(asked)) {
            let known = self.known(sent).ok_or_else(|| unknown_probe(sent, &below(path, &[handler])))?;
            if let Some(asks) = asks.find_mut(&below(&[], &[handler])).filter(|_| asked != Some(self.port)) {
                asks.put("port", Value::number(self.port.into()));
            }
            return Ok(known);
        }
        let port = number(what.get("port"), ports).ok_or_else(|| {
            refuse(format!("the probe {name} names a port that its container does not have"))
        })?;
        if self.excluded.contains(&port) {
            return Ok(None);
        }
        if let Some(key) = unknown_key(&what) {
            return Err(refuse(format!("the sidecar cannot ask the probe {name}: it has `{key}`")));
        }
        let text = |key: &str| what.text_at(&[key]).unwrap_or_default();
        let word = match handler {
            "httpGet" => format!("{name}=http:{port}{}", with_slash(text("path"))),
            "tcpSocket" => format!("{name}=tcp:{port}"),
            _ => format!("{name}=grpc:{port}/{}", text("service")),
        };
        let probe = word.parse().map_err(|why: pillion_config::BadProbe| refuse(why.to_string()))?;
        let port = Value::number(self.port.into());
        let asked = Value::map([("path", Value::text(format!("/probe/{name}"))), ("port", port)]);
        let known_path = what.get("path").is_some();
        asks.remove(handler);
        let asked = if known_path { in_order_of(&what, asked) } else { asked };
        let Value::Map(entries) = asks else { return Ok(None) };
        entries.insert(0, ("httpGet".to_owned(), asked));
        Ok(Some(probe))
    }

    /// Whether a port is the metrics port: that of now, or the one of an earlier run.
    fn is_of_sidecar(&self, port: Option<u16>) -> bool {
        port.is_some() && (port == Some(self.port) || port == self.earlier.port)
    }

    /// The probe that the sidecar answers by this name. The inner value is one that an earlier run has made; without it the
    /// configuration has the probe. `None`: the sidecar would not know the name.
    fn known(&self, name: &str) -> Option<Option<GivenProbe>> {
        let made = self.earlier.probes.iter().find(|probe| probe.name == name);
        let is_configured = self.configured.is_none_or(|names| names.iter().any(|known| known == name));
        (made.is_some() || is_configured).then(|| made.cloned())
    }
}

fn unknown_probe(name: &str, path: &[Step]) -> Wrong {
    Wrong::new(
        path.to_vec(),
        format!(
            "the probe asks the sidecar for /probe/{name}, and neither its configuration nor an earlier run has a probe {name}"
        ),
        "write the probe as it was before, with the port of the application, or add it to `inbound.probes` of the configuration",
    )
}

/// The name of the sidecar's probe that a handler would ask for.
fn probe_name(what: &Value) -> Option<&str> {
    what.text_at(&["path"])?.strip_prefix("/probe/")
}

/// A key of a handler that changes the question in a way that the sidecar's probes do not have.
fn unknown_key(what: &Value) -> Option<&str> {
    let is_plain = |(key, value): &(String, Value)| match (key.as_str(), value) {
        ("path" | "port" | "service", _) | (_, Value::Null) => true,
        ("scheme", Value::Text(scheme)) => scheme.eq_ignore_ascii_case("http"),
        ("host", Value::Text(host)) => host.is_empty(),
        ("httpHeaders", Value::List(headers)) => headers.is_empty(),
        _ => false,
    };
    let entries = what.entries().iter();
    entries.filter(|entry| !is_plain(entry)).map(|(key, _)| key.as_str()).next()
}

/// The number of a port: itself, or that of the container's port with the name.
pub(crate) fn number(port: Option<&Value>, ports: &Value) -> Option<u16> {
    match port? {
        Value::Number(number) => number.parse().ok(),
        Value::Text(name) => {
            let named = ports.items().iter().find(|port| port.name() == Some(name));
            let number = named.map(|port| port.get("containerPort"));
            number.map_or_else(|| name.parse().ok(), |port| self::number(port, &Value::Null))
        }
        _ => None,
    }
}

/// Kubernetes adds the slash too.
fn with_slash(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The entries in the order in which the old value has their keys.
fn in_order_of(old: &Value, new: Value) -> Value {
    let Value::Map(mut entries) = new else { return new };
    entries.sort_by_key(|(key, _)| old.entries().iter().position(|(known, _)| known == key));
    Value::Map(entries)
}
