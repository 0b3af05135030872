//! The runtime: all of monoio that this crate uses, so that another runtime replaces one file.
//!
//! One thread, no deadlines: a stand-in waits as long as its callers stay, since a connection that it ended by
//! itself would be a fault the test did not ask for. A panic ends the process, because a judge that lost a
//! connection without a word must not go on judging.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use anyhow::Context;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream, UnixStream};
use signal_hook::consts::{SIGINT, SIGTERM};

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
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Binds; port 0 picks a free one. Without `SO_REUSEPORT`, so that a taken port is an error.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Listener> {
        let options = ListenerOpts::new().reuse_port(false).reuse_addr(true).backlog(BACKLOG);
        TcpListener::bind_with_config(address, &options).map(Listener)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok(Stream(stream))
    }
}

/// One connection; dropping it closes it.
pub(crate) struct Stream(TcpStream);

impl Stream {
    /// Appends what has arrived to `buf`; 0 is the peer's end.
    pub(crate) async fn read_more(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let mut owned = std::mem::take(buf);
        owned.reserve(READ_BYTES_MIN);
        let filled = owned.len();
        let (result, slice) = self.0.read(owned.slice_mut(filled..)).await;
        *buf = slice.into_inner();
        result
    }

    /// Writes all of `buf`, in one call unless the kernel takes less.
    pub(crate) async fn write_all(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        let (result, owned) = self.0.write_all(std::mem::take(buf)).await;
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
