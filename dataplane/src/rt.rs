//! The runtime: everything of monoio that the dataplane uses, so that it can be replaced here.
//!
//! One runtime is one thread; nothing of it crosses threads. A future that reads or writes a
//! connection which will be used again is never dropped before it is done: io_uring may already
//! have taken the bytes.

mod pages;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use keybrake_proto::config::Driver;
use monoio::buf::IoBufMut as _;
use monoio::io::{AsyncReadRent as _, AsyncWriteRentExt as _, Canceller};
use monoio::net::{TcpListener, TcpStream, UnixStream};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
pub(crate) use pages::keep_in_memory;

/// Submission entries of a ring: monoio 0.2.4 panics where a full queue stays full after a flush.
const RING_ENTRIES: u32 = 4096;

/// What [`Driver`] came to on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    IoUring,
    Epoll,
}

impl Kernel {
    /// Decides by building a ring: containers often forbid them.
    pub(crate) fn choose(driver: Driver) -> io::Result<Kernel> {
        match driver {
            Driver::Epoll => Ok(Kernel::Epoll),
            Driver::IoUring => ring().build(8).map(|_| Kernel::IoUring),
            Driver::Auto => Ok(if ring().build(8).is_ok() { Kernel::IoUring } else { Kernel::Epoll }),
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Kernel::IoUring => "io_uring",
            Kernel::Epoll => "epoll",
        }
    }

    /// Runs `future` on this thread until it ends.
    pub(crate) fn block_on<F: Future>(self, future: F) -> io::Result<F::Output> {
        match self {
            Kernel::IoUring => {
                let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
                    .with_entries(RING_ENTRIES)
                    .uring_builder(ring())
                    .enable_timer()
                    .build()?;
                Ok(runtime.block_on(future))
            }
            Kernel::Epoll => {
                let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
                Ok(runtime.block_on(future))
            }
        }
    }

    /// A ring wants blocking sockets, since it would hand `EAGAIN` back; epoll wants the others.
    fn wants_nonblocking(self) -> bool {
        self == Kernel::Epoll
    }
}

/// One thread submits and the kernel works only when asked: without both, a request costs half as
/// much again as with epoll.
fn ring() -> io_uring::Builder {
    let mut builder = io_uring::IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    builder
}

/// Spawns a task on this thread. A panic ends the task and is reported; the thread goes on.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static, on_panic: impl FnOnce() + 'static) {
    drop(monoio::spawn(async move {
        if Caught(Box::pin(future)).await.is_err() {
            on_panic();
        }
    }));
}

struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, ()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(_) => Poll::Ready(Err(())),
        }
    }
}

/// Ends after `duration`, to a millisecond.
pub(crate) async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// What `future` comes to, or `None` after `limit`. The future is then dropped, so it must not be
/// one whose loss matters.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    monoio::time::timeout(limit, future).await.ok()
}

/// Binds this thread to one core, where the machine lets it; slower otherwise, not wrong.
pub(crate) fn pin_to_core(index: usize) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    monoio::utils::bind_to_cpu_set([index.checked_rem(cores).unwrap_or_default()]).ok();
}

/// A listening socket of one shard.
pub(crate) struct Listener {
    tcp: TcpListener,
    /// The same socket, to be handed on.
    same: StdListener,
    canceller: RefCell<Canceller>,
}

impl Listener {
    pub(crate) fn from_std(listener: StdListener, kernel: Kernel) -> io::Result<Listener> {
        listener.set_nonblocking(kernel.wants_nonblocking())?;
        let same = listener.try_clone()?;
        Ok(Listener { tcp: TcpListener::from_std(listener)?, same, canceller: RefCell::default() })
    }

    /// The next agent; `None` where [`Listener::interrupt`] came first. Nobody is lost by that: the accept
    /// is withdrawn, not dropped.
    pub(crate) async fn accept(&self) -> io::Result<Option<(Tcp, SocketAddr)>> {
        let handle = self.canceller.borrow().handle();
        let (stream, peer) = match self.tcp.cancelable_accept(handle).await {
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => return Ok(None),
            accepted => accepted?,
        };
        stream.set_nodelay(true)?;
        Ok(Some((Tcp(stream), peer)))
    }

    /// Ends the accept that waits.
    pub(crate) fn interrupt(&self) {
        let fresh = self.canceller.take().cancel();
        self.canceller.replace(fresh);
    }

    /// Refuses connections from now on, whoever else has the socket.
    pub(crate) fn stop(&self) {
        shutdown(self.tcp.as_raw_fd(), Direction::Read);
    }

    /// The socket, for another process.
    pub(crate) fn descriptor(&self) -> io::Result<StdListener> {
        self.same.try_clone()
    }
}

/// A TCP connection.
pub(crate) struct Tcp(TcpStream);

impl Tcp {
    /// Connects, or fails after `limit`. An attempt that is too late is left to finish by itself,
    /// since monoio 0.2.4 leaks the descriptor of one that is cancelled.
    pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<Tcp> {
        let attempt = monoio::spawn(TcpStream::connect_addr(address));
        let stream = match monoio::time::timeout(limit, attempt).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        stream.set_nodelay(true)?;
        Ok(Tcp(stream))
    }

    /// Reads behind what `buf` holds, at most `room` bytes; 0 is the end of the stream.
    pub(crate) async fn read(&mut self, mut buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        buf.reserve(room);
        let start = buf.len();
        let (read, slice) = self.0.read(buf.slice_mut(start..start.saturating_add(room))).await;
        (read, slice.into_inner())
    }

    /// Writes all of `buf` and hands it back.
    pub(crate) async fn write_all(&mut self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let (written, buf) = self.0.write_all(buf).await;
        (written.map(drop), buf)
    }

    /// The descriptor, for [`shutdown`] and [`has_input`] while this lives.
    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Which directions [`shutdown`] ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
    Both,
}

/// Ends a connection's pending and later reads or writes, from wherever on its thread. This is how
/// deadlines work: no operation is cancelled, each ends by itself, on io_uring and epoll alike.
pub(crate) fn shutdown(fd: RawFd, direction: Direction) {
    let how = match direction {
        Direction::Read => libc::SHUT_RD,
        Direction::Write => libc::SHUT_WR,
        Direction::Both => libc::SHUT_RDWR,
    };
    // SAFETY: `shutdown` takes any integer; callers hold the connection that owns `fd`, so it is
    // not another's. That it may not be connected any more is no error here.
    let _ = unsafe { libc::shutdown(fd, how) };
}

/// Gives the kernel back what glibc's allocator keeps of memory that was freed. It takes the allocator's locks for
/// milliseconds, so it is for the end of a flood and for no worker.
#[cfg(target_env = "gnu")]
pub(crate) fn trim_memory() {
    // SAFETY: it takes a number only, and may be called by any thread at any time (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Nothing: other allocators give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim_memory() {}

/// Whether an idle connection has bytes or its end to read: then it must not be used again.
pub(crate) fn has_input(fd: RawFd) -> bool {
    let mut byte = 0u8;
    // SAFETY: the pointer is to one live byte and the length is one; MSG_PEEK leaves the stream as it is.
    let peeked = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    peeked >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// Whether a connection takes a few hundred bytes without waiting for its peer.
pub(crate) fn takes_output(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: the pointer is to one live `pollfd`, and there is one; with no time to wait the call returns at once.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) == 0
}

/// Whether the peer's kernel has not confirmed all that was sent: whatever has been received by now was sent before the
/// peer had the whole request. A kernel that cannot tell counts as confirmed.
pub(crate) fn is_unconfirmed(fd: RawFd) -> bool {
    let mut queued: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ for sockets, writes one int through the pointer, which is to a live one.
    let asked = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut queued) };
    asked == 0 && queued > 0
}

/// The worker's end of a wake-up line; the other end is a plain socket any thread may write to.
pub(crate) struct WakeLine(UnixStream);

impl WakeLine {
    pub(crate) fn from_std(line: StdUnixStream, kernel: Kernel) -> io::Result<WakeLine> {
        line.set_nonblocking(kernel.wants_nonblocking())?;
        Ok(WakeLine(UnixStream::from_std(line)?))
    }

    /// Waits for a wake-up; several that came together are one. `false` when the other end is gone.
    pub(crate) async fn wait(&mut self, buf: Vec<u8>) -> (bool, Vec<u8>) {
        let (read, buf) = self.0.read(buf).await;
        (matches!(read, Ok(1..)), buf)
    }
}
