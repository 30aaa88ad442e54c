//! Sessions that clients may resume, none of them after the certificate that began it has expired.
//!
//! A resumed handshake skips the verifier. So the server would admit a client whose certificate has expired since, or
//! refuse it too late for an alert. Without a session the handshake is a full one: the verifier refuses the
//! certificate, and the client learns the reason.

use std::sync::Arc;

use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

use super::notes;
use crate::identity::unix_now;

/// The number of sessions that rustls keeps by default.
const MOST: usize = 256;

/// rustls' own session memory. The last second at which the certificate is valid is stored before each session.
#[derive(Debug)]
pub(super) struct Sessions {
    kept: Arc<ServerSessionMemoryCache>,
    now: fn() -> i64,
}

impl Sessions {
    pub(super) fn new() -> Arc<Self> {
        Self::by_clock(unix_now)
    }

    /// `now` returns Unix seconds.
    fn by_clock(now: fn() -> i64) -> Arc<Self> {
        Arc::new(Self { kept: ServerSessionMemoryCache::new(MOST), now })
    }

    /// The session without the time before it, or `None` when it may not be resumed any more. The next ticket has the
    /// same end.
    fn usable(&self, marked: &[u8]) -> Option<Vec<u8>> {
        let (mark, session) = marked.split_first_chunk()?;
        let not_after = i64::from_be_bytes(*mark);
        if (self.now)() > not_after {
            return None;
        }
        notes::set_holds_until(not_after);
        Some(session.to_vec())
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        let Some(not_after) = notes::holds_until() else { return false };
        let mut marked = Vec::with_capacity(size_of::<i64>() + session.len());
        marked.extend_from_slice(&not_after.to_be_bytes());
        marked.extend_from_slice(&session);
        self.kept.put(key, marked)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.usable(&self.kept.get(key)?)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.usable(&self.kept.take(key)?)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn c3_a_session_is_resumed_only_while_its_certificate_is_valid() {
        let (in_time, late) = (Sessions::by_clock(|| 100), Sessions::by_clock(|| 101));
        let ((), _) = notes::noting(async {
            for sessions in [&in_time, &late] {
                assert!(
                    !sessions.put(b"none".to_vec(), b"unknown".to_vec()),
                    "no client has proven an identity"
                );
            }
            notes::set_holds_until(100);
            for sessions in [&in_time, &late] {
                assert!(sessions.put(b"key".to_vec(), b"session".to_vec()));
            }
        })
        .await;
        let resumed = async { (in_time.get(b"key"), in_time.take(b"key"), notes::holds_until()) };
        let (resumed, _) = notes::noting(resumed).await;
        let session = Some(b"session".to_vec());
        assert_eq!(resumed, (session.clone(), session, Some(100)), "the next ticket has the same end");
        assert_eq!((in_time.take(b"key"), late.take(b"key")), (None, None));
    }
}
