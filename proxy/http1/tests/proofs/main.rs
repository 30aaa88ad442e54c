//! Tests the engine by the clauses of RFC 9112, and compares it with other readers.

#![allow(unreachable_pub)] // no other crate uses a test binary
#![allow(clippy::unwrap_used, clippy::panic)] // a panic only fails a test

mod drive;
mod corpus;
mod s2_messages;
mod s3_requests;
mod s4_answers;
mod s5_fields;
mod s6_content;
mod s7_codings;
mod s8_incomplete;
mod s9_connections;
mod s11_security;
mod edits;
mod sizes;
mod splits;
mod round_trips;
mod mutations;
mod line_oracle;
mod hyper_oracle;
