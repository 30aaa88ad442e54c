//! The end of an HTTP/1 connection whose client may still be sending (RFC 9112, 9.6).
//!
//! A connection that is closed with bytes unread is reset, and a reset can take the last answer away from a client that
//! has not read it yet. So only the writing half is closed at first, and what comes is read and forgotten.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use pillion_base::drain::Work;
use pillion_base::net::Io;
use pillion_model::Direction;

/// What the end of the process waits for: a client notices in that time that its connection has ended.
const IN_DRAIN: Duration = Duration::from_secs(1);
/// For a client that sends all of a large request before it reads. nginx has the same (`lingering_time`).
const AT_MOST: Duration = Duration::from_secs(30);
/// Between two pieces of what it sends (nginx: `lingering_timeout`).
const PAUSE: Duration = Duration::from_secs(5);

/// Closes `io` for writing, and reads on until its client ends too, pauses, or has had its time.
pub(super) async fn linger(mut io: Io, work: &Work) {
    let in_drain = work.says_goodbye();
    if in_drain && work.direction() == Direction::Outbound {
        work.rest(); // the quiet second that outbound needs is long enough for this
    }
    let mut ending = pin!(async {
        if io.shutdown().await.is_err() {
            return; // the client has gone
        }
        while timeout(PAUSE, forget(&mut io)).await == Ok(true) {}
    });
    if timeout(IN_DRAIN, &mut ending).await.is_err() && !in_drain {
        work.rest(); // a drain that begins now has nothing to wait for here
        drop(timeout(AT_MOST - IN_DRAIN, ending).await);
    }
}

/// Reads what has come, once something has. `false`: the client has ended.
async fn forget(io: &mut Io) -> bool {
    let mut has_read = false;
    poll_fn(|cx| {
        loop {
            let mut room = [MaybeUninit::uninit(); 4096];
            let mut read = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => has_read = true,
                Poll::Ready(_ended) => return Poll::Ready(false),
                Poll::Pending if has_read => return Poll::Ready(true),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
