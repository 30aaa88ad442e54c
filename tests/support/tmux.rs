//! A real terminal: tmux plays it, and says what its screen shows.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::eventually;
use super::tools::printed;

/// A shell in a terminal of 100 columns and 30 lines, with a tmux of its own.
pub(crate) struct Tmux(String);

impl Tmux {
    pub(crate) async fn start() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let tmux = Self(format!("pillion-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed)));
        tmux.ask(&["new-session", "-d", "-x", "100", "-y", "30", "env", "PS1=> ", "sh"]).await;
        tmux
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env_remove("NO_COLOR");
        command.args(["-u", "-f", "/dev/null", "-L", &self.0]).args(words);
        command
    }

    pub(crate) async fn ask(&self, words: &[&str]) -> String {
        printed(self.command(words)).await
    }

    pub(crate) async fn types(&self, line: &str) {
        self.ask(&["send-keys", "-l", line]).await;
        self.press("Enter").await;
    }

    pub(crate) async fn press(&self, key: &str) {
        self.ask(&["send-keys", key]).await;
    }

    /// Waits until the screen has all of these texts, and returns it.
    pub(crate) async fn shows(&self, texts: &[&str]) -> String {
        eventually(&format!("a screen with {texts:?}"), async || {
            let screen = self.ask(&["capture-pane", "-p"]).await;
            texts.iter().all(|text| screen.contains(text)).then_some(screen)
        })
        .await
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let screen = self.command(&["capture-pane", "-p"]).output();
            eprintln!(
                "{}",
                screen.map(|of| String::from_utf8_lossy(&of.stdout).into_owned()).unwrap_or_default()
            );
        }
        drop(self.command(&["kill-server"]).output());
    }
}
