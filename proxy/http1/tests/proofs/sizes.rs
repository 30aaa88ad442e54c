//! The memory of a connection that holds no buffer.

use pillion_http1::{Client, Error, FromClient, FromUpstream, RequestHead, ResponseHead, Server};

#[test]
fn the_state_of_a_connection_is_a_few_words() {
    assert!(size_of::<Server>() <= 64, "{}", size_of::<Server>());
    assert!(size_of::<Client>() <= 64, "{}", size_of::<Client>());
    assert!(size_of::<Error>() <= 2, "{}", size_of::<Error>());
}

#[test]
fn a_head_is_moved_in_a_few_words() {
    assert!(size_of::<RequestHead>() <= 160, "{}", size_of::<RequestHead>());
    assert!(size_of::<ResponseHead>() <= 136, "{}", size_of::<ResponseHead>());
    assert!(size_of::<FromClient>() <= 168 && size_of::<FromUpstream>() <= 168);
}
