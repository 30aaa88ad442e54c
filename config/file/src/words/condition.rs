//! The conditions under which a request is sent again.

use serde_json::Value;

use super::choice::choose;
use crate::value::{BadWord, Word, leaves, whole};
use pillion_model::policy::RetryCondition;

pub(crate) const CONDITIONS: [(&str, RetryCondition); 7] = [
    ("connect_failure", RetryCondition::ConnectFailure),
    ("refused_stream", RetryCondition::RefusedStream),
    ("reset", RetryCondition::Reset),
    ("gateway_error", RetryCondition::GatewayError),
    ("per_try_timeout", RetryCondition::PerTryTimeout),
    ("5xx", RetryCondition::FiveXx),
    ("retriable_4xx", RetryCondition::Retriable4xx),
];

/// The gRPC statuses by number. `OK` is left out, because it is not a failure.
pub(crate) const GRPC: [(&str, u8); 16] = [
    ("cancelled", 1),
    ("unknown", 2),
    ("invalid_argument", 3),
    ("deadline_exceeded", 4),
    ("not_found", 5),
    ("already_exists", 6),
    ("permission_denied", 7),
    ("resource_exhausted", 8),
    ("failed_precondition", 9),
    ("aborted", 10),
    ("out_of_range", 11),
    ("unimplemented", 12),
    ("internal", 13),
    ("unavailable", 14),
    ("data_loss", 15),
    ("unauthenticated", 16),
];

impl Word for RetryCondition {
    const EXPECTED: &'static str = "a condition (reset, 5xx, 409, unavailable)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if let Some(status) = whole(text) {
            return status_condition(status);
        }
        let known = CONDITIONS.into_iter().chain(GRPC.map(|(name, number)| (name, Self::Grpc(number))));
        choose(&text.to_ascii_lowercase(), &known.collect::<Vec<_>>())
    }
}

/// 3xx to 5xx: a success needs no retry, and 1xx is not a final response.
fn status_condition(status: u64) -> Result<RetryCondition, BadWord> {
    match u16::try_from(status) {
        Ok(status @ 300..=599) => Ok(RetryCondition::Status(status)),
        _ => Err(BadWord::new(format!("is {status}, which is not a status that can be retried"))
            .help("from 300 to 599")),
    }
}

fn condition(condition: RetryCondition) -> Value {
    match condition {
        RetryCondition::Status(status) => status.into(),
        RetryCondition::Grpc(number) => GRPC
            .iter()
            .find(|(_, grpc)| *grpc == number)
            .map_or_else(|| number.into(), |(name, _)| (*name).into()),
        named => CONDITIONS
            .iter()
            .find(|(_, meant)| *meant == named)
            .map_or(Value::Null, |(name, _)| (*name).into()),
    }
}

leaves!(RetryCondition: |named| condition(*named));
