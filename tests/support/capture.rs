//! What was sent over a link: tcpdump's record, reassembled into streams and checked as TLS.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use super::namespace::Namespace;
use super::program::Program;
use super::tools::printed;
use super::{Scratch, eventually};

/// The kernel buffer for tcpdump: on loopback, mebibytes come faster than tcpdump writes them. It holds as many bytes only
/// without `--immediate-mode`, with which each packet takes the room of the longest one.
const BUFFER_KIB: &str = "32768";
/// Sent by the test to the discard port after all other traffic, as the mark of the end.
const END: &str = "the end of the record";

pub(crate) struct Capture {
    tcpdump: Program,
    file: PathBuf,
    _scratch: Scratch,
}

impl Capture {
    /// Records a device of this host.
    pub(crate) async fn start(host: &Namespace, device: &str) -> Self {
        let scratch = Scratch::new();
        let file = scratch.path().join("packets");
        let mut tcpdump = host.enter();
        tcpdump.args(["tcpdump", "-Z", "root", "-i", device, "-U", "-B", BUFFER_KIB, "-w"]).arg(&file);
        tcpdump.arg("tcp or udp port 9");
        let tcpdump = Program::start(tcpdump);
        eventually("tcpdump listens", async || tcpdump.errors().contains("listening on").then_some(())).await;
        Self { tcpdump, file, _scratch: scratch }
    }

    /// All packets so far. `to` is an address behind the link, to which the end mark is sent. tcpdump gets packets within a
    /// second.
    pub(crate) async fn end(self, mut host: Command, to: IpAddr) -> Vec<u8> {
        host.args(["bash", "-c", &format!("echo '{END}' >/dev/udp/{to}/9")]);
        printed(host).await;
        eventually("the last packet in the record", async || {
            contains(&std::fs::read(&self.file).ok()?, END).then_some(())
        })
        .await;
        self.tcpdump.signal("INT").await;
        self.tcpdump.has_logged("dropped by kernel").await;
        let said = self.tcpdump.errors();
        assert!(said.lines().any(|line| line.starts_with("0 packets dropped by kernel")), "{said}");
        std::fs::read(&self.file).expect("what tcpdump has written") // also what came shortly after the mark
    }
}

pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The bytes that one end of a TCP connection sent.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// The sequence number of the first byte.
    begin: u32,
    pub(crate) bytes: Vec<u8>,
    /// Segments that came before those in front of them, by their places: two processors forward what crosses a link.
    early: BTreeMap<usize, Vec<u8>>,
}

/// The flows of a record that has whole connections only.
pub(crate) fn flows(packets: &[u8]) -> Vec<Flow> {
    let (mut open, mut all): (BTreeMap<(SocketAddr, SocketAddr), Flow>, Vec<Flow>) = Default::default();
    for packet in frames(packets) {
        let Some(segment) = Segment::read(packet) else { continue };
        let key = (segment.from, segment.to);
        if segment.is_first {
            let begin = segment.number.wrapping_add(1);
            let is_again = open.get(&key).is_some_and(|flow| flow.begin == begin);
            if !is_again {
                let flow = Flow { from: key.0, to: key.1, begin, bytes: Vec::new(), early: BTreeMap::new() };
                all.extend(open.insert(key, flow));
            }
        } else if !segment.payload.is_empty() {
            let flow = open.get_mut(&key).unwrap_or_else(|| unreachable!("{key:?} began before the record"));
            flow.add(&segment);
        }
    }
    all.extend(open.into_values());
    all.iter().for_each(|flow| assert!(flow.early.is_empty(), "a gap in {} to {}", flow.from, flow.to));
    all
}

impl Flow {
    /// Adds a segment. It may come more than once, and in another order.
    fn add(&mut self, segment: &Segment<'_>) {
        let at = segment.number.wrapping_sub(self.begin).cast_signed();
        let Ok(at) = usize::try_from(at) else { return }; // a question whether the other end is alive
        let is_longer = self.early.get(&at).is_none_or(|known| known.len() < segment.payload.len());
        if is_longer {
            self.early.insert(at, segment.payload.to_vec());
        }
        while let Some(next) = self.early.first_entry().filter(|next| *next.key() <= self.bytes.len()) {
            let (at, payload) = next.remove_entry();
            self.bytes.extend_from_slice(payload.get(self.bytes.len() - at..).unwrap_or_default());
        }
    }

    /// Asserts TLS 1.3 from the first byte to the last, as far as an observer can see (RFC 8446, 4.2.1 and 5.1).
    pub(crate) fn must_be_tls13(&self) {
        let flow = format!("{} to {}", self.from, self.to);
        let mut rest = &self.bytes[..];
        assert!(rest[0] == 22, "{flow} does not begin with a handshake: {:?}", &rest[..rest.len().min(16)]);
        assert!(speaks_tls13(&rest[5..]), "{flow}: its hello has no TLS 1.3");
        while let [kind, 3, 1..=3, high, low, after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            assert!(
                (20..=23).contains(kind) && length <= 16_640,
                "{flow}: a record of kind {kind}, {length} long"
            );
            rest = after.get(length..).unwrap_or_default(); // the last record may be incomplete
        }
        assert!(rest.len() < 5, "{flow}: bytes that are not TLS follow: {:?}", &rest[..rest.len().min(16)]);
    }
}

/// Whether it is a ClientHello that offers TLS 1.3, or a ServerHello that accepts it.
fn speaks_tls13(hello: &[u8]) -> bool {
    const SUPPORTED_VERSIONS: usize = 43;
    let mut rest = Reader(hello);
    let kind = rest.take(4)[0];
    rest.take(2 + 32);
    rest.vector(1); // session
    match kind {
        1 => drop((rest.vector(2), rest.vector(1))), // ciphers, compressions
        2 => drop(rest.take(2 + 1)),
        _ => return false,
    }
    let mut extensions = Reader(rest.vector(2));
    while !extensions.0.is_empty() {
        let (name, value) = (extensions.number(2), extensions.vector(2));
        if name == SUPPORTED_VERSIONS {
            return value.windows(2).any(|version| version == [3, 4]);
        }
    }
    false
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> usize {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn vector(&mut self, bytes: usize) -> &'a [u8] {
        let length = self.number(bytes);
        self.take(length)
    }
}

struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    number: u32,
    is_first: bool,
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads an Ethernet frame. `None` when it is not TCP.
    fn read(frame: &'a [u8]) -> Option<Self> {
        const TCP: u8 = 6;
        let packet = frame.get(14..)?;
        let (from, to, length): (IpAddr, IpAddr, _) = match frame.get(12..14)? {
            [0x08, 0x00] if packet[9] == TCP => {
                let ip = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).map(IpAddr::from);
                (ip(12).ok()?, ip(16).ok()?, usize::from(packet[0] & 15) * 4)
            }
            [0x86, 0xdd] if packet[6] == TCP => {
                let ip = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).map(IpAddr::from);
                (ip(8).ok()?, ip(24).ok()?, 40)
            }
            _ => return None,
        };
        let total = match from {
            IpAddr::V4(_) => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            IpAddr::V6(_) => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
        };
        let mut tcp = Reader(&packet[length..total]);
        let offset = usize::from(tcp.0[12] >> 4) * 4;
        let (is_first, payload) = (tcp.0[13] & 2 != 0, &tcp.0[offset..]);
        let mut port = || u16::try_from(tcp.number(2)).unwrap_or_default();
        let (from, to) = ((from, port()).into(), (to, port()).into());
        let number = u32::try_from(tcp.number(4)).unwrap_or_default();
        Some(Self { from, to, number, is_first, payload })
    }
}

/// The frames in a file of tcpdump's format, written on this machine.
fn frames(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file.get(24..).unwrap_or_default();
    assert!(file.starts_with(&0xa1b2_c3d4_u32.to_ne_bytes()), "a record of packets");
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?) as usize;
        let frame = rest.get(16..16 + length)?;
        rest = &rest[16 + length..];
        Some(frame)
    })
}

#[test]
fn segments_in_any_order_are_one_stream() {
    let address: SocketAddr = ([127, 0, 0, 1], 80).into();
    let begin = u32::MAX - 1; // the numbers wrap
    let segment = |at: u32, payload| {
        let number = begin.wrapping_add(at);
        Segment { from: address, to: address, number, is_first: false, payload }
    };
    let all = [(0, &b"ab"[..]), (2, b"cd"), (4, b"ef"), (2, b"cdef"), (2, b"c")];
    for first in 0..all.len() {
        for step in [1, 2, 3, 4] {
            let mut flow =
                Flow { from: address, to: address, begin, bytes: Vec::new(), early: BTreeMap::new() };
            for nth in 0..all.len() {
                let (at, payload) = all[(first + nth * step) % all.len()];
                flow.add(&segment(at, payload));
            }
            flow.add(&segment(u32::MAX, b"?"));
            assert_eq!((&*flow.bytes, flow.early.len()), (&b"abcdef"[..], 0), "{first} {step}");
        }
    }
}
