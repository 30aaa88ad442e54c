//! A message to the DNS proxy, as a client's question and as a server's answer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| pillion::bench::dns_message(message));
