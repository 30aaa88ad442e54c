//! Decides what becomes of one pod template.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path as FilePath;

use pillion_config::{Given, GivenProbe};
use pillion_model::Config as Model;

use crate::input::{Input, Named, Unknown, UnknownConfig};
use crate::kept::keep;
use crate::probes::{Earlier, Rewriting, number};
use crate::sidecar::{
    INIT, LOG_VOLUME, Local, METRICS_PORT, PROBE_FLAG, Plan, Ports, SIDECAR, TAKEN, USER, as_passed, mount,
};
use crate::update::{self, is_our_volume, place_named};
use crate::value::{Path, Step, Value, below, nth};
use crate::wishes::{Config, INJECTED, Identity, Mode, PREFIX, Wishes, Wrong, init_image, wishes};

/// `kubectl exec` and `kubectl logs` take the container with this name, and else the first one.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Whether an earlier run has added the sidecar to a template.
pub(crate) fn has_sidecar(template: &Value) -> bool {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| template.at(&["spec", list]));
    is_injected(template) && lists.flat_map(Value::items).any(|container| container.name() == Some(SIDECAR))
}

fn is_injected(template: &Value) -> bool {
    template.at(&["metadata", "annotations", INJECTED]).is_some()
}

/// A template at its place.
pub(crate) struct Template<'t> {
    pub(crate) value: &'t mut Value,
    pub(crate) path: Path,
    /// The namespace of its object, if that says one.
    pub(crate) namespace: Option<&'t str>,
    /// The pods are those of a job: they end by themselves, and must not wait for a sidecar.
    pub(crate) is_job: bool,
    /// The images for templates that name none.
    pub(crate) image: &'t str,
}

impl Template<'_> {
    /// Adds the sidecar, or brings it in step with the annotations. Returns its configuration if that is not known.
    ///
    /// # Errors
    /// Everything that is wrong with the template.
    pub(crate) fn inject(self, input: &Input) -> Result<Option<UnknownConfig>, Vec<Wrong>> {
        self.has_the_form_of_a_pod().map_err(|wrong| vec![wrong])?;
        let wishes = wishes(self.value, &self.path)?;
        self.refuse(&wishes)?;
        let earlier = self.earlier();
        let source = self.source(&wishes, input).map_err(|wrong| vec![wrong])?;
        let image = wishes.image.clone().unwrap_or_else(|| self.image.to_owned());
        let mut plan = Plan {
            init_image: self.init_image(&wishes, &image).map_err(|wrong| vec![wrong])?,
            image,
            wishes: &wishes,
            ports: Ports::USUAL,
            local: Local::USUAL,
            has_inbound: true,
            has_outbound: true,
            has_dns: false,
            own_listeners: Vec::new(),
            configured_probes: Some(Vec::new()),
            probes: Vec::new(),
        };
        let unknown = match source {
            Source::Defaults => None,
            Source::Written(written) => {
                let model = written.model(&wishes.identity).map_err(|wrong| vec![wrong])?;
                learn(&mut plan, &model);
                None
            }
            Source::Unknown(name, why) => {
                plan.configured_probes = None;
                let is_kept = is_injected(self.value) && keep(&mut plan, self.value, name);
                Some(UnknownConfig { name: name.to_owned(), why, is_kept })
            }
        };
        self.refuse_ports(&plan)?;
        let Self { value, path, .. } = self;
        if !wishes.keeps_probes && plan.has_inbound {
            plan.probes = rewrite_probes(value, &path, &plan, &earlier)?;
        } else if let Some(probe) = earlier.probes.first() {
            return Err(vec![already_rewritten(&path, probe)]);
        }
        place(value, &plan);
        Ok(unknown)
    }

    fn spec(&self) -> &Value {
        self.value.get("spec").unwrap_or(&Value::Null)
    }

    fn at(&self, keys: &[&str]) -> Path {
        below(&self.path, keys)
    }

    fn has_the_form_of_a_pod(&self) -> Result<(), Wrong> {
        let is_map = |value: Option<&Value>| matches!(value, None | Some(Value::Map(_)));
        let wrong = |keys: &[&str], what: &str| {
            Err(Wrong::new(self.at(keys), what, "`kubectl explain pod` shows the form of a pod"))
        };
        if !is_map(self.value.get("metadata")) || !is_map(self.value.at(&["metadata", "annotations"])) {
            return wrong(&["metadata"], "the metadata of the pod are no map with a map of annotations");
        }
        if self.spec().get("containers").is_none_or(|containers| containers.items().is_empty()) {
            return wrong(&["spec"], "the pod has no list of containers");
        }
        for list in ["containers", "initContainers", "volumes"] {
            let value = self.spec().get(list);
            let items = value.map_or(&[][..], Value::items);
            let is_list = matches!(value, None | Some(Value::List(_)));
            if !is_list || items.iter().any(|item| item.name().is_none()) {
                return wrong(&["spec", list], &format!("`{list}` is no list of maps with names"));
            }
            let mounts = items.iter().filter_map(|item| item.get("volumeMounts"));
            if mounts.into_iter().any(|mounts| !matches!(mounts, Value::List(_))) {
                return wrong(&["spec", list], "`volumeMounts` of a container is no list");
            }
        }
        Ok(())
    }

    /// Refuses pods that a sidecar would break, or that would break the sidecar.
    fn refuse(&self, wishes: &Wishes) -> Result<(), Vec<Wrong>> {
        let mut wrong = Vec::new();
        let mut refuse = |keys: &[&str], what: &str, help: &str| {
            wrong.push(Wrong::new(self.at(keys), what, help));
        };
        if self.spec().get("hostNetwork") == Some(&Value::Bool(true)) {
            refuse(
                &["spec", "hostNetwork"],
                "the pod uses the network of its node (hostNetwork: true), where the rules would redirect the connections of the \
                 whole node",
                "leave the pod without a sidecar: `pillion.io/inject: \"false\"`",
            );
        }
        if self.spec().text_at(&["os", "name"]) == Some("windows") {
            refuse(
                &["spec", "os"],
                "the pod is for Windows, where the sidecar does not run",
                "leave it without",
            );
        }
        if let Some(pod) = self.ends().filter(|_| !wishes.is_native) {
            refuse(
                &["metadata", "annotations", "pillion.io/native-sidecar"],
                &format!("{pod} would never end: it would wait for its sidecar"),
                "leave pillion.io/native-sidecar out; Kubernetes ends a native sidecar behind the application",
            );
        }
        self.refuse_names(&mut refuse);
        if let Some(folder) = &wishes.log_volume {
            self.refuse_log_folder(folder, &mut refuse);
        }
        if wishes.mode != Mode::Explicit {
            self.refuse_users(wishes.mode, &mut refuse);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// How a pod is called that ends by itself. A webhook sees the pods of a job, and not the job.
    fn ends(&self) -> Option<&'static str> {
        let owners = self.value.at(&["metadata", "ownerReferences"]).map_or(&[][..], Value::items);
        let is_of_job = owners.iter().any(|owner| owner.text_at(&["kind"]) == Some("Job"));
        match self.spec().text_at(&["restartPolicy"]) {
            _ if self.is_job || is_of_job => Some("the pod of a job"),
            Some("Never") => Some("the pod with `restartPolicy: Never`"),
            Some("OnFailure") => Some("the pod with `restartPolicy: OnFailure`"),
            _ => None,
        }
    }

    fn containers(&self) -> impl Iterator<Item = (&'static str, usize, &Value)> {
        ["initContainers", "containers"].into_iter().flat_map(|list| {
            let items = self.spec().get(list).map_or(&[][..], Value::items);
            items.iter().enumerate().map(move |(nth, item)| (list, nth, item))
        })
    }

    fn refuse_names(&self, refuse: &mut impl FnMut(&[&str], &str, &str)) {
        let is_injected = is_injected(self.value);
        for (list, _, container) in self.containers() {
            match container.name().unwrap_or_default() {
                name @ ("istio-proxy" | "linkerd-proxy") => refuse(
                    &["spec", list],
                    &format!("the pod has the sidecar of another mesh, the container {name}"),
                    "two meshes cannot redirect the same connections; leave one of them out",
                ),
                name @ (SIDECAR | INIT) if !is_injected => refuse(
                    &["spec", list],
                    &format!("the pod has a container {name} that `pillion inject` did not write"),
                    "remove it, and let `pillion inject` write it",
                ),
                _ => {}
            }
        }
        let volumes = self.spec().get("volumes").map_or(&[][..], Value::items);
        let taken = volumes.iter().filter_map(Value::name).find(|name| is_our_volume(name) && !is_injected);
        if let Some(name) = taken {
            refuse(
                &["spec", "volumes"],
                &format!("the pod has a volume {name} that `pillion inject` did not write"),
                "give it another name",
            );
        }
    }

    /// Kubernetes refuses two mounts at one path, and the sidecar needs its own files.
    fn refuse_log_folder(&self, folder: &str, refuse: &mut impl FnMut(&[&str], &str, &str)) {
        let mut told = |what: &str| {
            let place = ["metadata", "annotations", "pillion.io/log-volume"];
            refuse(
                &place,
                &format!("the annotation pillion.io/log-volume is {folder:?}, {what}"),
                "name another folder",
            );
        };
        let is_around = |taken: &&str| {
            FilePath::new(taken).starts_with(folder) || FilePath::new(folder).starts_with(taken)
        };
        if let Some(taken) = TAKEN.iter().find(|taken| is_around(taken)) {
            told(&format!("and the sidecar has {taken} for itself"));
        }
        let mounting = self.containers().filter(|(list, _, container)| goes_on(list, container));
        for (_, _, container) in mounting {
            let mounts = container.get("volumeMounts").map_or(&[][..], Value::items).iter();
            let others = mounts.filter(|mount| mount.name() != Some(LOG_VOLUME));
            let mut paths = others.filter_map(|mount| mount.text_at(&["mountPath"]));
            // paths are compared part by part: a slash at the end makes no difference
            if paths.any(|path| FilePath::new(path) == FilePath::new(folder)) {
                let name = container.name().unwrap_or_default();
                told(&format!("where the container {name} has another volume"));
            }
        }
    }

    /// Connections of the sidecar's user, or with TPROXY of its group, are not redirected.
    fn refuse_users(&self, mode: Mode, refuse: &mut impl FnMut(&[&str], &str, &str)) {
        let keys: &[&str] = if mode == Mode::Tproxy { &["runAsUser", "runAsGroup"] } else { &["runAsUser"] };
        let number = Value::number(USER);
        let is_taken = |of: &Value, key: &str| of.at(&["securityContext", key]) == Some(&number);
        for key in keys {
            let own = self.containers().filter(|(_, _, container)| !is_ours(container));
            let takes =
                own.filter(|(_, _, container)| is_taken(container, key)).map(|(list, ..)| list).next();
            let pod = is_taken(self.spec(), key).then_some("securityContext");
            if let Some(place) = takes.or(pod) {
                refuse(
                    &["spec", place],
                    &format!(
                        "the application runs with `{key}: {USER}`, which is the sidecar's own: its connections would go around the sidecar"
                    ),
                    "let the application run as another user",
                );
            }
        }
    }

    fn refuse_ports(&self, plan: &Plan<'_>) -> Result<(), Vec<Wrong>> {
        let own = plan.ports.all();
        for (list, at, container) in self.containers().filter(|(_, _, container)| !is_ours(container)) {
            let ports = container.get("ports").map_or(&[][..], Value::items);
            for (index, port) in ports.iter().enumerate() {
                let Some(Value::Number(number)) = port.get("containerPort") else { continue };
                if number.parse().is_ok_and(|number| own.contains(&number)) {
                    let ports = below(&nth(&self.at(&["spec", list]), at), &["ports"]);
                    let what =
                        format!("the application has the port {number}, which is one of the sidecar's");
                    let help = "let the application listen on another port";
                    return Err(vec![Wrong::new(nth(&ports, index), what, help)]);
                }
            }
        }
        Ok(())
    }

    /// What an earlier run has written: the probes of its sidecar, and the port to which they go.
    fn earlier(&self) -> Earlier {
        let mut containers = self.containers().map(|(_, _, container)| container);
        let sidecar = containers.find(|found| found.name() == Some(SIDECAR));
        let items = |key: &str| sidecar.and_then(|sidecar| sidecar.get(key)).map_or(&[][..], Value::items);
        let words = items("args").iter().filter_map(Value::as_text);
        let probes = words.filter_map(|word| as_passed(word.strip_prefix(PROBE_FLAG)?).parse().ok());
        let metrics = items("ports").iter().find(|port| port.name() == Some(METRICS_PORT));
        let port = metrics.and_then(|port| number(port.get("containerPort"), &Value::Null));
        Earlier { probes: probes.collect(), port }
    }

    /// Where the configuration comes from.
    fn source<'w>(&self, wishes: &'w Wishes, input: &'w Input) -> Result<Source<'w>, Wrong> {
        let at = |name: &str| self.at(&["metadata", "annotations", &format!("{PREFIX}{name}")]);
        match &wishes.config {
            Config::None => Ok(Source::Defaults),
            Config::Inline(text) => {
                let called = "the annotation pillion.io/config-inline".to_owned();
                Ok(Source::Written(Written { text, called, place: at("config-inline") }))
            }
            Config::Named(name) => match input.config(self.namespace, name) {
                Named::Text(text) => {
                    let called = format!("the ConfigMap {name} (pillion.io/config)");
                    Ok(Source::Written(Written { text, called, place: at("config") }))
                }
                Named::Unknown(why) => Ok(Source::Unknown(name, why)),
                Named::Empty => Err(Wrong::new(
                    at("config"),
                    format!(
                        "the ConfigMap {name} (pillion.io/config) has no key pillion.yaml, without which the sidecar does not start"
                    ),
                    "write the configuration as the value of the key pillion.yaml below `data`",
                )),
            },
        }
    }

    fn init_image(&self, wishes: &Wishes, image: &str) -> Result<String, Wrong> {
        let named = wishes.init_image.clone().or_else(|| init_image(image));
        match (named, wishes.mode) {
            (Some(named), _) => Ok(named),
            (None, Mode::Explicit) => Ok(String::new()),
            (None, _) => Err(Wrong::new(
                self.at(&["metadata", "annotations", "pillion.io/image"]),
                format!(
                    "the image {image} is named by its digest, which says nothing of the image for the init container"
                ),
                "name that as pillion.io/init-image",
            )),
        }
    }
}

/// Where a configuration comes from.
enum Source<'w> {
    /// There is none.
    Defaults,
    Written(Written<'w>),
    /// It is in the `ConfigMap` of this name.
    Unknown(&'w str, Unknown),
}

/// The text of a configuration, and where it comes from.
struct Written<'w> {
    text: &'w str,
    /// What faults call it.
    called: String,
    /// The annotation.
    place: Path,
}

impl Written<'_> {
    /// # Errors
    /// The configuration has faults, or the kubelet could not do its part with it.
    fn model(self, identity: &Identity) -> Result<Model, Wrong> {
        let identity = match identity {
            Identity::None => None,
            Identity::Secret(_) => Some("/certs".to_owned()),
            Identity::WorkloadApi { .. } => Some("unix:///agent.sock".to_owned()),
        };
        let given = Given { identity, probes: Vec::new() };
        let folder = FilePath::new("/etc/pillion");
        match pillion_config::parse_given(self.text, folder, &|_unset| None, &given) {
            Ok((model, _warnings)) => self.refuse_for_the_kubelet(&model).map(|()| model),
            Err(faults) => Err(self.wrong(&format!("has faults:\n{faults}"), "")),
        }
    }

    fn refuse_for_the_kubelet(&self, model: &Model) -> Result<(), Wrong> {
        if metrics(model).is_none() {
            let help = "leave `metrics` out, or let it listen on 0.0.0.0";
            return Err(self.wrong("leaves the kubelet no metrics port, to which its probes go", help));
        }
        if model.admin.token.is_some() {
            let help = "leave `admin.token` out: the admin port listens on loopback";
            let what = "has an `admin.token`, which `pillion drain` in the preStop hook does not have";
            return Err(self.wrong(what, help));
        }
        Ok(())
    }

    fn wrong(&self, what: &str, help: &str) -> Wrong {
        Wrong::new(self.place.clone(), format!("{} {what}", self.called), help)
    }
}

/// Whether a container runs as long as the pod: native sidecars are init containers that do.
fn goes_on(list: &str, container: &Value) -> bool {
    list == "containers" || container.text_at(&["restartPolicy"]) == Some("Always")
}

fn is_ours(container: &Value) -> bool {
    matches!(container.name(), Some(SIDECAR | INIT))
}

fn already_rewritten(path: &[Step], probe: &GivenProbe) -> Wrong {
    Wrong::new(
        below(path, &["metadata", "annotations", "pillion.io/probes"]),
        format!(
            "the probe {} has been rewritten by an earlier run, which does not keep the probe as it was",
            probe.name
        ),
        "run `pillion inject` over the manifest as it was before",
    )
}

/// The address of the metrics port that the kubelet reaches.
fn metrics(model: &Model) -> Option<SocketAddr> {
    let mut listen = model.metrics.as_ref()?.listen.iter();
    listen.find(|at| !at.ip().is_loopback() && at.port() != 0).copied()
}

/// The address for a command in the sidecar's container: a port of every address is one of loopback too.
const fn local(at: SocketAddr) -> SocketAddr {
    let ip = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, at.port())
}

/// What the configuration says of ports and sides.
fn learn(plan: &mut Plan<'_>, model: &Model) {
    let first = |listen: &[SocketAddr], usual: u16| {
        listen.iter().map(SocketAddr::port).find(|port| *port != 0).unwrap_or(usual)
    };
    let admin = model.admin.listen.iter().find(|at| at.port() != 0).copied();
    plan.local = Local {
        admin: admin.map_or(Local::USUAL.admin, local),
        metrics: metrics(model).map_or(Local::USUAL.metrics, local),
    };
    let usual = Ports::USUAL;
    plan.has_inbound = model.inbound.is_some();
    plan.has_outbound = model.outbound.is_some();
    plan.has_dns = model.dns.is_some();
    plan.ports = Ports {
        outbound: model.outbound.as_ref().map_or(usual.outbound, |side| first(&side.listen, usual.outbound)),
        inbound: model.inbound.as_ref().map_or(usual.inbound, |side| first(&side.listen, usual.inbound)),
        admin: plan.local.admin.port(),
        metrics: plan.local.metrics.port(),
        dns: model.dns.as_ref().map_or(usual.dns, |dns| first(&dns.listen, usual.dns)),
    };
    let ports = model.inbound.iter().flat_map(|inbound| &inbound.ports);
    let listening = ports.filter_map(|(_, policy)| policy.listen.first());
    let probes = model.inbound.iter().flat_map(|inbound| &inbound.probes);
    plan.configured_probes = Some(probes.map(|probe| probe.name.to_string()).collect());
    plan.own_listeners = listening.map(SocketAddr::port).collect();
}

/// Rewrites the probes of every container that goes on running.
fn rewrite_probes(
    value: &mut Value,
    path: &[Step],
    plan: &Plan<'_>,
    earlier: &Earlier,
) -> Result<Vec<GivenProbe>, Vec<Wrong>> {
    let excluded: Vec<u16> =
        plan.wishes.exclude_inbound_ports.iter().chain(&plan.own_listeners).copied().collect();
    let rewriting = Rewriting {
        port: plan.ports.metrics,
        excluded: &excluded,
        redirects: plan.wishes.mode != Mode::Explicit,
        earlier,
        configured: plan.configured_probes.as_deref(),
    };
    let (mut needed, mut wrong) = (Vec::new(), Vec::new());
    for list in ["initContainers", "containers"] {
        let Some(Value::List(items)) = value.find_mut(&below(&[], &["spec", list])) else { continue };
        for (index, container) in items.iter_mut().enumerate().filter(|(_, container)| !is_ours(container)) {
            match rewriting.container(container, &nth(&below(path, &["spec", list]), index)) {
                Ok(probes) => needed.extend(probes),
                Err(why) => wrong.extend(why),
            }
        }
    }
    if wrong.is_empty() { Ok(needed) } else { Err(wrong) }
}

/// Puts what is added into its places.
fn place(template: &mut Value, plan: &Plan<'_>) {
    let first = template.at(&["spec", "containers"]).map_or(&[][..], Value::items);
    let first = first.iter().find(|container| !is_ours(container)).and_then(Value::name).map(str::to_owned);
    if let Some(annotations) =
        template.map_mut("metadata").and_then(|metadata| metadata.map_mut("annotations"))
    {
        annotations.put(INJECTED, Value::text("true"));
        if let Some(first) =
            first.filter(|_| !plan.wishes.is_native && annotations.get(DEFAULT_CONTAINER).is_none())
        {
            annotations.put(DEFAULT_CONTAINER, Value::text(first));
        }
    }
    let Some(spec) = template.map_mut("spec") else { return };
    place_containers(spec, plan);
    place_volumes(spec, plan);
}

/// The rules come before the sidecar, and a native sidecar before every other container, so that init containers of the
/// application have the network. A classic sidecar starts behind the init containers: there the rules come last.
fn place_containers(spec: &mut Value, plan: &Plan<'_>) {
    let mut old = Vec::new();
    for list in ["initContainers", "containers"] {
        old.extend(take_ours(spec, list));
    }
    let written = |new: Value| match old.iter().find(|known| known.name() == new.name()) {
        Some(known) => update::container(known, &new),
        None => new,
    };
    let (init, sidecar) = (plan.init().map(&written), written(plan.sidecar()));
    let (first, last, beside) = match plan.wishes.is_native {
        true => (init.into_iter().chain([sidecar]).collect(), Vec::new(), None),
        false => (Vec::new(), init.into_iter().collect::<Vec<_>>(), Some(sidecar)),
    };
    let others = spec.get("initContainers").map_or(Vec::new(), |list| list.items().to_vec());
    let all: Vec<Value> = first.into_iter().chain(others).chain(last).collect();
    match all.is_empty() {
        true => spec.remove("initContainers"),
        false => spec.put("initContainers", Value::List(all)),
    }
    if let (Some(sidecar), Some(containers)) = (beside, spec.list_mut("containers")) {
        containers.insert(0, sidecar);
    }
}

fn take_ours(spec: &mut Value, list: &str) -> Vec<Value> {
    let Some(Value::List(items)) = spec.find_mut(&below(&[], &[list])) else { return Vec::new() };
    let (ours, others) = std::mem::take(items).into_iter().partition(is_ours);
    *items = others;
    ours
}

fn place_volumes(spec: &mut Value, plan: &Plan<'_>) {
    let wanted = plan.volumes();
    place_named(spec, "volumes", &wanted, is_our_volume);
    let logs = plan.wishes.log_volume.as_deref().map(|folder| mount(LOG_VOLUME, folder));
    let logs: Vec<Value> = logs.into_iter().collect();
    for list in ["initContainers", "containers"] {
        let Some(Value::List(containers)) = spec.find_mut(&below(&[], &[list])) else { continue };
        for container in containers.iter_mut().filter(|container| !is_ours(container)) {
            let wanted = if goes_on(list, container) { &logs[..] } else { &[] };
            place_named(container, "volumeMounts", wanted, |name| name == LOG_VOLUME);
        }
    }
}
