//! The end of an HTTP/1 connection whose client may still be sending (RFC 9112, 9.6).
//!
//! The kernel resets a connection that is closed with unread bytes, and a reset can destroy the last answer before the
//! client has read it. So only the writing half is closed at first, and further bytes are read and discarded.

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

/// 1 s: how long a drain waits for a lingering connection. In that time a client notices that its connection has ended.
const IN_DRAIN: Duration = Duration::from_secs(1);
/// 30 s, for a client that sends all of a large request before it reads. nginx has the same limit (`lingering_time`).
const AT_MOST: Duration = Duration::from_secs(30);
/// 5 s: the longest pause of the client between two pieces (nginx: `lingering_timeout`).
const PAUSE: Duration = Duration::from_secs(5);

/// Closes `io` for writing, and reads on until the client ends its direction, pauses for [`PAUSE`], or the time is
/// over.
pub(super) async fn linger(mut io: Io, work: &Work) {
    let in_drain = work.announces_close();
    if in_drain && work.direction() == Direction::Outbound {
        work.rest(); // the drain leaves outbound connections a quiet second, which is enough
    }
    let mut ending = pin!(async {
        if io.shutdown().await.is_err() {
            return; // the client has gone
        }
        while timeout(PAUSE, forget(&mut io)).await == Ok(true) {}
    });
    if timeout(IN_DRAIN, &mut ending).await.is_err() && !in_drain {
        work.rest(); // a drain that begins from here on does not wait for this connection
        drop(timeout(AT_MOST - IN_DRAIN, ending).await);
    }
}

/// Waits for bytes, and discards all that have come. `false`: the client has ended its direction, or the connection
/// broke.
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
