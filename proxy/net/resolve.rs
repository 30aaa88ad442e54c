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

static ASKING: Semaphore = Semaphore::const_new(AT_ONCE);

pub(super) async fn first_address(host: &str, port: u16) -> io::Result<SocketAddr> {
    let asked = timeout(PATIENCE, async {
        let _turn = ASKING.acquire().await.map_err(io::Error::other)?;
        lookup_host((host, port)).await?.next().ok_or_else(|| io::ErrorKind::NotFound.into())
    });
    asked.await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}
