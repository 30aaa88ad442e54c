//! The place of a key in a configuration, in the terms of the model: `services.orders.endpoints[1].weight`.
//!
//! The names are those of the file, because people know these. A source with another structure (an Envoy bootstrap,
//! xDS) translates a path to its own place.

use std::fmt;

/// One step from a block to a key or an item in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathStep {
    /// The name of a key, of a service or of a header.
    Key(String),
    /// The number of an item in a list, from 0.
    Index(usize),
}

/// The path of a key from the root of the configuration. An empty path is the configuration as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Path(pub Vec<PathStep>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, step) in self.0.iter().enumerate() {
            match step {
                PathStep::Key(key) if nth == 0 => f.write_str(key)?,
                PathStep::Key(key) => write!(f, ".{key}")?,
                PathStep::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Path {
    /// Whether this key is `block` or lies inside it. `services.orders.tls` is within `services.orders`, but
    /// `services.orders` is not within `services.or`.
    pub fn is_within(&self, block: &Self) -> bool {
        self.0.starts_with(&block.0)
    }

    /// Whether one of the two keys lies within the other.
    pub fn is_related_to(&self, other: &Self) -> bool {
        self.is_within(other) || other.is_within(self)
    }
}

/// The path of the key that a check has reached. It lives on the stack: only a fault costs an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Trail<'a> {
    before: Option<&'a Self>,
    last: Last<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Last<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Trail<'a> {
    /// The configuration as a whole.
    pub const fn root() -> Self {
        Self { before: None, last: Last::Root }
    }

    /// The key of this name in the block that this trail leads to.
    pub const fn key(&'a self, key: &'a str) -> Self {
        Self { before: Some(self), last: Last::Key(key) }
    }

    /// The item of this number, from 0, in the list that this trail leads to.
    pub const fn index(&'a self, index: usize) -> Self {
        Self { before: Some(self), last: Last::Index(index) }
    }

    /// The whole path.
    pub fn path(&self) -> Path {
        let mut path = self.before.map(Trail::path).unwrap_or_default();
        path.0.extend(match self.last {
            Last::Root => None,
            Last::Key(key) => Some(PathStep::Key(key.to_owned())),
            Last::Index(index) => Some(PathStep::Index(index)),
        });
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_name_is_not_within_a_shorter_one() {
        let root = Trail::root();
        let services = root.key("services");
        let (orders, or) = (services.key("orders"), services.key("or"));
        assert!(orders.key("tls").path().is_within(&orders.path()));
        assert!(!orders.path().is_within(&or.path()));
        assert!(orders.path().is_related_to(&orders.key("endpoints").index(1).path()));
        assert_eq!(
            orders.key("endpoints").index(1).key("weight").path().to_string(),
            "services.orders.endpoints[1].weight"
        );
    }
}
