//! Reads the tree of a file, one node at a time. Every fault carries its place, and reading continues after it.
//!
//! A value that cannot be read is reported, and the rest is read as if the value were absent, so that one reading finds
//! all faults. There are bounds on the nodes visited (aliases can multiply them), on the bytes that variables add, and
//! on the faults reported.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// 4 MiB: ten thousand services fit. A larger file is probably not a configuration.
pub(crate) const LARGEST: usize = 4 * 1024 * 1024;

use pillion_model::text::shortened;
use pillion_model::{Cluster, Trail};

use crate::fault::Fault;
use crate::place::{Content, NodeId, Position, Tree, means_nothing, subject};
use crate::remark::{MOST, Remark, Remarks};
use crate::value::{BadWord, Word, on_off};
use crate::variable::{Environment, Replaced, replace};

/// The nodes that may be visited whatever the size of the file: fifty services that share a block are legitimate.
const VISITS_IN_ANY_CASE: usize = 50_000;

/// The state while a file is read.
pub(crate) struct Reading<'e> {
    environment: Environment<'e>,
    /// The folder at which relative paths start.
    pub(crate) folder: &'e Path,
    /// Whether the file gives this workload an identity, even if that could not be read.
    pub(crate) has_identity: bool,
    /// A service with the values of the file's `defaults` and no others.
    pub(crate) defaults: Option<Cluster>,
    pub(crate) remarks: Remarks,
    /// Items that could not be read: the list, and the number of the item.
    pub(crate) dropped: Vec<(NodeId, usize)>,
    /// How many nodes may still be visited: aliases must not multiply a small file into a large one.
    visits: usize,
    /// How many bytes texts with variables may still have, in sum: no more than the file itself may have.
    room: usize,
    /// Whether faults are ignored, because this part was read before and its faults are known.
    is_muted: bool,
}

impl<'e> Reading<'e> {
    pub(crate) fn of(tree: &Tree, folder: &'e Path, environment: Environment<'e>) -> Self {
        Self {
            environment,
            folder,
            has_identity: false,
            defaults: None,
            remarks: Remarks::default(),
            dropped: Vec::new(),
            visits: 10 * tree.size() + VISITS_IN_ANY_CASE,
            room: LARGEST,
            is_muted: false,
        }
    }

    /// Whether enough faults were found, or too many nodes visited; then reading stops.
    pub(crate) fn is_over(&self) -> bool {
        self.visits == 0 || self.remarks.unread.len() >= MOST
    }

    /// Reads a part that was read before, and ignores its faults.
    pub(crate) fn muted<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.is_muted, true);
        let read = read(self);
        self.is_muted = before;
        read
    }

    /// Reports a value that cannot be read. `key`: the fault is the key itself, which `bad` names already.
    fn refuse(&mut self, at: &Trail<'_>, place: Position, bad: BadWord, key: Option<&str>) {
        if self.is_muted || self.is_over() {
            return;
        }
        let message = format!("{} {}", subject(&at.path()), bad.what);
        let path = key.map_or_else(|| at.path(), |key| at.key(key).path()).to_string();
        self.remarks.add_unread(Fault { path, ..Fault::error(place, message, bad.help) }, &bad.what);
    }
}

/// A node of the tree, and the path to it.
#[derive(Clone, Copy)]
pub(crate) struct Node<'n> {
    tree: &'n Tree,
    pub(crate) id: NodeId,
    pub(crate) at: Trail<'n>,
    /// The place of its key. An item of a list is its own key.
    key: Position,
}

/// One key of a block, with its value.
pub(crate) struct Entry<'n> {
    pub(crate) name: &'n str,
    pub(crate) key: Position,
    pub(crate) value: Node<'n>,
}

/// The kind of value at a node.
pub(crate) enum Shape<'n> {
    Word(Leaf<'n>),
    List,
    Block,
}

/// A scalar with its variables replaced.
pub(crate) struct Leaf<'n> {
    /// The text in the file, before variables are replaced.
    source: &'n str,
    pub(crate) text: Cow<'n, str>,
    /// Whether the text is empty or a bare `null`.
    is_null: bool,
}

impl Leaf<'_> {
    /// Adds to a fault that the text came from variables.
    fn traced(&self, bad: BadWord) -> BadWord {
        if bad.is_secret || matches!(self.text, Cow::Borrowed(_)) {
            return bad;
        }
        let origin = format!("it comes from `{}`", shortened(self.source));
        let help = bad.help.map_or_else(|| origin.clone(), |help| format!("{help}; {origin}"));
        BadWord { help: Some(help), ..bad }
    }
}

impl<'n> Node<'n> {
    /// The whole file. `None`: the file holds only comments.
    pub(crate) fn root(tree: &'n Tree) -> Option<Self> {
        Some(Self { tree, id: tree.root()?, at: Trail::root(), key: Position::START })
    }

    /// The value of a key of this block, if the key is set.
    pub(crate) fn child<'s>(&'s self, name: &'s str, reading: &mut Reading<'_>) -> Option<Node<'s>> {
        let (key, value) = self.tree.entry(self.id, name)?;
        let key = self.tree.node(key).map_or(Position::START, |node| node.place);
        let child = Node { tree: self.tree, id: value, at: self.at.key(name), key };
        reading.muted(|reading| child.is_written(reading)).then_some(child)
    }

    /// Whether a key of this block is set.
    pub(crate) fn has(&self, name: &str, reading: &mut Reading<'_>) -> bool {
        self.child(name, reading).is_some()
    }

    /// Where remarks on this node are placed. A block begins at its first key, often a line below, so its key is used.
    fn place(&self) -> Position {
        match self.tree.node(self.id) {
            Some(node) if !matches!(node.content, Content::Map(_)) => node.place,
            _ => self.key,
        }
    }

    fn own_place(&self) -> Position {
        self.tree.node(self.id).map_or(Position::START, |node| node.place)
    }

    fn content(&self, reading: &mut Reading<'_>) -> Option<&'n Content> {
        if reading.is_over() {
            return None;
        }
        if reading.visits == 1 {
            let bad = BadWord::new("has aliases that expand to too many values");
            reading.refuse(&self.at, self.own_place(), bad, None);
        }
        reading.visits -= 1;
        self.tree.node(self.id).map(|node| &node.content)
    }

    /// The scalar with its variables replaced. This is for values: variables in keys are not replaced.
    fn leaf(&self, source: &'n str, plain: bool, reading: &mut Reading<'_>) -> Option<Leaf<'n>> {
        if !source.contains('$') {
            return Some(Leaf {
                source,
                text: Cow::Borrowed(source),
                is_null: plain && means_nothing(source),
            });
        }
        match replace(source, reading.environment, reading.room) {
            Ok(Replaced { text, bare }) => {
                reading.room = reading.room.saturating_sub(text.len());
                Some(Leaf { source, is_null: bare && means_nothing(&text), text: Cow::Owned(text) })
            }
            Err(bad) => {
                self.refuse(bad, reading);
                None
            }
        }
    }

    /// Whether the value is null, which counts as an absent key. The bytes of variables are not counted here, because
    /// they count when the value is read. `None`: it could not be read.
    pub(crate) fn is_null(&self, reading: &mut Reading<'_>) -> Option<bool> {
        let Some(Content::Scalar { text, plain }) = self.tree.node(self.id).map(|node| &node.content) else {
            return Some(false);
        };
        let room = reading.room;
        let is_null = self.leaf(text, *plain, reading).map(|leaf| leaf.is_null);
        reading.room = room;
        is_null
    }

    /// Whether there is a value to read.
    pub(crate) fn is_written(&self, reading: &mut Reading<'_>) -> bool {
        self.is_null(reading) == Some(false)
    }

    /// Reports what is wrong with the value.
    pub(crate) fn refuse(&self, bad: BadWord, reading: &mut Reading<'_>) {
        reading.refuse(&self.at, self.own_place(), bad, None);
    }

    /// Reports that the value is not of the expected kind.
    pub(crate) fn mismatch(&self, expected: &str, reading: &mut Reading<'_>) {
        let found = match self.tree.node(self.id).map(|node| &node.content) {
            Some(Content::List(_)) => "a list".to_owned(),
            Some(Content::Map(_)) => "a block of keys".to_owned(),
            Some(Content::Scalar { text, plain }) if !(*plain && means_nothing(text)) => {
                format!("`{}`", shortened(text))
            }
            _ => "empty".to_owned(),
        };
        self.refuse(BadWord::new(format!("must be {expected}, not {found}")), reading);
    }

    /// Reports a value that was read but cannot be meant.
    pub(crate) fn remark<'r>(&self, what: &str, reading: &'r mut Reading<'_>) -> &'r mut Remark {
        let is_muted = reading.is_muted;
        reading.remarks.add(&self.at, self.place(), what, is_muted)
    }

    /// Reports a fault of the key, whatever its value is. It is shown even if the value has faults too.
    pub(crate) fn remark_on_key<'r>(&self, what: &str, reading: &'r mut Reading<'_>) -> &'r mut Remark {
        let is_muted = reading.is_muted;
        reading.remarks.add(&self.at, self.key, what, is_muted).of_key()
    }

    /// Reports that this block lacks a key.
    pub(crate) fn lacks(&self, key: &str, help: &str, reading: &mut Reading<'_>) {
        self.remark(&format!("needs `{key}`"), reading).help(help);
        reading.remarks.lacks(&self.at.key(key));
    }

    /// Drops what the model finds about this value, which was reported already.
    pub(crate) fn conceal_from_model(&self, reading: &mut Reading<'_>) {
        reading.remarks.lacks(&self.at);
    }

    /// The kind of the value, for keys that accept several kinds.
    pub(crate) fn shape(&self, expected: &str, reading: &mut Reading<'_>) -> Option<Shape<'n>> {
        match self.content(reading)? {
            Content::List(_) => Some(Shape::List),
            Content::Map(_) => Some(Shape::Block),
            Content::Scalar { text, plain } => {
                let leaf = self.leaf(text, *plain, reading)?;
                if leaf.is_null {
                    self.mismatch(expected, reading);
                    return None;
                }
                Some(Shape::Word(leaf))
            }
        }
    }

    /// Reads a word from the text of a scalar.
    pub(crate) fn word<W: Word>(&self, reading: &mut Reading<'_>) -> Option<W> {
        let Content::Scalar { text, plain } = self.content(reading)? else {
            self.mismatch(W::EXPECTED, reading);
            return None;
        };
        let leaf = self.leaf(text, *plain, reading)?;
        self.parsed(&leaf, W::parse(&leaf.text), reading)
    }

    /// Reports a fault that parsing a leaf has found.
    pub(crate) fn parsed<T>(
        &self,
        leaf: &Leaf<'_>,
        parsed: Result<T, BadWord>,
        reading: &mut Reading<'_>,
    ) -> Option<T> {
        parsed.map_err(|bad| self.refuse(leaf.traced(bad), reading)).ok()
    }

    /// Reads one word or a list of words.
    pub(crate) fn words<W: Word>(&self, reading: &mut Reading<'_>) -> Option<Vec<W>> {
        match self.shape(W::EXPECTED, reading)? {
            Shape::Word(leaf) => self.parsed(&leaf, W::parse(&leaf.text), reading).map(|word| vec![word]),
            Shape::List => Some(self.items(reading, |item, reading| item.word(reading))),
            Shape::Block => {
                self.mismatch(W::EXPECTED, reading);
                None
            }
        }
    }

    /// The items of a list that could be read.
    pub(crate) fn items<T>(
        &self,
        reading: &mut Reading<'_>,
        mut read: impl FnMut(&Node<'_>, &mut Reading<'_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(Content::List(items)) = self.tree.node(self.id).map(|node| &node.content) else {
            return Vec::new();
        };
        let mut all = Vec::with_capacity(items.len());
        for (nth, item) in items.iter().enumerate() {
            let key = self.tree.node(item.value).map_or(Position::START, |node| node.place);
            let node = Node { tree: self.tree, id: item.value, at: self.at.index(nth), key };
            match read(&node, reading) {
                Some(item) => all.push(item),
                None => reading.dropped.push((self.id, nth)),
            }
        }
        all
    }

    /// The same, where `off` is the same as an empty list.
    pub(crate) fn items_or_off<T>(
        &self,
        expected: &str,
        reading: &mut Reading<'_>,
        read: impl FnMut(&Node<'_>, &mut Reading<'_>) -> Option<T>,
    ) -> Vec<T> {
        match self.shape(expected, reading) {
            None => {}
            Some(Shape::Word(leaf)) if on_off(&leaf.text) == Some(false) => {}
            Some(Shape::Word(leaf)) => {
                self.parsed::<()>(&leaf, Err(BadWord::not(&leaf.text, expected)), reading);
            }
            Some(Shape::List) => return self.items(reading, read),
            Some(Shape::Block) => self.mismatch(expected, reading),
        }
        Vec::new()
    }

    /// The keys of a block, each once. `None`: the node is not a block.
    pub(crate) fn entries(&self, reading: &mut Reading<'_>) -> Option<Vec<Entry<'_>>> {
        let Content::Map(entries) = self.content(reading)? else {
            self.mismatch("a block of keys", reading);
            return None;
        };
        let mut seen: HashMap<&str, Position> = HashMap::new();
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries {
            if reading.is_over() {
                break;
            }
            let key = self.tree.node(entry.key).map_or(Position::START, |node| node.place);
            let Some(name) = self.tree.text(entry.key) else {
                reading.refuse(&self.at, key, BadWord::new("must have texts as keys"), None);
                continue;
            };
            let first = *seen.entry(name).or_insert(key);
            if first != key {
                let bad = BadWord::new(format!("has the key `{}` twice", shortened(name)))
                    .help(format!("the first is in line {}; keep one", first.line));
                reading.refuse(&self.at, key, bad, Some(name));
                continue;
            }
            let value = Node { tree: self.tree, id: entry.value, at: self.at.key(name), key };
            all.push(Entry { name, key, value });
        }
        Some(all)
    }

    /// Reads a map whose keys are words: services by their names, ports by their numbers.
    pub(crate) fn map<K: Word>(&self, reading: &mut Reading<'_>) -> Vec<(K, Entry<'_>)> {
        let mut all = Vec::new();
        for entry in self.entries(reading).unwrap_or_default() {
            match K::parse(entry.name) {
                Ok(key) => all.push((key, entry)),
                Err(bad) => reading.refuse(&self.at, entry.key, about_key(entry.name, bad), None),
            }
        }
        all
    }

    /// Reports a key that this block does not know.
    pub(crate) fn refuse_key(&self, entry: &Entry<'_>, bad: BadWord, reading: &mut Reading<'_>) {
        reading.refuse(&self.at, entry.key, bad, Some(entry.name));
    }
}

fn about_key(text: &str, bad: BadWord) -> BadWord {
    match text {
        "<<" => BadWord::new("has no key `<<`").help("merge keys are not YAML 1.2; write the keys out"),
        _ if text.contains("${") => BadWord::new(format!("has a key that {}", bad.what))
            .help("variables are replaced in values alone, never in keys"),
        _ => BadWord { what: format!("has a key that {}", bad.what), ..bad },
    }
}
