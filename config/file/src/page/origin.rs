//! Finds where in the file a key of the effective configuration is written: in the service, else in `defaults`.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Origin, Provenance};
use crate::place::{Content, NodeId, Position, Tree, means_nothing};

/// A key, and its places in the file in the order of their precedence.
#[derive(Clone)]
pub(crate) struct Scopes<'t> {
    tree: &'t Tree,
    key: String,
    at: Vec<Option<Cursor>>,
    /// How many places, counted from the end, belong to `defaults`.
    defaults: usize,
    sections: Rc<Sections>,
}

/// Sections that services share. Services are indexed by name once, so that finding each of them takes no linear
/// search.
#[derive(Default)]
struct Sections {
    services: HashMap<String, Cursor>,
    defaults: Option<Cursor>,
}

#[derive(Debug, Clone, Copy)]
struct Cursor {
    node: NodeId,
    place: Position,
}

impl<'t> Scopes<'t> {
    /// The scope of the whole file.
    pub(crate) fn new(tree: &'t Tree) -> Self {
        let at = tree.root().map(|node| Cursor { node, place: Position::START });
        let mut root = Self { tree, key: String::new(), at: vec![at], defaults: 0, sections: Rc::default() };
        let section = |name| root.key(name).at.first().copied().flatten();
        let services = section("services").map(|services| root.entries(services)).unwrap_or_default();
        root.sections = Rc::new(Sections { services, defaults: section("defaults") });
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

    /// The scope of one service: its own block first, then `defaults`.
    pub(crate) fn service(&self, name: &str) -> Self {
        let Sections { services, defaults } = &*self.sections;
        Self {
            key: format!("services.{name}"),
            at: vec![services.get(name).copied(), *defaults],
            defaults: 1,
            ..self.clone()
        }
    }

    /// This key, with the places of `elsewhere`: its own keys are written there.
    pub(crate) fn written_at(&self, elsewhere: &Self) -> Self {
        Self { key: self.key.clone(), ..elsewhere.clone() }
    }

    /// This key, with the places of `below` after its own.
    pub(crate) fn above(mut self, below: &Self) -> Self {
        self.at.extend(&below.at);
        self.defaults = below.defaults;
        self
    }

    pub(crate) fn key_text(&self) -> &str {
        &self.key
    }

    pub(crate) fn key(&self, name: &str) -> Self {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) };
        self.stepped(key, |cursor| self.child(cursor, name))
    }

    /// A key that is taken whole, such as a list or a union: the first place that sets it sets all of it.
    pub(crate) fn whole(&self, name: &str) -> Self {
        let mut whole = self.key(name);
        if let Some(first) = whole.at.iter().position(Option::is_some) {
            whole.at.iter_mut().skip(first + 1).for_each(|later| *later = None);
        }
        whole
    }

    /// An item of a list. A single word counts as a list with one item.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.stepped(format!("{}[{index}]", self.key), |cursor| match &self.tree.node(cursor.node)?.content {
            Content::List(items) => {
                let item = items.get(index)?;
                self.cursor(item.value, item.value)
            }
            _ => Some(cursor),
        })
    }

    /// The places where this key is one word. None where the first place has a block of keys.
    pub(crate) fn only_words(&self) -> Self {
        let nearest = self.at.iter().flatten().next();
        let is_map = nearest
            .and_then(|at| self.tree.node(at.node))
            .is_some_and(|node| matches!(node.content, Content::Map(_)));
        self.stepped(self.key.clone(), |cursor| (!is_map).then_some(cursor))
    }

    pub(crate) fn is_written(&self) -> bool {
        self.at.iter().any(Option::is_some)
    }

    pub(crate) fn from(&self, file: &str) -> Provenance {
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
        Self { tree: self.tree, key, at, defaults: self.defaults, sections: self.sections.clone() }
    }

    fn child(&self, of: Cursor, name: &str) -> Option<Cursor> {
        let (key, value) = self.tree.entry(of.node, name)?;
        self.cursor(key, value)
    }

    /// The place of an entry. `None`: the key has no value, which counts as absent.
    fn cursor(&self, key: NodeId, value: NodeId) -> Option<Cursor> {
        let node = self.tree.node(value)?;
        let place = match &node.content {
            Content::Scalar { text, plain: true } if means_nothing(text) => return None,
            // a block begins on the line below its key, so the key's place is used
            Content::Map(_) => self.tree.node(key)?.place,
            _ => node.place,
        };
        Some(Cursor { node: value, place })
    }
}
