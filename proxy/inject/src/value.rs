//! A value of YAML or JSON, with its map keys in their order. Decisions read and change values; they know no text.

/// A resolved value: aliases and merge keys have been replaced by what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A number as it is written.
    Number(String),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

pub(crate) type Path = Vec<Step>;

/// The path of a key below another path.
pub(crate) fn below(path: &[Step], keys: &[&str]) -> Path {
    let keys = keys.iter().map(|key| Step::Key((*key).to_owned()));
    path.iter().cloned().chain(keys).collect()
}

/// The path of an item below another path.
pub(crate) fn nth(path: &[Step], index: usize) -> Path {
    path.iter().cloned().chain([Step::Index(index)]).collect()
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn number(number: u64) -> Self {
        Self::Number(number.to_string())
    }

    pub(crate) fn texts<T: AsRef<str>>(texts: &[T]) -> Self {
        Self::List(texts.iter().map(|text| Self::text(text.as_ref())).collect())
    }

    pub(crate) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// Adds an entry to a map that is being built.
    pub(crate) fn with(mut self, key: &str, value: Self) -> Self {
        self.put(key, value);
        self
    }

    pub(crate) fn entries(&self) -> &[(String, Self)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn into_entries(self) -> Option<Vec<(String, Self)>> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key. `None` also for a null, which counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let found = self.entries().iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value).filter(|value| **value != Self::Null)
    }

    /// The value at the end of several keys.
    pub(crate) fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |value, key| value.get(key))
    }

    pub(crate) fn text_at(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys)?.as_text()
    }

    /// The name of a container, a volume or an object.
    pub(crate) fn name(&self) -> Option<&str> {
        self.text_at(&["name"])
    }

    pub(crate) fn find(&self, path: &[Step]) -> Option<&Self> {
        path.iter().try_fold(self, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.items().get(*index),
        })
    }

    pub(crate) fn find_mut(&mut self, path: &[Step]) -> Option<&mut Self> {
        path.iter().try_fold(self, |value, step| match (step, value) {
            (Step::Key(key), Self::Map(entries)) => {
                entries.iter_mut().find(|(known, _)| known == key).map(|(_, value)| value)
            }
            (Step::Index(index), Self::List(items)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// Sets a key of a map. A null becomes a map first.
    pub(crate) fn put(&mut self, key: &str, value: Self) {
        if *self == Self::Null {
            *self = Self::Map(Vec::new());
        }
        let Self::Map(entries) = self else { return };
        match entries.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => entries.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        if let Self::Map(entries) = self {
            entries.retain(|(known, _)| known != key);
        }
    }

    /// The map at a key, which is made where it is absent. `None`: the value has no keys.
    pub(crate) fn map_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.made(key, Self::Map(Vec::new()))
    }

    /// The list at a key, which is made where it is absent. `None`: the key has another value.
    pub(crate) fn list_mut(&mut self, key: &str) -> Option<&mut Vec<Self>> {
        match self.made(key, Self::List(Vec::new())) {
            Some(Self::List(items)) => Some(items),
            _ => None,
        }
    }

    fn made(&mut self, key: &str, empty: Self) -> Option<&mut Self> {
        if self.get(key).is_none() {
            self.put(key, empty);
        }
        self.find_mut(&[Step::Key(key.to_owned())])
    }
}
