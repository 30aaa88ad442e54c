//! What newer answers of the service do to what is stored: they freshen it, replace it or show that it holds no more.

use super::super::mesh::{A, Mesh, Sidecar, pass};
use super::super::peer::Message;
use super::{CACHED, ask, fixed};

async fn head(sidecar: &Sidecar) {
    let mut client = sidecar.client().await;
    client.send("HEAD / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    client.head().await.expect("a head");
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_head_freshens_a_stale_answer_only_if_it_has_its_validator() {
    for (validator, expected) in [("", "new"), ("etag: \"a\"\r\n", "old")] {
        let mesh = Mesh::default();
        let first = fixed(&format!("cache-control: max-age=1\r\n{validator}"), "old");
        let of_head =
            format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncache-control: max-age=60\r\n{validator}\r\n");
        let of_head: &str = of_head.leak();
        let _a = mesh.http1(A, move |nth, _: &Message| match nth {
            0 => first,
            1 => of_head,
            _ => fixed("cache-control: max-age=60\r\n", "new"),
        });
        let sidecar = mesh.caller(CACHED);
        ask(&sidecar, "/", "").await;
        pass(5).await;
        head(&sidecar).await;
        assert_eq!(ask(&sidecar, "/", "").await.body, expected, "{validator}");
    }
}
