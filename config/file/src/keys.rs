//! Declares every key of the file, once.
//!
//! A [`Block`] is a list of [`Key`]s. A key has its name, its description for the operator, how its value is read into
//! the model, and how the model's value is reported. Four things are made from these declarations: reading, `defaults`
//! (they are read before the keys of the service, which replace them), the effective configuration, and the schema. The
//! default of a key comes from the model and is not repeated here.
//!
//! A new key that holds one word costs one line in one of the modules below, beside its field in the model.

mod authorization;
mod ext_authz;
mod jwt;
mod merge;
mod balancer;
mod elsewhere;
mod headers;
mod health;
mod identity;
mod inbound;
mod logs;
mod observe;
mod port_tls;
mod process;
mod root;
mod routes;
mod service;
mod sync;
mod tls;
mod tracing;

use std::sync::LazyLock;

use pillion_model::text::{nearest, shortened};
use serde_json::{Value, json};

use crate::page::{Page, Scopes};
use crate::reading::{Entry, Node, Reading, Shape};
use crate::schema;
use crate::value::{BadWord, Leaf, on_off};

pub(crate) use inbound::INBOUND;
pub(crate) use root::FILE;
pub(crate) use routes::tell_one as tell_route;
pub(crate) use service::SERVICE;

/// The release that has every key which does not name another one.
const FIRST_RELEASE: &str = "0.1.0";

/// Where in the model the value of a key is.
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

/// What a key has that takes `off` or a block of keys.
pub(crate) enum OffOrBlock {
    Off,
    Block,
}

/// `None`: the key has nothing, or what it has was refused. `on` is refused, because it does not say what the block holds.
pub(crate) fn off_or_block(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<OffOrBlock> {
    const EXPECTED: &str = "`off` or a block of keys";
    match node.shape(EXPECTED, reading)? {
        Shape::Word(leaf) => {
            let off = match on_off(&leaf.text) {
                Some(false) => Ok(OffOrBlock::Off),
                _ => Err(BadWord::not(&leaf.text, EXPECTED)),
            };
            node.parsed(&leaf, off, reading)
        }
        Shape::List => {
            node.mismatch(EXPECTED, reading);
            None
        }
        Shape::Block => Some(OffOrBlock::Block),
    }
}

/// A block of keys, read into a `B`.
pub(crate) struct Block<B> {
    /// The value in the model of a block without keys.
    default: fn() -> B,
    keys: Vec<Key<B>>,
}

/// A block in a static, because blocks refer to each other.
pub(crate) type Static<B> = LazyLock<Block<B>>;

type Spell<B> = dyn Fn(&B) -> Value + Send + Sync;
type Read<B> = dyn Fn(&mut B, &Node<'_>, &mut Reading<'_>) + Send + Sync;
type Tell<B> = dyn Fn(&B, &Scopes<'_>, &mut Page<'_>) + Send + Sync;

/// How a file holds a value that the model has in one field.
struct Form<V> {
    schema: fn() -> Option<Value>,
    read: fn(&Node<'_>, &mut Reading<'_>) -> Option<V>,
    /// Takes the key's name and the block's place.
    tell: fn(&V, &'static str, &Scopes<'_>, &mut Page<'_>),
    spell: fn(&V) -> Value,
}

/// One key of a block.
pub(crate) struct Key<B> {
    pub(crate) name: &'static str,
    /// Another name of this key.
    other_name: Option<&'static str>,
    /// The description for the operator, without the default where the default is a word.
    about: &'static str,
    /// Gives the default as the file would spell it.
    default: Option<Box<Spell<B>>>,
    /// The values that are taken, where the form of the value does not say it.
    range: Option<&'static str>,
    /// The first release that has the key.
    since: &'static str,
    /// Whether a reload that changes the key, or a key inside it, is refused.
    takes_restart: bool,
    /// `None`: the feature does not exist yet, and editors do not offer the key.
    schema: Box<dyn Fn() -> Option<Value> + Send + Sync>,
    read: Box<Read<B>>,
    tell: Box<Tell<B>>,
}

impl<B: 'static> Block<B> {
    pub(crate) fn new(default: fn() -> B) -> Self {
        Self { default, keys: Vec::new() }
    }

    /// Adds a key that holds one word.
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

    /// Adds a key that holds one word or a list of words.
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

    /// Adds a key that holds a block of keys. Where both `defaults` and a service set it, the keys of the service
    /// replace those of `defaults` one by one.
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

    /// Adds a key that holds a block or `off`. If `defaults` turn it off, any block in the service turns it on again.
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

    /// Adds any other key. `tell` receives the place of the block.
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
            other_name: None,
            about,
            default: None,
            range: None,
            since: FIRST_RELEASE,
            takes_restart: false,
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

    /// The values that the last key takes, in words: bounds that the model checks.
    pub(crate) fn takes(mut self, range: &'static str) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.range = Some(range);
        }
        self
    }

    /// The release that brought the last key, where that is not the first one.
    #[allow(dead_code, reason = "the first release is not made yet; the first key after it needs this")]
    pub(crate) fn since(mut self, release: &'static str) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.since = release;
        }
        self
    }

    /// A reload that changes the last key is refused: it needs a restart.
    pub(crate) fn takes_restart(mut self) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.takes_restart = true;
        }
        self
    }

    /// Appends the default to the description of the last key.
    fn defaults_to(mut self, default: impl Fn(&B) -> Value + Send + Sync + 'static) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.default = Some(Box::new(default));
        }
        self
    }

    /// Removes the default from the description of the last key, because the description itself explains it: it depends
    /// on other keys.
    pub(crate) fn says_its_default(mut self) -> Self {
        if let Some(key) = self.keys.last_mut() {
            key.default = None;
        }
        self
    }

    /// Reads a block over the model's default.
    pub(crate) fn read_new(&self, node: &Node<'_>, reading: &mut Reading<'_>) -> B {
        let mut block = (self.default)();
        self.read(&mut block, node, reading);
        block
    }

    /// Reads the keys of a block over the values in `block`. Returns whether the node is a block at all.
    pub(crate) fn read(&self, block: &mut B, node: &Node<'_>, reading: &mut Reading<'_>) -> bool {
        self.read_but(&[], block, node, reading)
    }

    /// Reads the keys of a block over the values in `block`. The keys in `refused` are refused.
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
                        .remark_on_key("is not allowed here: each service has its own", reading)
                        .help("write it in the service that needs it");
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

    /// Reads `off` or a block. `on` is refused, because it does not say what the block holds.
    pub(crate) fn read_or_off(&self, block: &mut Option<B>, node: &Node<'_>, reading: &mut Reading<'_>) {
        match off_or_block(node, reading) {
            None => {}
            Some(OffOrBlock::Off) => *block = None,
            Some(OffOrBlock::Block) => {
                self.read(block.get_or_insert_with(self.default), node, reading);
            }
        }
    }

    /// Reports every key's value and its origin.
    pub(crate) fn tell(&self, block: &B, at: &Scopes<'_>, page: &mut Page<'_>) {
        self.keys.iter().for_each(|key| (key.tell)(block, at, page));
    }

    /// The schema for editors. `None`: no key of this block has a feature that exists.
    pub(crate) fn schema(&self) -> Option<Value> {
        self.schema_but(&[])
    }

    /// The schema for editors, without the keys in `left_out`.
    pub(crate) fn schema_but(&self, left_out: &[&str]) -> Option<Value> {
        let default = (self.default)();
        let mut properties = Vec::new();
        for key in self.keys.iter().filter(|key| !left_out.contains(&key.name)) {
            let Some(schema) = (key.schema)() else { continue };
            let facts = key.facts(properties.len(), &default);
            if let Some(other) = key.other_name {
                let about = format!("Another name of `{}`.", key.name);
                properties.push((other, schema.clone(), about, facts.clone()));
            }
            properties.push((key.name, schema, key.sentence(&default), facts));
        }
        schema::block(properties)
    }

    fn unknown(&self, name: &str) -> BadWord {
        let names: Vec<&str> =
            self.keys.iter().flat_map(|key| [Some(key.name), key.other_name]).flatten().collect();
        let help = match (elsewhere::help_for(name), nearest(name, &names)) {
            _ if name == "<<" => "merge keys are not YAML 1.2; write the keys out".to_owned(),
            _ if name.contains("${") => "variables are replaced in values alone, never in keys".to_owned(),
            // a YAML 1.1 tool turns the key `on` into `true`
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
    /// The description for the operator, with the default.
    fn sentence(&self, default: &B) -> String {
        match self.spelled_default(default) {
            None => self.about.to_owned(),
            Some(default) => format!("{} Default {default}.", self.about),
        }
    }

    fn spelled_default(&self, default: &B) -> Option<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let spelled = match self.default.as_ref().map(|spell| spell(default))? {
            Value::Null => String::new(),
            Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
            word => text(&word),
        };
        (!spelled.is_empty()).then_some(spelled)
    }

    /// For the reference: what the sentence and the form of the value do not say.
    fn facts(&self, place: usize, default: &B) -> Value {
        json!({
            "place": place,
            "about": self.about,
            "default": self.spelled_default(default),
            "range": self.range,
            "since": self.since,
            "change": if self.takes_restart { "restart" } else { "reload" },
        })
    }
}
