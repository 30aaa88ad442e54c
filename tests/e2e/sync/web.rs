//! A file over HTTP.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{counted, has, plan, shows};
use crate::support::backend::Backend;
use crate::support::{Scratch, eventually};

/// A server with one file, whose tag is its length.
async fn server(file: Arc<Mutex<Option<String>>>) -> Backend {
    Backend::serving(move |mut wire, _, seen| {
        let file = file.clone();
        async move {
            let Some(question) = wire.message().await else { return };
            let text = file.lock().clone();
            let tag = text.as_ref().map(|text| format!("\"{}\"", text.len()));
            let answer = match (&text, &tag) {
                (None, _) => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
                (Some(_), Some(tag)) if question.header("if-none-match") == Some(tag) => {
                    format!("HTTP/1.1 304 Not Modified\r\netag: {tag}\r\n\r\n")
                }
                (Some(text), tag) => {
                    let tag = tag.as_deref().unwrap_or_default();
                    format!("HTTP/1.1 200 OK\r\netag: {tag}\r\ncontent-length: {}\r\n\r\n{text}", text.len())
                }
            };
            seen.request(question);
            drop(wire.try_send(answer).await);
        }
    })
    .await
}

#[tokio::test]
async fn a_file_is_asked_for_with_its_validator() {
    let (file, scratch) = (Arc::new(Mutex::new(Some("one".to_owned()))), Scratch::new());
    let server = server(file.clone()).await;
    let path = scratch.path().join("settings");
    let keys = format!(
        "from: \"http://{}/app.yaml?sig=1\", to: {}, every: 100ms, token: open-sesame",
        server.address,
        path.display()
    );
    let sidecar = plan(&keys).start().await;
    has(&path, "one").await;
    eventually("some looks", async || (server.requests().len() > 5).then_some(())).await;
    let asked = server.requests();
    assert!(asked[0].head.starts_with("GET /app.yaml?sig=1 HTTP/1.1\r\n"), "{}", asked[0].head);
    assert_eq!(asked[0].header("authorization"), Some("Bearer open-sesame"));
    assert_eq!((asked[0].header("if-none-match"), asked[3].header("if-none-match")), (None, Some("\"3\"")));
    *file.lock() = Some("three".to_owned());
    has(&path, "three").await;
    *file.lock() = None;
    shows(&sidecar, "does not have it any more").await;
    has(&path, "three").await;
    counted(&sidecar, "applied", 2).await;
}

#[tokio::test]
async fn an_answer_that_is_cut_is_no_version() {
    let scratch = Scratch::new();
    let path = scratch.path().join("settings");
    let server =
        Backend::saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nhalf".to_vec())
            .await;
    let keys = format!("from: \"http://{}/\", to: {}, every: 100ms", server.address, path.display());
    let sidecar = plan(&keys).start().await;
    shows(&sidecar, "broke off").await;
    assert!(!path.exists());
}
