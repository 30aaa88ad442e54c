//! The headers of a request and of its answer that are kept until it is recorded: those that a tap shows, and those that
//! the template of the access log names.

use crate::taps::{HeaderList, listed};
use crate::worker::Worker;
use pillion_http::message::Headers;
use pillion_telemetry::KeptHeaders;

#[derive(Default)]
pub struct NotedHeaders {
    /// Those of the request and those of the answer, where a tap wants them.
    pub tapped: Option<[HeaderList; 2]>,
    pub logged: KeptHeaders,
}

impl NotedHeaders {
    /// `None`: nobody wants headers.
    pub fn of_request(headers: &Headers, worker: &Worker) -> Option<Box<Self>> {
        worker.wants_headers().then(|| Box::new(Self::noted(headers, worker)))
    }

    #[inline(never)] // nearly nobody wants headers
    fn noted(headers: &Headers, worker: &Worker) -> Self {
        let mut noted = Self::default();
        if worker.taps.wants_headers() {
            noted.tapped = Some([listed(headers), Vec::new()]);
        }
        if let Some(template) = worker.log_of_headers() {
            noted.logged.request = kept(&template.request_headers, headers);
        }
        noted
    }

    /// Notes those of the answer.
    pub fn answered(&mut self, headers: &Headers, worker: &Worker) {
        if let Some([_, answered]) = &mut self.tapped {
            *answered = listed(headers);
        }
        if let Some(template) = worker.log_of_headers() {
            self.logged.answer = kept(&template.answer_headers, headers);
        }
    }
}

/// The first value of each name.
fn kept(names: &[String], headers: &Headers) -> Vec<Box<[u8]>> {
    KeptHeaders::copied(names.iter().map(|name| headers.named(name).next()))
}
