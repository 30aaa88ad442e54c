//! Names to addresses by the host's own resolver, which blocks: on threads beside the data path, a few at a time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Names asked for at once, over all workers: each holds a thread while its DNS server thinks.
const AT_ONCE: usize = 32;
/// glibc asks each server for 5 s, twice; a caller has better things to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const MOST: usize = 4;

static ASKING: Semaphore = Semaphore::const_new(AT_ONCE);

/// As the resolver orders them (RFC 6724), a few of them.
pub(super) async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let asked = timeout(PATIENCE, async {
        let _turn = ASKING.acquire().await.map_err(io::Error::other)?;
        let found: Vec<SocketAddr> = lookup_host((host, port)).await?.take(MOST).collect();
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    });
    asked.await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}
