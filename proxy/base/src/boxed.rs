//! Makes large values at their place on the heap.
//!
//! `Box::new` and `Box::pin` get a value that is made before its memory is allocated, and then move it. Moving the
//! future of a request costs 200 instructions.

use std::pin::Pin;

/// Allocates memory, and then lets `make` write its value there.
#[inline(always)] // otherwise the value is moved from `make` to its place
pub fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    Box::write(Box::new_uninit(), make())
}

/// As [`boxed`], for a future.
#[inline(always)]
pub fn pinned<T>(make: impl FnOnce() -> T) -> Pin<Box<T>> {
    Box::into_pin(boxed(make))
}
