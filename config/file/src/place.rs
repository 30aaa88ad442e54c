//! Finds where in the file a key stands: a tree of the YAML that kept its places.
//!
//! Read only once something is wrong; a good file is read by `file` alone. The parser is pure Rust
//! and bounded here: depth, aliases to themselves and second documents end the reading with a
//! [`Broken`].

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

/// Nothing in a configuration is deeper than ten; this leaves room and bounds recursion.
const DEEPEST: usize = 64;

/// Line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// A key of the file from the root: `services.orders.endpoints[1]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if nth == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Path {
    /// What a predicate is said of.
    pub(crate) fn subject(&self) -> String {
        if self.0.is_empty() { "the file".to_owned() } else { self.to_string() }
    }
}

/// Index into [`Tree::nodes`]. An alias is the id of what it points at.
pub(crate) type NodeId = usize;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Scalar { text: String, plain: bool },
    List(Vec<Item>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) value: NodeId,
    /// Found faulty: reading goes on as if it were not there.
    pub(crate) dropped: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: NodeId,
    pub(crate) value: NodeId,
    pub(crate) dropped: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// `None`: nothing but comments.
    root: Option<NodeId>,
}

/// Why there is no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) place: Place,
    pub(crate) what: String,
}

/// Where a path leads, as far as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Place,
    pub(crate) value: Place,
}

impl Tree {
    pub(crate) fn read(source: &str) -> Result<Self, Broken> {
        let mut growth = Growth::default();
        for event in Parser::new_from_str(source) {
            let (event, span) = event.map_err(|error| Broken::scan(&error))?;
            growth.take(event, place_of(span))?;
        }
        Ok(growth.tree)
    }

    pub(crate) fn root(&self) -> Option<NodeId> {
        self.root
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// A scalar's text; `None` for lists and maps.
    pub(crate) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id)?.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// From now on the nth entry of a map, or item of a list, is not there.
    pub(crate) fn drop_nth(&mut self, of: NodeId, nth: usize) {
        let dropped = match self.nodes.get_mut(of).map(|node| &mut node.content) {
            Some(Content::List(items)) => items.get_mut(nth).map(|item| &mut item.dropped),
            Some(Content::Map(entries)) => entries.get_mut(nth).map(|entry| &mut entry.dropped),
            _ => None,
        };
        if let Some(dropped) = dropped {
            *dropped = true;
        }
    }

    /// The place of a path, or of the key of its longest beginning that the file has. Indexes are put right: they
    /// come from lists whose dropped items were not counted.
    pub(crate) fn locate(&self, path: &mut Path) -> Found {
        let mut found = Found { key: Place::START, value: Place::START };
        let mut at = self.root;
        for step in &mut path.0 {
            let Some((key, value)) = at.and_then(|id| self.step(id, step)) else {
                return Found { key: found.key, value: found.key };
            };
            found = self.found(key, value);
            at = Some(value);
        }
        found
    }

    /// A block of keys begins at its first key, often a line below: its fault stands at its own.
    fn found(&self, key: NodeId, value: NodeId) -> Found {
        let place = |id| self.node(id).map_or(Place::START, |node| node.place);
        let is_block = self.node(value).is_some_and(|node| matches!(node.content, Content::Map(_)));
        Found { key: place(key), value: place(if is_block { key } else { value }) }
    }

    /// Key and value behind one step; an item of a list is its own key.
    fn step(&self, from: NodeId, step: &mut Step) -> Option<(NodeId, NodeId)> {
        match (&self.node(from)?.content, step) {
            (Content::Map(entries), Step::Key(name)) => {
                let entry = entries.iter().find(|entry| self.text(entry.key) == Some(name))?;
                Some((entry.key, entry.value))
            }
            (Content::List(items), Step::Index(index)) => {
                let (nth, item) = items.iter().enumerate().filter(|(_, item)| !item.dropped).nth(*index)?;
                *index = nth;
                Some((item.value, item.value))
            }
            _ => None,
        }
    }
}

impl Broken {
    fn new(place: Place, what: impl Into<String>) -> Self {
        Self { place, what: what.into() }
    }

    fn scan(error: &ScanError) -> Self {
        let mark = error.marker();
        let place = Place { line: mark.line().max(1), column: mark.col() + 1 };
        Self::new(place, format!("is not valid YAML: {}", error.info()))
    }
}

fn place_of(span: Span) -> Place {
    Place { line: span.start.line().max(1), column: span.start.col() + 1 }
}

/// YAML's own (`!!str`) change nothing here; any other means something elsewhere.
fn refuse_tag(tag: Option<&Tag>, place: Place) -> Result<(), Broken> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            Err(Broken::new(place, format!("has the tag `{tag}`, which means nothing here")))
        }
        _ => Ok(()),
    }
}

/// A tree while its events come in.
#[derive(Default)]
struct Growth {
    tree: Tree,
    /// The lists and maps that are open, outermost first; a map with the key that waits for its value.
    open: Vec<(NodeId, Option<NodeId>)>,
    /// The anchors of the open ones (0: none), registered at their end so that no node contains itself.
    opened_as: Vec<usize>,
    anchors: HashMap<usize, NodeId>,
    documents: usize,
}

impl Growth {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Broken> {
        match event {
            Event::DocumentStart(_) => self.start_document(place)?,
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.as_deref(), place)?;
                let plain = style == ScalarStyle::Plain;
                let id = self.add(place, Content::Scalar { text: text.into_owned(), plain });
                self.anchors.insert(anchor, id);
                self.attach(id);
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), place)?;
                self.open(place, Content::List(Vec::new()), anchor)?;
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), place)?;
                self.open(place, Content::Map(Vec::new()), anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied();
                self.attach(
                    target.ok_or_else(|| Broken::new(place, "has an alias to something that contains it"))?,
                );
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn start_document(&mut self, place: Place) -> Result<(), Broken> {
        self.documents += 1;
        match self.documents {
            1 => Ok(()),
            _ => Err(Broken::new(place, "has a second document; a configuration is one")),
        }
    }

    fn add(&mut self, place: Place, content: Content) -> NodeId {
        self.tree.nodes.push(Node { place, content });
        self.tree.nodes.len() - 1
    }

    fn open(&mut self, place: Place, content: Content, anchor: usize) -> Result<(), Broken> {
        if self.open.len() >= DEEPEST {
            return Err(Broken::new(place, format!("is nested more than {DEEPEST} deep")));
        }
        let id = self.add(place, content);
        self.open.push((id, None));
        self.opened_as.push(anchor);
        Ok(())
    }

    fn close(&mut self) {
        if let (Some((id, _)), Some(anchor)) = (self.open.pop(), self.opened_as.pop()) {
            self.anchors.insert(anchor, id);
            self.attach(id);
        }
    }

    /// A complete node goes into the innermost open one.
    fn attach(&mut self, id: NodeId) {
        let Some((parent, key)) = self.open.last_mut() else {
            self.tree.root = Some(id);
            return;
        };
        match self.tree.nodes.get_mut(*parent).map(|node| &mut node.content) {
            Some(Content::List(items)) => items.push(Item { value: id, dropped: false }),
            Some(Content::Map(entries)) => match key.take() {
                Some(key) => entries.push(Entry { key, value: id, dropped: false }),
                None => *key = Some(id),
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(steps: &[&str]) -> Path {
        let step = |s: &&str| s.parse().map_or_else(|_| Step::Key((*s).to_owned()), Step::Index);
        Path(steps.iter().map(step).collect())
    }

    fn place(source: &str, steps: &[&str]) -> (usize, usize, usize, usize) {
        let found = Tree::read(source).unwrap().locate(&mut path(steps));
        (found.key.line, found.key.column, found.value.line, found.value.column)
    }

    #[test]
    fn what_cannot_be_a_configuration_is_broken() {
        let deep = "[".repeat(100_000);
        let deeper = "- ".repeat(100_000);
        for source in [
            deep.as_str(),
            &deeper,
            "a: [",
            "a: 1\n---\nb: 2\n",
            "&a [*a]",
            "a: *nowhere",
            "a: !x [b]",
            "a: \"x",
        ] {
            assert!(Tree::read(source).is_err(), "{}", &source[..source.len().min(20)]);
        }
    }

    #[test]
    fn keys_are_found_in_block_and_in_flow_style() {
        let block = "version: 1\nservices:\n  orders:\n    timeout: 5s\n    endpoints:\n      - a\n      - { address: b }\n";
        assert_eq!(place(block, &["services", "orders", "timeout"]), (4, 5, 4, 14));
        assert_eq!(place(block, &["services", "orders", "endpoints", "1", "address"]), (7, 11, 7, 20));
        let flow = "services: { orders: { timeout: 5s, endpoints: [a, b] } }";
        assert_eq!(place(flow, &["services", "orders", "timeout"]), (1, 23, 1, 32));
        assert_eq!(place(flow, &["services", "orders", "endpoints", "1"]), (1, 51, 1, 51));
    }

    #[test]
    fn an_absent_key_is_placed_at_its_nearest_ancestor() {
        assert_eq!(place("a:\n  b: 1\n", &["a", "c", "d"]), (1, 1, 1, 1));
        assert_eq!(place("", &["a"]), (1, 1, 1, 1));
    }

    #[test]
    fn an_alias_leads_to_what_it_names() {
        assert_eq!(place("a: &x { t: 1 }\nb: *x\n", &["b", "t"]), (1, 9, 1, 12));
    }

    #[test]
    fn a_dropped_item_is_not_counted() {
        let mut tree = Tree::read("a: [x, y]").unwrap();
        tree.drop_nth(tree.nodes.iter().position(|n| matches!(n.content, Content::List(_))).unwrap(), 0);
        let mut path = path(&["a", "0"]);
        assert_eq!(tree.locate(&mut path).value.column, 8);
        assert_eq!(path.to_string(), "a[1]");
    }
}
