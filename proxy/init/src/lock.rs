//! Allows one run at a time in a network namespace: two runs that found the same state would both add to it.

use std::fs::{File, TryLockError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::Error;

/// How long another run may take: the time that iptables is told to wait for its own lock.
const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Locks the namespace itself, as long as the returned file is open. `None`: there is no `/proc`, and runs are not
/// serialised.
pub(crate) fn namespace() -> Result<Option<File>, Error> {
    let Ok(namespace) = File::open("/proc/self/ns/net") else { return Ok(None) };
    let began = Instant::now();
    while let Err(TryLockError::WouldBlock) = namespace.try_lock() {
        if began.elapsed() >= PATIENCE {
            return Err(Error::Busy);
        }
        sleep(BETWEEN_LOOKS);
    }
    Ok(Some(namespace))
}
