//! The documents of a manifest, with the place of every node in the text.
//!
//! The parser is pure Rust. This file bounds what it may be given and what it may build: bytes, depth, and what aliases
//! expand to.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::fault::{Fault, Position};
use crate::value::{Step, Value};

/// Kubernetes' own types are less than 20 deep; the rest is room for custom resources. The bound is also that of the recursion.
pub(crate) const DEEPEST: usize = 100;
/// The most brackets that are open at once before the parser runs: its scanner keeps each of them.
const BRACKETS: usize = 10_000;
/// The most values of a text that come from aliases.
const MOST_VALUES: usize = 500_000;
/// The most bytes of texts and keys that come from aliases: many aliases of one long text would take gigabytes.
const MOST_BYTES: usize = 64 << 20;

/// What the values of a text may take.
#[derive(Debug)]
pub(crate) struct Room {
    values: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, values: usize, bytes: usize) -> Option<()> {
        (self.values, self.bytes) = (self.values.checked_sub(values)?, self.bytes.checked_sub(bytes)?);
        Some(())
    }
}

pub(crate) type NodeId = usize;

/// A node. Places are bytes of the text.
#[derive(Debug)]
pub(crate) struct Node {
    /// Of an anchor or a tag, where the node has one.
    pub(crate) start: usize,
    /// The end of the last word that belongs to the node.
    pub(crate) end: usize,
    /// In characters, from 0: where the keys of a block are.
    pub(crate) column: usize,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Scalar { value: Value },
    List { is_flow: bool, items: Vec<Slot> },
    Map { is_flow: bool, entries: Vec<Entry> },
}

/// A place for a value: an alias has the node to which it points, and its own place.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) node: NodeId,
    pub(crate) alias: Option<Range<usize>>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: NodeId,
    pub(crate) value: Slot,
}

/// Every document of a text.
#[derive(Debug)]
pub(crate) struct Tree<'t> {
    pub(crate) text: &'t str,
    pub(crate) is_json: bool,
    nodes: Vec<Node>,
    /// The roots of the documents that are not empty.
    pub(crate) documents: Vec<Slot>,
}

impl<'t> Tree<'t> {
    /// Reads YAML.
    ///
    /// # Errors
    /// The text is too deep, or is not YAML.
    pub(crate) fn read(text: &'t str) -> Result<Self, Fault> {
        refuse_brackets(text)?;
        let skipped = text.len() - text.trim_start_matches('\u{feff}').len();
        let places = Places::of(text, skipped);
        let mut growth = Growth { places, ..Growth::new(text) };
        for event in Parser::new_from_str(text.get(skipped..).unwrap_or_default()) {
            let (event, span) = event.map_err(|error| {
                let mark = error.marker();
                let place = Position { line: mark.line().max(1), column: mark.col() + 1 };
                Fault::at(place, format!("the file is not valid YAML: {}", error.info()))
            })?;
            growth.take(event, span)?;
        }
        Ok(growth.tree)
    }

    /// A tree that another reader fills.
    pub(crate) const fn made(text: &'t str, nodes: Vec<Node>, documents: Vec<Slot>) -> Self {
        Self { text, is_json: true, nodes, documents }
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The line and the column of a byte.
    pub(crate) fn position(&self, at: usize) -> Position {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Position { line, column }
    }

    /// The text of a scalar.
    pub(crate) fn scalar(&self, id: NodeId) -> Option<&str> {
        match &self.node(id)?.content {
            Content::Scalar { value: Value::Text(text) | Value::Number(text) } => Some(text),
            Content::Scalar { value: Value::Bool(yes) } => Some(if *yes { "true" } else { "false" }),
            _ => None,
        }
    }

    /// The entry of a key that stands in the map itself.
    pub(crate) fn entry(&self, map: NodeId, key: &str) -> Option<&Entry> {
        let Content::Map { entries, .. } = &self.node(map)?.content else { return None };
        entries.iter().find(|entry| self.scalar(entry.key) == Some(key))
    }

    /// The place of the deepest key of a path that the text has.
    pub(crate) fn locate(&self, root: &Slot, path: &[Step]) -> Position {
        let (mut at, mut place) = (root.node, root.alias.as_ref().map(|alias| alias.start));
        for step in path {
            let (found, begins) = match (step, self.node(at).map(|node| &node.content)) {
                (Step::Key(key), Some(Content::Map { .. })) => match self.entry(at, key) {
                    Some(entry) => (&entry.value, self.node(entry.key).map(|key| key.start)),
                    None => break,
                },
                (Step::Index(index), Some(Content::List { items, .. })) => match items.get(*index) {
                    Some(item) => {
                        let own = self.node(item.node).map(|node| node.start);
                        (item, item.alias.as_ref().map(|alias| alias.start).or(own))
                    }
                    None => break,
                },
                _ => break,
            };
            (at, place) = (found.node, begins);
        }
        let begins = || self.node(root.node).map(|node| node.start);
        self.position(place.or_else(begins).unwrap_or_default())
    }

    /// Room for every value of the text, and for what aliases add to them.
    pub(crate) const fn room(&self) -> Room {
        Room { values: self.nodes.len() + MOST_VALUES, bytes: self.text.len() + MOST_BYTES }
    }

    /// The value of a node, with aliases and merge keys resolved. The documents of a text whose values are kept share a room.
    ///
    /// # Errors
    /// A key stands twice in a map, or is no scalar, or the aliases expand to too much.
    pub(crate) fn value(&self, slot: &Slot, room: &mut Room) -> Result<Value, Fault> {
        self.resolved(slot.node, DEEPEST, room)
    }

    fn resolved(&self, id: NodeId, depth: usize, room: &mut Room) -> Result<Value, Fault> {
        let Some(node) = self.node(id) else { return Ok(Value::Null) };
        let bytes = match &node.content {
            Content::Scalar { value: Value::Text(text) | Value::Number(text) } => text.len(),
            _ => 0,
        };
        room.take(1, bytes).filter(|()| depth > 0).ok_or_else(|| self.too_much(node))?;
        match &node.content {
            Content::Scalar { value } => Ok(value.clone()),
            Content::List { items, .. } => {
                let values = items.iter().map(|item| self.resolved(item.node, depth - 1, room));
                Ok(Value::List(values.collect::<Result<_, _>>()?))
            }
            Content::Map { entries, .. } => self.resolved_map(node, entries, depth - 1, room),
        }
    }

    fn too_much(&self, node: &Node) -> Fault {
        Fault::at(self.position(node.start), "the aliases of this document expand to too much")
            .help("write the values out")
    }

    fn resolved_map(
        &self,
        map: &Node,
        entries: &[Entry],
        depth: usize,
        room: &mut Room,
    ) -> Result<Value, Fault> {
        let (mut own, mut merged) = (Vec::new(), Vec::new());
        let mut known = HashMap::new();
        for entry in entries {
            let place = || self.position(self.node(entry.key).map_or(0, |key| key.start));
            let Some(key) = self.scalar(entry.key) else {
                return Err(Fault::at(place(), "a key of this map is not a text"));
            };
            room.take(1, key.len()).ok_or_else(|| self.too_much(map))?;
            let value = self.resolved(entry.value.node, depth, room)?;
            match (key, value) {
                ("<<", Value::Map(entries)) => merged.push(entries),
                ("<<", Value::List(maps)) => {
                    merged.extend(maps.into_iter().filter_map(Value::into_entries));
                }
                (key, value) => {
                    if known.insert(key.to_owned(), ()).is_some() {
                        return Err(Fault::at(place(), format!("the key `{key}` stands twice in this map")));
                    }
                    own.push((key.to_owned(), value));
                }
            }
        }
        for (key, value) in merged.into_iter().flatten() {
            if known.insert(key.clone(), ()).is_none() {
                own.push((key, value));
            }
        }
        Ok(Value::Map(own))
    }
}

/// Refuses what would keep the scanner busy: it keeps every open bracket, and every sign that opens a block.
fn refuse_brackets(text: &str) -> Result<(), Fault> {
    let mut open = 0usize;
    for (nth, line) in text.lines().enumerate() {
        let place = Position { line: nth + 1, column: 1 };
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
        }
        let signs = line.bytes().take_while(|byte| b" -?:".contains(byte)).filter(|byte| *byte != b' ');
        if open > BRACKETS || signs.count() > BRACKETS {
            return Err(Fault::at(place, "the file is nested too deep"));
        }
    }
    Ok(())
}

/// Converts the parser's characters to bytes.
struct Places {
    skipped: usize,
    /// The byte of each character. Empty where the text is ASCII.
    bytes: Vec<u32>,
    length: usize,
}

impl Places {
    fn of(text: &str, skipped: usize) -> Self {
        let read = text.get(skipped..).unwrap_or_default();
        let at = |(at, _): (usize, char)| u32::try_from(at).unwrap_or(u32::MAX);
        let bytes = if read.is_ascii() { Vec::new() } else { read.char_indices().map(at).collect() };
        Self { skipped, bytes, length: text.len() }
    }

    fn byte(&self, character: usize) -> usize {
        let at = match self.bytes.is_empty() {
            true => Some(character),
            false => self.bytes.get(character).map(|at| *at as usize),
        };
        at.map_or(self.length, |at| at + self.skipped).min(self.length)
    }
}

/// The tree while the parser's events arrive.
struct Growth<'t> {
    tree: Tree<'t>,
    places: Places,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
}

/// A list or a map that is open, and the key that waits for its value.
struct Open {
    node: NodeId,
    key: Option<NodeId>,
    anchor: usize,
}

impl<'t> Growth<'t> {
    fn new(text: &'t str) -> Self {
        let tree = Tree { text, is_json: false, nodes: Vec::new(), documents: Vec::new() };
        Self { tree, places: Places::of("", 0), open: Vec::new(), anchors: HashMap::new() }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let (start, end) = (self.places.byte(span.start.index()), self.places.byte(span.end.index()));
        let column = span.start.col();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
                let value = if is_text { Value::Text(text.into_owned()) } else { plain(&text) };
                let end = self.end_of_scalar(start, end, style);
                let node = self.add(Node { start, end, column, content: Content::Scalar { value } });
                self.anchors.insert(anchor, node);
                self.attach(Slot { node, alias: None }, end);
            }
            Event::SequenceStart(anchor, _) => {
                let is_flow = self.is_flow(start, end, '[');
                self.begin(start, column, anchor, Content::List { is_flow, items: Vec::new() })?;
            }
            Event::MappingStart(anchor, _) => {
                let is_flow = self.is_flow(start, end, '{');
                self.begin(start, column, anchor, Content::Map { is_flow, entries: Vec::new() })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.finish(start),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).copied() else {
                    let place = self.tree.position(start);
                    return Err(Fault::at(place, "an alias stands for something that contains it"));
                };
                self.attach(Slot { node, alias: Some(start..end) }, end);
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    /// A block scalar ends with its last line that has a word, unless `+` keeps the empty lines behind it.
    fn end_of_scalar(&self, start: usize, end: usize, style: ScalarStyle) -> usize {
        let text = self.tree.text.get(start..end).unwrap_or_default();
        if !matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
            return start + text.trim_end().len(); // the parser's span may go on to the next sign
        }
        let before = self.tree.text.get(..start).unwrap_or_default();
        let header = before.rsplit(['|', '>']).next().unwrap_or_default();
        match header.contains('+') {
            true => start + text.trim_end_matches([' ', '\t']).len(),
            false => start + text.trim_end().len(),
        }
    }

    /// Whether a list or a map is written with brackets. An anchor may stand before the bracket.
    fn is_flow(&self, start: usize, end: usize, bracket: char) -> bool {
        let text = self.tree.text.get(start..end).unwrap_or_default();
        let mut words = text.split_whitespace().skip_while(|word| word.starts_with(['&', '!']));
        match words.next() {
            Some(word) => word.starts_with(bracket),
            None => false,
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.tree.nodes.push(node);
        self.tree.nodes.len() - 1
    }

    fn begin(&mut self, start: usize, column: usize, anchor: usize, content: Content) -> Result<(), Fault> {
        if self.open.len() >= DEEPEST {
            let place = self.tree.position(start);
            return Err(Fault::at(place, format!("the file is nested more than {DEEPEST} deep")));
        }
        let node = self.add(Node { start, end: start, column, content });
        self.open.push(Open { node, key: None, anchor });
        Ok(())
    }

    /// Ends the innermost list or map. `at`: the place of its closing bracket, where it has one.
    fn finish(&mut self, at: usize) {
        let Some(Open { node: id, anchor, .. }) = self.open.pop() else { return };
        let first_key = match self.tree.node(id).map(|node| &node.content) {
            Some(Content::Map { entries, is_flow: false }) => {
                entries.first().and_then(|entry| self.tree.node(entry.key)).map(|key| key.column)
            }
            _ => None,
        };
        let mut end = at;
        if let Some(node) = self.tree.nodes.get_mut(id) {
            let is_flow = matches!(
                node.content,
                Content::Map { is_flow: true, .. } | Content::List { is_flow: true, .. }
            );
            node.end = if is_flow { at + 1 } else { node.end };
            node.column = first_key.unwrap_or(node.column);
            end = node.end;
        }
        self.anchors.insert(anchor, id);
        self.attach(Slot { node: id, alias: None }, end);
    }

    /// Adds a complete value, which ends at `end`, to the innermost open list or map.
    fn attach(&mut self, slot: Slot, end: usize) {
        let Some(open) = self.open.last_mut() else {
            self.tree.documents.push(slot);
            return;
        };
        let Some(parent) = self.tree.nodes.get_mut(open.node) else { return };
        parent.end = parent.end.max(end);
        match &mut parent.content {
            Content::List { items, .. } => items.push(slot),
            Content::Map { entries, .. } => match open.key.take() {
                Some(key) => entries.push(Entry { key, value: slot }),
                None => open.key = Some(slot.node),
            },
            Content::Scalar { .. } => {}
        }
    }
}

/// A scalar without quotes, as the YAML of Kubernetes reads it.
pub(crate) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        // Kubernetes reads YAML 1.1, which has more words for these than YAML 1.2
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ if is_number(text) => Value::Number(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}

/// Numbers begin with a digit, a sign or a dot; Rust's `inf` and `nan` do not.
fn is_number(text: &str) -> bool {
    let begins = text.trim_start_matches(['-', '+']);
    let digits = begins.strip_prefix("0x").or_else(|| begins.strip_prefix("0o"));
    begins.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && (text.parse::<f64>().is_ok()
            || digits.is_some_and(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit())))
}
