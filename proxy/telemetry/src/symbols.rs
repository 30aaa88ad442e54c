//! Free-form label values as small numbers: each is interned once as a [`Symbol`], and compared and hashed as a `u32`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// A label value that is not from a fixed set: the name of a service or route, a peer's SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symbol(u32);

impl Symbol {
    /// The empty value: no route, no authenticated peer.
    pub const EMPTY: Self = Self(0);
    /// Stands for every value beyond a bound.
    pub const OTHER: Self = Self(1);
    /// The `service` label of all inbound traffic.
    pub const APP: Self = Self(2);
    /// The `service` label of destinations that no service matches.
    pub const PASSTHROUGH: Self = Self(3);

    const KNOWN: [&'static str; 4] = ["", "other", "app", "passthrough"];

    /// Whether the symbol is one of the constants, which no configuration changes.
    pub(super) fn is_known(self) -> bool {
        usize::try_from(self.0).is_ok_and(|number| number < Self::KNOWN.len())
    }
}

/// 262,144 names of services and routes in the life of a process, about 30 MB. A configuration has at most some ten
/// thousand; names that are new with each reload, such as those with a commit in them, reach this after years.
const NAMES: usize = 1 << 18;

/// Every label value seen so far. None is removed, because a request under way may still have its symbol, and a name that
/// comes back gets its symbol again. Values that peers choose, which are their identities, have a bound of their own.
pub struct Symbols {
    /// The most values that peers choose.
    most: usize,
    most_names: usize,
    names: RwLock<Interner>,
}

#[derive(Default)]
struct Interner {
    by_name: HashMap<Arc<str>, Symbol>,
    by_symbol: Vec<Arc<str>>,
    /// How many of the values peers have chosen.
    bounded: usize,
}

impl Interner {
    fn add(&mut self, name: &str) -> Symbol {
        let Ok(number) = u32::try_from(self.by_symbol.len()) else { return Symbol::OTHER };
        let name: Arc<str> = name.into();
        self.by_symbol.push(name.clone());
        self.by_name.insert(name, Symbol(number));
        Symbol(number)
    }
}

impl Symbols {
    /// At most `most` values of [`Self::intern_bounded`].
    pub fn new(most: usize) -> Self {
        Self::bounded(most, NAMES)
    }

    fn bounded(most: usize, most_names: usize) -> Self {
        let mut names = Interner::default();
        for known in Symbol::KNOWN {
            names.add(known);
        }
        Self { most, most_names, names: RwLock::new(names) }
    }

    /// The symbol of `name`, a name of the configuration. A new name is [`Symbol::OTHER`] if there are too many.
    ///
    /// Takes a shared lock: call it once per connection or configuration, not per request.
    pub fn intern(&self, name: &str) -> Symbol {
        self.known(name).unwrap_or_else(|| {
            let mut names = self.names.write();
            match names.by_name.get(name) {
                Some(known) => *known,
                None if names.by_symbol.len() - names.bounded >= self.most_names => Symbol::OTHER,
                None => names.add(name),
            }
        })
    }

    /// The symbol of a value that a peer chooses. A new value is [`Symbol::OTHER`] if there are too many.
    pub fn intern_bounded(&self, name: &str) -> Symbol {
        self.known(name).unwrap_or_else(|| self.intern_new(name))
    }

    pub(super) fn known(&self, name: &str) -> Option<Symbol> {
        self.names.read().by_name.get(name).copied()
    }

    fn intern_new(&self, name: &str) -> Symbol {
        let mut names = self.names.write();
        match names.by_name.get(name) {
            Some(known) => *known,
            None if names.bounded >= self.most => Symbol::OTHER,
            None => {
                names.bounded += 1;
                names.add(name)
            }
        }
    }

    /// The value of `symbol`.
    pub fn name(&self, symbol: Symbol) -> Arc<str> {
        let names = self.names.read();
        let name = usize::try_from(symbol.0).ok().and_then(|number| names.by_symbol.get(number).cloned());
        name.unwrap_or_else(|| "other".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_returns_other_and_keeps_its_symbols() {
        let symbols = Symbols::new(2);
        let web = symbols.intern_bounded("web");
        let search = symbols.intern_bounded("search");
        assert_eq!(symbols.intern_bounded("one-too-many"), Symbol::OTHER);
        assert_eq!((symbols.intern_bounded("web"), symbols.intern_bounded("search")), (web, search));
        let billing = symbols.intern("billing");
        assert_ne!(
            billing,
            Symbol::OTHER,
            "names of the configuration do not count against the bound of peers"
        );
        assert_eq!(symbols.intern_bounded("billing"), billing);
        assert_eq!(&*symbols.name(billing), "billing");
    }

    /// Services of ever new names come and go by reload.
    #[test]
    fn c4_ever_new_names_of_the_configuration_are_bounded_and_known_ones_keep_their_symbols() {
        let symbols = Symbols::bounded(5, Symbol::KNOWN.len() + 2);
        let peer = symbols.intern_bounded("spiffe://example.org/a");
        let [web, billing] = ["web", "billing"].map(|name| symbols.intern(name));
        assert_eq!((0..10).filter(|nth| symbols.intern(&nth.to_string()) != Symbol::OTHER).count(), 0);
        assert_eq!(["web", "billing"].map(|name| symbols.intern(name)), [web, billing]);
        assert_ne!(symbols.intern_bounded("spiffe://example.org/b"), peer, "peers have a bound of their own");
        assert_ne!(symbols.intern_bounded("spiffe://example.org/b"), Symbol::OTHER);
    }

    #[test]
    fn the_constant_symbols_are_those_of_their_words() {
        let symbols = Symbols::new(0);
        for (symbol, name) in [Symbol::EMPTY, Symbol::OTHER, Symbol::APP].into_iter().zip(Symbol::KNOWN) {
            assert_eq!(symbols.intern(name), symbol, "{name:?}");
            assert_eq!(&*symbols.name(symbol), name);
        }
    }
}
