//! The gRPC cells again, with the library grpcio as the client.

use std::net::SocketAddr;
use std::process::Command;

use http::Version;

use super::application::Application;
use super::expected::{self, Answer};
use super::{Caller, Cell, Way};
use crate::support::program::Program;
use crate::support::tools::{printed, require_python};

/// The address to which the caller connects, and the authority that it asks for.
pub(super) type Entry = (SocketAddr, String);

/// grpcio always verifies the server's name, and certificates of sidecars have only a SPIFFE ID.
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
    let output = printed(Program::script(Command::new("env"), "grpc_cells.py", &arguments)).await;
    assert_eq!(output.lines().count(), asked.len(), "{output}");
    let mut echoed = Vec::new();
    for ((number, (cell, _)), output) in asked.iter().enumerate().zip(output.lines()) {
        let answer = expected::of(cell).answer;
        assert_eq!(output, format!("{number} {}", words(answer)), "{cell:?}: the result of grpcio");
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
