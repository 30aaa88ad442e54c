//! A collector over HTTP that answers as a test says.

use pillion_grpc::prost::Message as _;
use pillion_testkit::http1::Reader;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::super::mesh::{Mesh, secs};
use super::super::peer::Peer;
use crate::traces::messages::{ExportRequest, KeyValue, Span, Value};

pub(super) const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A request that came to a collector.
pub(in super::super) struct Export {
    pub(super) head: String,
    pub(super) request: ExportRequest,
}

impl Mesh {
    /// A collector. `answer` gets the number of the request; an empty answer means that none comes.
    pub(super) fn collector(
        &self,
        address: &str,
        answer: impl Fn(usize) -> Vec<u8> + Clone + Send + 'static,
    ) -> UnboundedReceiver<Export> {
        let (sender, exports) = unbounded_channel();
        drop(self.scripted(address, move |mut peer: Peer, nth| {
            let (sender, answer) = (sender.clone(), answer.clone());
            async move {
                let Some(message) = Reader::message(&mut peer).await else { return };
                let request = ExportRequest::decode(&*message.body).expect("a request of the protocol");
                sender.send(Export { head: message.head, request }).ok();
                match answer(nth) {
                    silence if silence.is_empty() => std::future::pending().await,
                    answer => drop(peer.try_send(answer).await),
                }
            }
        }));
        exports
    }

    /// A collector that takes everything.
    pub(in super::super) fn good_collector(&self, address: &str) -> UnboundedReceiver<Export> {
        self.collector(address, |_| TAKEN.to_vec())
    }
}

impl Export {
    pub(in super::super) fn spans(self) -> Vec<Span> {
        let of = self.request.resource_spans.into_iter();
        let spans = of.flat_map(|of| of.scope_spans).flat_map(|scope| scope.spans);
        spans.map(|span| Span::decode(span).expect("a span of the protocol")).collect()
    }

    /// An attribute of the resource.
    pub(super) fn resource(&self, key: &str) -> Option<String> {
        find(&self.request.resource_spans[0].resource.as_ref()?.attributes, key)
    }
}

/// The spans of the next requests until `count` of them have come, each a request's own before its attempts.
pub(super) async fn spans(exports: &mut UnboundedReceiver<Export>, count: usize) -> Vec<Span> {
    let mut all = Vec::new();
    while all.len() < count {
        let export = timeout(secs(600), exports.recv()).await;
        all.extend(export.unwrap_or_else(|_late| panic!("{all:#?}")).expect("the collector runs").spans());
    }
    all
}

/// The text of an attribute.
pub(in super::super) fn attribute(span: &Span, key: &str) -> Option<String> {
    find(&span.attributes, key)
}

fn find(all: &[KeyValue], key: &str) -> Option<String> {
    let value = all.iter().find(|pair| pair.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::Text(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
    })
}
