//! The address of a SPIFFE Workload API (SPIFFE Workload Endpoint, 4): a Unix socket.

use std::path::PathBuf;

use pillion_model::text::shortened;

use crate::value::{BadWord, Word, wrapped_leaves};

const EXAMPLE: &str = "write it like unix:///run/spire/agent.sock";

/// The longest path of a Unix socket that Linux accepts, without the zero byte at its end.
const LONGEST: usize = 107;

/// The absolute path of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointSocket(pub(crate) PathBuf);

impl Word for EndpointSocket {
    const EXPECTED: &'static str = "the address of a Unix socket (unix:///run/spire/agent.sock)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is = |why: &str| BadWord::new(format!("is `{}`, {why}", shortened(text)));
        if text.starts_with("tcp:") {
            let help = "give the Unix socket of the agent, as unix:///run/spire/agent.sock: over TCP an agent cannot tell which \
                        process asks, and keys would cross the network unprotected";
            return Err(is("and a Workload API over TCP is not supported").help(help));
        }
        let path = text.strip_prefix("unix:").map(|path| path.strip_prefix("//").unwrap_or(path));
        match path {
            None => Err(is("which is not the address of a Unix socket").help(EXAMPLE)),
            Some(path) if !path.starts_with('/') => Err(is("without an absolute path").help(EXAMPLE)),
            Some(path) if path.contains(['?', '#', '\0']) => {
                Err(is("and an address of a Workload API has no query, fragment or zero byte").help(EXAMPLE))
            }
            Some(path) if path.len() > LONGEST => Err(is("whose path is too long")
                .help(format!("Linux allows {LONGEST} bytes for a socket's path"))),
            Some(path) => Ok(Self(path.into())),
        }
    }
}

wrapped_leaves!(EndpointSocket: PathBuf, |socket| format!("unix://{}", socket.display()).into());
