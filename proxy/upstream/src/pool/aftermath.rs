//! A connection to an HTTP/1 upstream that is given up in the middle of an exchange.
//!
//! The upstream may be at work on the request for a while longer, and so the request's place among `max_requests` is
//! not free yet: else a client that resets what it has asked for brings any number of requests to the application at
//! once. The upstream hears at once that nobody will send more; when it closes, or answers, it is done.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use pillion_base::limits::Permit;

/// For an upstream that does not notice, or does not care. As long as a request may take by default.
const PATIENCE: Duration = Duration::from_secs(15);

/// Ends the connection, and holds the permit until the upstream is done with it.
pub(super) async fn see_off<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, permit: Permit) {
    let done = async {
        if io.shutdown().await.is_ok() {
            drop(io.read_u8().await); // an answer, an end or an error: all the same
        }
    };
    drop(timeout(PATIENCE, done).await);
    drop(permit);
}
