//! Closes a connection to an HTTP/1 upstream in the middle of an exchange.
//!
//! The upstream may work on the request for some time, so the request keeps its place among `max_requests`: otherwise a
//! client that resets its requests could have any number of requests in the application at once. The upstream sees at
//! once that no more bytes come. When it closes the connection or answers, it has finished.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use pillion_base::limits::Permit;

/// The limit for an upstream that neither closes nor answers: as long as a request may take by default.
const PATIENCE: Duration = Duration::from_secs(15);

/// Shuts the connection down, and holds the permit until the upstream has finished.
pub(super) async fn close_gracefully<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, permit: Permit) {
    let done = async {
        if io.shutdown().await.is_ok() {
            drop(io.read_u8().await); // an answer, an end or an error: each means that it has finished
        }
    };
    drop(timeout(PATIENCE, done).await);
    drop(permit);
}
