//! Finds the pod templates of a document, by its kind.

use crate::value::{Path, Step, Value, below, nth};

/// A pod template, and the object to which it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    /// The place of the object in its document: empty, or an item of a list.
    pub(crate) object: Path,
    /// The place of the template.
    pub(crate) template: Path,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

impl Workload {
    pub(crate) fn is_job(&self) -> bool {
        matches!(self.kind.as_str(), "Job" | "CronJob")
    }
}

/// The kinds with a template: the beginning of their API version, and the way to the template.
const KINDS: [(&str, &[&str], &[&str]); 9] = [
    ("Pod", &["v1"], &[]),
    ("PodTemplate", &["v1"], &["template"]),
    ("Deployment", &["apps/", "extensions/"], &["spec", "template"]),
    ("StatefulSet", &["apps/"], &["spec", "template"]),
    ("DaemonSet", &["apps/", "extensions/"], &["spec", "template"]),
    ("ReplicaSet", &["apps/", "extensions/"], &["spec", "template"]),
    ("ReplicationController", &["v1"], &["spec", "template"]),
    ("Job", &["batch/"], &["spec", "template"]),
    ("CronJob", &["batch/"], &["spec", "jobTemplate", "spec", "template"]),
];

/// Lists in lists are not known to Kubernetes. The bound is that of the recursion.
const DEEPEST: usize = 4;

/// Whether a document of this kind may have a template.
pub(crate) fn is_known(kind: &str) -> bool {
    kind == "List" || kind_of_items(kind).is_some() || KINDS.iter().any(|(known, ..)| *known == kind)
}

/// `DeploymentList` has Deployments, whose kind may be left out.
fn kind_of_items(kind: &str) -> Option<&'static str> {
    let of = kind.strip_suffix("List")?;
    KINDS.iter().map(|(known, ..)| *known).find(|known| *known == of)
}

/// The templates of a document.
pub(crate) fn workloads(document: &Value) -> Vec<Workload> {
    let mut found = Vec::new();
    search(document, &[], (None, None), DEEPEST, &mut found);
    found
}

fn search(
    object: &Value,
    at: &[Step],
    (kind, version): (Option<&str>, Option<&str>),
    depth: usize,
    found: &mut Vec<Workload>,
) {
    let Some(kind) = object.text_at(&["kind"]).or(kind) else { return };
    let version = object.text_at(&["apiVersion"]).or(version).unwrap_or_default();
    if kind == "List" || kind_of_items(kind).is_some() {
        let items = object.get("items").map_or(&[][..], Value::items);
        let deeper = depth.saturating_sub(1);
        for (index, item) in items.iter().enumerate().filter(|_| depth > 0) {
            let inherited = (kind_of_items(kind), Some(version).filter(|_| kind != "List"));
            search(item, &nth(&below(at, &["items"]), index), inherited, deeper, found);
        }
        return;
    }
    let is_version =
        |known: &&str| if known.ends_with('/') { version.starts_with(known) } else { version == *known };
    let known = KINDS.iter().find(|(known, versions, _)| *known == kind && versions.iter().any(&is_version));
    let Some((_, _, way)) = known else { return };
    if object.at(way).is_none() {
        return;
    }
    let text = |key: &str| object.text_at(&["metadata", key]).map(str::to_owned);
    found.push(Workload {
        object: at.to_vec(),
        template: below(at, way),
        kind: kind.to_owned(),
        name: text("name").or_else(|| text("generateName")).unwrap_or_default(),
        namespace: text("namespace"),
    });
}
