//! The annotations of a pod template, read into checked words.

use std::fmt::Display;

use pillion_init::{Cidr, port};

use crate::value::{Path, Step, Value, below};

/// What every annotation of Pillion begins with.
pub(crate) const PREFIX: &str = "pillion.io/";
/// Set on a template that has the sidecar.
pub(crate) const INJECTED: &str = "pillion.io/injected";

const INJECT: &str = "pillion.io/inject";
const OF_ISTIO: &str = "sidecar.istio.io/inject";

const KNOWN: [&str; 19] = [
    "inject",
    "injected",
    "config",
    "config-inline",
    "identity-secret",
    "workload-api",
    "image",
    "init-image",
    "app-port",
    "mode",
    "exclude-inbound-ports",
    "exclude-outbound-ports",
    "exclude-outbound-cidrs",
    "native-sidecar",
    "cpu",
    "memory",
    "cpu-limit",
    "memory-limit",
    "log-volume",
];
/// The last one, which has one word alone.
const PROBES: &str = "probes";

/// The most faults of one template that are told.
const MOST_FAULTS: usize = 20;

/// What the annotations of a template ask for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) image: Option<String>,
    pub(crate) init_image: Option<String>,
    pub(crate) app_port: Option<u16>,
    pub(crate) mode: Mode,
    pub(crate) exclude_inbound_ports: Vec<u16>,
    pub(crate) exclude_outbound_ports: Vec<u16>,
    pub(crate) exclude_outbound_cidrs: Vec<Cidr>,
    /// The sidecar is an init container that goes on running.
    pub(crate) is_native: bool,
    pub(crate) cpu: Quantity,
    pub(crate) memory: Quantity,
    pub(crate) cpu_limit: Quantity,
    pub(crate) memory_limit: Quantity,
    /// The folder of the log files.
    pub(crate) log_volume: Option<String>,
    pub(crate) keeps_probes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Config {
    /// Defaults and flags alone.
    None,
    /// The name of a `ConfigMap`.
    Named(String),
    /// The text.
    Inline(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    None,
    /// The name of a Secret of the type kubernetes.io/tls.
    Secret(String),
    /// The folder of a socket on the node, and the socket's name in it.
    WorkloadApi {
        folder: String,
        socket: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Redirect,
    Tproxy,
    /// No rules: the application is told where the sidecar is.
    Explicit,
}

/// An amount of CPU or memory as Kubernetes writes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantity {
    pub(crate) text: String,
    amount: f64,
}

/// Whether a template shall have the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Yes,
    No,
    /// Nothing is said here.
    Unsaid,
}

/// What is wrong, and at which path of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) path: Path,
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Wrong {
    pub(crate) fn new(path: Path, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { path, message: message.into(), help: help.into() }
    }
}

/// What the labels and annotations of an object say. A `false` wins over everything.
pub(crate) fn asked(object: &Value) -> Asked {
    let word = |group: &str, key: &str| match object.at(&["metadata", group])?.get(key)? {
        Value::Bool(yes) => Some(*yes),
        Value::Text(text) => match text.as_str() {
            "true" | "enabled" => Some(true),
            "false" | "disabled" => Some(false),
            _ => None,
        },
        _ => None,
    };
    let words = ["annotations", "labels"]
        .into_iter()
        .flat_map(|group| [word(group, INJECT), word(group, OF_ISTIO)])
        .flatten()
        .collect::<Vec<_>>();
    match (words.contains(&false), words.contains(&true)) {
        (true, _) => Asked::No,
        (false, true) => Asked::Yes,
        (false, false) => Asked::Unsaid,
    }
}

/// Whether an object has an annotation of Pillion other than those that say whether it is injected.
pub(crate) fn has_annotations(object: &Value) -> bool {
    let annotations = object.at(&["metadata", "annotations"]).map_or(&[][..], Value::entries);
    annotations.iter().any(|(key, _)| key.starts_with(PREFIX))
}

/// Reads the annotations of a template at `path`.
///
/// # Errors
/// Everything that is wrong with them.
pub(crate) fn wishes(template: &Value, path: &[Step]) -> Result<Wishes, Vec<Wrong>> {
    let mut reader = Reader { template, path, wrong: Vec::new() };
    reader.refuse_unknown();
    let wishes = reader.wishes();
    reader.refuse_contradictions(&wishes);
    match reader.wrong.is_empty() {
        true => Ok(wishes),
        false => Err(reader.wrong),
    }
}

struct Reader<'v> {
    template: &'v Value,
    path: &'v [Step],
    wrong: Vec<Wrong>,
}

impl Reader<'_> {
    fn annotations(&self) -> &[(String, Value)] {
        self.template.at(&["metadata", "annotations"]).map_or(&[], Value::entries)
    }

    fn refuse(&mut self, name: &str, what: impl Display, help: impl Into<String>) {
        if self.wrong.len() == MOST_FAULTS {
            return;
        }
        let key = format!("{PREFIX}{name}");
        let path = below(self.path, &["metadata", "annotations", &key]);
        self.wrong.push(Wrong::new(path, format!("the annotation {key} {what}"), help));
    }

    fn refuse_unknown(&mut self) {
        let own = self.annotations().iter().filter_map(|(key, value)| {
            Some((key.strip_prefix(PREFIX)?.to_owned(), matches!(value, Value::Text(_) | Value::Null)))
        });
        for (name, is_text) in own.collect::<Vec<_>>() {
            if !KNOWN.contains(&name.as_str()) && name != PROBES {
                self.refuse(&name, "is not known", format!("known are {}, {PROBES}", KNOWN.join(", ")));
            } else if !is_text {
                self.refuse(&name, "is not a text", "Kubernetes takes only texts; put the value in quotes");
            }
        }
        match self.word("inject").as_deref() {
            None | Some("true" | "false" | "enabled" | "disabled") => {}
            Some(other) => self.refuse("inject", format!("is {other:?}"), "write \"true\" or \"false\""),
        }
    }

    fn word(&self, name: &str) -> Option<String> {
        let key = format!("{PREFIX}{name}");
        let found = self.annotations().iter().find(|(known, _)| *known == key)?;
        found.1.as_text().map(str::to_owned)
    }

    /// The words of an annotation that `read` takes. `read` returns what it expects in place of the word.
    fn read<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let word = self.word(name)?;
        match read(word.trim()) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.refuse(name, format!("is {word:?}"), expected);
                None
            }
        }
    }

    fn list<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let all = self.read(name, |words| {
            let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.map(&read).collect::<Result<Vec<T>, String>>()
        });
        all.unwrap_or_default()
    }

    fn wishes(&mut self) -> Wishes {
        let ports = |word: &str| port(word).map_err(|wrong| wrong.to_string());
        let cidrs = |word: &str| word.parse::<Cidr>().map_err(|wrong| wrong.to_string());
        Wishes {
            config: self.config(),
            identity: self.identity(),
            image: self.read("image", image),
            init_image: self.read("init-image", image),
            app_port: self.read("app-port", ports),
            mode: self.read("mode", mode).unwrap_or(Mode::Redirect),
            exclude_inbound_ports: self.list("exclude-inbound-ports", ports),
            exclude_outbound_ports: self.list("exclude-outbound-ports", ports),
            exclude_outbound_cidrs: self.list("exclude-outbound-cidrs", cidrs),
            is_native: self.read("native-sidecar", yes_or_no).unwrap_or(true),
            cpu: self.quantity("cpu", "100m"),
            memory: self.quantity("memory", "64Mi"),
            cpu_limit: self.quantity("cpu-limit", "200m"),
            memory_limit: self.quantity("memory-limit", "128Mi"),
            log_volume: self.read("log-volume", folder),
            keeps_probes: self.read(PROBES, keep).is_some(),
        }
    }

    fn config(&mut self) -> Config {
        let named = self.read("config", object_name);
        match (named, self.word("config-inline")) {
            (Some(_), Some(_)) => {
                self.refuse("config-inline", "stands beside pillion.io/config", "write one of them");
                Config::None
            }
            (Some(named), None) => Config::Named(named),
            (None, Some(text)) => Config::Inline(text),
            (None, None) => Config::None,
        }
    }

    fn identity(&mut self) -> Identity {
        let secret = self.read("identity-secret", object_name);
        match (secret, self.read("workload-api", socket)) {
            (Some(_), Some(_)) => {
                self.refuse("workload-api", "stands beside pillion.io/identity-secret", "write one of them");
                Identity::None
            }
            (Some(secret), None) => Identity::Secret(secret),
            (None, Some((folder, socket))) => Identity::WorkloadApi { folder, socket },
            (None, None) => Identity::None,
        }
    }

    fn quantity(&mut self, name: &str, default: &str) -> Quantity {
        let read = self.read(name, |word| {
            quantity(word).ok_or_else(|| format!("write an amount as Kubernetes does: {default}"))
        });
        read.or_else(|| quantity(default))
            .unwrap_or_else(|| Quantity { text: default.to_owned(), amount: 0.0 })
    }

    fn refuse_contradictions(&mut self, wishes: &Wishes) {
        for (name, least, most) in [
            ("cpu-limit", &wishes.cpu, &wishes.cpu_limit),
            ("memory-limit", &wishes.memory, &wishes.memory_limit),
        ] {
            if most.amount < least.amount {
                let what =
                    format!("or its default is {}, less than the request of {}", most.text, least.text);
                self.refuse(name, what, "raise the limit, or lower the request");
            }
        }
        if wishes.mode != Mode::Explicit {
            return;
        }
        for name in ["exclude-inbound-ports", "exclude-outbound-ports", "exclude-outbound-cidrs"] {
            if self.word(name).is_some() {
                self.refuse(name, "has no effect with `pillion.io/mode: explicit`", "leave it out");
            }
        }
        if wishes.app_port.is_none() && wishes.config == Config::None {
            self.refuse(
                "mode",
                "is explicit, and nothing says where the application is",
                "write its port as pillion.io/app-port",
            );
        }
    }
}

fn mode(word: &str) -> Result<Mode, String> {
    match word {
        "redirect" => Ok(Mode::Redirect),
        "tproxy" => Ok(Mode::Tproxy),
        "explicit" => Ok(Mode::Explicit),
        _ => Err("write redirect, tproxy or explicit".to_owned()),
    }
}

fn yes_or_no(word: &str) -> Result<bool, String> {
    match word {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("write \"true\" or \"false\"".to_owned()),
    }
}

fn keep(word: &str) -> Result<(), String> {
    match word {
        "keep" => Ok(()),
        _ => Err("write keep, or leave it out: probes are then sent to the sidecar".to_owned()),
    }
}

/// An absolute path of a folder. `..` would lead out of it.
fn folder(word: &str) -> Result<String, String> {
    let is_clean = !word.contains("..") && !word.contains(':') && !word.chars().any(char::is_control);
    match word.trim_end_matches('/') {
        path if path.starts_with('/') && is_clean => Ok(path.to_owned()),
        _ => Err("write the absolute path of a folder: /var/log/app".to_owned()),
    }
}

/// The folder and the name of a socket on the node.
fn socket(word: &str) -> Result<(String, String), String> {
    let path = folder(word.trim_start_matches("unix://"));
    let parts = path.as_deref().ok().and_then(|path| path.rsplit_once('/'));
    match parts {
        Some((folder, socket)) if !folder.is_empty() && !word.ends_with('/') => {
            Ok((folder.to_owned(), socket.to_owned()))
        }
        _ => {
            Err("write the path of the socket on the node: /run/spire/agent-sockets/spire-agent.sock"
                .to_owned())
        }
    }
}

/// The name of an object (RFC 1123, as Kubernetes checks it).
fn object_name(word: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    match word.len() <= 253 && word.split('.').all(is_part) {
        true => Ok(word.to_owned()),
        false => {
            Err("write the name of an object in the same namespace: small letters, digits, - and ."
                .to_owned())
        }
    }
}

fn image(word: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    match !word.is_empty()
        && word.chars().all(allowed)
        && word.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        true => Ok(word.to_owned()),
        false => Err("write an image as a pod does: registry.example/pillion:0.1.0".to_owned()),
    }
}

/// The image for the init container beside an image of the sidecar. `None`: a digest names one image, and no other.
pub(crate) fn init_image(image: &str) -> Option<String> {
    if image.contains('@') {
        return None;
    }
    let name = image.rfind('/').map_or(0, |slash| slash + 1);
    let tag = image.get(name..)?.find(':').map_or(image.len(), |colon| name + colon);
    Some(format!("{}-init{}", image.get(..tag)?, image.get(tag..)?))
}

fn quantity(word: &str) -> Option<Quantity> {
    let digits = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let (number, unit) = word.split_at(digits);
    let scale = match unit {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let amount: f64 = number.parse().ok()?;
    (amount > 0.0).then(|| Quantity { text: word.to_owned(), amount: amount * scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(annotations: &[(&str, &str)]) -> Value {
        let annotations =
            annotations.iter().map(|(key, value)| (format!("{PREFIX}{key}"), Value::text(*value)));
        Value::map([("metadata", Value::map([("annotations", Value::Map(annotations.collect()))]))])
    }

    #[test]
    fn a_bad_word_is_an_error_that_names_the_annotation_and_says_what_to_write() {
        for (name, word, expected) in [
            ("mode", "redirct", "redirect, tproxy or explicit"),
            ("app-port", "0", "from 1 to 65535"),
            ("exclude-inbound-ports", "22,ssh", "from 1 to 65535"),
            ("exclude-outbound-cidrs", "10.0.0.0/99", "10.0.0.0/99"),
            ("native-sidecar", "yes", "\"true\" or \"false\""),
            ("cpu", "fast", "100m"),
            ("memory", "-1", "64Mi"),
            ("memory-limit", "1Mi", "raise the limit"),
            ("log-volume", "logs", "/var/log/app"),
            ("workload-api", "/run", "the path of the socket"),
            ("identity-secret", "Web_Certs", "small letters"),
            ("image", "a b", "registry.example"),
            ("probes", "off", "keep"),
            ("inject", "maybe", "\"true\" or \"false\""),
            ("moed", "x", "known are inject, "),
        ] {
            let wrong = wishes(&template(&[(name, word)]), &[]).unwrap_err();
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(wrong[0].message.starts_with(&format!("the annotation pillion.io/{name} ")), "{wrong:?}");
            assert!(wrong[0].help.contains(expected) || wrong[0].message.contains(expected), "{wrong:?}");
        }
    }

    #[test]
    fn annotations_that_contradict_each_other_are_refused() {
        for pair in [
            [("config", "a"), ("config-inline", "{}")],
            [("identity-secret", "a"), ("workload-api", "/run/spire/a.sock")],
            [("mode", "explicit"), ("exclude-inbound-ports", "22")],
            [("cpu", "2"), ("cpu-limit", "1500m")],
        ] {
            assert!(wishes(&template(&pair), &[]).is_err(), "{pair:?}");
        }
    }

    #[test]
    fn the_image_of_the_init_container_is_beside_that_of_the_sidecar() {
        for (image, expected) in [
            ("pillion", Some("pillion-init")),
            ("pillion:1", Some("pillion-init:1")),
            ("r.example:5000/x/pillion:1", Some("r.example:5000/x/pillion-init:1")),
            ("r.example:5000/pillion", Some("r.example:5000/pillion-init")),
            ("pillion@sha256:abc", None),
        ] {
            assert_eq!(init_image(image).as_deref(), expected);
        }
    }

    #[test]
    fn a_false_wins_over_every_true() {
        let object = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), Value::text(*value)));
            Value::map([("metadata", Value::map([("labels", Value::Map(labels.collect()))]))])
        };
        assert_eq!(asked(&object(&[(INJECT, "true"), (OF_ISTIO, "false")])), Asked::No);
        assert_eq!(asked(&object(&[(OF_ISTIO, "true")])), Asked::Yes);
        assert_eq!(asked(&object(&[])), Asked::Unsaid);
    }
}
