//! What `pillion top` shows, as a function of what happened: events, keys, and losses of the connection. Pure.

use super::history::{Change, History, Key as Whose};
use super::picture::{Failure, Picture};

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Input {
    Event(Box<Picture>),
    /// The connection was lost, or could not be made again; with the reason.
    Lost(String),
    Key(Key),
    /// The terminal has another size.
    Resized,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    /// Closes what is open.
    Back,
    Pause,
    Help,
    Quit,
}

/// The tables, in the order in which they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Callers,
    Services,
    Failures,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Callers, Self::Services, Self::Failures];
}

/// A row with what it did in the last minute.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) whose: Whose,
    pub(super) change: Option<Change>,
    /// Requests under way.
    pub(super) active: Option<i64>,
    /// Healthy endpoints, and all of them.
    pub(super) endpoints: Option<(i64, i64)>,
}

/// An event with the rates that belong to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Shown {
    pub(super) picture: Picture,
    pub(super) callers: Vec<Row>,
    /// The application first, then the services, the busiest first.
    pub(super) services: Vec<Row>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    history: History,
    pub(super) shown: Option<Shown>,
    /// What came while the view was paused.
    waiting: Option<Shown>,
    /// Why there is no connection.
    pub(super) lost: Option<String>,
    /// The process began after this program did.
    pub(super) has_restarted: bool,
    pub(super) is_paused: bool,
    pub(super) has_help: bool,
    pub(super) focus: Focus,
    /// The failure whose timeline is open. It stays although newer ones take its place.
    pub(super) opened: Option<Box<Failure>>,
    /// The first line of the timeline or of the help that is shown, and the last one that can be: the view knows it.
    pub(super) scrolled: usize,
    pub(super) last_line: usize,
    pub(super) has_ended: bool,
}

/// The table that has the keys, and the selected row of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Focus {
    pub(super) table: Table,
    rows: [usize; 3],
}

impl Default for Focus {
    fn default() -> Self {
        Self { table: Table::Failures, rows: [0; 3] }
    }
}

impl Focus {
    pub(super) const fn row(&self, table: Table) -> usize {
        let [callers, services, failures] = self.rows;
        match table {
            Table::Callers => callers,
            Table::Services => services,
            Table::Failures => failures,
        }
    }

    const fn set(&mut self, table: Table, row: usize) {
        let [callers, services, failures] = &mut self.rows;
        match table {
            Table::Callers => *callers = row,
            Table::Services => *services = row,
            Table::Failures => *failures = row,
        }
    }
}

/// How many rows a page key moves.
const PAGE: usize = 10;

impl State {
    pub(super) fn apply(&mut self, input: Input) {
        match input {
            Input::Event(picture) => self.learn(*picture),
            Input::Lost(why) => self.lost = Some(why),
            Input::Key(key) => self.press(key),
            Input::Resized => {}
        }
    }

    fn learn(&mut self, picture: Picture) {
        let former = self.waiting.as_ref().or(self.shown.as_ref()).map(|shown| shown.picture.started_ms);
        self.has_restarted |= former.is_some_and(|former| former != picture.started_ms);
        self.lost = None;
        self.history.remember(&picture);
        let next = Shown::of(picture, &self.history);
        match self.is_paused {
            true => self.waiting = Some(next),
            false => self.show(next),
        }
    }

    /// The selection of failures stays at its failure while newer ones come, unless it is at the top.
    fn show(&mut self, next: Shown) {
        let selected = self.selected().map(|failure| failure.key.clone());
        let row = self.focus.row(Table::Failures);
        if let (Some(key), 1..) = (selected, row) {
            let at = next.failures().iter().position(|failure| failure.key == key);
            self.focus.set(Table::Failures, at.unwrap_or(row));
        }
        self.shown = Some(next);
        for table in Table::ALL {
            let last = self.len(table).saturating_sub(1);
            self.focus.set(table, self.focus.row(table).min(last));
        }
    }

    pub(super) fn len(&self, table: Table) -> usize {
        let Some(shown) = &self.shown else { return 0 };
        match table {
            Table::Callers => shown.callers.len(),
            Table::Services => shown.services.len(),
            Table::Failures => shown.failures().len(),
        }
    }

    fn selected(&self) -> Option<&Failure> {
        self.shown.as_ref()?.failures().get(self.focus.row(Table::Failures))
    }

    fn press(&mut self, key: Key) {
        match key {
            Key::Quit => self.has_ended = true,
            Key::Help => (self.has_help, self.scrolled) = (!self.has_help, 0),
            Key::Pause => self.pause(),
            Key::Back => {
                match self.has_help {
                    true => self.has_help = false,
                    false => self.opened = None,
                }
                self.scrolled = 0;
            }
            Key::Enter if self.focus.table == Table::Failures && !self.has_help && self.opened.is_none() => {
                self.opened = self.selected().cloned().map(Box::new);
                self.scrolled = 0;
            }
            Key::Enter => {}
            _ if self.has_help || self.opened.is_some() => {
                self.scrolled = moved(self.scrolled, key, self.last_line)
            }
            Key::Left | Key::Right => self.turn(key),
            _ => {
                let table = self.focus.table;
                let last = self.len(table).saturating_sub(1);
                self.focus.set(table, moved(self.focus.row(table), key, last));
            }
        }
    }

    fn pause(&mut self) {
        self.is_paused = !self.is_paused;
        if let (false, Some(waiting)) = (self.is_paused, self.waiting.take()) {
            self.show(waiting);
        }
    }

    /// The keys go to the next table.
    const fn turn(&mut self, key: Key) {
        self.focus.table = match (self.focus.table, matches!(key, Key::Right)) {
            (Table::Callers, true) | (Table::Failures, false) => Table::Services,
            (Table::Services, true) | (Table::Callers, false) => Table::Failures,
            (Table::Failures, true) | (Table::Services, false) => Table::Callers,
        };
    }
}

/// The place after a key that moves by lines.
fn moved(from: usize, key: Key, last: usize) -> usize {
    let to = match key {
        Key::Up => from.saturating_sub(1),
        Key::Down => from.saturating_add(1),
        Key::PageUp => from.saturating_sub(PAGE),
        Key::PageDown => from.saturating_add(PAGE),
        Key::Home => 0,
        Key::End => last,
        _ => from,
    };
    to.min(last)
}

impl Shown {
    fn of(picture: Picture, history: &History) -> Self {
        let callers = picture.callers.iter().map(|of| {
            let whose = Whose::Caller(of.peer.clone());
            Row { change: history.change(&whose), whose, active: None, endpoints: None }
        });
        let services = picture.services.iter().map(|of| {
            let whose = Whose::Service(of.is_inbound, of.name.clone());
            Row { change: history.change(&whose), whose, active: Some(of.active), endpoints: of.endpoints }
        });
        let (callers, services) = (sorted(callers.collect()), sorted(services.collect()));
        Self { picture, callers, services }
    }

    pub(super) fn failures(&self) -> &[Failure] {
        self.picture.failures.as_deref().unwrap_or_default()
    }
}

/// The inbound side first, then the busiest.
fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    let rate = |row: &Row| row.change.as_ref().map_or(0.0, |change| change.rate);
    let is_outbound = |row: &Row| matches!(row.whose, Whose::Service(false, _));
    rows.sort_by(|one, other| {
        is_outbound(one).cmp(&is_outbound(other)).then_with(|| rate(other).total_cmp(&rate(one)))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, failures};
    use super::*;

    fn learn(state: &mut State, event: &serde_json::Value) {
        state.apply(Input::Event(Box::new(Picture::read(event).expect("an event"))));
    }

    fn press(state: &mut State, keys: &[Key]) {
        keys.iter().for_each(|key| state.apply(Input::Key(*key)));
    }

    #[test]
    fn a_lost_connection_is_told_until_the_next_event_and_another_start_is_a_restart() {
        let mut state = State::default();
        learn(&mut state, &event(7));
        state.apply(Input::Lost("refused".into()));
        assert_eq!(state.lost.as_deref(), Some("refused"));
        assert!(state.shown.is_some(), "what was known stays");
        learn(&mut state, &event(7));
        assert!(state.lost.is_none() && !state.has_restarted);
        let mut other = event(7);
        other["started_ms"] = 9.into();
        learn(&mut state, &other);
        assert!(state.has_restarted);
    }

    #[test]
    fn a_paused_view_stays_and_goes_on_with_the_newest_event() {
        let mut state = State::default();
        learn(&mut state, &event(7));
        press(&mut state, &[Key::Pause]);
        let before = state.shown.clone();
        learn(&mut state, &event(8));
        learn(&mut state, &event(9));
        assert_eq!(state.shown, before);
        press(&mut state, &[Key::Pause]);
        assert_eq!(state.shown.map(|shown| shown.picture.uptime_ms), Some(9000));
    }

    #[test]
    fn the_selection_stays_at_its_failure_and_an_opened_one_stays_open() {
        let mut state = State::default();
        let mut now = event(7);
        now["failures"] = failures(&["c", "b", "a"]);
        learn(&mut state, &now);
        press(&mut state, &[Key::Down, Key::Enter]);
        let opened = |state: &State| state.opened.as_ref().map(|failure| failure.key.0.clone());
        assert_eq!(opened(&state).as_deref(), Some("b"));
        now["failures"] = failures(&["d", "c", "b"]);
        learn(&mut state, &now);
        assert_eq!(state.focus.row(Table::Failures), 2, "it moved with its failure");
        now["failures"] = failures(&["f"]);
        learn(&mut state, &now);
        assert_eq!((opened(&state).as_deref(), state.focus.row(Table::Failures)), (Some("b"), 0));
        press(&mut state, &[Key::Back]);
        assert_eq!(opened(&state), None);
    }

    #[test]
    fn keys_move_within_a_table_and_between_tables() {
        let mut state = State::default();
        press(&mut state, &[Key::Down, Key::End, Key::Enter, Key::PageDown]);
        assert!(state.opened.is_none(), "nothing is there yet");
        learn(&mut state, &event(7));
        press(&mut state, &[Key::Right, Key::Right]);
        assert_eq!(state.focus.table, Table::Services);
        press(&mut state, &[Key::Down, Key::Down, Key::Down, Key::Enter]);
        assert_eq!(
            (state.focus.row(Table::Services), state.opened.is_none()),
            (state.len(Table::Services) - 1, true)
        );
        press(&mut state, &[Key::Left, Key::Up]);
        assert_eq!(state.focus.table, Table::Callers);
        press(&mut state, &[Key::Help]);
        state.last_line = 3;
        press(&mut state, &[Key::End, Key::Up, Key::Up]);
        assert!(state.has_help && state.scrolled == 1);
        press(&mut state, &[Key::Back, Key::Quit]);
        assert!(!state.has_help && state.has_ended);
    }
}
