//! Free-form label values as small numbers: [`Symbol`], interned once, compared and hashed as a `u32`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// A label value that is not from a fixed vocabulary: the name of a service or route, a peer's SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Symbol(u32);

impl Symbol {
    /// The empty value: no route, no authenticated peer.
    pub(crate) const EMPTY: Self = Self(0);
    /// What stands for every value past a bound.
    pub(crate) const OTHER: Self = Self(1);
    /// The `service` of everything inbound.
    pub(crate) const APP: Self = Self(2);
    /// The `service` of destinations that no service matches.
    pub(crate) const PASSTHROUGH: Self = Self(3);

    const KNOWN: [&'static str; 4] = ["", "other", "app", "passthrough"];
}

/// Every label value seen so far; never forgets, therefore bounded.
pub(crate) struct Symbols {
    most: usize,
    names: RwLock<Names>,
}

#[derive(Default)]
struct Names {
    by_name: HashMap<Arc<str>, Symbol>,
    by_symbol: Vec<Arc<str>>,
}

impl Names {
    fn add(&mut self, name: &str) -> Symbol {
        let Ok(number) = u32::try_from(self.by_symbol.len()) else { return Symbol::OTHER };
        let name: Arc<str> = name.into();
        self.by_symbol.push(name.clone());
        self.by_name.insert(name, Symbol(number));
        Symbol(number)
    }
}

impl Symbols {
    /// At most `most` values besides the ones with a name of their own.
    pub(crate) fn new(most: usize) -> Self {
        let mut names = Names::default();
        for known in Symbol::KNOWN {
            names.add(known);
        }
        Self { most: most.saturating_add(Symbol::KNOWN.len()), names: RwLock::new(names) }
    }

    /// The symbol of `name`, [`Symbol::OTHER`] for a new name when the table is full.
    ///
    /// Takes a shared lock: call it once per connection or configuration, not per request.
    pub(crate) fn intern(&self, name: &str) -> Symbol {
        let known = self.names.read().by_name.get(name).copied();
        known.unwrap_or_else(|| self.intern_new(name))
    }

    fn intern_new(&self, name: &str) -> Symbol {
        let mut names = self.names.write();
        match names.by_name.get(name) {
            Some(known) => *known,
            None if names.by_symbol.len() >= self.most => Symbol::OTHER,
            None => names.add(name),
        }
    }

    /// What was interned as `symbol`.
    pub(crate) fn name(&self, symbol: Symbol) -> Arc<str> {
        let names = self.names.read();
        let name = usize::try_from(symbol.0).ok().and_then(|number| names.by_symbol.get(number).cloned());
        name.unwrap_or_else(|| "other".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_answers_other_and_keeps_what_it_knew() {
        let symbols = Symbols::new(2);
        let billing = symbols.intern("billing");
        let search = symbols.intern("search");
        assert_eq!(symbols.intern("one-too-many"), Symbol::OTHER);
        assert_eq!((symbols.intern("billing"), symbols.intern("search")), (billing, search));
        assert_eq!(&*symbols.name(billing), "billing");
    }

    #[test]
    fn the_named_symbols_are_what_their_words_intern_to() {
        let symbols = Symbols::new(0);
        for (symbol, name) in [Symbol::EMPTY, Symbol::OTHER, Symbol::APP].into_iter().zip(Symbol::KNOWN) {
            assert_eq!(symbols.intern(name), symbol, "{name:?}");
            assert_eq!(&*symbols.name(symbol), name);
        }
    }
}
