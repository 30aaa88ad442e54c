//! Reads a query, or gives the refusal to send. Pure.

use hickory_resolver::proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::opt::EdnsCode;
use hickory_resolver::proto::rr::{DNSClass, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinDecoder};

use super::answer;
use super::cache::Key;
use pillion_sidecar::state::ServiceAddresses;

/// The largest answer over UDP, even if the client accepts more (BIND's limit). Larger answers go over TCP.
pub(super) const MOST_OVER_UDP: u16 = 4096;

/// Records after the question section; EDNS and a signature are two.
const MOST_ADDITIONALS: u16 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// A query of the application, as far as its answer depends on it.
#[derive(Debug)]
pub(super) struct ReceivedQuery {
    pub(super) id: u16,
    pub(super) over: Over,
    pub(super) question: Query,
    pub(super) edns: Option<Edns>,
    pub(super) recursion_desired: bool,
    pub(super) checking_disabled: bool,
    pub(super) authentic_data: bool,
}

impl ReceivedQuery {
    /// # Errors
    /// The message cannot be answered. The error is the refusal to send, or `None` if the message gets no answer.
    pub(super) fn read(bytes: &[u8], over: Over) -> Result<Self, Option<Vec<u8>>> {
        let Ok(Header { metadata, counts }) = Header::read(&mut BinDecoder::new(bytes)) else {
            return Err(None);
        };
        if metadata.message_type == MessageType::Response {
            return Err(None);
        }
        let refuse = |code| Err(Some(answer::refusal(&metadata, code)));
        if metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let is_plain = (counts.queries, counts.answers, counts.authorities) == (1, 0, 0);
        if !is_plain || counts.additionals > MOST_ADDITIONALS {
            return refuse(ResponseCode::FormErr);
        }
        let Ok(mut message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr) };
        let Some(question) = message.queries.pop() else { return refuse(ResponseCode::FormErr) };
        if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
            // zone transfers need several messages, and only a zone's own servers answer them
            return refuse(ResponseCode::Refused);
        }
        let asked = Self {
            id: metadata.id,
            over,
            question,
            edns: message.edns,
            recursion_desired: metadata.recursion_desired,
            checking_disabled: metadata.checking_disabled,
            authentic_data: metadata.authentic_data,
        };
        match &asked.edns {
            Some(edns) if edns.version() > 0 => Err(Some(answer::coded(&asked, ResponseCode::BADVERS))),
            _ => Ok(asked),
        }
    }

    /// The name in the form of service names: lower case, without a trailing dot. `None`: no service can have this
    /// name.
    pub(super) fn name(&self) -> Option<String> {
        if self.question.query_class() != DNSClass::IN {
            return None;
        }
        let mut name = String::new();
        for label in self.question.name().iter() {
            if label.contains(&b'.') {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(std::str::from_utf8(label).ok()?);
        }
        name.make_ascii_lowercase();
        Some(name)
    }

    /// The key under which the answer is cached. `None`: the answer is for this client only.
    pub(super) fn key(&self) -> Option<Key> {
        let is_personal = self.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::Subnet).is_some());
        (self.recursion_desired && !is_personal).then(|| Key {
            name: self.question.name().clone(),
            kind: self.question.query_type(),
            class: self.question.query_class(),
            dnssec: [self.wants_dnssec(), self.checking_disabled, self.authentic_data],
        })
    }

    pub(super) fn wants_dnssec(&self) -> bool {
        self.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// The most bytes that the answer may have.
    pub(super) fn room(&self) -> usize {
        const PLAIN: u16 = 512;
        match self.over {
            Over::Udp => {
                self.edns.as_ref().map_or(PLAIN, |edns| edns.max_payload().clamp(PLAIN, MOST_OVER_UDP)).into()
            }
            Over::Tcp => u16::MAX.into(),
        }
    }
}

/// Reads a message as a client's query and as a name server's answer, and writes every kind of answer to it. For the
/// fuzz target: it returns for any bytes.
pub(crate) fn read_any_message(message: &[u8]) {
    let known = ServiceAddresses { v4: vec![[10, 96, 0, 10].into()], v6: Vec::new(), is_virtual: true };
    for over in [Over::Udp, Over::Tcp] {
        let Ok(asked) = ReceivedQuery::read(message, over) else { continue };
        drop((asked.name(), asked.key()));
        drop((
            answer::own(&asked, &known),
            answer::failed(&asked, "why"),
            answer::passed_on(&asked, message),
        ));
        drop(answer::again(&asked, message, std::time::Duration::from_secs(7)));
    }
    if let Ok(message) = Message::from_vec(message) {
        let _lifetime = super::cache::lifetime(&message);
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{NULL, opt::EdnsOption};
    use hickory_resolver::proto::rr::{Name, RData, Record};
    use proptest::prelude::*;

    use super::*;
    use pillion_sidecar::state::ServiceAddresses;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn read(message: &Message) -> ReceivedQuery {
        ReceivedQuery::read(&message.to_vec().unwrap(), Over::Udp).unwrap()
    }

    fn refused(bytes: &[u8]) -> Option<ResponseCode> {
        let refusal = ReceivedQuery::read(bytes, Over::Udp).unwrap_err()?;
        let refusal = Message::from_vec(&refusal).unwrap();
        assert_eq!(refusal.metadata.message_type, MessageType::Response);
        assert_eq!(refusal.metadata.id.to_be_bytes(), bytes[..2], "the client's id");
        Some(refusal.metadata.response_code)
    }

    #[test]
    fn a_message_that_is_not_a_query_is_refused_with_a_code_or_not_answered() {
        let with = |change: fn(&mut Message)| {
            let mut message = query("orders.", RecordType::A);
            change(&mut message);
            message.to_vec().unwrap()
        };
        let whole = with(|_| {});
        let record = |message: &Message| {
            Record::from_rdata(message.queries[0].name().clone(), 0, RData::NULL(NULL::with(vec![1])))
        };
        for (bytes, expected) in [
            (Vec::new(), None),
            (whole[..11].to_vec(), None),
            (with(|message| message.metadata.message_type = MessageType::Response), None),
            (whole[..12].to_vec(), Some(ResponseCode::FormErr)),
            (whole[..whole.len() - 1].to_vec(), Some(ResponseCode::FormErr)),
            (with(|message| message.queries.clear()), Some(ResponseCode::FormErr)),
            (with(|message| message.queries.push(message.queries[0].clone())), Some(ResponseCode::FormErr)),
            (with(|message| message.metadata.op_code = OpCode::Notify), Some(ResponseCode::NotImp)),
            (with(|message| message.metadata.op_code = OpCode::Update), Some(ResponseCode::NotImp)),
            (with(|message| message.queries[0].query_type = RecordType::AXFR), Some(ResponseCode::Refused)),
            (
                with(|message| {
                    message.edns = Some(Edns::new());
                    message.edns.as_mut().unwrap().set_version(1);
                }),
                Some(ResponseCode::BADSIG), // BADVERS has the same number
            ),
        ] {
            assert_eq!(refused(&bytes), expected, "{bytes:?}");
        }
        let mut answered = query("orders.", RecordType::A);
        let record = record(&answered);
        answered.add_answer(record);
        assert_eq!(refused(&answered.to_vec().unwrap()), Some(ResponseCode::FormErr));
    }

    #[test]
    fn service_names_ignore_case_and_exist_only_in_class_in() {
        assert_eq!(read(&query("Orders.SHOP.", RecordType::A)).name().as_deref(), Some("orders.shop"));
        assert_eq!(read(&query(".", RecordType::A)).name().as_deref(), Some(""));
        let dotted = Name::from_labels([&b"orders.shop"[..]]).unwrap();
        let mut message = query(".", RecordType::A);
        message.queries[0].set_name(dotted);
        assert_eq!(read(&message).name(), None, "a dot within a label does not separate labels");
        let mut message = query("orders.", RecordType::A);
        message.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(read(&message).name(), None);
    }

    #[test]
    fn an_answer_is_shared_unless_it_is_for_a_subnet_or_not_recursive() {
        let plain = query("a.", RecordType::A);
        let same = read(&query("A.", RecordType::A)).key();
        assert!(read(&plain).key().is_some());
        assert_eq!(read(&plain).key(), same);
        assert_ne!(read(&query("a.", RecordType::AAAA)).key(), same);
        let mut dnssec = query("a.", RecordType::A);
        dnssec.edns = Some(Edns::new());
        assert_eq!(read(&dnssec).key(), same);
        dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
        assert!(read(&dnssec).key().is_some_and(|key| Some(key) != same));
        let mut subnet = query("a.", RecordType::A);
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Subnet("192.0.2.0/24".parse().unwrap()));
        subnet.edns = Some(edns);
        assert_eq!(read(&subnet).key(), None);
        let mut not_recursive = query("a.", RecordType::A);
        not_recursive.metadata.recursion_desired = false;
        assert_eq!(read(&not_recursive).key(), None);
    }

    #[test]
    fn an_answer_has_at_most_the_size_that_the_client_accepts() {
        for (payload, over, expected) in [
            (None, Over::Udp, 512),
            (Some(100), Over::Udp, 512),
            (Some(1232), Over::Udp, 1232),
            (Some(65_494), Over::Udp, 4096),
            (None, Over::Tcp, 65_535),
        ] {
            let mut message = query("a.", RecordType::A);
            message.edns = payload.map(|payload| {
                let mut edns = Edns::new();
                edns.set_max_payload(payload);
                edns
            });
            let asked = ReceivedQuery::read(&message.to_vec().unwrap(), over).unwrap();
            assert_eq!(asked.room(), expected, "{payload:?} {over:?}");
        }
    }

    /// A query and an answer that contain everything that is read.
    fn seeds() -> [Vec<u8>; 2] {
        let mut message = query("orders.shop.svc.cluster.local.", RecordType::A);
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
        message.edns = Some(edns);
        let asked = read(&message);
        let known =
            ServiceAddresses { v4: vec![[10, 96, 0, 10].into(); 3], v6: Vec::new(), is_virtual: false };
        [message.to_vec().unwrap(), answer::own(&asked, &known)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_dns_proxy_panic(
            which in 0..2_usize,
            changes in proptest::collection::vec((0..200_usize, any::<u8>()), 0..8),
            length in 0..200_usize,
        ) {
            let mut bytes = seeds()[which].clone();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(length.max(1));
            for over in [Over::Udp, Over::Tcp] {
                if let Ok(asked) = ReceivedQuery::read(&bytes, over) {
                    let known = ServiceAddresses { v4: vec![[10, 96, 0, 10].into()], v6: Vec::new(), is_virtual: true };
                    drop((asked.name(), asked.key()));
                    prop_assert!(Message::from_vec(&answer::own(&asked, &known)).is_ok());
                    prop_assert!(Message::from_vec(&answer::failed(&asked, "why")).is_ok());
                }
                let asked = ReceivedQuery::read(&seeds()[0], over).unwrap();
                drop(answer::again(&asked, &bytes, std::time::Duration::from_secs(7)));
                drop(answer::passed_on(&asked, &bytes));
                if let Ok(message) = Message::from_vec(&bytes) {
                    prop_assert!(super::super::cache::lifetime(&message).is_none_or(|lifetime| !lifetime.is_zero()));
                }
            }
        }
    }
}
