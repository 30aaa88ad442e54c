//! What is added to a pod: the container with the sidecar, the one with `pillion init`, and their volumes.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use pillion_config::GivenProbe;

use crate::value::Value;
use crate::wishes::{Config, Identity, Mode, Wishes};

pub(crate) const SIDECAR: &str = "pillion";
pub(crate) const INIT: &str = "pillion-init";
/// The names of the sidecar's container ports.
pub(crate) const PORTS: [&str; 2] = [INBOUND_PORT, METRICS_PORT];
pub(crate) const INBOUND_PORT: &str = "pillion-in";
pub(crate) const METRICS_PORT: &str = "pillion-metrics";
pub(crate) const CONFIG_VOLUME: &str = "pillion-config";
pub(crate) const IDENTITY_VOLUME: &str = "pillion-identity";
pub(crate) const LOG_VOLUME: &str = "pillion-logs";
/// The sidecar's variable with the name of its node.
pub(crate) const NODE_NAME: &str = "NODE_NAME";
/// The user of the sidecar, whose connections are not redirected.
pub(crate) const USER: u64 = 1337;

/// The flag of `pillion run` for a probe, with its sign of equality.
pub(crate) const PROBE_FLAG: &str = "--probe=";

/// What the sidecar's container has in its file system, where no other volume may be mounted.
pub(crate) const TAKEN: [&str; 3] = [PROGRAM, CONFIG_FOLDER, IDENTITY_FOLDER];
const PROGRAM: &str = "/pillion";
const CONFIG_FOLDER: &str = "/etc/pillion";
const IDENTITY_FOLDER: &str = "/var/run/pillion/identity";
/// `pillion wait` ends earlier than the kubelet's patience, so that the event has its reason.
const WAITS: &str = "30s";
const PATIENCE: u64 = 35;

/// The sidecar's ports, where a configuration changes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) outbound: u16,
    pub(crate) inbound: u16,
    pub(crate) admin: u16,
    pub(crate) metrics: u16,
    pub(crate) dns: u16,
}

impl Ports {
    pub(crate) const USUAL: Self =
        Self { outbound: 15001, inbound: 15006, admin: 15000, metrics: 15020, dns: 15053 };

    pub(crate) const fn all(&self) -> [u16; 5] {
        [self.outbound, self.inbound, self.admin, self.metrics, self.dns]
    }
}

/// Where commands in the sidecar's container reach its own ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

impl Local {
    /// What `pillion drain` and `pillion wait` ask without a flag.
    pub(crate) const USUAL: Self = Self {
        admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Ports::USUAL.admin),
        metrics: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Ports::USUAL.metrics),
    };
}

/// Everything that the added parts depend on.
pub(crate) struct Plan<'p> {
    pub(crate) wishes: &'p Wishes,
    pub(crate) image: String,
    pub(crate) init_image: String,
    pub(crate) ports: Ports,
    pub(crate) local: Local,
    pub(crate) has_inbound: bool,
    pub(crate) has_outbound: bool,
    pub(crate) has_dns: bool,
    /// Ports of the application with a listener of their own, which must not be redirected.
    pub(crate) own_listeners: Vec<u16>,
    /// The names of the configuration's own probes. `None`: the configuration is in a `ConfigMap`, which is not known here.
    pub(crate) configured_probes: Option<Vec<String>>,
    pub(crate) probes: Vec<GivenProbe>,
}

impl Plan<'_> {
    /// The init container with the rules. `None`: nothing is redirected.
    pub(crate) fn init(&self) -> Option<Value> {
        let security = Value::map([
            ("runAsUser", Value::number(0)),
            ("runAsNonRoot", Value::Bool(false)),
            ("allowPrivilegeEscalation", Value::Bool(false)),
            ("capabilities", capabilities(&["NET_ADMIN", "NET_RAW"])),
            ("seccompProfile", Value::map([("type", Value::text("RuntimeDefault"))])),
        ]);
        (self.wishes.mode != Mode::Explicit).then(|| {
            Value::map([
                ("name", Value::text(INIT)),
                ("image", Value::text(&self.init_image)),
                ("args", Value::texts(&self.init_arguments())),
                ("securityContext", security),
                ("resources", self.resources()),
            ])
        })
    }

    fn init_arguments(&self) -> Vec<String> {
        let wishes = self.wishes;
        let mut words = vec!["init".to_owned()];
        let mut flag = |name: &str, value: String| words.push(format!("--{name}={value}"));
        if wishes.mode == Mode::Tproxy {
            flag("mode", "tproxy".to_owned());
            flag("proxy-gid", USER.to_string());
        }
        let (own, usual) = (self.ports.all(), Ports::USUAL.all());
        let names = ["outbound-port", "inbound-port", "admin-port", "metrics-port", "dns-port"];
        for (name, (own, usual)) in names.into_iter().zip(own.into_iter().zip(usual)) {
            if own != usual {
                flag(name, own.to_string());
            }
        }
        if !self.has_inbound {
            flag("inbound-ports", "none".to_owned());
        }
        if !self.has_outbound {
            flag("include-outbound-cidrs", "none".to_owned());
        }
        let inbound = wishes.exclude_inbound_ports.iter().chain(&self.own_listeners).collect::<Vec<_>>();
        for (name, list) in [
            ("exclude-inbound-ports", joined(&inbound)),
            ("exclude-outbound-ports", joined(&wishes.exclude_outbound_ports)),
            ("exclude-outbound-cidrs", joined(&wishes.exclude_outbound_cidrs)),
        ] {
            if !list.is_empty() {
                flag(name, list);
            }
        }
        if self.has_dns {
            words.push("--dns".to_owned());
        }
        words
    }

    /// The container of the sidecar.
    pub(crate) fn sidecar(&self) -> Value {
        let container = Value::map([
            ("name", Value::text(SIDECAR)),
            ("image", Value::text(&self.image)),
            ("args", Value::texts(&self.arguments())),
            ("env", Value::List(vec![node_name()])),
        ]);
        let (wait, drain) = (self.runs(&["wait", "--timeout", WAITS]), self.runs(&["drain"]));
        let ready =
            Value::map([("path", Value::text("/ready")), ("port", Value::number(self.ports.metrics.into()))]);
        let container = match self.wishes.is_native {
            true => container
                .with("restartPolicy", Value::text("Always"))
                .with("ports", self.container_ports())
                .with(
                    "startupProbe",
                    wait.with("timeoutSeconds", Value::number(PATIENCE))
                        .with("periodSeconds", Value::number(1)),
                )
                .with("lifecycle", Value::map([("preStop", drain)])),
            // Kubernetes starts the next container when the hook of this one has ended
            false => container
                .with("ports", self.container_ports())
                .with("lifecycle", Value::map([("postStart", wait), ("preStop", drain)])),
        };
        let container = container
            .with("readinessProbe", Value::map([("httpGet", ready)]))
            .with("securityContext", self.security())
            .with("resources", self.resources());
        let mounts = self.mounts();
        if mounts.is_empty() { container } else { container.with("volumeMounts", Value::List(mounts)) }
    }

    fn arguments(&self) -> Vec<String> {
        let mut words = vec!["run".to_owned()];
        if self.wishes.config != Config::None {
            words.extend(["-c".to_owned(), format!("{CONFIG_FOLDER}/pillion.yaml")]);
        }
        match &self.wishes.identity {
            Identity::None => {}
            Identity::Secret(_) => words.push(format!("--identity={IDENTITY_FOLDER}")),
            Identity::WorkloadApi { socket, .. } => {
                words.push(format!("--identity=unix://{IDENTITY_FOLDER}/{socket}"));
            }
        }
        words.extend(self.wishes.app_port.map(|port| format!("--app={port}")));
        words.extend(self.probes.iter().map(|probe| format!("{PROBE_FLAG}{probe}")));
        words.iter().map(|word| without_variables(word)).collect()
    }

    /// A command of the image, with the address of the sidecar's port where that is another than usual.
    fn runs(&self, words: &[&str]) -> Value {
        let mut command: Vec<String> = [PROGRAM].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let (flag, at, usual) = match words.first() {
            Some(&"drain") => ("--admin", self.local.admin, Local::USUAL.admin),
            _ => ("--metrics", self.local.metrics, Local::USUAL.metrics),
        };
        if at != usual {
            command.extend([flag.to_owned(), format!("http://{at}")]);
        }
        Value::map([("exec", Value::map([("command", Value::texts(&command))]))])
    }

    fn container_ports(&self) -> Value {
        let port = |name: &str, port: u16| {
            Value::map([("name", Value::text(name)), ("containerPort", Value::number(port.into()))])
        };
        let inbound = self.has_inbound.then(|| port(INBOUND_PORT, self.ports.inbound));
        Value::List(inbound.into_iter().chain([port(METRICS_PORT, self.ports.metrics)]).collect())
    }

    /// The sidecar has no capability. TPROXY needs one, and Kubernetes gives capabilities to root alone: the sidecar's
    /// connections are then known by its group.
    fn security(&self) -> Value {
        let is_root = self.wishes.mode == Mode::Tproxy;
        let added: &[&str] = if is_root { &["NET_ADMIN"] } else { &[] };
        Value::map([
            ("runAsUser", Value::number(if is_root { 0 } else { USER })),
            ("runAsGroup", Value::number(USER)),
            ("runAsNonRoot", Value::Bool(!is_root)),
            ("readOnlyRootFilesystem", Value::Bool(true)),
            ("allowPrivilegeEscalation", Value::Bool(false)),
            ("capabilities", capabilities(added)),
            ("seccompProfile", Value::map([("type", Value::text("RuntimeDefault"))])),
        ])
    }

    fn resources(&self) -> Value {
        let Wishes { cpu, memory, cpu_limit, memory_limit, .. } = self.wishes;
        let both = |cpu: &str, memory: &str| {
            Value::map([("cpu", Value::text(cpu)), ("memory", Value::text(memory))])
        };
        Value::map([
            ("requests", both(&cpu.text, &memory.text)),
            ("limits", both(&cpu_limit.text, &memory_limit.text)),
        ])
    }

    fn mounts(&self) -> Vec<Value> {
        let folders = [
            (self.wishes.config != Config::None).then_some((CONFIG_VOLUME, CONFIG_FOLDER)),
            (self.wishes.identity != Identity::None).then_some((IDENTITY_VOLUME, IDENTITY_FOLDER)),
            self.wishes.log_volume.as_deref().map(|folder| (LOG_VOLUME, folder)),
        ];
        let folders = folders.into_iter().flatten();
        folders.map(|(name, folder)| mount(name, folder).with("readOnly", Value::Bool(true))).collect()
    }

    /// The volumes of the pod.
    pub(crate) fn volumes(&self) -> Vec<Value> {
        let named = |name: &str| Value::map([("name", Value::text(name))]);
        let config = match &self.wishes.config {
            Config::None => None,
            Config::Named(map) => {
                Some(named(CONFIG_VOLUME).with("configMap", Value::map([("name", Value::text(map))])))
            }
            Config::Inline(_) => Some(named(CONFIG_VOLUME).with("downwardAPI", downward())),
        };
        let identity = match &self.wishes.identity {
            Identity::None => None,
            Identity::Secret(secret) => {
                Some(named(IDENTITY_VOLUME).with("secret", Value::map([("secretName", Value::text(secret))])))
            }
            // the folder, because an agent that starts again makes a new socket
            Identity::WorkloadApi { folder, .. } => {
                let folder = Value::map([("path", Value::text(folder)), ("type", Value::text("Directory"))]);
                Some(named(IDENTITY_VOLUME).with("hostPath", folder))
            }
        };
        let logs = self.wishes.log_volume.as_ref();
        let logs = logs.map(|_| named(LOG_VOLUME).with("emptyDir", Value::map([])));
        [config, identity, logs].into_iter().flatten().collect()
    }
}

/// A word in which Kubernetes finds no variable: it reads `$(NAME)` in arguments, and `$$` as a single sign.
fn without_variables(word: &str) -> String {
    word.replace('$', "$$")
}

/// The word that a container gets for one of our arguments.
pub(crate) fn as_passed(word: &str) -> String {
    word.replace("$$", "$")
}

/// The mount of the application's container for its log files.
pub(crate) fn mount(name: &str, folder: &str) -> Value {
    Value::map([("name", Value::text(name)), ("mountPath", Value::text(folder))])
}

/// The name of the pod's node, by which the sidecar finds the endpoints that topology hints keep for it.
fn node_name() -> Value {
    let field = Value::map([("fieldRef", Value::map([("fieldPath", Value::text("spec.nodeName"))]))]);
    Value::map([("name", Value::text(NODE_NAME)), ("valueFrom", field)])
}

/// The annotation as a file, so that no further object is needed. A changed annotation becomes a changed file.
fn downward() -> Value {
    let field = Value::map([("fieldPath", Value::text("metadata.annotations['pillion.io/config-inline']"))]);
    let item = Value::map([("path", Value::text("pillion.yaml")), ("fieldRef", field)]);
    Value::map([("items", Value::List(vec![item]))])
}

fn capabilities(added: &[&str]) -> Value {
    let dropped = Value::map([("drop", Value::texts(&["ALL"]))]);
    if added.is_empty() { dropped } else { dropped.with("add", Value::texts(added)) }
}

fn joined<T: Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
