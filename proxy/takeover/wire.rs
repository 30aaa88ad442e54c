//! Messages with descriptors over a Unix socket. A message is four bytes of length and JSON; the descriptors that belong
//! to it travel with its first byte.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::message::Message;
use super::steps::Event;

/// Descriptors with one message. The kernel takes at most 253.
pub(super) const AT_ONCE: usize = 64;
/// Bytes of one message: 64 sockets whose services have long names.
const MOST_BYTES: usize = 64 * 1024;
/// Bytes that are read at once.
const CHUNK: usize = 4096;

/// One side of the connection between the two processes.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    /// Bytes that are no whole message yet.
    read: Vec<u8>,
    /// Descriptors whose message is not whole yet.
    descriptors: VecDeque<OwnedFd>,
}

impl Wire {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), descriptors: VecDeque::new() }
    }

    /// Whether the other process has the same user. The kernel noted its user when it connected or listened.
    ///
    /// # Errors
    /// It has another user, or the kernel does not say.
    pub(super) fn is_of_this_user(&self) -> io::Result<()> {
        let (theirs, own) = (self.stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
        match theirs == own {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("the process at the other end has the user {theirs}, and this one has {own}"),
            )),
        }
    }

    /// The other process, as the kernel knows it. `None`: it is in another namespace of processes.
    pub(super) fn pid(&self) -> Option<u32> {
        let pid = self.stream.peer_cred().ok()?.pid()?;
        u32::try_from(pid).ok().filter(|pid| *pid != 0)
    }

    /// # Errors
    /// The other side has gone, or takes nothing.
    pub(super) async fn send(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = message.to_json().to_string();
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes(), text.as_bytes()].concat();
        let sent =
            self.stream.async_io(Interest::WRITABLE, || send_once(&self.stream, &bytes, descriptors)).await?;
        self.stream.write_all(bytes.get(sent..).unwrap_or_default()).await
    }

    /// The next message, with its descriptors. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The other side has gone, or what it sends is no message.
    pub(super) async fn receive(&mut self) -> io::Result<(Message, Vec<OwnedFd>)> {
        loop {
            if let Some(message) = self.whole()? {
                let count = message.descriptors();
                if count > self.descriptors.len() {
                    return Err(io::Error::other("descriptors are missing"));
                }
                return Ok((message, self.descriptors.drain(..count).collect()));
            }
            let chunk = self.stream.async_io(Interest::READABLE, || receive_once(&self.stream)).await?;
            self.read.extend(chunk.0);
            self.descriptors.extend(chunk.1);
            if self.descriptors.len() > 2 * AT_ONCE {
                return Err(io::Error::other("more descriptors than messages say"));
            }
        }
    }

    /// The next event for the state machine, and the descriptors of a message.
    pub(super) async fn event(&mut self, patience: std::time::Duration) -> (Event, Vec<OwnedFd>) {
        match timeout(patience, self.receive()).await {
            Ok(Ok((message, descriptors))) => (Event::Said(message), descriptors),
            Ok(Err(error)) if is_end(&error) => (Event::Gone(error.to_string()), Vec::new()),
            Ok(Err(error)) => (Event::Garbled(error.to_string()), Vec::new()),
            Err(_elapsed) => (Event::Silent, Vec::new()),
        }
    }

    /// Takes a whole message from the bytes that were read.
    fn whole(&mut self) -> io::Result<Option<Message>> {
        let Some((length, rest)) = self.read.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(io::Error::other)?;
        if length > MOST_BYTES {
            return Err(io::Error::other(
                "the program at the other end does not speak the protocol of takeovers",
            ));
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let message = Message::read(text);
        self.read.drain(..4 + length);
        message.map(Some).ok_or_else(|| io::Error::other("a message cannot be read"))
    }
}

/// Whether the process at the other end has closed it, or has died.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn send_once(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in one message"));
    }
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

fn receive_once(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; CHUNK];
    let got =
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            descriptors.extend(all);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "no file descriptor is left for the sockets: raise the limit of open files",
        ));
    }
    if got.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"));
    }
    bytes.truncate(got.bytes);
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::message::Described;
    use super::*;
    use crate::listening::Role;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (Wire::new(one), Wire::new(other))
    }

    #[tokio::test]
    async fn descriptors_arrive_with_the_message_to_which_they_belong() {
        let (mut from, mut to) = pair();
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
        let described = |wanted| Described { role: Some(Role::Outbound), wanted };
        let message = Message::Sockets(ports.iter().copied().map(described).collect());
        let all: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        from.send(&Message::Go, &[]).await.expect("an open wire");
        from.send(&message, &all).await.expect("an open wire");
        from.send(&Message::Done, &[]).await.expect("an open wire");
        assert_eq!(to.receive().await.expect("a message").0, Message::Go);
        let (got, descriptors) = to.receive().await.expect("a message");
        assert_eq!(got, message);
        let arrived =
            descriptors.into_iter().map(TcpListener::from).map(|got| got.local_addr().expect("bound"));
        assert_eq!(arrived.collect::<Vec<_>>(), ports);
        assert_eq!(to.receive().await.expect("a message").0, Message::Done);
    }

    #[tokio::test]
    async fn what_is_no_message_or_lacks_its_descriptors_is_an_error() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x02{}", b"\0\0\0\0", b"\0\0\0\x05"] {
            let (mut from, mut to) = pair();
            from.stream.write_all(bytes).await.expect("an open wire");
            drop(from);
            to.receive().await.expect_err("no message");
        }
        let (mut from, mut to) = pair();
        let wanted = "127.0.0.1:1".parse().expect("an address");
        from.send(&Message::Sockets(vec![Described { role: None, wanted }]), &[])
            .await
            .expect("an open wire");
        let error = to.receive().await.expect_err("no descriptor");
        assert!(error.to_string().contains("missing"), "{error}");
    }

    #[tokio::test]
    async fn descriptors_without_end_are_refused() {
        let (from, mut to) = pair();
        let flood = async {
            loop {
                let all = vec![from.stream.as_fd(); AT_ONCE];
                let sent =
                    from.stream.async_io(Interest::WRITABLE, || send_once(&from.stream, b"\0", &all)).await;
                if sent.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = flood => {}
            received = to.receive() => assert!(received.is_err()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_event_and_so_is_the_end() {
        let (from, mut to) = pair();
        assert!(matches!(to.event(Duration::from_secs(5)).await.0, Event::Silent));
        drop(from);
        assert!(matches!(to.event(Duration::from_secs(5)).await.0, Event::Gone(_)));
    }
}
