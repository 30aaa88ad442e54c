//! curl without a user's configuration: no proxy except the given one, and a time limit.

use std::process::Command;

pub(crate) fn curl() -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--silent", "--show-error", "--max-time", "25", "--noproxy", ""]);
    for variable in
        ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"]
    {
        curl.env_remove(variable);
    }
    curl
}
