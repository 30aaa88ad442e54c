//! What state the companions of the application are in: for `pillion_companion_up`, the page `/companions` and readiness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::family::{Family, IntGauge};
pub use super::labels::CompanionKind;
use super::labels::NameLabel;
use super::symbols::Symbols;

/// The states of all companions. Cloning is cheap.
#[derive(Clone)]
pub struct Board(Arc<Inner>);

struct Inner {
    up: Family<(CompanionKind, NameLabel), IntGauge>,
    symbols: Arc<Symbols>,
    companions: Mutex<BTreeMap<(CompanionKind, String), State>>,
}

/// The state of one companion.
#[derive(Debug, Clone)]
pub struct State {
    /// `None`: it works. `Some("starting")` until it says more.
    pub problem: Option<String>,
    /// When it changed from working to not working, or back.
    pub since: SystemTime,
    /// The last problem, which may be over, and when it was told.
    pub last_problem: Option<(SystemTime, String)>,
    /// Whether the sidecar is not ready before it has worked once.
    pub is_required: bool,
    pub has_worked: bool,
    /// What else is to be shown, by name.
    pub notes: BTreeMap<&'static str, String>,
    /// Counts the entries of this name, so that one that was replaced changes nothing any more.
    turn: u64,
}

/// A companion's own entry on the board, which is removed when this is dropped.
pub struct Entry {
    board: Board,
    key: (CompanionKind, String),
    gauge: IntGauge,
    turn: u64,
}

impl Board {
    pub(super) fn new(up: Family<(CompanionKind, NameLabel), IntGauge>, symbols: Arc<Symbols>) -> Self {
        Self(Arc::new(Inner { up, symbols, companions: Mutex::default() }))
    }

    /// Adds a companion that has not worked yet. `name` is from the configuration. An entry of the same name is replaced.
    /// `is_required`: the sidecar is not ready before this companion has worked once.
    #[must_use]
    pub fn register(&self, kind: CompanionKind, name: &str, is_required: bool) -> Entry {
        let gauge = self.0.up.of((kind, NameLabel(self.0.symbols.intern(name))));
        gauge.set(0);
        let key = (kind, name.to_owned());
        let mut companions = self.0.companions.lock();
        let turn = companions.get(&key).map_or(0, |before| before.turn + 1);
        companions.insert(key.clone(), State { turn, ..State::new(is_required) });
        drop(companions);
        Entry { board: self.clone(), key, gauge, turn }
    }

    /// Lets the sidecar wait for a companion that has not registered yet, because its thread is only just being started.
    pub fn await_first(&self, kind: CompanionKind, name: &str) {
        let state = State::new(true);
        self.0.companions.lock().entry((kind, name.to_owned())).or_insert(state);
    }

    /// Calls `look` for each companion, by kind and name.
    pub fn each(&self, mut look: impl FnMut(CompanionKind, &str, &State)) {
        self.0.companions.lock().iter().for_each(|((kind, name), state)| look(*kind, name, state));
    }

    /// What the sidecar waits for before it is ready.
    #[must_use]
    pub fn awaited(&self) -> Option<String> {
        let companions = self.0.companions.lock();
        let awaited = companions.iter().find(|(_, state)| state.is_required && !state.has_worked);
        awaited.map(|((kind, name), state)| {
            let problem = state.problem.as_deref().unwrap_or_default();
            format!("{}.{name}: {problem}", kind.as_str())
        })
    }
}

impl State {
    fn new(is_required: bool) -> Self {
        Self {
            problem: Some("starting".to_owned()),
            since: SystemTime::now(),
            last_problem: None,
            is_required,
            has_worked: false,
            notes: BTreeMap::new(),
            turn: 0,
        }
    }
}

impl Entry {
    /// Records that the companion works.
    pub fn up(&self) {
        self.gauge.set(1);
        self.change(|state| {
            if state.problem.take().is_some() {
                state.since = SystemTime::now();
            }
            state.has_worked = true;
        });
    }

    /// Records that it cannot work, and why.
    pub fn down(&self, why: impl Into<String>) {
        self.gauge.set(0);
        let (now, why) = (SystemTime::now(), why.into());
        self.change(|state| {
            if state.problem.is_none() {
                state.since = now;
            }
            state.last_problem = Some((now, why.clone()));
            state.problem = Some(why);
        });
    }

    /// Shows a value on `/companions`. It must not be secret.
    pub fn note(&self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        self.change(|state| drop(state.notes.insert(name, value)));
    }

    /// Shows a value no longer.
    pub fn drop_note(&self, name: &'static str) {
        self.change(|state| drop(state.notes.remove(name)));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut companions = self.board.0.companions.lock();
        if let Some(state) = companions.get_mut(&self.key).filter(|state| state.turn == self.turn) {
            change(state);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut companions = self.board.0.companions.lock();
        match companions.get_mut(&self.key) {
            Some(state) if state.turn != self.turn => return, // it was replaced
            // after a panic the sidecar goes on waiting for it
            Some(state) if std::thread::panicking() && state.is_required && !state.has_worked => {
                state.problem = Some("it has panicked".to_owned());
                return;
            }
            _ => drop(companions.remove(&self.key)),
        }
        drop(companions);
        let own = (self.key.0, NameLabel(self.board.0.symbols.intern(&self.key.1)));
        self.board.0.up.remove(|labels| *labels == own);
    }
}

#[cfg(test)]
mod tests {
    use crate::Metrics;
    use crate::companions::CompanionKind;

    const UP: &str = "pillion_companion_up{companion=\"sync\",name=\"settings\"}";

    #[test]
    fn a_companion_shows_whether_it_works_and_leaves_nothing_when_it_goes() {
        let metrics = Metrics::new(1000);
        let entry = metrics.companions().register(CompanionKind::Sync, "settings", false);
        assert!(metrics.encode().contains(&format!("{UP} 0\n")));
        entry.up();
        assert!(metrics.encode().contains(&format!("{UP} 1\n")));
        entry.down("connection refused");
        entry.note("version", "7");
        assert!(metrics.encode().contains(&format!("{UP} 0\n")));
        let mut seen = Vec::new();
        metrics.companions().each(|kind, name, state| {
            seen.push(format!("{} {name} {:?} {:?}", kind.as_str(), state.problem, state.notes));
        });
        assert_eq!(seen, ["sync settings Some(\"connection refused\") {\"version\": \"7\"}"]);
        drop(entry);
        metrics.companions().each(|_, name, _| unreachable!("{name}"));
        assert!(!metrics.encode().contains("pillion_companion_up{"));
    }

    #[test]
    fn an_entry_that_was_replaced_changes_nothing_any_more() {
        let metrics = Metrics::new(1000);
        let old = metrics.companions().register(CompanionKind::Sync, "settings", true);
        let new = metrics.companions().register(CompanionKind::Sync, "settings", true);
        old.up();
        drop(old);
        assert_eq!(metrics.companions().awaited().as_deref(), Some("sync.settings: starting"));
        new.up();
        assert!(metrics.encode().contains(&format!("{UP} 1\n")));
    }

    #[test]
    fn a_required_companion_that_panics_is_still_awaited() {
        let metrics = Metrics::new(1000);
        let entry = metrics.companions().register(CompanionKind::Sync, "settings", true);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _entry = entry;
            unreachable!("the panic of this test");
        }));
        assert!(panicked.is_err());
        assert_eq!(metrics.companions().awaited().as_deref(), Some("sync.settings: it has panicked"));
        metrics.companions().register(CompanionKind::Sync, "settings", true).up();
        assert_eq!(metrics.companions().awaited(), None);
    }

    #[test]
    fn a_companion_is_awaited_before_its_thread_runs() {
        let metrics = Metrics::new(1000);
        metrics.companions().await_first(CompanionKind::Sync, "settings");
        assert_eq!(metrics.companions().awaited().as_deref(), Some("sync.settings: starting"));
        let settings = metrics.companions().register(CompanionKind::Sync, "settings", true);
        settings.up();
        metrics.companions().await_first(CompanionKind::Sync, "settings");
        assert_eq!(metrics.companions().awaited(), None);
    }

    #[test]
    fn a_required_companion_is_awaited_until_it_has_worked_once() {
        let metrics = Metrics::new(1000);
        let settings = metrics.companions().register(CompanionKind::Sync, "settings", true);
        assert_eq!(metrics.companions().awaited().as_deref(), Some("sync.settings: starting"));
        settings.down("no answer");
        assert_eq!(metrics.companions().awaited().as_deref(), Some("sync.settings: no answer"));
        settings.up();
        settings.down("no answer");
        assert_eq!(metrics.companions().awaited(), None);
    }
}
