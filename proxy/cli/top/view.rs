//! Draws a state into the cells of a terminal. Pure: the same state, theme and size give the same cells.

mod tables;
mod text;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::super::timeline;
use super::picture::Certificate;
use super::state::{Shown, State, Table};
use super::words::span;
use tables::Section;
use text::{fit, wrapped};

/// Smaller terminals show this size only.
pub(super) const SMALLEST: (u16, u16) = (40, 10);
/// The lines above and below the tables.
const HEAD: u16 = 3;
const FOOT: u16 = 1;
/// A process that is younger has just restarted.
const YOUNG_S: u64 = 60;

const KEYS: &str = " q quit  ↑↓ row  ←→ table  enter timeline  p pause  ? help";
const KEYS_OPENED: &str = " esc back  ↑↓ scroll  p pause  q quit";

const HELP: &str = "\
Rates, failures and percentiles are those of the last minute. A dash says that there are no data yet.

q, Ctrl-C    end
↑ ↓ j k      the row; PgUp, PgDn, Home, End
← → Tab      the table
Enter        the timeline of the selected failure
Esc          back
p            pause: what is shown stays; press again to go on
?            this help

→ name       a service that the application calls
● app        the application
failed       a 5xx, a refusal or an end by the sidecar, or a gRPC status that blames the server
retries      further tries that were made
refused      requests that a limit of the circuit breaker refused
endp.        healthy endpoints of all
";

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Theme {
    pub(super) has_colours: bool,
}

/// How much attention a text needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Dim,
    Plain,
    Warning,
    Bad,
}

impl Theme {
    fn style(self, tone: Tone) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match (tone, self.has_colours) {
            (Tone::Plain, _) | (Tone::Dim, false) => Style::new(),
            (Tone::Dim, true) => Style::new().fg(Color::DarkGray),
            (Tone::Warning, true) => Style::new().fg(Color::Yellow),
            (Tone::Bad, true) => bold.fg(Color::Red),
            (Tone::Warning | Tone::Bad, false) => bold,
        }
    }
}

/// Draws, and returns the last line to which a timeline or the help can be scrolled.
pub(super) fn draw(state: &State, theme: Theme, area: Rect, to: &mut Buffer) -> usize {
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let said = format!("too small: {}×{} of {}×{}", area.width, area.height, SMALLEST.0, SMALLEST.1);
        if area.height > 0 {
            to.set_stringn(area.x, area.y, said, area.width.into(), Style::new());
        }
        return 0;
    }
    head(state, theme, area, to);
    let body = Rect { y: area.y + HEAD, height: area.height - HEAD - FOOT, ..area };
    let (keys, last) = match (state.has_help, &state.opened) {
        (true, _) => (KEYS_OPENED, page(HELP, state.scrolled, body, to)),
        (false, Some(failure)) => {
            let bar = usize::from(area.width).saturating_sub(45).clamp(10, timeline::BAR);
            (KEYS_OPENED, page(&timeline::told_in(&failure.whole, bar), state.scrolled, body, to))
        }
        (false, None) => {
            tables(state, theme, body, to);
            (KEYS, 0)
        }
    };
    let foot = fit(keys, area.width.into());
    to.set_string(area.x, area.bottom() - FOOT, foot, Style::new().add_modifier(Modifier::REVERSED));
    last
}

/// A text, from a line on. Returns the last line to which it can be scrolled.
fn page(text: &str, from: usize, body: Rect, to: &mut Buffer) -> usize {
    let lines: Vec<String> = text.lines().flat_map(|line| wrapped(line, body.width.into())).collect();
    let last = lines.len().saturating_sub(body.height.into());
    for (y, line) in (body.top()..body.bottom()).zip(lines.iter().skip(from.min(last))) {
        to.set_stringn(body.x, y, line, body.width.into(), Style::new());
    }
    last
}

fn head(state: &State, theme: Theme, area: Rect, to: &mut Buffer) {
    let status = match (state.is_paused, &state.lost, &state.shown) {
        (_, Some(_), _) => "no connection ",
        (true, ..) => "paused ",
        (false, _, None) => "waiting ",
        (false, _, Some(_)) => "live ",
    };
    let workload = state.shown.as_ref().map_or("", |shown| &shown.picture.workload);
    let width = usize::from(area.width);
    let title = fit(&format!(" pillion top  {workload}"), width.saturating_sub(status.len())) + status;
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    to.set_stringn(area.x, area.y, title, width, reversed.add_modifier(Modifier::BOLD));
    let second = state.shown.as_ref().map(|shown| process(shown, state.has_restarted)).unwrap_or_default();
    to.set_stringn(area.x, area.y + 1, second, width, Style::new());
    let (tone, third) = match (&state.lost, &state.shown) {
        (Some(why), _) => (Tone::Bad, format!(" lost, and tried again each second: {why}")),
        (None, Some(shown)) => next_end(shown),
        (None, None) => (Tone::Dim, " waiting for the first event".to_owned()),
    };
    to.set_stringn(area.x, area.y + 2, third, width, theme.style(tone));
}

fn process(shown: &Shown, has_restarted: bool) -> String {
    let of = &shown.picture;
    let uptime = of.uptime_ms / 1000;
    let up = match has_restarted && uptime < YOUNG_S {
        true => format!("RESTARTED {} ago", span(uptime)),
        false => format!("up {}", span(uptime)),
    };
    format!(
        " {up}, version {}, generation {}, {} connections",
        of.version, of.generation, of.connections_open
    )
}

/// Until when the sidecar's certificate is valid.
fn next_end(shown: &Shown) -> (Tone, String) {
    let now = shown.picture.at;
    // the sidecar's own is the first; where it has none, those of services and ports are shown
    let mut all = shown.picture.certificates.iter().filter(|of| !of.is_authority);
    match all.next() {
        None => (Tone::Dim, " no certificate".to_owned()),
        Some(of) => (lifetime(of, now), format!(" {}", ending(of, now))),
    }
}

fn ending(of: &Certificate, now: i64) -> String {
    match u64::try_from(of.not_after - now) {
        Ok(left) => format!("{} ends in {}", of.name, span(left)),
        Err(_past) => format!("{} ended {} ago", of.name, span(now.abs_diff(of.not_after))),
    }
}

/// As the dashboard judges: by the share of the lifetime that is left.
fn lifetime(of: &Certificate, now: i64) -> Tone {
    let (left, whole) = (of.not_after.saturating_sub(now), of.not_after.saturating_sub(of.not_before));
    match () {
        () if left <= 0 || left < whole / 10 => Tone::Bad,
        () if left < whole / 3 => Tone::Warning,
        () => Tone::Plain,
    }
}

/// What is wrong now, the worst first.
fn troubles(shown: &Shown) -> Vec<(Tone, String)> {
    let of = &shown.picture;
    let mut all = Vec::new();
    all.extend(of.refusal.iter().map(|why| (Tone::Bad, format!("refused: {why}"))));
    let certificates = of.certificates.iter().map(|one| (lifetime(one, of.at), ending(one, of.at)));
    all.extend(certificates.filter(|(tone, _)| *tone > Tone::Plain));
    all.extend(
        of.full
            .iter()
            .map(|one| (Tone::Bad, format!("{}: all {} of {} are taken", one.service, one.most, one.limit))),
    );
    all.extend(
        of.endpoints
            .iter()
            .map(|one| (Tone::Warning, format!("{}: {} is {}", one.service, one.address, one.state))),
    );
    all.sort_by_key(|(tone, _)| std::cmp::Reverse(*tone));
    all
}

fn tables(state: &State, theme: Theme, body: Rect, to: &mut Buffer) {
    let Some(shown) = &state.shown else { return };
    let width = usize::from(body.width);
    let styled = |(tone, text): (Tone, String)| Line::styled(format!(" {text}"), theme.style(tone));
    let troubles: Vec<Line<'_>> = troubles(shown).into_iter().map(styled).collect();
    let failures = match &shown.picture.failures {
        None => vec![Line::styled(" none are kept (`explain: off`)", theme.style(Tone::Dim))],
        Some(all) if all.is_empty() => vec![Line::styled(" none", theme.style(Tone::Dim))],
        Some(all) => all.iter().map(|one| failure(one, theme)).collect(),
    };
    let mut sections = Vec::new();
    if !troubles.is_empty() {
        sections.push(Section { heading: " LOOK AT".to_owned(), rows: troubles, table: None });
    }
    sections.push(tables::callers(&shown.callers, theme, width));
    sections.push(tables::services(&shown.services, theme, width));
    sections.push(Section {
        heading: " LAST FAILURES".to_owned(),
        rows: failures,
        table: Some(Table::Failures),
    });
    if usize::from(body.height) < sections.len() * tables::LEAST {
        sections.retain(|section| section.table != Some(Table::Callers)); // the least of them
    }
    tables::place(&sections, state, body, to);
}

fn failure(of: &super::picture::Failure, theme: Theme) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!(" {} ", of.clock), theme.style(Tone::Dim)),
        Span::styled(of.said.clone(), theme.style(Tone::Bad)),
        Span::raw(format!("  {}", of.detail)),
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::picture::Picture;
    use super::super::state::{Input, Key};
    use super::super::tests::{event, failures};
    use super::*;

    const COLOURS: Theme = Theme { has_colours: true };

    fn state() -> State {
        let mut state = State::default();
        for second in [7, 8] {
            learn(&mut state, &event(second));
        }
        state
    }

    fn learn(state: &mut State, event: &serde_json::Value) {
        state.apply(Input::Event(Box::new(Picture::read(event).expect("an event"))));
    }

    fn terminal(state: &State, theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
        let drawn = terminal.draw(|frame| _ = draw(state, theme, frame.area(), frame.buffer_mut()));
        drawn.expect("it is drawn");
        terminal
    }

    /// The lines of the screen, without the spaces at their ends.
    fn screen(state: &State, width: u16, height: u16) -> String {
        let terminal = terminal(state, COLOURS, width, height);
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_terminal_of_80_columns_shows_everything() {
        let expected = " pillion top  web.shop (eu-1)                                              live
 up 8 s, version 0.1.0, generation 3, 12 connections
 own certificate ends in 23 h 48 min
 LOOK AT
 orders: all 10 of max_requests are taken
 certificate of services.api.tls ends in 1 h 48 min
 orders: 10.0.0.2:80 is ejected for 12 s
 orders: 10.0.0.3:80 is unhealthy: no answer within 1 s
 WHO CALLS US                                                     rate/s  failed
 shop/web                                                           10.0     0 %
 (without identity)                                                 1.00 100.0 %
 SERVICES                rate/s  failed      p50      p99 retries refused  endp.
 ● app                     10.0     0 %  1.50 ms  1.99 ms       0       0
 → orders                  20.0  10.0 %   150 ms   199 ms       2       4    1/3
 LAST FAILURES
 10:11:12Z → orders GET /v2 503 no_endpoints  no endpoint of \"orders\" is known




 q quit  ↑↓ row  ←→ table  enter timeline  p pause  ? help
";
        assert_eq!(screen(&state(), 80, 21), expected);
    }

    #[test]
    fn forty_columns_are_still_readable_and_less_is_told() {
        let shown = screen(&state(), 40, 16);
        for part in [
            " pillion top  web.shop",
            "rate/s  failed",
            "→ orders",
            "20.0",
            "10:11:12Z → orders GET /v2 503",
            "q quit",
        ] {
            assert!(shown.contains(part), "{part:?} in\n{shown}");
        }
        assert!(screen(&state(), 39, 16).starts_with("too small: 39×16 of 40×10\n"));
        let shown = screen(&state(), 40, 10);
        assert!(shown.contains("LAST FAILURES") && shown.contains("SERVICES +1"), "{shown}");
    }

    #[test]
    fn a_failure_is_opened_with_its_stages_and_the_help_lies_over_everything() {
        let mut state = state();
        state.apply(Input::Key(Key::Enter));
        let shown = screen(&state, 80, 24);
        for part in
            ["call-7  outbound orders GET /v2 503", "why: no endpoint of", "route      |███", "esc back"]
        {
            assert!(shown.contains(part), "{part:?} in\n{shown}");
        }
        assert!(screen(&state, 40, 24).contains("route      |██████████|"));
        state.apply(Input::Key(Key::Help));
        assert!(screen(&state, 80, 24).contains("the timeline of the selected failure"));
    }

    #[test]
    fn a_lost_connection_a_pause_and_a_restart_are_told() {
        let mut state = State::default();
        assert!(screen(&state, 80, 24).contains("waiting for the first event"));
        learn(&mut state, &event(7));
        state.apply(Input::Lost("connection refused".into()));
        let shown = screen(&state, 80, 24);
        assert!(
            shown.contains("no connection") && shown.contains("each second: connection refused"),
            "{shown}"
        );
        let mut next = event(3);
        next["started_ms"] = 2.into();
        learn(&mut state, &next);
        assert!(screen(&state, 80, 24).contains("RESTARTED 3 s ago"));
        state.apply(Input::Key(Key::Pause));
        assert!(screen(&state, 80, 24).contains("paused"));
    }

    #[test]
    fn without_colours_there_are_none() {
        let colours = |theme| {
            let drawn = terminal(&state(), theme, 80, 24);
            let cells = drawn.backend().buffer().content().iter();
            cells.filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
        };
        assert!(colours(COLOURS) > 0);
        assert_eq!(colours(Theme { has_colours: false }), 0);
    }

    #[test]
    fn the_selected_failure_is_seen_among_many() {
        let mut state = State::default();
        let ids: Vec<String> = (0..20).map(|nth| format!("id-{nth}")).collect();
        let mut now = event(7);
        now["failures"] = failures(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        for (nth, one) in now["failures"].as_array_mut().expect("a list").iter_mut().enumerate() {
            one["path"] = format!("/path-{nth}").into();
        }
        learn(&mut state, &now);
        assert!(screen(&state, 80, 24).contains("LAST FAILURES +"));
        state.apply(Input::Key(Key::End));
        assert!(screen(&state, 80, 24).contains("/path-19 "), "{}", screen(&state, 80, 24));
    }

    proptest! {
        #[test]
        fn every_size_can_be_drawn(width in 0_u16..250, height in 0_u16..80, is_open in any::<bool>(), scrolled in 0_usize..200) {
            let mut state = state();
            if is_open {
                state.apply(Input::Key(Key::Enter));
            }
            state.scrolled = scrolled;
            terminal(&state, COLOURS, width, height);
        }
    }
}
