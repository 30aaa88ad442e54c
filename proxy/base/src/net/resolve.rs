//! Looks up addresses by the host's own resolver. It blocks, so it runs on threads beside the data path, and few at a
//! time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::race::interleaved;

/// Look-ups that run at once, over all workers. Each one holds a thread until its DNS server answers.
const AT_ONCE: usize = 32;
/// The time limit of a look-up. glibc waits 5 s for each server, twice; a caller cannot wait so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The number of addresses of one name that are tried.
const MOST: usize = 4;

static ASKING: Semaphore = Semaphore::const_new(AT_ONCE);

/// The addresses to try: in the resolver's order (RFC 6724), with the families taking turns.
pub(super) async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let asked = timeout(PATIENCE, async {
        let _turn = ASKING.acquire().await.map_err(io::Error::other)?;
        let found = to_try(lookup_host((host, port)).await?);
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    });
    asked.await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

/// Both families are among the addresses that are tried, where the name has both.
pub(super) fn to_try(found: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found = interleaved(found);
    found.truncate(MOST);
    found
}
