//! The terminal: it is taken at the start, and given back as it was at the end, after an error and after a panic.

use std::io::{Stdout, Write as _, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
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

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

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
        IS_TAKEN.store(true, Relaxed);
        let taken = execute!(stdout(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        taken.map(Self).inspect_err(|_| give_back()).context("the terminal cannot be used")
    }

    /// # Errors
    /// The terminal is gone, or a panic of another task has given it back.
    pub(super) fn show(&mut self, state: &mut State, theme: Theme) -> anyhow::Result<()> {
        // a drawing would hide the cursor again, and what the panic has said
        ensure!(IS_TAKEN.load(Relaxed), "a part of pillion top has panicked: what it said stands above");
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

/// There is nobody to tell that it failed. A second time would move the cursor back to where it was before the first, and
/// what a panic has said would be overwritten.
fn give_back() {
    if !IS_TAKEN.swap(false, Relaxed) {
        return;
    }
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
    use std::process::{Command, Output};

    use super::*;

    /// Set in the process that is to panic.
    const PANICS: &str = "PILLION_TEST_SCREEN_PANICS";
    const STORY: &str = "cli::top::screen::tests::a_panic_is_read_on_a_terminal_that_was_given_back";

    /// Runs tmux, with a server of its own; a wait has a bound.
    fn tmux(words: &[&str]) -> Output {
        let mut tmux = Command::new("timeout");
        tmux.env("LC_ALL", "C.UTF-8").env_remove("TMUX").args(["60", "tmux", "-f", "/dev/null", "-L"]);
        tmux.arg(server()).args(words).output().expect("timeout is a part of coreutils")
    }

    fn server() -> String {
        format!("pillion-screen-{}", std::process::id())
    }

    #[test]
    fn a_panic_is_read_on_a_terminal_that_was_given_back() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::take().expect("a terminal");
            panic!("on purpose");
        }
        let program = std::env::current_exe().expect("a program");
        let line = format!(
            "{PANICS}=1 RUST_BACKTRACE=0 {} --exact {STORY} --nocapture; \
             stty -a | grep -q -e -icanon && echo raw || echo cooked; tmux -L {} wait-for -S ended; read _",
            program.display(),
            server()
        );
        if !tmux(&["new-session", "-d", "-x", "200", "-y", "30", "sh", "-c", &line]).status.success() {
            assert!(std::env::var_os("PILLION_TEST_REQUIRE").is_none(), "tmux is missing");
            return println!("skipped: no tmux");
        }
        tmux(&["wait-for", "ended"]);
        let screen = String::from_utf8_lossy(&tmux(&["capture-pane", "-p"]).stdout).into_owned();
        tmux(&["kill-server"]);
        assert!(screen.contains("on purpose") && screen.contains("cooked"), "{screen}");
    }

    /// The view goes on after a panic of another task, until it is to draw.
    #[test]
    fn after_a_panic_of_another_task_nothing_is_drawn_and_the_view_ends_with_an_error() {
        let terminal = Terminal::with_options(
            CrosstermBackend::new(stdout()),
            ratatui::TerminalOptions {
                viewport: ratatui::Viewport::Fixed(ratatui::layout::Rect::new(0, 0, 80, 24)),
            },
        );
        let mut screen = Screen(terminal.expect("a size that is given needs no terminal"));
        let shown = screen.show(&mut State::default(), Theme { has_colours: false });
        assert!(format!("{:#}", shown.unwrap_err()).contains("panicked"));
    }

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
