//! Shares equal policies of clusters and routes. Most services of a large configuration differ only in their names and
//! endpoints.

use std::sync::Arc;

use pillion_model::policy::{ConnectionPolicy, OutlierDetection, Retry, Timeouts};

/// The number of different values that are remembered. A configuration rarely has more of one kind, and a value that
/// was forgotten is merely stored a second time.
const REMEMBERED: usize = 16;

#[derive(Default)]
pub struct Policies {
    pub timeouts: Alike<Timeouts>,
    pub connections: Alike<ConnectionPolicy>,
    pub retries: Alike<Retry>,
    pub outliers: Alike<OutlierDetection>,
}

/// The values that were shared last.
pub struct Alike<T> {
    known: Vec<Arc<T>>,
    /// The index of the value that the next new value replaces.
    oldest: usize,
}

impl<T> Default for Alike<T> {
    fn default() -> Self {
        Self { known: Vec::new(), oldest: 0 }
    }
}

impl<T: PartialEq + Clone> Alike<T> {
    pub fn share(&mut self, value: &T) -> Arc<T> {
        if let Some(known) = self.known.iter().find(|known| ***known == *value) {
            return known.clone();
        }
        let new = Arc::new(value.clone());
        match self.known.get_mut(self.oldest) {
            Some(oldest) => *oldest = new.clone(),
            None => self.known.push(new.clone()),
        }
        self.oldest = (self.oldest + 1) % REMEMBERED;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c18_equal_values_are_kept_once_and_few_different_ones_are_remembered() {
        let mut alike = Alike::default();
        let first = alike.share(&"a".to_owned());
        assert!(Arc::ptr_eq(&first, &alike.share(&"a".to_owned())));
        for nth in 0..10 * REMEMBERED {
            let value = nth.to_string();
            assert_eq!(*alike.share(&value), value);
            assert!(Arc::ptr_eq(&alike.share(&value), &alike.share(&value)));
            assert!(alike.known.len() <= REMEMBERED);
        }
        assert!(!Arc::ptr_eq(&first, &alike.share(&"a".to_owned())), "the first one was forgotten");
    }
}
