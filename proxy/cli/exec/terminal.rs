//! The terminal that a command was started in: which process group is in its foreground.

use std::io::{IsTerminal as _, Stdin, stdin};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

pub(super) struct Terminal(Stdin);

impl Terminal {
    /// `None`: standard input is no terminal, or this process is not in its foreground.
    pub(super) fn in_foreground() -> Option<Self> {
        let terminal = Self(stdin());
        (terminal.0.is_terminal() && terminal.is_ours()).then_some(terminal)
    }

    /// Whether this process is in the foreground.
    pub(super) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0).is_ok_and(|group| group == getpgrp())
    }

    /// Puts the group into the foreground if this process is in it. In the background it has no right to: its shell has put it
    /// there.
    pub(super) fn give(&self, to: Pid) {
        if self.is_ours() {
            self.put(to);
        }
    }

    /// Puts this process into the foreground again, if the group is in it.
    pub(super) fn take_back(&self, from: Pid) {
        if tcgetpgrp(&self.0).is_ok_and(|group| group == from) {
            self.put(getpgrp());
        }
    }

    /// The kernel stops a process that does this in the background, unless the signal for it is blocked.
    fn put(&self, group: Pid) {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        let Ok(before) = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK) else { return };
        if let Err(error) = tcsetpgrp(&self.0, group) {
            tracing::debug!(%error, "the terminal cannot be passed on");
        }
        before.thread_set_mask().unwrap_or_default();
    }
}
