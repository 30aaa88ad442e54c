//! The sockets that listen in this network namespace, of all processes, as `/proc/net/tcp` and `/proc/net/tcp6` list them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// More than any pod has. The kernel lists sockets that listen before connections, which are not read.
const MOST: usize = 10_000;
/// The state of a socket that listens, in the kernel's numbers.
const LISTEN: &str = "0A";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) at: SocketAddr,
    /// Whether it belongs to this process.
    pub(super) is_own: bool,
}

/// # Errors
/// The files cannot be read.
pub(super) fn listening() -> io::Result<Vec<Socket>> {
    let mut found = read(BufReader::new(File::open("/proc/net/tcp")?));
    if let Ok(file) = File::open("/proc/net/tcp6") {
        found.extend(read(BufReader::new(file))); // without IPv6 there is no such file
    }
    let own = if found.is_empty() { HashSet::new() } else { own_inodes()? };
    Ok(found.into_iter().map(|(at, inode)| Socket { at, is_own: own.contains(&inode) }).collect())
}

/// The sockets of this process.
fn own_inodes() -> io::Result<HashSet<u64>> {
    let links = fs::read_dir("/proc/self/fd")?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: &str| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Ok(links.filter_map(|link| inode(link.to_str()?)).collect())
}

/// The addresses that listen, each with its inode.
fn read(file: impl BufRead) -> Vec<(SocketAddr, u64)> {
    let lines = file.lines().skip(1).map_while(Result::ok);
    let rows = lines.map(|line| row(&line)).take(MOST);
    rows.map_while(|row| row.filter(|(_, is_listening, _)| *is_listening))
        .map(|(at, _, inode)| (at, inode))
        .collect()
}

/// Address, whether it listens, and inode of a line.
fn row(line: &str) -> Option<(SocketAddr, bool, u64)> {
    let mut words = line.split_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let inode = words.nth(5)?.parse().ok()?;
    Some((address(local)?, state == LISTEN, inode))
}

/// `0100007F:1F90`: the address in words of 32 bits in the order of this machine's bytes, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            // `::ffff:127.0.0.1` is how a socket of IPv6 listens on 127.0.0.1
            IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_that_listen_are_read_with_their_addresses_and_connections_are_not() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0\n   \
                  1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0\n   \
                  2: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0\n   \
                  3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4714 1 0\n";
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let found = read((HEAD.to_owned() + v4).as_bytes());
        assert_eq!(found, [(at("127.0.0.1:8080"), 4711), (at("0.0.0.0:80"), 4712)], "the rest is not read");
        let v6 = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 \
                  00:00000000 00000000  1000        0 9 1 0\n";
        assert_eq!(read((HEAD.to_owned() + v6).as_bytes()), [(at("[::1]:8080"), 9)]);
        assert_eq!(address("0000000000000000FFFF00000100007F:1F90"), Some(at("127.0.0.1:8080")));
    }

    #[test]
    fn a_socket_of_this_process_is_known_as_its_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("bound");
        let all = listening().expect("/proc");
        assert!(all.contains(&Socket { at, is_own: true }), "{at} in {all:?}");
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in "\\PC{0,100}") {
            let _ = row(&line);
            let _ = address(&line);
        }
    }
}
