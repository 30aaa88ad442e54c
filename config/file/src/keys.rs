//! The keys of the file, each declared once.
//!
//! A [`Block`] is a list of [`Key`]s. A key says its name, its sentence for the operator, how its value is read into
//! the model, and how the model's value is told again. From that come reading, `defaults` (they are read before the
//! service's own keys, and what is written later wins), the effective configuration, and the schema. A key's default is
//! what the model says, and stands nowhere here.
//!
//! A new key that is one word costs one line in one of the rooms below, beside its field in the model.

mod elsewhere;
mod identity;
mod inbound;
mod observe;
mod root;
mod routes;
mod service;
mod tls;

use std::sync::LazyLock;

use pillion_model::text::{nearest, shortened};
use serde_json::Value;

use crate::effective::{Page, Scopes};
use crate::reading::{Entry, Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::value::{BadWord, Leaf, Word, on_off};

pub(crate) use root::FILE;
pub(crate) use service::SERVICE;

/// Where in the model a key's value stands.
pub(crate) struct Field<B, V> {
    pub(crate) of: fn(&B) -> &V,
    pub(crate) of_mut: fn(&mut B) -> &mut V,
}

/// `field!(timeouts.connect)`
macro_rules! field {
    ($($step:ident).+) => {
        crate::keys::Field { of: |block| &block.$($step).+, of_mut: |block| &mut block.$($step).+ }
    };
}
pub(crate) use field;

/// A block of keys, read into a `B`.
pub(crate) struct Block<B> {
    /// What the model has where nothing is written.
    default: fn() -> B,
    keys: Vec<Key<B>>,
}

/// A block that lives as long as the program: blocks hold each other.
pub(crate) type Static<B> = LazyLock<Block<B>>;

type Spell<B> = dyn Fn(&B) -> Value + Send + Sync;
type Read<B> = dyn Fn(&mut B, &Node<'_>, &mut Reading<'_>) + Send + Sync;
type Tell<B> = dyn Fn(&B, &Scopes<'_>, &mut Page<'_>) + Send + Sync;

/// How a value that the model holds in one field stands in a file.
struct Form<V> {
    schema: fn() -> Option<Value>,
    read: fn(&Node<'_>, &mut Reading<'_>) -> Option<V>,
    /// With the key's name and the block's place.
    tell: fn(&V, &'static str, &Scopes<'_>, &mut Page<'_>),
    spell: fn(&V) -> Value,
}

/// One key of a block.
pub(crate) struct Key<B> {
    pub(crate) name: &'static str,
    /// It is known, and not built yet.
    is_later: bool,
    /// Another name, which means the same.
    other_name: Option<&'static str>,
    /// For the operator, without the default where that is a word.
    about: &'static str,
    /// Spells the default.
    default: Option<Box<Spell<B>>>,
    /// `None`: it is not built yet, and no editor offers it.
    schema: Box<dyn Fn() -> Option<Value> + Send + Sync>,
    read: Box<Read<B>>,
    tell: Box<Tell<B>>,
}

impl<B: 'static> Block<B> {
    pub(crate) fn new(default: fn() -> B) -> Self {
        Self { default, keys: Vec::new() }
    }

    /// A key that is one word.
    pub(crate) fn word<W: Leaf + 'static>(
        self,
        name: &'static str,
        field: Field<B, W::Value>,
        about: &'static str,
    ) -> Self
    where
        W::Value: 'static,
    {
        let form = Form {
            schema: schema::word::<W>,
            read: |node, reading| node.word::<W>(reading).map(W::value),
            tell: |value, name, block, page| page.tell(&block.key(name), W::spell(value)),
            spell: W::spell,
        };
        self.value(name, field, about, form)
    }

    /// A key that is one word or a list of them.
    pub(crate) fn list<W: Leaf + 'static>(
        self,
        name: &'static str,
        field: Field<B, Vec<W::Value>>,
        about: &'static str,
    ) -> Self
    where
        W::Value: 'static,
    {
        let form = Form {
            schema: schema::words::<W>,
            read: |node, reading| Some(node.words::<W>(reading)?.into_iter().map(W::value).collect()),
            tell: |list: &Vec<W::Value>, name, block, page| {
                page.tell_list(list.iter().map(W::spell), &block.whole(name))
            },
            spell: |list: &Vec<W::Value>| list.iter().map(W::spell).collect(),
        };
        self.value(name, field, about, form)
    }

    fn value<V: 'static>(
        self,
        name: &'static str,
        Field { of, of_mut }: Field<B, V>,
        about: &'static str,
        Form { schema, read, tell, spell }: Form<V>,
    ) -> Self {
        let key = self.key(
            name,
            about,
            schema,
            move |block, node, reading| {
                if let Some(value) = read(node, reading) {
                    *of_mut(block) = value;
                }
            },
            move |block, at, page| tell(of(block), name, at, page),
        );
        key.defaults_to(move |block| spell(of(block)))
    }

    /// A key that takes one value alone, which the model need not know.
    pub(crate) fn only<W: Word + Described + 'static>(
        self,
        name: &'static str,
        told: &'static str,
        about: &'static str,
    ) -> Self {
        self.key(
            name,
            about,
            schema::word::<W>,
            |_, node, reading| {
                node.word::<W>(reading);
            },
            move |_, at, page| page.tell(&at.key(name), told),
        )
    }

    /// A key that is a block of keys; where it is written twice, in `defaults` and in a service, it is merged key by key.
    pub(crate) fn block<C: 'static>(
        self,
        name: &'static str,
        Field { of, of_mut }: Field<B, C>,
        keys: &'static Static<C>,
        about: &'static str,
    ) -> Self {
        self.key(
            name,
            about,
            || keys.schema(),
            move |block, node, reading| {
                keys.read(of_mut(block), node, reading);
            },
            move |block, at, page| keys.tell(of(block), &at.key(name), page),
        )
    }

    /// A key that is a block, or off. One that `defaults` turn off is turned on again by any block of the service.
    pub(crate) fn block_or_off<C: 'static>(
        self,
        name: &'static str,
        Field { of, of_mut }: Field<B, Option<C>>,
        keys: &'static Static<C>,
        about: &'static str,
    ) -> Self {
        self.key(
            name,
            about,
            || schema::or_off(keys.schema()),
            move |block, node, reading| keys.read_or_off(of_mut(block), node, reading),
            move |block, at, page| match of(block) {
                Some(block) => keys.tell(block, &at.key(name), page),
                None => page.tell(&at.key(name), "off"),
            },
        )
    }

    /// A key that is known and not built yet, whatever it holds. `note` takes down that it was written.
    pub(crate) fn later(self, name: &'static str, note: fn(&mut B)) -> Self {
        let read = move |block: &mut B, node: &Node<'_>, reading: &mut Reading<'_>| {
            node.asks_for_something(reading);
            refuse_unbuilt(node, reading);
            note(block);
        };
        self.key(name, "", || None, read, |_, _, _| {}).for_later()
    }

    /// A key that is known and not built yet, but may be `off` or hold nothing.
    pub(crate) fn later_or_off(self, name: &'static str) -> Self {
        let read = |_: &mut B, node: &Node<'_>, reading: &mut Reading<'_>| {
            if node.asks_for_something(reading) {
                refuse_unbuilt(node, reading);
            }
        };
        self.key(name, "", || None, read, |_, _, _| {}).for_later()
    }

    fn for_later(mut self) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.is_later = true;
        }
        self
    }

    /// Any other key. `tell` is given the block's own place.
    pub(crate) fn key(
        mut self,
        name: &'static str,
        about: &'static str,
        schema: impl Fn() -> Option<Value> + Send + Sync + 'static,
        read: impl Fn(&mut B, &Node<'_>, &mut Reading<'_>) + Send + Sync + 'static,
        tell: impl Fn(&B, &Scopes<'_>, &mut Page<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.keys.push(Key {
            name,
            is_later: false,
            other_name: None,
            about,
            default: None,
            schema: Box::new(schema),
            read: Box::new(read),
            tell: Box::new(tell),
        });
        self
    }

    /// Gives the last key another name.
    pub(crate) fn also_called(mut self, name: &'static str) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.other_name = Some(name);
        }
        self
    }

    /// The last key's default, as its sentence ends.
    fn defaults_to(mut self, default: impl Fn(&B) -> Value + Send + Sync + 'static) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.default = Some(Box::new(default));
        }
        self
    }

    /// The last key's sentence says itself what its default is: it depends on other keys.
    pub(crate) fn says_its_default(mut self) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.default = None;
        }
        self
    }

    /// The model's default, with what is written over it.
    pub(crate) fn read_new(&self, node: &Node<'_>, reading: &mut Reading<'_>) -> B {
        let mut block = (self.default)();
        self.read(&mut block, node, reading);
        block
    }

    /// Writes what is written over what is in `block`. Gives whether there is a block at all.
    pub(crate) fn read(&self, block: &mut B, node: &Node<'_>, reading: &mut Reading<'_>) -> bool {
        self.read_but(&[], block, node, reading)
    }

    /// Writes what is written over what is in `block`, without some keys, which are refused here.
    pub(crate) fn read_but(
        &self,
        refused: &[&str],
        block: &mut B,
        node: &Node<'_>,
        reading: &mut Reading<'_>,
    ) -> bool {
        let Some(entries) = node.entries(reading) else { return false };
        let mut written: Vec<Option<&Entry<'_>>> = vec![None; self.keys.len()];
        for entry in &entries {
            let called = |key: &Key<B>| key.name == entry.name || key.other_name == Some(entry.name);
            match self.keys.iter().position(called) {
                None => node.refuse_key(entry, self.unknown(entry.name), reading),
                Some(_) if !entry.value.is_written(reading) => {}
                Some(nth) if refused.contains(&self.keys[nth].name) => {
                    entry
                        .value
                        .remark_on_key("makes no sense: it is each service's own", reading)
                        .help("write it in the service that it is for");
                }
                Some(nth) if written[nth].is_some() => {
                    let Key { name, other_name, .. } = &self.keys[nth];
                    let other = other_name.unwrap_or_default();
                    let bad = BadWord::new(format!("has `{name}` and `{other}`, which are one key"));
                    node.refuse_key(entry, bad.help("keep one"), reading);
                }
                Some(nth) => written[nth] = Some(entry),
            }
        }
        for (key, entry) in self.keys.iter().zip(written) {
            if let Some(entry) = entry {
                (key.read)(block, &entry.value, reading);
            }
        }
        true
    }

    /// `off`, or the block. `on` says nothing about what is in it.
    pub(crate) fn read_or_off(&self, block: &mut Option<B>, node: &Node<'_>, reading: &mut Reading<'_>) {
        const EXPECTED: &str = "`off` or a block of keys";
        match node.shape(EXPECTED, reading) {
            None => {}
            Some(Shape::Word(leaf)) => {
                let off = match on_off(&leaf.text) {
                    Some(false) => Ok(()),
                    _ => Err(BadWord::not(&leaf.text, EXPECTED)),
                };
                if node.parsed(&leaf, off, reading).is_some() {
                    *block = None;
                }
            }
            Some(Shape::List) => node.mismatch(EXPECTED, reading),
            Some(Shape::Block) => {
                self.read(block.get_or_insert_with(self.default), node, reading);
            }
        }
    }

    /// Tells every key's value, and where it comes from.
    pub(crate) fn tell(&self, block: &B, at: &Scopes<'_>, page: &mut Page<'_>) {
        self.keys.iter().for_each(|key| (key.tell)(block, at, page));
    }

    /// What an editor is told. `None`: nothing of it is built yet.
    pub(crate) fn schema(&self) -> Option<Value> {
        self.schema_but(&[])
    }

    /// What an editor is told, without some keys.
    pub(crate) fn schema_but(&self, left_out: &[&str]) -> Option<Value> {
        let default = (self.default)();
        let mut properties = Vec::new();
        for key in self.keys.iter().filter(|key| !left_out.contains(&key.name)) {
            let Some(schema) = (key.schema)() else { continue };
            if let Some(other) = key.other_name {
                properties.push((other, schema.clone(), format!("Another name of `{}`.", key.name)));
            }
            properties.push((key.name, schema, key.sentence(&default)));
        }
        schema::block(properties)
    }

    /// Suggests what works: a key that would be refused next is no help.
    fn unknown(&self, name: &str) -> BadWord {
        let built = self.keys.iter().filter(|key| !key.is_later);
        let names: Vec<&str> = built.flat_map(|key| [Some(key.name), key.other_name]).flatten().collect();
        let help = match (elsewhere::told(name), nearest(name, &names)) {
            _ if name == "<<" => "merge keys are not YAML 1.2; write the keys out".to_owned(),
            _ if name.contains("${") => "variables are replaced in values alone, never in keys".to_owned(),
            // what a YAML 1.1 tool makes of the key `on`
            _ if names.contains(&"on") && matches!(name, "true" | "True") => {
                "a YAML 1.1 tool has turned `on:` into `true:`; write `conditions:`".to_owned()
            }
            (Some(elsewhere), Some(known)) => format!("did you mean `{known}`? {elsewhere}"),
            (Some(elsewhere), None) => elsewhere,
            (None, Some(known)) => format!("did you mean `{known}`?"),
            (None, None) => format!("it has {}", names.join(", ")),
        };
        BadWord::new(format!("has no key `{}`", shortened(name))).help(help)
    }
}

impl<B> Key<B> {
    /// For the operator: what it is, and its default.
    fn sentence(&self, default: &B) -> String {
        let default = self.default.as_ref().map(|spell| spell(default));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let default = match &default {
            None | Some(Value::Null) => String::new(),
            Some(Value::Array(list)) => list.iter().map(text).collect::<Vec<_>>().join(", "),
            Some(word) => text(word),
        };
        match default.is_empty() {
            true => self.about.to_owned(),
            false => format!("{} Default {default}.", self.about),
        }
    }
}

/// Tells of a key whose feature is not built.
fn refuse_unbuilt(node: &Node<'_>, reading: &mut Reading<'_>) {
    node.remark_on_key("is not supported yet", reading);
}
