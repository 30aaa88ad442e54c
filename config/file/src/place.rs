//! Finds where in the file a key is: a tree of the YAML with the place of each node.
//!
//! Values are read from this tree. The parser is pure Rust. This file bounds it: too much depth, aliases to a node that
//! contains them, and second documents end the reading with a [`Broken`].

use std::collections::HashMap;

use pillion_model::{Path, PathStep};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

/// No key of a configuration is deeper than ten levels; 64 leaves room and bounds the recursion.
const DEEPEST: usize = 64;

/// Line and column count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// The subject of a message about the key at `path`.
pub(crate) fn subject(path: &Path) -> String {
    if path.0.is_empty() { "the file".to_owned() } else { path.to_string() }
}

/// Index into [`Tree::nodes`]. An alias has the id of the node to which it points.
pub(crate) type NodeId = usize;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Position,
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
    /// The item was faulty, and [`Tree::item`] does not count it.
    dropped: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: NodeId,
    pub(crate) value: NodeId,
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// `None`: the file holds only comments.
    root: Option<NodeId>,
}

/// Why no tree could be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) place: Position,
    pub(crate) what: String,
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

    /// The text of a scalar. `None` for lists and maps.
    pub(crate) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id)?.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Adds a node that is not in the file. Faults about it are placed at the start of the file.
    pub(crate) fn add(&mut self, content: Content) -> NodeId {
        self.nodes.push(Node { place: Position::START, content });
        self.nodes.len() - 1
    }

    /// Adds an item to a list.
    pub(crate) fn push(&mut self, of: NodeId, value: NodeId) {
        if let Some(Content::List(items)) = self.nodes.get_mut(of).map(|node| &mut node.content) {
            items.push(Item { value, dropped: false });
        }
    }

    /// Sets a key of a block that the file does not have, or has without a value.
    pub(crate) fn put(&mut self, of: NodeId, name: &str, value: NodeId) {
        let known = self.entry(of, name).map(|(key, _)| key);
        let key = known.unwrap_or_else(|| self.add(Content::Scalar { text: name.to_owned(), plain: true }));
        if let Some(Content::Map(entries)) = self.nodes.get_mut(of).map(|node| &mut node.content) {
            entries.retain(|entry| entry.key != key);
            entries.push(Entry { key, value });
        }
    }

    /// Marks the nth item of a list as dropped, so that it is no longer counted.
    pub(crate) fn drop_nth(&mut self, of: NodeId, nth: usize) {
        if let Some(Content::List(items)) = self.nodes.get_mut(of).map(|node| &mut node.content) {
            items.get_mut(nth).into_iter().for_each(|item| item.dropped = true);
        }
    }

    /// The place of a path; where the file has only the beginning of the path, the place of the last key that it has.
    /// `path` is corrected where the model differs from the file: the model does not count dropped items of lists, and
    /// where the file has a word, the model may have a list with one item or a block.
    pub(crate) fn locate(&self, path: &mut Path) -> Position {
        let (mut place, mut key_place) = (Position::START, Position::START);
        let mut at = self.root;
        let mut steps = Vec::with_capacity(path.0.len());
        let mut rest = std::mem::take(&mut path.0).into_iter();
        while let Some(mut step) = rest.next() {
            let content = at.and_then(|id| self.node(id)).map(|node| &node.content);
            match (content, &step) {
                (Some(Content::Scalar { .. }), _) if !at.is_some_and(|id| self.is_null(id)) => break,
                (Some(Content::Map(_)), PathStep::Index(_)) => continue,
                _ => {}
            }
            let next = at.and_then(|id| self.step(id, &mut step));
            steps.push(step);
            let Some((key, value)) = next else {
                steps.extend(rest);
                place = key_place;
                break;
            };
            (key_place, place) = self.places(key, value);
            at = Some(value);
        }
        path.0 = steps;
        place
    }

    /// The value of a key in a block. `None` also for a key without a value, which counts as absent.
    pub(crate) fn child(&self, of: NodeId, name: &str) -> Option<NodeId> {
        let (_, value) = self.entry(of, name)?;
        (!self.is_null(value)).then_some(value)
    }

    /// The values in a block, by the names of their keys.
    pub(crate) fn children(&self, of: NodeId) -> HashMap<&str, NodeId> {
        let Some(Content::Map(entries)) = self.node(of).map(|node| &node.content) else {
            return HashMap::new();
        };
        let standing = entries.iter().filter(|entry| !self.is_null(entry.value));
        standing.filter_map(|entry| Some((self.text(entry.key)?, entry.value))).collect()
    }

    /// An item of a list. Dropped items are not counted.
    pub(crate) fn item(&self, of: NodeId, index: usize) -> Option<NodeId> {
        let Content::List(items) = &self.node(of)?.content else { return None };
        items.iter().filter(|item| !item.dropped).nth(index).map(|item| item.value)
    }

    /// Whether the node is empty, or YAML's word for null without quotes.
    fn is_null(&self, id: NodeId) -> bool {
        let content = self.node(id).map(|node| &node.content);
        matches!(content, Some(Content::Scalar { text, plain: true }) if means_nothing(text))
    }

    /// The key and the value of an entry.
    pub(crate) fn entry(&self, of: NodeId, name: &str) -> Option<(NodeId, NodeId)> {
        let Content::Map(entries) = &self.node(of)?.content else { return None };
        let called = |name: &str| entries.iter().find(|entry| self.text(entry.key) == Some(name));
        let other_name =
            ALIASES.iter().find(|(known, _)| *known == name).and_then(|(_, alias)| called(alias));
        called(name).or(other_name).map(|entry| (entry.key, entry.value))
    }

    /// The place of a key, and the place of its value. A block begins at its first key, often a line below; faults of
    /// the block are placed at the key of the block.
    fn places(&self, key: NodeId, value: NodeId) -> (Position, Position) {
        let place = |id| self.node(id).map_or(Position::START, |node| node.place);
        let is_block = self.node(value).is_some_and(|node| matches!(node.content, Content::Map(_)));
        (place(key), place(if is_block { key } else { value }))
    }

    /// The key and the value after one step. An item of a list is its own key.
    fn step(&self, from: NodeId, step: &mut PathStep) -> Option<(NodeId, NodeId)> {
        match step {
            PathStep::Key(name) => self.entry(from, name),
            PathStep::Index(index) => {
                let Content::List(items) = &self.node(from)?.content else { return None };
                let (nth, item) = items.iter().enumerate().filter(|(_, item)| !item.dropped).nth(*index)?;
                *index = nth;
                Some((item.value, item.value))
            }
        }
    }
}

/// Keys that have a second name in the file.
const ALIASES: [(&str, &str); 1] = [("conditions", "on")];

/// Whether the text, without quotes, is one of YAML's words for null.
pub(crate) fn means_nothing(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

impl Broken {
    fn new(place: Position, what: impl Into<String>) -> Self {
        Self { place, what: what.into() }
    }

    fn scan(error: &ScanError) -> Self {
        let mark = error.marker();
        let place = Position { line: mark.line().max(1), column: mark.col() + 1 };
        Self::new(place, format!("is not valid YAML: {}", error.info()))
    }
}

/// Whether the source holds only comments, nulls, and signs that begin or end a document. Reading stops at the first
/// value.
pub(crate) fn is_empty(source: &str) -> bool {
    !Parser::new_from_str(source).any(|event| match event {
        Ok((Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamEnd, _)) => {
            false
        }
        Ok((Event::Scalar(text, ScalarStyle::Plain, ..), _)) => !means_nothing(&text),
        Ok(_) | Err(_) => true,
    })
}

fn place_of(span: Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

/// Tags of YAML itself (`!!str`) change nothing here and are allowed. Any other tag is refused: it has a meaning only
/// to another program.
fn refuse_tag(tag: Option<&Tag>, place: Position) -> Result<(), Broken> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            Err(Broken::new(place, format!("has the tag `{tag}`, which means nothing here")))
        }
        _ => Ok(()),
    }
}

/// The tree while the parser's events arrive.
#[derive(Default)]
struct Growth {
    tree: Tree,
    /// The lists and maps that are open, outermost first. A map comes with the key that waits for its value.
    open: Vec<(NodeId, Option<NodeId>)>,
    /// The anchors of the open lists and maps (0: none). An anchor is registered at the end of its node, so that no
    /// node contains itself.
    opened_as: Vec<usize>,
    anchors: HashMap<usize, NodeId>,
    documents: usize,
}

impl Growth {
    fn take(&mut self, event: Event<'_>, place: Position) -> Result<(), Broken> {
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

    fn start_document(&mut self, place: Position) -> Result<(), Broken> {
        self.documents += 1;
        match self.documents {
            1 => Ok(()),
            _ => Err(Broken::new(place, "has a second document; a configuration is one document")),
        }
    }

    fn add(&mut self, place: Position, content: Content) -> NodeId {
        self.tree.nodes.push(Node { place, content });
        self.tree.nodes.len() - 1
    }

    fn open(&mut self, place: Position, content: Content, anchor: usize) -> Result<(), Broken> {
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

    /// Adds a complete node to the innermost open one.
    fn attach(&mut self, id: NodeId) {
        let Some((parent, key)) = self.open.last_mut() else {
            self.tree.root = Some(id);
            return;
        };
        match self.tree.nodes.get_mut(*parent).map(|node| &mut node.content) {
            Some(Content::List(items)) => items.push(Item { value: id, dropped: false }),
            Some(Content::Map(entries)) => match key.take() {
                Some(key) => entries.push(Entry { key, value: id }),
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
        let step = |s: &&str| s.parse().map_or_else(|_| PathStep::Key((*s).to_owned()), PathStep::Index);
        Path(steps.iter().map(step).collect())
    }

    fn place(source: &str, steps: &[&str]) -> (usize, usize) {
        let place = Tree::read(source).unwrap().locate(&mut path(steps));
        (place.line, place.column)
    }

    #[test]
    fn a_text_that_cannot_be_a_configuration_is_refused() {
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
        assert_eq!(place(block, &["services", "orders", "timeout"]), (4, 14));
        assert_eq!(place(block, &["services", "orders", "endpoints", "1", "address"]), (7, 20));
        let flow = "services: { orders: { timeout: 5s, endpoints: [a, b] } }";
        assert_eq!(place(flow, &["services", "orders", "timeout"]), (1, 32));
        assert_eq!(place(flow, &["services", "orders", "endpoints", "1"]), (1, 51));
    }

    #[test]
    fn an_absent_key_is_placed_at_its_nearest_ancestor() {
        assert_eq!(place("a:\n  b: 1\n", &["a", "c", "d"]), (1, 1));
        assert_eq!(place("", &["a"]), (1, 1));
    }

    #[test]
    fn an_alias_leads_to_the_node_that_it_names() {
        assert_eq!(place("a: &x { t: 1 }\nb: *x\n", &["b", "t"]), (1, 12));
    }

    #[test]
    fn a_dropped_item_is_not_counted() {
        let mut tree = Tree::read("a: [x, y]").unwrap();
        tree.drop_nth(tree.nodes.iter().position(|n| matches!(n.content, Content::List(_))).unwrap(), 0);
        let mut path = path(&["a", "0"]);
        assert_eq!(tree.locate(&mut path).column, 8);
        assert_eq!(path.to_string(), "a[1]");
    }

    #[test]
    fn a_path_into_a_list_or_a_block_is_placed_at_the_word_that_the_file_has() {
        let tree = Tree::read("to: orders\nother: { service: a }").unwrap();
        let located = |steps: &[&str]| {
            let mut path = path(steps);
            let place = tree.locate(&mut path);
            (path.to_string(), place.line, place.column)
        };
        assert_eq!(located(&["to", "0", "service"]), ("to".to_owned(), 1, 5));
        assert_eq!(located(&["other", "0", "service"]), ("other.service".to_owned(), 2, 19));
    }
}
