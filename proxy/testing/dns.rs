//! The DNS proxy of a whole sidecar: its listeners and names across reloads, and connections to the addresses that it
//! answers.

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::backend::OK;
use super::mesh::{A, B, Mesh, Sidecar, Watch, at, caller};
use pillion_base::drain::DrainOutcome;
use pillion_base::net::memory::Pipe;

/// A name server at `place` that answers every name with this address.
pub(super) fn name_server(mesh: &Mesh, place: &str, address: &'static str) {
    let mut listener = mesh.memory.bind(at(place)).expect("a free address");
    tokio::spawn(async move {
        while let Ok(mut arrival) = listener.accept().await {
            while let Ok(question) = read(&mut arrival.io).await {
                let query = question.queries[0].clone();
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                let ip: std::net::IpAddr = address.parse().expect("an IP address");
                answer.add_query(query.clone());
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::from(ip)));
                write(&mut arrival.io, &answer).await;
            }
        }
    });
}

/// The first address, or the response code of an answer without one.
pub(super) async fn ask(mesh: &Mesh, place: &str, name: &str) -> String {
    let mut stream = mesh.memory.connect(at(place)).await.expect("a DNS proxy");
    write(&mut stream, &question(name)).await;
    let answer = read(&mut stream).await.expect("an answer");
    let address = answer.answers.first().and_then(|record| record.data.ip_addr());
    address.map_or_else(|| answer.metadata.response_code.to_string(), |ip| ip.to_string())
}

fn question(name: &str) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    question
}

async fn read(stream: &mut Pipe) -> std::io::Result<Message> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Message::from_vec(&message).expect("a message"))
}

async fn write(stream: &mut Pipe, message: &Message) {
    let message = message.to_vec().expect("a message");
    stream.write_u16(message.len().try_into().expect("a short message")).await.expect("a reader");
    stream.write_all(&message).await.expect("a reader");
}

fn with_dns(orders: &str, dns: &str) -> String {
    format!("{}dns: {{ upstream: 10.0.0.8:53, {dns} }}\n", caller(orders))
}

fn started(mesh: &Mesh, yaml: &str) -> Sidecar {
    name_server(mesh, "10.0.0.8:53", "192.0.2.8");
    mesh.sidecar(yaml, None)
}

fn dns(sidecar: &Sidecar) -> String {
    sidecar.addresses.dns[0].to_string()
}

#[tokio::test(start_paused = true)]
async fn a_connection_from_a_virtual_address_is_for_its_service_whatever_its_port() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let services = format!("endpoints: [\"{A}\"]");
    let sidecar = started(&mesh, &with_dns(&services, "listen: 127.0.0.1:0"));
    let address = ask(&mesh, &dns(&sidecar), "orders.").await;
    assert_eq!(address, "240.240.134.115");
    for original in
        [&*format!("{address}:80"), &format!("{address}:9999"), "[fd9f:240::12:5d92:50be:8b4c]:80"]
    {
        let mut client = sidecar.redirected(original).await;
        client.send("GET / HTTP/1.1\r\nhost: nowhere.example\r\n\r\n").await;
        assert_eq!(client.answer().await.status_and_reason(), (200, None), "{original}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_and_addresses_change_with_the_configuration_and_virtual_ones_stay() {
    let mesh = Mesh::default();
    let services = format!("endpoints: [\"{A}\"]");
    let mut sidecar = started(&mesh, &with_dns(&services, "listen: 127.0.0.1:0"));
    let place = dns(&sidecar);
    assert_eq!(ask(&mesh, &place, "orders.").await, "240.240.134.115");
    assert_eq!(ask(&mesh, &place, "web.").await, "192.0.2.8", "no service has this host yet");

    let more = with_dns(&services, "listen: 127.0.0.1:0")
        .replace("services:\n", &format!("services:\n  web: {{ endpoints: [\"{B}\"] }}\n"));
    sidecar.reload(&more).expect("a good file");
    assert_eq!(dns(&sidecar), place, "the same listener");
    assert_eq!(ask(&mesh, &place, "orders.").await, "240.240.134.115");
    assert_eq!(ask(&mesh, &place, "web.").await, "240.240.233.59");

    sidecar
        .reload(&with_dns(&format!("{services}, addresses: [10.96.0.10]"), "listen: 127.0.0.1:0"))
        .expect("a good file");
    assert_eq!(ask(&mesh, &place, "orders.").await, "10.96.0.10");
    assert_eq!(ask(&mesh, &place, "web.").await, "192.0.2.8");
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_several_questions_and_is_closed_when_none_comes() {
    let mesh = Mesh::default();
    let sidecar = started(&mesh, &with_dns(&format!("endpoints: [\"{A}\"]"), "listen: 127.0.0.1:0"));
    let mut stream = mesh.memory.connect(sidecar.addresses.dns[0]).await.expect("a DNS proxy");
    for name in ["orders.", "other.", "orders."] {
        write(&mut stream, &question(name)).await;
        assert_eq!(read(&mut stream).await.expect("an answer").answers.len(), 1, "{name}");
    }
    let watch = Watch::start();
    assert!(read(&mut stream).await.is_err());
    assert_eq!(watch.seconds(), 10);
    let mut stream = mesh.memory.connect(sidecar.addresses.dns[0]).await.expect("a DNS proxy");
    stream.write_all(b"\0\x0cno question!").await.expect("a reader");
    assert_eq!(read(&mut stream).await.expect("a refusal").metadata.response_code, ResponseCode::NotImp);
}

#[tokio::test(start_paused = true)]
async fn the_dns_proxy_answers_while_the_sidecar_drains() {
    let mesh = Mesh::default();
    let sidecar = started(&mesh, &with_dns(&format!("endpoints: [\"{A}\"]"), "listen: 127.0.0.1:0"));
    sidecar.drain.begin();
    assert_eq!(sidecar.drain.finished(sidecar.controller.config().drain).await, DrainOutcome::Finished);
    assert_eq!(ask(&mesh, &dns(&sidecar), "orders.").await, "240.240.134.115");
}

#[tokio::test(start_paused = true)]
async fn dns_listeners_come_and_go_with_reloads_and_a_refused_reload_changes_nothing() {
    let mesh = Mesh::default();
    let services = format!("endpoints: [\"{A}\"]");
    let mut sidecar = started(&mesh, &caller(&services));
    assert_eq!(sidecar.addresses.dns, []);

    sidecar.reload(&with_dns(&services, "listen: 127.0.0.1:5353")).expect("a good file");
    assert!(sidecar.addresses.to_string().ends_with(" dns=127.0.0.1:5353"), "{}", sidecar.addresses);
    assert_eq!(ask(&mesh, "127.0.0.1:5353", "orders.").await, "240.240.134.115");

    let _other = mesh.memory.bind(at("127.0.0.1:5354")).expect("a free address");
    let refused = sidecar.reload(&with_dns(&services, "listen: 127.0.0.1:5354")).expect_err("taken");
    assert!(format!("{refused:#}").contains("dns.listen: cannot listen on 127.0.0.1:5354"), "{refused:#}");
    let nobody = with_dns(&services, "listen: 127.0.0.1:5355").replace("10.0.0.8:53", "/nowhere/resolv.conf");
    let refused = sidecar.reload(&nobody).expect_err("no name server");
    assert!(
        format!("{refused:#}").starts_with("dns.upstream: /nowhere/resolv.conf cannot be read"),
        "{refused:#}"
    );
    assert_eq!(ask(&mesh, "127.0.0.1:5353", "orders.").await, "240.240.134.115");
    assert!(mesh.memory.connect(at("127.0.0.1:5355")).await.is_err());

    sidecar.reload(&caller(&services)).expect("a good file");
    super::mesh::settle().await;
    assert!(mesh.memory.connect(at("127.0.0.1:5353")).await.is_err());
    assert_eq!(sidecar.addresses.dns, []);
}
