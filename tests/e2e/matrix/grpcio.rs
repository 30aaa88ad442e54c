//! The gRPC cells once more, by a client that is not ours.

use std::net::SocketAddr;
use std::process::Command;

use http::Version;

use super::application::Application;
use super::expected::{self, Answer};
use super::{Caller, Cell, Way};
use crate::support::program::Program;
use crate::support::tools::{printed, require_python};

/// Where a cell begins, and whom it asks for.
pub(super) type Entry = (SocketAddr, String);

/// grpcio cannot leave the server's name unverified, and ours have none but a SPIFFE ID.
pub(super) fn can_ask(cell: &Cell) -> bool {
    cell.caller == Caller::Grpc && !matches!(cell.way, Way::Tls(_))
}

pub(super) async fn check(asked: &[(Cell, Entry)], app: &Application) {
    if !require_python("grpc") {
        return;
    }
    let arguments = asked.iter().enumerate().map(|(number, (_, (to, host)))| format!("{number} {to} {host}"));
    let arguments: Vec<_> = arguments.collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let told = printed(Program::script(Command::new("env"), "grpc_cells.py", &arguments)).await;
    assert_eq!(told.lines().count(), asked.len(), "{told}");
    let mut echoed = Vec::new();
    for ((number, (cell, _)), told) in asked.iter().enumerate().zip(told.lines()) {
        let answer = expected::of(cell).answer;
        assert_eq!(told, format!("{number} {}", words(answer)), "{cell:?}: what grpcio tells");
        if answer == Answer::Echo {
            echoed.push((number.to_string(), Version::HTTP_2));
        }
    }
    assert_eq!(app.heard().requests, echoed, "what the application was asked by grpcio");
}

const fn words(answer: Answer) -> &'static str {
    match answer {
        Answer::Echo => "OK first|second",
        Answer::Failed => "UNAVAILABLE",
        Answer::Unimplemented => "UNIMPLEMENTED",
    }
}
