//! The runtime: all of monoio that this crate uses, so that another runtime replaces one file.
//!
//! One thread, no deadlines: a stand-in waits as long as its callers stay, since a connection that it ended by
//! itself would be a fault the test did not ask for. A panic ends the process, because a judge that lost a
//! connection without a word must not go on judging.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use anyhow::Context;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream, UnixStream};
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Protocol, Socket, Type};

use crate::arrival::{self, Arrival, Clock};

/// Connections the kernel completes before they are accepted: a load run opens thousands at once.
const BACKLOG: i32 = 4_096;
/// Free room a read is given at least.
const READ_BYTES_MIN: usize = 4_096;

/// How the process talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Driver {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// epoll, whatever the kernel allows.
    Epoll,
}

/// Runs `future` to its end on this thread; spawned tasks end with it.
pub(crate) fn run<F: Future<Output = anyhow::Result<()>>>(driver: Driver, future: F) -> anyhow::Result<()> {
    let fault = "no event loop; try --driver epoll, or raise the limit of open files";
    match driver {
        Driver::Auto => monoio::RuntimeBuilder::<monoio::FusionDriver>::new()
            .enable_timer()
            .build()
            .context(fault)?
            .block_on(future),
        Driver::Epoll => monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .enable_timer()
            .build()
            .context(fault)?
            .block_on(future),
    }
}

/// Starts a task on this thread.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Waits.
pub(crate) async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// A listening socket.
pub(crate) struct Listener {
    tcp: TcpListener,
    stamps: Clock,
}

impl Listener {
    /// Binds; port 0 picks a free one. Without `SO_REUSEPORT`, so that a taken port is an error.
    ///
    /// Where the kernel has no stamps, the process's are taken.
    pub(crate) fn bind(address: SocketAddr, stamps: Clock) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        let mut stamps = stamps;
        // Asked for before the first connection: what has arrived without a stamp gets none later.
        if stamps == Clock::Kernel && arrival::ask_for_stamps(&socket).is_err() {
            stamps = Clock::Process;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener { tcp: TcpListener::from_std(socket.into())?, stamps })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        let (tcp, _) = self.tcp.accept().await?;
        tcp.set_nodelay(true)?;
        Ok(Stream { tcp, stamps: self.stamps, arrival: Arrival::now() })
    }
}

/// One connection; dropping it closes it.
pub(crate) struct Stream {
    tcp: TcpStream,
    stamps: Clock,
    arrival: Arrival,
}

impl Stream {
    /// When the bytes of the last read arrived.
    pub(crate) fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// Appends what has arrived to `buf`; 0 is the peer's end.
    pub(crate) async fn read_more(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match self.stamps {
            Clock::Kernel => self.read_stamped(buf).await,
            Clock::Process => {
                let mut owned = std::mem::take(buf);
                owned.reserve(READ_BYTES_MIN);
                let filled = owned.len();
                let (result, slice) = self.tcp.read(owned.slice_mut(filled..)).await;
                *buf = slice.into_inner();
                self.arrival = Arrival::now();
                result
            }
        }
    }

    /// As [`Stream::read_more`], with the kernel's stamp, which monoio's own reads do not show.
    async fn read_stamped(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let filled = buf.len();
        // A stamp is that of the last segment read, so a request's first byte is read alone.
        let room = if filled == 0 { 1 } else { READ_BYTES_MIN };
        loop {
            // The readiness that epoll remembers is only forgotten by a strict question.
            self.tcp.readable(false).await?;
            buf.resize(filled.saturating_add(room), 0);
            let received = arrival::receive(self.tcp.as_raw_fd(), buf.get_mut(filled..).unwrap_or_default());
            let bytes = received.as_ref().map_or(0, |(bytes, _)| *bytes);
            buf.truncate(filled.saturating_add(bytes));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok((_, arrival)) => {
                    self.arrival = arrival;
                    return Ok(bytes);
                }
            }
        }
    }

    /// Writes all of `buf`, in one call unless the kernel takes less.
    pub(crate) async fn write_all(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        let (result, owned) = self.tcp.write_all(std::mem::take(buf)).await;
        *buf = owned;
        result.map(|_| ())
    }
}

/// SIGTERM and SIGINT, as something to wait for.
pub(crate) struct StopSignals {
    wake: UnixStream,
}

impl StopSignals {
    /// Takes both signals over from now on.
    pub(crate) fn register() -> io::Result<StopSignals> {
        let (wake, sigterm) = StdUnixStream::pair()?;
        // epoll reads until it would block; io_uring must not be told to.
        wake.set_nonblocking(monoio::utils::is_legacy())?;
        let sigint = sigterm.try_clone()?;
        signal_hook::low_level::pipe::register(SIGTERM, sigterm)?;
        signal_hook::low_level::pipe::register(SIGINT, sigint)?;
        let wake = UnixStream::from_std(wake)?;
        Ok(StopSignals { wake })
    }

    /// Returns once either came.
    pub(crate) async fn received(mut self) -> io::Result<()> {
        let (result, _) = self.wake.read(Vec::with_capacity(1)).await;
        result.map(|_| ())
    }
}
