//! Writes the responses to clients. Pure.

use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Header, Message, Metadata, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::opt::EdnsOption;
use hickory_resolver::proto::rr::rdata::{A, AAAA, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinDecoder};

use super::query::ReceivedQuery;
use pillion_sidecar::state::ServiceAddresses;

/// Seconds for which a client may cache the addresses of a service. It is short, so that clients soon notice a reload.
const TTL: u32 = 30;

/// The largest UDP payload that we accept: the size on which resolvers agreed in 2020, which is never fragmented.
const OWN_PAYLOAD: u16 = 1232;

/// The extended error "no reachable authority" (RFC 8914, section 4.23).
const UNREACHABLE: u16 = 22;
const EXTENDED_ERROR: u16 = 15;

/// The answer for the name of a service. A service has addresses and no records of other types.
pub(super) fn own(asked: &ReceivedQuery, known: &ServiceAddresses) -> Vec<u8> {
    let mut message = base(asked);
    message.metadata.authoritative = true;
    let name = asked.question.name();
    let record = |data| Record::from_rdata(name.clone(), TTL, data);
    match asked.question.query_type() {
        RecordType::A => message.add_answers(known.v4.iter().map(|ip| record(RData::A(A(*ip))))),
        RecordType::AAAA => message.add_answers(known.v6.iter().map(|ip| record(RData::AAAA(AAAA(*ip))))),
        _ => &mut message,
    };
    if message.answers.is_empty() {
        // says how long the absence may be cached (RFC 2308, section 2.2)
        message.add_authority(record(RData::SOA(authority(name))));
    }
    written(asked, &message)
}

/// The SOA record of a zone that consists of this name only.
fn authority(name: &Name) -> SOA {
    const WEEK: i32 = 604_800;
    let seconds = TTL as i32;
    SOA::new(name.clone(), Name::root(), 1, seconds, seconds, WEEK, TTL)
}

/// The answer if no name server has answered.
pub(super) fn failed(asked: &ReceivedQuery, why: &str) -> Vec<u8> {
    let mut message = base(asked);
    message.metadata.response_code = ResponseCode::ServFail;
    if let Some(edns) = &mut message.edns {
        let text: String = why.chars().take(120).collect();
        let error = [&UNREACHABLE.to_be_bytes()[..], text.as_bytes()].concat();
        edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, error));
    }
    written(asked, &message)
}

pub(super) fn coded(asked: &ReceivedQuery, code: ResponseCode) -> Vec<u8> {
    let mut message = base(asked);
    message.metadata.response_code = code;
    written(asked, &message)
}

/// The answer to a message that is not a valid query: only its header is known.
pub(super) fn refusal(of: &Metadata, code: ResponseCode) -> Vec<u8> {
    Message::error_msg(of.id, of.op_code, code).to_vec().unwrap_or_default()
}

/// A name server's answer to an equal query, received `age` ago. `None`: it cannot be used again.
pub(super) fn again(asked: &ReceivedQuery, raw: &[u8], age: Duration) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(raw).ok()?;
    let said = message.metadata;
    let fresh = base(asked);
    message.metadata = fresh.metadata;
    message.metadata.response_code = said.response_code;
    message.metadata.truncation = said.truncation;
    message.metadata.recursion_available = said.recursion_available;
    message.metadata.authentic_data = said.authentic_data;
    message.queries = fresh.queries;
    message.edns = fresh.edns;
    let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    let records = message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals);
    records.for_each(|record| record.ttl = record.ttl.saturating_sub(seconds));
    Some(written(asked, &message))
}

/// A name server's answer to exactly this query, unchanged but for the client's id.
pub(super) fn passed_on(asked: &ReceivedQuery, raw: &[u8]) -> Vec<u8> {
    if raw.len() > asked.room() {
        let code = Header::read(&mut BinDecoder::new(raw)).map(|header| header.metadata.response_code);
        let mut message = base(asked);
        message.metadata.response_code = code.unwrap_or(ResponseCode::ServFail);
        message.metadata.truncation = true;
        return written(asked, &message);
    }
    with_id(raw, asked.id)
}

pub(super) fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    let (_, rest) = message.split_at_checked(2).unwrap_or_default();
    [&id.to_be_bytes()[..], rest].concat()
}

/// A response without records.
fn base(asked: &ReceivedQuery) -> Message {
    let mut message = Message::response(asked.id, OpCode::Query);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = asked.checking_disabled;
    message.add_query(asked.question.clone());
    message.edns = asked.edns.as_ref().map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(OWN_PAYLOAD).set_dnssec_ok(asked.wants_dnssec());
        edns
    });
    message
}

/// The bytes of a message. It is truncated if the client cannot take its size; the client then asks over TCP.
fn written(asked: &ReceivedQuery, message: &Message) -> Vec<u8> {
    match message.to_vec() {
        Ok(bytes) if bytes.len() <= asked.room() => bytes,
        _ => message.truncate().to_vec().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::rdata::opt::EdnsCode;

    use super::super::query::Over;
    use super::*;

    fn asked(name: &str, kind: RecordType, payload: Option<u16>) -> ReceivedQuery {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        ReceivedQuery::read(&message.to_vec().unwrap(), Over::Udp).unwrap()
    }

    fn known(v4: usize, v6: usize) -> ServiceAddresses {
        ServiceAddresses {
            v4: vec![[10, 96, 0, 10].into(); v4],
            v6: vec![[0xfd00, 0, 0, 0, 0, 0, 0, 1].into(); v6],
            is_virtual: false,
        }
    }

    fn parsed(bytes: &[u8]) -> (Message, String) {
        let message = Message::from_vec(bytes).unwrap();
        let all: Vec<String> = message.all_sections().map(ToString::to_string).collect();
        let all = all.join("\n");
        (message, all)
    }

    #[test]
    fn a_service_has_addresses_and_no_records_of_other_types() {
        let nothing = "Orders. 30 IN SOA Orders. . 1 30 30 604800 30";
        for (kind, of, expected) in [
            (RecordType::A, known(1, 1), "Orders. 30 IN A 10.96.0.10"),
            (RecordType::AAAA, known(1, 1), "Orders. 30 IN AAAA fd00::1"),
            (RecordType::AAAA, known(1, 0), nothing),
            (RecordType::A, known(0, 1), nothing),
            (RecordType::HTTPS, known(1, 1), nothing),
            (RecordType::TXT, known(1, 1), nothing),
            (RecordType::ANY, known(1, 1), nothing),
        ] {
            let asked = asked("Orders.", kind, None);
            let (message, records) = parsed(&own(&asked, &of));
            let head = message.metadata;
            assert_eq!((head.id, head.response_code), (asked.id, ResponseCode::NoError));
            assert!(
                head.authoritative && head.recursion_desired && head.recursion_available && !head.truncation
            );
            assert_eq!(
                (records.as_str(), message.queries.as_slice()),
                (expected, &[asked.question][..]),
                "{kind}"
            );
            assert_eq!(message.edns, None, "the query has no EDNS");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_marked_as_truncated() {
        for (payload, addresses, is_cut) in
            [(None, 20, false), (None, 40, true), (Some(1232), 40, false), (Some(1232), 100, true)]
        {
            let asked = asked("orders.", RecordType::A, payload);
            let bytes = own(&asked, &known(addresses, 0));
            assert!(bytes.len() <= asked.room());
            let (message, _) = parsed(&bytes);
            assert_eq!(
                (message.metadata.truncation, message.answers.is_empty()),
                (is_cut, is_cut),
                "{payload:?}"
            );
            assert_eq!(message.edns.is_some(), payload.is_some());
        }
    }

    #[test]
    fn a_failure_has_an_extended_error_for_clients_with_edns() {
        let (message, _) =
            parsed(&failed(&asked("orders.", RecordType::A, Some(1232)), "10.96.0.10:53: silent"));
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        let edns = message.edns.unwrap();
        let Some(EdnsOption::Unknown(EXTENDED_ERROR, error)) = edns.option(EdnsCode::Unknown(EXTENDED_ERROR))
        else {
            panic!("no extended error in {edns:?}")
        };
        assert_eq!(error, b"\0\x1610.96.0.10:53: silent");
        let (message, _) = parsed(&failed(&asked("orders.", RecordType::A, None), "silent"));
        assert_eq!((message.metadata.response_code, message.edns), (ResponseCode::ServFail, None));
    }

    #[test]
    fn a_cached_answer_goes_to_another_client_with_less_time_to_live() {
        let raw = own(&asked("ORDERS.shop.", RecordType::A, Some(1232)), &known(2, 0));
        let other = asked("orders.SHOP.", RecordType::A, None);
        let (message, records) = parsed(&again(&other, &raw, Duration::from_secs(10)).unwrap());
        assert_eq!((message.metadata.id, message.edns), (other.id, None));
        assert_eq!(message.queries[0].name().to_string(), "orders.SHOP.", "in the spelling of this client");
        assert!(!message.metadata.authoritative);
        assert!(records.lines().all(|line| line.contains(" 20 IN A 10.96.0.10")), "{records}");
        let (message, _) = parsed(
            &again(
                &other,
                &own(&asked("orders.shop.", RecordType::A, Some(4096)), &known(60, 0)),
                Duration::ZERO,
            )
            .unwrap(),
        );
        assert!(
            message.metadata.truncation && message.answers.is_empty(),
            "this client accepts less than the first one"
        );
        assert_eq!(again(&other, b"no message", Duration::ZERO), None);
    }

    #[test]
    fn an_answer_of_a_name_server_is_passed_on_unchanged_or_truncated() {
        let asked = asked("orders.", RecordType::A, None);
        let mut raw = own(&asked, &known(2, 0));
        raw[..2].copy_from_slice(&[0xab, 0xcd]);
        let passed = passed_on(&asked, &raw);
        assert_eq!((&passed[..2], &passed[2..]), (&asked.id.to_be_bytes()[..], &raw[2..]));
        let (message, _) = parsed(&passed_on(&asked, &[raw, vec![0; 1000]].concat()));
        assert!(message.metadata.truncation && message.metadata.id == asked.id);
    }
}
