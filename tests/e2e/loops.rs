//! Services whose endpoints are listeners of the same sidecar. One may lead to another; a circle is refused.

use crate::support::backend::Backend;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::soon;
use crate::support::wire::{Message, Wire};

/// A sidecar with the services `front` and `orders`, which has a port of its own; both lead to `app`.
async fn sidecar(app: &Backend) -> Sidecar {
    let to = app.address;
    Plan::new(&format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n  \
         front: {{ endpoints: [\"{to}\"] }}\n  \
         orders: {{ listen: 127.0.0.1:0, endpoints: [\"{to}\"], timeout: 10s }}"
    ))
    .start()
    .await
}

/// Gives one of the services another endpoint.
async fn lead(sidecar: &Sidecar, service: &str, app: &Backend, to: std::net::SocketAddr) {
    let yaml = sidecar.configuration();
    let lines = yaml.lines().map(|line| match line.trim_start().starts_with(service) {
        true => line.replace(&app.address.to_string(), &to.to_string()),
        false => line.to_owned(),
    });
    let yaml = lines.collect::<Vec<_>>().join("\n");
    let before = sidecar.reloads("applied").await;
    sidecar.configure(&yaml);
    sidecar.signal("HUP");
    sidecar.reloaded("applied", before).await;
}

async fn is_loop(sidecar: &Sidecar, answer: &Message) {
    assert_eq!(answer.status(), 508, "{}", answer.head);
    assert!(answer.text().contains("loop_detected"), "{}", answer.text());
    let requests = sidecar.scrape().await.sum("pillion_requests_total", &[]);
    assert!(requests <= 16.0, "{requests} requests");
}

#[tokio::test]
async fn a_service_may_lead_to_the_port_of_another_and_no_service_back_to_itself() {
    let app = Backend::echo().await;
    let chained = sidecar(&app).await;
    lead(&chained, "front", &app, chained.orders()).await;
    for _ in 0..3 {
        assert_eq!(Wire::connect(chained.outbound()).await.get("front", "/").await.status(), 200);
    }
    assert_eq!(app.requests().len(), 3);
    lead(&chained, "orders", &app, chained.outbound()).await; // `orders` leads back to `front`
    is_loop(&chained, &Wire::connect(chained.outbound()).await.get("front", "/").await).await;

    let own = sidecar(&app).await;
    lead(&own, "front", &app, own.outbound()).await;
    is_loop(&own, &Wire::connect(own.outbound()).await.get("front", "/").await).await;
    lead(&own, "orders", &app, own.orders()).await;
    is_loop(&own, &Wire::connect(own.orders()).await.get("orders", "/").await).await;
    assert_eq!(app.requests().len(), 3);
}

/// The connections of a client whose bytes go in a circle: four that the sidecar dials, and five that it accepts.
const CIRCLE: f64 = 9.0;

/// Neither bytes nor a client that waits for its server to speak go round in a circle. The kernel dials loopback for an
/// unspecified address.
#[tokio::test]
async fn opaque_connections_that_go_in_a_circle_end() {
    for (protocol, is_unspecified) in [("tcp", false), ("auto", false), ("tcp", true)] {
        let app = Backend::echo().await;
        let sidecar = Plan::calling(app.address, &format!("protocol: {protocol}")).start().await;
        let mut own = sidecar.orders();
        if is_unspecified {
            own.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
        }
        let yaml = sidecar.configuration().replace(&app.address.to_string(), &own.to_string());
        let before = sidecar.reloads("applied").await;
        sidecar.configure(&yaml);
        sidecar.signal("HUP");
        sidecar.reloaded("applied", before).await;
        for said in ["", "\0\x01 no request"] {
            let Ok(mut client) = Wire::try_connect(sidecar.orders()).await else { continue };
            drop(client.try_send(said).await);
            soon("its end", client.ends()).await;
        }
        let made = sidecar.scrape().await.sum("pillion_connections_total", &[]);
        assert!(made <= 2.0 * CIRCLE, "{protocol}: {made} connections");
    }
}
