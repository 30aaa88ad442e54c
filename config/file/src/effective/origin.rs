//! Follows a key through the places where it may be written: the service's own, then `defaults`.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Origin, Provenance};
use crate::place::{Content, NodeId, Place, Tree, means_nothing};

/// A key, and what is written at it in each place, the nearest first.
#[derive(Clone)]
pub(super) struct Scopes<'t> {
    tree: &'t Tree,
    key: String,
    at: Vec<Option<Cursor>>,
    /// How many of the last places are `defaults`.
    defaults: usize,
    services: Rc<HashMap<String, Cursor>>,
}

#[derive(Debug, Clone, Copy)]
struct Cursor {
    node: NodeId,
    place: Place,
}

impl<'t> Scopes<'t> {
    /// The root of the file.
    pub(super) fn new(tree: &'t Tree) -> Self {
        let at = tree.root().map(|node| Cursor { node, place: Place::START });
        let mut root = Self { tree, key: String::new(), at: vec![at], defaults: 0, services: Rc::default() };
        let services = root.key("services").at.first().copied().flatten();
        // looked up by name for every service: once through the list instead of once for each
        root.services = Rc::new(services.map(|services| root.entries(services)).unwrap_or_default());
        root
    }

    fn entries(&self, of: Cursor) -> HashMap<String, Cursor> {
        let Some(Content::Map(entries)) = self.tree.node(of.node).map(|node| &node.content) else {
            return HashMap::new();
        };
        let each = entries.iter().filter_map(|entry| {
            let name = self.tree.text(entry.key)?;
            Some((name.to_owned(), self.cursor(entry.key, entry.value)?))
        });
        each.collect()
    }

    /// One service: its own block, and `defaults` below it.
    pub(super) fn service(&self, name: &str) -> Self {
        let defaults = self.key("defaults").at.first().copied().flatten();
        Self {
            key: format!("services.{name}"),
            at: vec![self.services.get(name).copied(), defaults],
            defaults: 1,
            ..self.clone()
        }
    }

    /// This key, whose own keys are written at `elsewhere`.
    pub(super) fn written_at(&self, elsewhere: &Self) -> Self {
        Self { key: self.key.clone(), ..elsewhere.clone() }
    }

    /// The same key, which may be written at `below` if it is not here.
    pub(super) fn above(mut self, below: &Self) -> Self {
        self.at.extend(&below.at);
        self.defaults = below.defaults;
        self
    }

    pub(super) fn key_text(&self) -> &str {
        &self.key
    }

    pub(super) fn key(&self, name: &str) -> Self {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) };
        self.stepped(key, |cursor| self.child(cursor, name))
    }

    /// A key that is one thing, list or union: who writes it at all writes all of it.
    pub(super) fn whole(&self, name: &str) -> Self {
        let mut whole = self.key(name);
        if let Some(first) = whole.at.iter().position(Option::is_some) {
            whole.at.iter_mut().skip(first + 1).for_each(|later| *later = None);
        }
        whole
    }

    /// An item of a list; a single word stands for a list of one.
    pub(super) fn index(&self, index: usize) -> Self {
        self.stepped(format!("{}[{index}]", self.key), |cursor| match &self.tree.node(cursor.node)?.content {
            Content::List(items) => {
                let item = items.get(index)?;
                self.cursor(item.value, item.value)
            }
            _ => Some(cursor),
        })
    }

    /// What is written here in one word; nothing where the nearest place has a block of keys.
    pub(super) fn only_words(&self) -> Self {
        let nearest = self.at.iter().flatten().next();
        let is_map = nearest
            .and_then(|at| self.tree.node(at.node))
            .is_some_and(|node| matches!(node.content, Content::Map(_)));
        self.stepped(self.key.clone(), |cursor| (!is_map).then_some(cursor))
    }

    pub(super) fn is_written(&self) -> bool {
        self.at.iter().any(Option::is_some)
    }

    pub(super) fn from(&self, file: &str) -> Provenance {
        let Some((nth, cursor)) = self.at.iter().enumerate().find_map(|(nth, at)| Some((nth, (*at)?))) else {
            return Provenance::Default;
        };
        let origin = Origin { file: file.to_owned(), line: cursor.place.line, column: cursor.place.column };
        if nth + self.defaults >= self.at.len() {
            Provenance::Defaults(origin)
        } else {
            Provenance::File(origin)
        }
    }

    fn stepped(&self, key: String, step: impl Fn(Cursor) -> Option<Cursor>) -> Self {
        let at = self.at.iter().map(|at| at.and_then(&step)).collect();
        Self { tree: self.tree, key, at, defaults: self.defaults, services: self.services.clone() }
    }

    fn child(&self, of: Cursor, name: &str) -> Option<Cursor> {
        let Content::Map(entries) = &self.tree.node(of.node)?.content else { return None };
        let entry = entries.iter().find(|entry| self.tree.text(entry.key) == Some(name))?;
        self.cursor(entry.key, entry.value)
    }

    /// `None`: the key stands there, and nothing behind it, which is as if it did not.
    fn cursor(&self, key: NodeId, value: NodeId) -> Option<Cursor> {
        let node = self.tree.node(value)?;
        let place = match &node.content {
            Content::Scalar { text, plain: true } if means_nothing(text) => return None,
            // a block begins a line below its key
            Content::Map(_) => self.tree.node(key)?.place,
            _ => node.place,
        };
        Some(Cursor { node: value, place })
    }
}
