//! Cuts the body of an answer that goes on into lines.

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

pub(super) struct Lines {
    body: Incoming,
    waiting: BytesMut,
    /// The longest line.
    most: usize,
}

impl Lines {
    pub(super) fn of(body: Incoming, most: usize) -> Self {
        Self { body, waiting: BytesMut::new(), most }
    }

    /// The next line. `None`: the answer has ended.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let mut searched = 0;
        loop {
            let rest = self.waiting.get(searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.waiting.split_to(searched + end).freeze();
                self.waiting.advance(1);
                return Ok(Some(line));
            }
            searched = self.waiting.len();
            anyhow::ensure!(searched <= self.most, "the sidecar's line has no end");
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.context("the sidecar has closed the stream")?;
                    frame.data_ref().into_iter().for_each(|data| self.waiting.extend_from_slice(data));
                }
            }
        }
    }
}
