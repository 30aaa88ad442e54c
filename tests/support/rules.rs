//! The rules of a pod with both directions redirected: as `pillion init` installs them, and as wrong rules that were
//! written by hand.

use super::launched::binary;
use super::namespace::{INBOUND_PORT, Namespace, OUTBOUND_PORT, SIDECAR, families};

impl Namespace {
    /// Runs `pillion init` as the init container does, as root, before anything else runs.
    pub(crate) fn init(&self, words: &[&str]) {
        let mut init = self.enter();
        init.arg(binary()).arg("init").args(words);
        let output = init.output().expect("a program that starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pillion init {words:?}: {errors}");
    }

    /// Redirects everything but loopback to the outbound port, whichever user sends it.
    pub(crate) fn redirect_everything(&self) {
        for family in families() {
            let all =
                ["!", "-d", &family.loopback.to_string(), "-j", "REDIRECT", "--to-ports", OUTBOUND_PORT];
            self.table(family, &words(OUTPUT, &all));
        }
    }

    /// Redirects everything that the sidecar sends to its own pod to the inbound port, from every address.
    pub(crate) fn redirect_own_legs(&self) {
        for family in families() {
            let loopback = family.loopback.to_string();
            let own = ["-o", "lo", "!", "-d", &loopback, "-m", "owner", "--uid-owner", SIDECAR];
            let to = ["-j", "REDIRECT", "--to-ports", INBOUND_PORT];
            self.table(family, &words(OUTPUT, &[&own[..], &to].concat()));
        }
    }
}

const OUTPUT: [&str; 6] = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp"];

fn words<'a>(chain: [&'a str; 6], rule: &[&'a str]) -> Vec<&'a str> {
    [&chain, rule].concat()
}
