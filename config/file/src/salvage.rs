//! Reads a faulty file as far as it goes: every fault with its place, and what is left.
//!
//! A deserializer over the tree that kept its places. The types of `file` stop at their first
//! fault; here it is noted, the entry it stands in is dropped, and reading starts again, until
//! nothing is wrong or enough is said.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use pillion_model::text::{nearest, shortened};
use pillion_model::{Path, Severity, Step};

use crate::fault::Fault;
use crate::load::LARGEST;
use crate::place::{Content, Entry, Item, NodeId, Place, Tree, means_nothing, subject};
use crate::value::BadWord;
use crate::variable::{Environment, Replaced, replace};

/// Faults told at once; nobody reads further, and each costs another reading.
pub(crate) const MOST: usize = 100;

/// Nodes read over all readings: a second or so, however large the file.
const MOST_VISITS: usize = 2_000_000;

/// So many nodes are read in one reading whatever the file's size: a block that fifty services share is no bomb.
const VISITS_IN_ANY_CASE: usize = 50_000;

/// What could be read, and why the rest could not. The faulty entries are dropped in `tree`.
pub(crate) fn salvage<T>(tree: &mut Tree, environment: Environment<'_>) -> (T, Vec<Fault>)
where
    T: Default + for<'t> de::Deserialize<'t>,
{
    let mut faults = Vec::new();
    let mut spent = 0;
    while let (Some(root), true) = (tree.root(), faults.len() < MOST && spent < MOST_VISITS) {
        let pass = Pass { environment, visits: Cell::new(0), room: Cell::new(LARGEST) };
        match T::deserialize(Reader { tree, id: root, pass: &pass }) {
            Ok(read) => return (read, faults),
            Err(trouble) => {
                spent += pass.visits.get();
                let culprit = trouble.0.culprit;
                faults.push(trouble.fault());
                let Some((of, nth)) = culprit else { break };
                tree.drop_nth(of, nth);
            }
        }
    }
    (T::default(), faults)
}

/// A fault on its way up; each list and map that it passes adds its step. Boxed: every result carries it.
#[derive(Debug)]
pub(crate) struct Trouble(Box<Details>);

#[derive(Debug, Default)]
struct Details {
    /// A predicate, to be read after the path.
    what: String,
    help: Option<String>,
    place: Option<Place>,
    /// The entry to drop: the list or map, and its nth entry.
    culprit: Option<(NodeId, usize)>,
    /// Innermost first.
    steps: Vec<Step>,
    /// Set where a key itself is the fault: it is named in `what` already.
    key: Option<String>,
}

impl Trouble {
    fn new(what: impl Into<String>) -> Self {
        Self(Box::new(Details { what: what.into(), ..Details::default() }))
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    fn word(BadWord { what, help }: BadWord) -> Self {
        Self(Box::new(Details { what, help, ..Details::default() }))
    }

    /// The fault is in what the variables of this text hold.
    fn tracing_variables(self, text: &str) -> Self {
        let origin = format!("it comes from `{}`", shortened(text));
        let help = match &self.0.help {
            Some(help) => format!("{help}; {origin}"),
            None => origin,
        };
        self.help(help)
    }

    fn about_key(mut self, key: &str) -> Self {
        self.0.key = Some(key.to_owned());
        self
    }

    /// Ties a fault that has no place yet to an entry.
    fn at(mut self, place: Place, culprit: (NodeId, usize)) -> Self {
        self.0.place.get_or_insert(place);
        self.0.culprit.get_or_insert(culprit);
        self
    }

    fn under(mut self, step: Step) -> Self {
        self.0.steps.push(step);
        self
    }

    fn fault(self) -> Fault {
        let Details { what, help, place, steps, key, .. } = *self.0;
        let mut path = Path(steps.into_iter().rev().collect());
        let message = format!("{} {what}", subject(&path));
        path.0.extend(key.map(Step::Key));
        let Place { line, column } = place.unwrap_or(Place::START);
        Fault { severity: Severity::Error, path: path.to_string(), line, column, message, help }
    }
}

impl std::error::Error for Trouble {}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl de::Error for Trouble {
    /// The first line says what is wrong, the second, if there is one, what to write instead.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        match text.split_once('\n') {
            Some((what, help)) => Self::new(what).help(help),
            None => Self::new(text),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("must be {expected}, not {found}"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let help = match nearest(field, expected) {
            _ if field == "<<" => "merge keys are not YAML 1.2; write the keys out".to_owned(),
            _ if field.contains("${") => "variables are replaced in values alone, never in keys".to_owned(),
            // what a YAML 1.1 tool makes of the key `on`
            _ if expected.contains(&"on") && matches!(field, "true" | "True") => {
                "a YAML 1.1 tool has turned `on:` into `true:`; write `conditions:`".to_owned()
            }
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("it has {}", expected.join(", ")),
        };
        Self::new(format!("has no key `{}`", shortened(field))).help(help).about_key(field)
    }
}

/// What one reading of the tree shares.
struct Pass<'e> {
    environment: Environment<'e>,
    /// Nodes read so far: aliases must not multiply a small file into a large one.
    visits: Cell<usize>,
    /// Bytes that texts with variables may still have, all together: no more than a file itself.
    room: Cell<usize>,
}

/// One node, being read.
#[derive(Clone, Copy)]
struct Reader<'t> {
    tree: &'t Tree,
    id: NodeId,
    pass: &'t Pass<'t>,
}

/// A scalar with its variables replaced.
struct Leaf<'t> {
    /// As it is typed.
    source: &'t str,
    text: Cow<'t, str>,
    /// Nothing, or a bare `null`.
    is_null: bool,
}

impl<'t> Leaf<'t> {
    fn visit<V: Visitor<'t>>(&self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.text {
            Cow::Borrowed(text) => visitor.visit_str(text),
            Cow::Owned(text) => {
                visitor.visit_str(text).map_err(|trouble: Trouble| trouble.tracing_variables(self.source))
            }
        }
    }
}

impl<'t> Reader<'t> {
    fn to(self, id: NodeId) -> Self {
        Self { id, ..self }
    }

    fn place(self) -> Place {
        self.tree.node(self.id).map_or(Place::START, |node| node.place)
    }

    fn content(self) -> Result<&'t Content, Trouble> {
        let visits = self.pass.visits.get() + 1;
        self.pass.visits.set(visits);
        if visits > 10 * self.tree.size() + VISITS_IN_ANY_CASE {
            return Err(Trouble::new("has aliases that multiply beyond reason"));
        }
        self.tree.node(self.id).map(|node| &node.content).ok_or_else(|| Trouble::new("is missing"))
    }

    /// A value: in keys nothing is replaced.
    fn leaf(self, source: &'t str, plain: bool) -> Result<Leaf<'t>, Trouble> {
        if !source.contains('$') {
            let is_null = plain && means_nothing(source);
            return Ok(Leaf { source, text: Cow::Borrowed(source), is_null });
        }
        let Pass { environment, room, .. } = self.pass;
        let Replaced { text, bare } = replace(source, environment, room.get()).map_err(Trouble::word)?;
        room.set(room.get() - text.len().min(room.get()));
        Ok(Leaf { source, is_null: bare && means_nothing(&text), text: Cow::Owned(text) })
    }

    /// Only looked at: what is read takes its room then.
    fn is_null(self) -> Result<bool, Trouble> {
        let room = self.pass.room.get();
        let is_null = match self.tree.node(self.id).map(|node| &node.content) {
            Some(Content::Scalar { text, plain }) => self.leaf(text, *plain)?.is_null,
            _ => false,
        };
        self.pass.room.set(room);
        Ok(is_null)
    }

    fn mismatch(self, expected: &dyn Expected) -> Trouble {
        let found = match self.tree.node(self.id).map(|node| &node.content) {
            Some(Content::List(_)) => "a list".to_owned(),
            Some(Content::Map(_)) => "a block of keys".to_owned(),
            Some(Content::Scalar { text, plain }) if !(*plain && means_nothing(text)) => {
                format!("`{}`", shortened(text))
            }
            _ => "empty".to_owned(),
        };
        Trouble::new(format!("must be {expected}, not {found}"))
    }

    fn map<V: Visitor<'t>>(self, entries: &'t [Entry], visitor: V) -> Result<V::Value, Trouble> {
        let mut map = MapReader { whole: self, entries, next: 0, waiting: None, seen: HashMap::new() };
        visitor.visit_map(&mut map).map_err(|trouble| map.tie(trouble))
    }

    fn list<V: Visitor<'t>>(self, items: &'t [Item], visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_seq(ListReader { whole: self, items, next: 0 })
    }
}

impl<'t> Deserializer<'t> for Reader<'t> {
    type Error = Trouble;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match self.content()? {
            Content::Scalar { text, plain } => match self.leaf(text, *plain)? {
                Leaf { is_null: true, .. } => visitor.visit_unit(),
                leaf => leaf.visit(visitor),
            },
            Content::List(items) => self.list(items, visitor),
            Content::Map(entries) => self.map(entries, visitor),
        }
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match self.content()? {
            Content::Scalar { text, plain } => self.leaf(text, *plain)?.visit(visitor),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_str(visitor)
    }

    /// Of keys: a variable is never replaced there.
    fn deserialize_identifier<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match self.content()? {
            Content::Scalar { text, .. } => visitor.visit_str(text),
            _ => Err(self.mismatch(&"a key")),
        }
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        if self.is_null()? { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match self.content()? {
            Content::List(items) => self.list(items, visitor),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match self.content()? {
            Content::Map(entries) => self.map(entries, visitor),
            _ => Err(self.mismatch(&"a block of keys")),
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'t>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf
        unit unit_struct tuple tuple_struct enum
    }
}

struct MapReader<'t> {
    whole: Reader<'t>,
    entries: &'t [Entry],
    next: usize,
    /// The entry whose key has been read and whose value has not.
    waiting: Option<usize>,
    seen: HashMap<&'t str, Place>,
}

impl<'t> MapReader<'t> {
    /// The next entry that stands, with its number.
    fn advance(&mut self) -> Option<(usize, &'t Entry)> {
        let (nth, entry) =
            self.entries.iter().enumerate().skip(self.next).find(|(_, entry)| !entry.dropped)?;
        self.next = nth + 1;
        Some((nth, entry))
    }

    fn key_text(&self, nth: usize) -> Option<&'t str> {
        self.whole.tree.text(self.entries.get(nth)?.key)
    }

    /// A visitor that refuses between a key and its value (a duplicate) means that entry.
    fn tie(&self, trouble: Trouble) -> Trouble {
        match self.waiting.and_then(|nth| Some((nth, self.entries.get(nth)?))) {
            Some((nth, entry)) => trouble.at(self.whole.to(entry.key).place(), (self.whole.id, nth)),
            None => trouble,
        }
    }

    fn refuse_twin(&mut self, entry: &Entry) -> Result<(), Trouble> {
        let place = self.whole.to(entry.key).place();
        let twin =
            self.whole.tree.text(entry.key).and_then(|text| Some((text, self.seen.insert(text, place)?)));
        let Some((text, first)) = twin else { return Ok(()) };
        let trouble = Trouble::new(format!("has the key `{}` twice", shortened(text)))
            .help(format!("the first is in line {}; keep one", first.line));
        Err(trouble.about_key(text))
    }
}

impl<'t> MapAccess<'t> for &mut MapReader<'t> {
    type Error = Trouble;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Trouble> {
        let Some((nth, entry)) = self.advance() else { return Ok(None) };
        self.waiting = Some(nth);
        let key = self.whole.to(entry.key);
        let whole = self.whole.id;
        let tie = |trouble: Trouble| trouble.at(key.place(), (whole, nth));
        self.refuse_twin(entry).map_err(tie)?;
        seed.deserialize(key).map(Some).map_err(tie)
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, Trouble> {
        let Some((nth, entry)) = self.waiting.take().and_then(|nth| Some((nth, self.entries.get(nth)?)))
        else {
            return Err(Trouble::new("has a value without a key"));
        };
        let value = self.whole.to(entry.value);
        let step = || Step::Key(self.key_text(nth).unwrap_or_default().to_owned());
        seed.deserialize(value)
            .map_err(|trouble| trouble.at(value.place(), (self.whole.id, nth)).under(step()))
    }
}

struct ListReader<'t> {
    whole: Reader<'t>,
    items: &'t [Item],
    next: usize,
}

impl<'t> SeqAccess<'t> for ListReader<'t> {
    type Error = Trouble;

    fn next_element_seed<T: DeserializeSeed<'t>>(&mut self, seed: T) -> Result<Option<T::Value>, Trouble> {
        let standing = self.items.iter().enumerate().skip(self.next).find(|(_, item)| !item.dropped);
        let Some((nth, item)) = standing else { return Ok(None) };
        self.next = nth + 1;
        let value = self.whole.to(item.value);
        let tie = |trouble: Trouble| trouble.at(value.place(), (self.whole.id, nth)).under(Step::Index(nth));
        seed.deserialize(value).map(Some).map_err(tie)
    }
}
