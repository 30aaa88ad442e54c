//! The tables: their columns, and the room that each of them gets.

use std::ops::Range;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::super::history::{Change, Key as Whose};
use super::super::state::{Row, State, Table};
use super::super::words::{NOTHING, count, peer, percent, rate, seconds};
use super::text::{fit, right};
use super::{Theme, Tone};

/// A heading with its rows.
pub(super) struct Section {
    pub(super) heading: String,
    pub(super) rows: Vec<Line<'static>>,
    /// The table whose rows can be selected.
    pub(super) table: Option<Table>,
}

/// A section has its heading and a row at least.
pub(super) const LEAST: usize = 2;
/// Names have this room at least; columns that do not fit beside it are left out.
const NAME: usize = 14;

/// A column after the name.
struct Column {
    title: &'static str,
    width: usize,
    cell: fn(&Row) -> (Tone, String),
}

/// The most important first.
const COLUMNS: [(usize, Column); 8] = [
    (0, Column { title: "rate/s", width: 7, cell: |row| plain(row, |change| rate(change.rate)) }),
    (1, Column { title: "failed", width: 7, cell: failed }),
    (3, Column { title: "p99", width: 8, cell: |row| plain(row, |change| quantile(change, 0.99)) }),
    (2, Column { title: "p50", width: 8, cell: |row| plain(row, |change| quantile(change, 0.5)) }),
    (6, Column { title: "endp.", width: 6, cell: endpoints }),
    (4, Column { title: "retries", width: 7, cell: |row| noticed(row, |change| change.retries) }),
    (5, Column { title: "refused", width: 7, cell: |row| noticed(row, |change| change.rejections) }),
    (7, Column { title: "active", width: 6, cell: active }),
];

fn plain(row: &Row, text: impl Fn(&Change) -> String) -> (Tone, String) {
    (Tone::Plain, row.change.as_ref().map_or_else(|| NOTHING.to_owned(), text))
}

fn quantile(change: &Change, share: f64) -> String {
    change.latency.quantile(share).map_or_else(|| NOTHING.to_owned(), seconds)
}

fn failed(row: &Row) -> (Tone, String) {
    let tone =
        if row.change.as_ref().is_some_and(|change| change.failed > 0) { Tone::Bad } else { Tone::Plain };
    (tone, plain(row, |change| percent(change.failed_share())).1)
}

/// A number that is a warning unless it is zero.
fn noticed(row: &Row, number: impl Fn(&Change) -> u64) -> (Tone, String) {
    let tone = if row.change.as_ref().is_some_and(|change| number(change) > 0) {
        Tone::Warning
    } else {
        Tone::Plain
    };
    (tone, plain(row, |change| count(number(change))).1)
}

fn active(row: &Row) -> (Tone, String) {
    (Tone::Plain, row.active.map_or_else(String::new, |active| active.to_string()))
}

fn endpoints(row: &Row) -> (Tone, String) {
    match row.endpoints {
        None => (Tone::Plain, String::new()),
        Some((healthy, all)) => {
            let tone = match healthy {
                _ if healthy >= all => Tone::Plain,
                0 => Tone::Bad,
                _ => Tone::Warning,
            };
            (tone, format!("{healthy}/{all}"))
        }
    }
}

pub(super) fn callers(rows: &[Row], theme: Theme, width: usize) -> Section {
    // a caller has no more
    let columns: Vec<&Column> = COLUMNS.iter().take(2).map(|(_, column)| column).collect();
    section("WHO CALLS US", Table::Callers, rows, &columns, theme, width)
}

pub(super) fn services(rows: &[Row], theme: Theme, width: usize) -> Section {
    let mut left = width.saturating_sub(NAME.max(width / 4));
    let mut columns: Vec<&(usize, Column)> = Vec::new();
    for column in &COLUMNS {
        match left.checked_sub(column.1.width + 1) {
            Some(rest) => left = rest,
            None => break,
        }
        columns.push(column);
    }
    columns.sort_by_key(|(place, _)| *place);
    let columns: Vec<&Column> = columns.into_iter().map(|(_, column)| column).collect();
    section("SERVICES", Table::Services, rows, &columns, theme, width)
}

fn section(
    title: &str,
    table: Table,
    rows: &[Row],
    columns: &[&Column],
    theme: Theme,
    width: usize,
) -> Section {
    let name = width.saturating_sub(columns.iter().map(|column| column.width + 1).sum());
    let titles: String =
        columns.iter().map(|column| format!(" {}", right(column.title, column.width))).collect();
    let heading = fit(&format!(" {title}"), name) + &titles;
    let line = |row: &Row| {
        let mut spans = vec![Span::raw(fit(&format!(" {}", named(row)), name))];
        for column in columns {
            let (tone, text) = (column.cell)(row);
            spans.push(Span::styled(format!(" {}", right(&text, column.width)), theme.style(tone)));
        }
        Line::from(spans)
    };
    let mut lines: Vec<Line<'static>> = rows.iter().map(line).collect();
    if lines.is_empty() {
        lines.push(Line::styled(" none yet", theme.style(Tone::Dim)));
    }
    Section { heading, rows: lines, table: Some(table) }
}

fn named(row: &Row) -> String {
    match &row.whose {
        Whose::Caller(id) => peer(id),
        Whose::Service(true, name) => format!("● {name}"),
        Whose::Service(false, name) => format!("→ {name}"),
    }
}

/// How many lines each section gets: its heading and a row, and then in turns another row where it has one. Where that is
/// too much, the first sections get nothing, because the last one has the failures.
fn shares(rows: &[usize], room: usize) -> Vec<usize> {
    let left_out = rows.len().saturating_sub(room / LEAST);
    let mut shares: Vec<usize> = (0..rows.len()).map(|at| if at < left_out { 0 } else { LEAST }).collect();
    let mut free = room.saturating_sub(shares.iter().sum());
    while free > 0 {
        let before = free;
        for (share, rows) in shares.iter_mut().zip(rows) {
            if free > 0 && *share > 0 && *share < rows + 1 {
                (*share, free) = (*share + 1, free - 1);
            }
        }
        if free == before {
            break; // every section has all of its rows
        }
    }
    shares
}

/// The rows of a table that are shown: as many as there is room for, around the selected one.
fn window(rows: usize, room: usize, selected: usize) -> Range<usize> {
    let from = selected.saturating_sub(room / 2).min(rows.saturating_sub(room));
    from..(from + room).min(rows)
}

/// Draws the sections below each other.
pub(super) fn place(sections: &[Section], state: &State, body: Rect, to: &mut Buffer) {
    let rows: Vec<usize> = sections.iter().map(|section| section.rows.len()).collect();
    let mut y = body.y;
    for (section, share) in sections.iter().zip(shares(&rows, body.height.into())) {
        let Some(room) = share.checked_sub(1) else { continue };
        let has_keys = section.table == Some(state.focus.table);
        heading(section, room, has_keys, Rect { y, height: 1, ..body }, to);
        y += 1;
        let selected = section.table.map_or(0, |table| state.focus.row(table));
        for at in window(section.rows.len(), room, selected) {
            let Some(line) = section.rows.get(at) else { continue };
            to.set_line(body.x, y, line, body.width);
            let is_selectable = section.table.is_some_and(|table| state.len(table) > 0);
            if has_keys && is_selectable && at == selected {
                to.set_style(Rect { y, height: 1, ..body }, Style::new().add_modifier(Modifier::REVERSED));
            }
            y += 1;
        }
    }
}

fn heading(section: &Section, room: usize, has_keys: bool, at: Rect, to: &mut Buffer) {
    let mut style = Style::new().add_modifier(Modifier::BOLD);
    if has_keys {
        style = style.add_modifier(Modifier::UNDERLINED);
    }
    let title = section.heading.trim_end();
    to.set_stringn(at.x, at.y, title, at.width.into(), style);
    let more = section.rows.len().saturating_sub(room);
    if more > 0 {
        let told = format!("+{more} ");
        let from = (section.heading.split("  ").next().unwrap_or_default().chars().count() + 1) as u16;
        to.set_stringn(
            at.x + from.min(at.width),
            at.y,
            told,
            at.width.saturating_sub(from).into(),
            Style::new(),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sections_share_the_room_in_turns_and_the_failures_come_first_in_need() {
        assert_eq!(shares(&[2, 3, 20], 20), [3, 4, 13]);
        assert_eq!(shares(&[2, 3, 1], 20), [3, 4, 2], "what nobody needs is left free");
        assert_eq!(shares(&[4, 4, 4, 4], 10), [3, 3, 2, 2]);
        assert_eq!(shares(&[4, 4, 4, 4], 6), [0, 2, 2, 2]);
        assert_eq!(shares(&[4, 4], 1), [0, 0]);
    }

    #[test]
    fn the_selected_row_is_within_the_window() {
        assert_eq!([window(20, 5, 0), window(20, 5, 10), window(20, 5, 19)], [0..5, 8..13, 15..20]);
        assert_eq!(window(2, 5, 1), 0..2);
    }

    proptest! {
        #[test]
        fn no_room_is_too_small(rows in proptest::collection::vec(1_usize..50, 1..5), room in 0_usize..60) {
            prop_assert!(shares(&rows, room).iter().sum::<usize>() <= room);
        }
    }
}
