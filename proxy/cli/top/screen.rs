//! The terminal: it is taken at the start, and given back as it was at the end, after an error and after a panic.

use std::io::{Stdout, Write as _, stdout};
use std::panic;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

use super::state::{Input, Key, State};
use super::view::{Theme, draw};

/// How often the thread of the keys sees whether somebody still wants them.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// # Errors
    /// Standard output is not a terminal that can be used.
    pub(super) fn take() -> anyhow::Result<Self> {
        let former = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            give_back(); // before the message, which would vanish with the screen
            former(what);
        }));
        enable_raw_mode().context("the terminal cannot be used")?;
        let taken = execute!(stdout(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        taken.map(Self).inspect_err(|_| give_back()).context("the terminal cannot be used")
    }

    /// # Errors
    /// The terminal is gone.
    pub(super) fn show(&mut self, state: &mut State, theme: Theme) -> anyhow::Result<()> {
        let mut last = 0;
        let drawn = self.0.draw(|frame| last = draw(state, theme, frame.area(), frame.buffer_mut()));
        drawn.context("the terminal is gone")?;
        state.last_line = last;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// There is nobody to tell that it failed.
fn give_back() {
    drop(execute!(stdout(), LeaveAlternateScreen, Show));
    drop(disable_raw_mode());
    drop(stdout().flush());
}

/// Passes keys on, on a thread of its own, until the other end of `to` is dropped.
pub(super) fn follow_keys(to: mpsc::Sender<Input>) -> std::io::Result<()> {
    let follow = move || {
        while !to.is_closed() {
            match event::poll(LOOK_EVERY) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_gone) => break,
            }
            let input = match event::read() {
                Ok(Event::Key(pressed)) => key(pressed).map(Input::Key),
                Ok(Event::Resize(..)) => Some(Input::Resized),
                Ok(_) => None,
                Err(_gone) => break,
            };
            if input.is_some_and(|input| to.blocking_send(input).is_err()) {
                return;
            }
        }
        drop(to.blocking_send(Input::Key(Key::Quit))); // without keys nobody could end it
    };
    thread::Builder::new().name("keys".into()).spawn(follow).map(drop)
}

fn key(pressed: KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    let has_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    Some(match pressed.code {
        KeyCode::Char('c' | 'd') if has_control => Key::Quit,
        KeyCode::Char(_) if has_control => return None,
        KeyCode::Char('q') => Key::Quit,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::Left | KeyCode::BackTab => Key::Left,
        KeyCode::Right | KeyCode::Tab => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc | KeyCode::Backspace => Key::Back,
        KeyCode::Char('p') => Key::Pause,
        KeyCode::Char('?' | 'h') => Key::Help,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_meanings() {
        let of = |code, modifiers| key(KeyEvent::new(code, modifiers));
        for (code, expected) in [
            (KeyCode::Char('q'), Some(Key::Quit)),
            (KeyCode::Down, Some(Key::Down)),
            (KeyCode::Enter, Some(Key::Enter)),
            (KeyCode::Char('p'), Some(Key::Pause)),
            (KeyCode::Char('?'), Some(Key::Help)),
            (KeyCode::Char('x'), None),
        ] {
            assert_eq!(of(code, KeyModifiers::NONE), expected, "{code:?}");
        }
        assert_eq!(of(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(of(KeyCode::Char('p'), KeyModifiers::CONTROL), None);
    }
}
