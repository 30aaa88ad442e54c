//! Adds the sidecar to the pods of Kubernetes manifests: text in, text out.
//!
//! How a manifest is read and changed: `tree` (`json` for JSON) has the place of every value in the text, `workload` the pod
//! templates, and `input` what other objects of the input say about them · `wishes` reads the annotations of a template, and `pod` decides
//! what becomes of it: `sidecar` has what is added, `probes` what is rewritten, `update` changes what an earlier run has added, and `kept` what of that
//! stays. They change a [`Value`], and know no text · `edit` writes the difference into the text, and touches nothing else; `patch` writes it as a
//! JSON patch, for the answer to an API server (`review`) · the text is then read again, and must mean exactly what was decided.
//!
//! Modules are listed from top to bottom.
//!
//! Deliberately absent: files, the network, clocks. Nothing that was not written here is written anew: comments, order, quotes and
//! line ends stay as they were.

mod review;
mod pod;
mod kept;
mod update;
mod probes;
mod sidecar;
mod input;
mod wishes;
mod workload;
mod diff;
mod edit;
mod patch;
mod write;
mod align;
mod reading;
mod json;
mod tree;
mod value;
mod fault;

pub use diff::diff;
pub use fault::{Fault, Faults, Position};
pub use input::{Unknown, UnknownConfig};
pub use review::{Reviewed, review};

use edit::Editor;
use input::{Input, tells};
use pod::Template;
use tree::{Slot, Tree};
use value::Value;
use wishes::{Asked, Wrong, asked, has_annotations};
use workload::{Workload, is_known, workloads};

/// What holds for every template of a text.
#[derive(Debug, Clone)]
pub struct Options {
    /// Templates that say nothing get the sidecar too.
    pub all: bool,
    /// The image of the sidecar, where a template names none.
    pub image: String,
}

/// The changed text, and what became of each workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    pub text: String,
    pub notes: Vec<Note>,
}

/// What became of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// For example `Deployment shop/web`.
    pub workload: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Injected,
    /// The sidecar was there, and is in step with the annotations.
    Unchanged,
    NotAsked,
    Refused,
    /// As `Refused`, but an earlier run has added the sidecar.
    RefusedAndStays,
    /// Annotations that count on the template alone are on the object around it.
    AnnotatedOutside,
    /// The configuration is in a `ConfigMap` that is not known.
    ConfigUnknown(UnknownConfig),
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.workload, self.outcome)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outcome = match self {
            Self::Injected => "has the sidecar now",
            Self::Unchanged => "has the sidecar already",
            Self::NotAsked => "is left as it is: nothing asks for a sidecar (pillion.io/inject, or --all)",
            Self::Refused => "is left as it is: `pillion.io/inject: \"false\"`",
            Self::RefusedAndStays => {
                "is left as it is: `pillion.io/inject: \"false\"`; the sidecar of an earlier run stays, and is not removed: \
                 use the manifest as it was before"
            }
            Self::AnnotatedOutside => {
                "has annotations of Pillion beside its pod template, where they have no effect; write them below \
                 spec.template.metadata"
            }
            Self::ConfigUnknown(unknown) => return unknown.fmt(f),
        };
        f.write_str(outcome)
    }
}

/// Adds the sidecar to the workloads of a text that ask for it. `file` names the text in faults.
///
/// # Errors
/// Every fault of the text and of its annotations. Nothing is changed then.
pub fn inject(file: &str, text: &str, options: &Options) -> Result<Injected, Faults> {
    let manifest = Manifest::read(file, text)?;
    let mut input = Input::default();
    manifest.tell(&mut input);
    manifest.inject(options, &input)
}

/// As [`inject`], for several files with their texts. Their Namespaces and ConfigMaps count for the workloads of all.
pub fn inject_all(files: &[(String, String)], options: &Options) -> Vec<Result<Injected, Faults>> {
    let manifests: Vec<_> = files.iter().map(|(file, text)| Manifest::read(file, text)).collect();
    let mut input = Input::default();
    manifests.iter().flatten().for_each(|manifest| manifest.tell(&mut input));
    manifests.into_iter().map(|manifest| manifest?.inject(options, &input)).collect()
}

/// The rooms for documents of a text that expand to too much. Each is some work.
const MOST_ROOMS: usize = 32;

/// A text that has been read.
struct Manifest<'t> {
    file: &'t str,
    tree: Tree<'t>,
    documents: Vec<Document>,
}

/// A document that may have templates.
struct Document {
    nth: usize,
    slot: Slot,
    value: Value,
}

impl<'t> Manifest<'t> {
    /// Documents of kinds that have no templates are not resolved.
    fn read(file: &'t str, text: &'t str) -> Result<Self, Faults> {
        let refuse = |fault| Faults { file: file.to_owned(), faults: vec![fault] };
        let tree = reading::read(text).map_err(refuse)?;
        let mut room = tree.room();
        let mut read = |(nth, slot): (usize, &Slot)| {
            Ok(Document { nth, slot: slot.clone(), value: tree.value(slot, &mut room)? })
        };
        let documents = tree.documents.iter().enumerate();
        let matters = |kind: &str| kind == "Namespace" || is_known(kind);
        let matter = documents.filter(|(_, slot)| kind(&tree, slot).is_some_and(matters));
        let documents = matter.map(&mut read).collect::<Result<_, _>>().map_err(refuse)?;
        Ok(Self { file, tree, documents })
    }

    /// Notes what the text says about pods of other documents. A document that expands to too much takes nothing from the others: they
    /// share a room until one of them has not enough of it, and that one gets a room of its own, as long as there are some.
    fn tell(&self, input: &mut Input) {
        let mut rooms = std::iter::repeat_with(|| self.tree.room()).take(MOST_ROOMS);
        let mut room = self.tree.room();
        for slot in self.tree.documents.iter().filter(|slot| kind(&self.tree, slot).is_some_and(tells)) {
            let mut value = self.tree.value(slot, &mut room);
            if value.is_err() {
                room = rooms.next().unwrap_or(room);
                value = self.tree.value(slot, &mut room);
            }
            match value {
                Ok(value) => input.learn(&value),
                Err(_too_much) => {
                    room = rooms.next().unwrap_or(room);
                    self.tell_unreadable(slot, input);
                }
            }
        }
    }

    /// Notes the name of a `ConfigMap` that cannot be resolved, as far as it is written out.
    fn tell_unreadable(&self, slot: &Slot, input: &mut Input) {
        let metadata =
            self.tree.entry(slot.node, "metadata").filter(|_| kind(&self.tree, slot) == Some("ConfigMap"));
        let text = |key: &str| {
            let entry = self.tree.entry(metadata?.value.node, key)?;
            self.tree.scalar(entry.value.node)
        };
        if let Some(name) = text("name") {
            input.learn_unreadable(name, text("namespace"));
        }
    }

    fn inject(self, options: &Options, input: &Input) -> Result<Injected, Faults> {
        let Self { file, tree, documents } = self;
        let refuse = |faults| Faults { file: file.to_owned(), faults };
        let (mut notes, mut faults, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        let mut editor = Editor::new(&tree);
        for Document { nth, slot, value: old } in &documents {
            let mut new = old.clone();
            for workload in workloads(old) {
                match inject_one(&mut new, &workload, options, input) {
                    Ok(outcomes) => notes.extend(
                        outcomes.into_iter().map(|outcome| Note { workload: called(&workload), outcome }),
                    ),
                    Err(wrong) => faults.extend(wrong.into_iter().map(|wrong| located(&tree, slot, wrong))),
                }
            }
            editor.change(slot, old, &new);
            changed.push((*nth, new));
        }
        if !faults.is_empty() {
            faults.sort_by_key(|fault: &Fault| fault.place);
            return Err(refuse(faults));
        }
        let text = editor.finish().filter(|text| means(text, &tree, &changed)).ok_or_else(|| {
            let help = "write the parts of the pods that anchors and aliases share out, or use JSON";
            refuse(vec![
                Fault::of_file(
                    "the sidecar cannot be written into this text without a change of other parts",
                )
                .help(help),
            ])
        })?;
        Ok(Injected { text, notes })
    }
}

fn kind<'t>(tree: &'t Tree<'_>, slot: &Slot) -> Option<&'t str> {
    tree.entry(slot.node, "kind").and_then(|entry| tree.scalar(entry.value.node))
}

fn inject_one(
    document: &mut Value,
    workload: &Workload,
    options: &Options,
    input: &Input,
) -> Result<Vec<Outcome>, Vec<Wrong>> {
    let outside =
        workload.object != workload.template && document.find(&workload.object).is_some_and(has_annotations);
    let outside = outside.then_some(Outcome::AnnotatedOutside);
    let Some(template) = document.find_mut(&workload.template) else { return Ok(Vec::new()) };
    let namespace = workload.namespace.as_deref();
    let mut unknown = None;
    let outcome = match (asked(template), input.asked(namespace)) {
        (Asked::No, _) | (Asked::Unsaid, Some(Asked::No)) if pod::has_sidecar(template) => {
            Outcome::RefusedAndStays
        }
        (Asked::No, _) | (Asked::Unsaid, Some(Asked::No)) => Outcome::Refused,
        (Asked::Unsaid, None | Some(Asked::Unsaid)) if !options.all => Outcome::NotAsked,
        _ => {
            let before = template.clone();
            let path = workload.template.clone();
            let is_job = workload.is_job();
            let place = Template { value: &mut *template, path, namespace, is_job, image: &options.image };
            unknown = place.inject(input)?.map(Outcome::ConfigUnknown);
            if before == *template { Outcome::Unchanged } else { Outcome::Injected }
        }
    };
    Ok(outside.into_iter().chain([outcome]).chain(unknown).collect())
}

fn called(Workload { kind, name, namespace, .. }: &Workload) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

fn located(tree: &Tree<'_>, slot: &Slot, Wrong { path, message, help }: Wrong) -> Fault {
    let fault = Fault::at(tree.locate(slot, &path), message);
    if help.is_empty() { fault } else { fault.help(help) }
}

/// Whether a changed text means what was decided, and has as many documents as before.
fn means(text: &str, before: &Tree<'_>, decided: &[(usize, Value)]) -> bool {
    let Ok(tree) = reading::read(text) else { return false };
    let is = |(nth, value): &(usize, Value)| {
        let slot = tree.documents.get(*nth);
        slot.is_some_and(|slot| tree.value(slot, &mut tree.room()).is_ok_and(|read| same(&read, value)))
    };
    tree.is_json == before.is_json && tree.documents.len() == before.documents.len() && decided.iter().all(is)
}

/// Whether two values are equal, whatever the order of keys: a key that replaces one of a merge stands at another place.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Map(one), Value::Map(other)) => {
            let of_other: std::collections::HashMap<&str, &Value> =
                other.iter().map(|(key, value)| (key.as_str(), value)).collect();
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| of_other.get(key.as_str()).is_some_and(|other| same(value, other)))
        }
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests;
