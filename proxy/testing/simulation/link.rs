//! Connections through a network that delays bytes, holds them back, and cuts and resets connections.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::Notify;

use super::origin::Origin;
use super::plan::{Cut, How, Way};
use super::world::World;
use pillion_base::net::memory::{MemoryNetwork, Pipe};

/// All connections to one place.
pub(super) struct Hop {
    pub(super) name: String,
    /// The replica itself is at level 0, the sidecar before it at level 1. `None`: the hop of a client.
    level: Option<usize>,
    weather: Mutex<Weather>,
    changed: Notify,
    cut: Mutex<Option<Cut>>,
    made: AtomicUsize,
    open: AtomicUsize,
    world: Arc<World>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    held: [bool; 2],
    delay: u64,
    /// The number of resets so far. Each resets all connections that are open at that moment.
    resets: usize,
}

impl Hop {
    pub(super) fn new(name: String, level: Option<usize>, cut: Option<Cut>, world: &Arc<World>) -> Arc<Self> {
        let (weather, changed, made, open) = Default::default();
        let (cut, world) = (Mutex::new(cut), world.clone());
        Arc::new(Self { name, level, weather, changed, cut, made, open, world })
    }

    pub(super) fn hold(&self, way: Way) {
        self.change(|weather| weather.held[way as usize] = true);
    }

    pub(super) fn delay(&self, millis: u64) {
        self.change(|weather| weather.delay = millis);
    }

    pub(super) fn cut(&self, cut: Cut) {
        *self.cut.lock() = Some(cut);
    }

    pub(super) fn reset(&self) {
        self.change(|weather| weather.resets += 1);
    }

    pub(super) fn heal(&self) {
        *self.cut.lock() = None;
        self.change(|weather| *weather = Weather { resets: weather.resets, ..Weather::default() });
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.weather.lock());
        self.changed.notify_waiters();
    }

    async fn when(&self, is: impl Fn(&Weather) -> bool) {
        loop {
            let changed = self.changed.notified(); // before the look, so that no change is missed
            if is(&self.weather.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// The number of open connections.
    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Carries bytes between both pipes until both directions have ended, or one of them is cut.
    pub(super) async fn carry(self: Arc<Self>, client: Pipe, server: Pipe) {
        let name = format!("{}#{}", self.name, self.made.fetch_add(1, Relaxed));
        self.open.fetch_add(1, Relaxed);
        self.world.note(&format!("{name} opens"));
        let (client, server) = (Mutex::new(client), Mutex::new(server));
        let both = async {
            tokio::try_join!(
                self.direct(&client, &server, Way::There),
                self.direct(&server, &client, Way::Back)
            )
        };
        let ended = tokio::select! { // a reset loses what is under way
            biased;
            () = self.is_reset() => Err(io::ErrorKind::ConnectionReset.into()),
            ended = both => ended.map(drop),
        };
        for end in [&client, &server] {
            end.lock().set_abort(ended.is_err());
        }
        self.world
            .note(&format!("{name} closes {}", if ended.is_ok() { "in order" } else { "with a reset" }));
        self.open.fetch_sub(1, Relaxed);
    }

    async fn is_reset(&self) {
        let before = self.weather.lock().resets;
        self.when(|weather| weather.resets > before).await;
    }

    async fn direct(&self, from: &Mutex<Pipe>, to: &Mutex<Pipe>, way: Way) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = read(from, &mut buffer).await?;
            self.passes(way).await;
            if read == 0 {
                return shutdown(to).await;
            }
            let piece = &buffer[..read];
            if way == Way::There {
                self.look_for_heads(piece);
            }
            let Some((length, how)) = self.cut_at(way, read) else {
                write_all(to, piece).await?;
                continue;
            };
            write_all(to, &piece[..length]).await?;
            self.world.note(&format!("{} is cut {way:?}: {how:?}", self.name));
            if how == How::Reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            shutdown(to).await?;
            while self::read(from, &mut buffer).await? > 0 {}
            return Ok(());
        }
    }

    /// Waits while bytes are held back.
    async fn passes(&self, way: Way) {
        let delay = self.weather.lock().delay;
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        self.when(|weather| !weather.held[way as usize]).await;
    }

    fn cut_at(&self, way: Way, read: usize) -> Option<(usize, How)> {
        let mut cut = self.cut.lock();
        let next = cut.as_mut().filter(|cut| cut.way == way)?;
        if next.after > read as u64 {
            next.after -= read as u64;
            return None;
        }
        let found = (usize::try_from(next.after).unwrap_or(read), next.how);
        *cut = None;
        Some(found)
    }

    fn look_for_heads(&self, piece: &[u8]) {
        const FIELD: &[u8] = b"\r\nx-token: ";
        let Some(level) = self.level else { return };
        let beginning = &piece[..piece.len().min(1024)]; // a head is the beginning of what is written at once
        let Some(at) = beginning.windows(FIELD.len()).position(|window| window == FIELD) else { return };
        let digits = piece[at + FIELD.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let token = digits.fold(0, |token, digit| token * 10 + usize::from(digit - b'0'));
        self.world.written(token, level);
    }
}

/// Where a hop leads.
#[derive(Clone)]
pub(super) enum Target {
    Replica(Arc<Origin>),
    Sidecar(SocketAddr),
}

impl Target {
    async fn reach(&self, memory: &MemoryNetwork) -> io::Result<Pipe> {
        match self {
            Self::Sidecar(address) => memory.connect(*address).await,
            Self::Replica(origin) => {
                let (near, far) = Pipe::pair(64 * 1024);
                tokio::spawn(origin.clone().serve(far));
                Ok(near)
            }
        }
    }
}

/// Listens for a hop. It ends when its task is aborted.
pub(super) fn listen(
    memory: &MemoryNetwork,
    address: SocketAddr,
    hop: &Arc<Hop>,
    target: &Target,
) -> tokio::task::JoinHandle<()> {
    let mut listener = memory.bind(address).expect("a free address");
    let (memory, hop, target) = (memory.clone(), hop.clone(), target.clone());
    tokio::spawn(async move {
        while let Ok(arrival) = listener.accept().await {
            if let Ok(server) = target.reach(&memory).await {
                tokio::spawn(hop.clone().carry(arrival.io, server));
            }
        }
    })
}

async fn read(from: &Mutex<Pipe>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(buffer);
    poll_fn(|cx| Pin::new(&mut *from.lock()).poll_read(cx, &mut buffer)).await?;
    Ok(buffer.filled().len())
}

async fn write_all(to: &Mutex<Pipe>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut *to.lock()).poll_write(cx, bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

async fn shutdown(to: &Mutex<Pipe>) -> io::Result<()> {
    poll_fn(|cx| Pin::new(&mut *to.lock()).poll_shutdown(cx)).await
}
