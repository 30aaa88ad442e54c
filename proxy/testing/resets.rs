//! HTTP/2 connections that are reset at every byte, in both directions: between a sidecar and its endpoint, between two
//! sidecars, and between a sidecar and its application. `known_bugs` does the same over HTTP/1.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use pillion_base::net::memory::Pipe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};

use super::backend::Backend;
use super::http2::read_body;
use super::mesh::{self, A, Mesh, ORDERS, Pair, Sidecar, at, settle};
use super::peer::Peer;

const LINK: &str = "10.9.0.1:80";
const BODY: &str = "12345";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// The next connection, or the open one, is reset after so many more bytes in one direction.
type Cut = Arc<Mutex<Option<(Way, usize)>>>;

/// Carries connections from LINK to `to`, until they are cut.
fn link(mesh: &Mesh, to: &'static str) -> Cut {
    let (memory, cut) = (mesh.memory.clone(), Cut::default());
    let shared = cut.clone();
    drop(mesh.scripted(LINK, move |peer: Peer, _| {
        let (memory, cut) = (memory.clone(), shared.clone());
        async move {
            let (mut near, mut far) =
                (split(peer.into_io()), split(memory.connect(at(to)).await.expect("it listens")));
            let ended = tokio::try_join!(
                carry(&mut near.0, &mut far.1, Way::There, &cut),
                carry(&mut far.0, &mut near.1, Way::Back, &cut)
            );
            for (reads, writes) in [near, far] {
                reads.unsplit(writes).set_abort(ended.is_err());
            }
        }
    }));
    cut
}

async fn carry(from: &mut ReadHalf<Pipe>, to: &mut WriteHalf<Pipe>, way: Way, cut: &Cut) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        match left(way, read, cut) {
            None => to.write_all(&buffer[..read]).await?,
            Some(left) => {
                to.write_all(&buffer[..left]).await?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }
}

/// How many of these bytes pass, if the connection is reset now.
fn left(way: Way, bytes: usize, cut: &Cut) -> Option<usize> {
    let mut cut = cut.lock();
    let (_, left) = cut.as_mut().filter(|(of, _)| *of == way)?;
    if *left > bytes {
        *left -= bytes;
        return None;
    }
    let left = *left;
    *cut = None;
    Some(left)
}

/// How often each path arrived with its whole body.
type Arrived = Arc<Mutex<HashMap<String, usize>>>;

fn origin(mesh: &Mesh) -> (Backend, Arrived) {
    let arrived = Arrived::default();
    let shared = arrived.clone();
    let backend = mesh.http2(A, 100, move |_, request, mut respond| {
        let arrived = shared.clone();
        async move {
            let path = request.uri().path().to_owned();
            if read_body(&mut request.into_body()).await.is_ok_and(|body| body == BODY.as_bytes()) {
                *arrived.lock().entry(path).or_default() += 1;
            }
            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                drop(stream.send_data(Bytes::from_static(b"ok"), true));
            }
        }
    });
    (backend, arrived)
}

/// Sends a POST for each byte of a direction. `warm`: over a connection that has carried a request before. Returns the
/// number of resets.
async fn posts(sidecar: &Sidecar, cut: &Cut, arrived: &Arrived, way: Way, warm: bool) -> usize {
    for after in 0..10_000 {
        let path = format!("/{way:?}/{warm}/{after}");
        let mut client = sidecar.client().await;
        if warm {
            assert_eq!(client.get("/").await.status_and_reason(), (200, None), "before {path}");
            settle().await;
        }
        *cut.lock() = Some((way, after));
        client.send(format!("POST {path} HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\n\r\n{BODY}")).await;
        let answer = client.message().await;
        settle().await;
        let times = arrived.lock().get(&path).copied().unwrap_or_default();
        assert!(times <= 1, "{path} arrived {times} times");
        let status = answer.and_then(|answer| answer.status());
        assert!(status != Some(200) || times == 1, "{path}: {status:?} without an arrival");
        if cut.lock().take().is_some() {
            assert_eq!((status, times), (Some(200), 1), "{path}: nothing was cut");
            return after;
        }
    }
    panic!("there is no end");
}

async fn reset_everywhere(sidecar: &Sidecar, cut: &Cut, arrived: &Arrived, warm: &[bool]) {
    for &warm in warm {
        for way in [Way::There, Way::Back] {
            let resets = posts(sidecar, cut, arrived, way, warm).await;
            assert!(resets > 20, "{way:?} {warm}: {resets} resets");
        }
    }
}

const KEYS: &str = "outlier_detection: off";

#[tokio::test(start_paused = true)]
async fn a_post_over_http2_reaches_its_server_at_most_once_whichever_byte_its_connection_is_reset_at() {
    let mesh = Mesh::default();
    let (_origin, arrived) = origin(&mesh);
    let cut = link(&mesh, A);
    let sidecar = mesh.caller(&format!("endpoints: [{LINK}], protocol: http2, {KEYS}"));
    reset_everywhere(&sidecar, &cut, &arrived, &[false, true]).await;
}

#[tokio::test(start_paused = true)]
async fn a_post_reaches_its_server_at_most_once_whichever_byte_between_two_sidecars_is_lost() {
    let pair = Pair::new();
    let (_origin, arrived) = origin(&pair.mesh);
    let _application = pair.application_of("10.1.0.1:15006", &format!("app: {A}, protocol: http2"));
    let cut = link(&pair.mesh, "10.1.0.1:15006");
    let sidecar = pair.caller(&format!("endpoints: [{LINK}], {ORDERS}, {KEYS}"));
    reset_everywhere(&sidecar, &cut, &arrived, &[true]).await;
}

#[tokio::test(start_paused = true)]
async fn a_post_reaches_the_application_at_most_once_whichever_byte_its_connection_is_reset_at() {
    let mesh = Mesh::default();
    let (_origin, arrived) = origin(&mesh);
    let cut = link(&mesh, A);
    let _application =
        mesh.sidecar(&mesh::application_at("10.1.0.1:15006", &format!("app: {LINK}, protocol: http2")), None);
    let sidecar = mesh.caller(&format!("endpoints: [\"10.1.0.1:15006\"], protocol: http2, {KEYS}"));
    reset_everywhere(&sidecar, &cut, &arrived, &[false, true]).await;
}
